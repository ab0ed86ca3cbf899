"""What tests of Moorage and of code on top of it need: builders, an in-memory cluster, the Cluster conformance suite. Needs no test framework."""
