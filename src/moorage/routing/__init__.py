"""From the cluster's objects to the routing table: which endpoints there are, who may call them, where their replicas are."""
