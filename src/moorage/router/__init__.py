"""The scoring data plane: HTTP/1.1, streaming both ways, on whatever loop runs it (uvloop in production). Knows the routing table, not Kubernetes."""
