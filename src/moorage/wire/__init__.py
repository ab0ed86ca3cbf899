"""Bodies on the wire: the ARM API, CLI v2 YAML documents, our custom resources, the gateway protocol."""
