"""The third ring: the same behaviour on a real Kubernetes API server."""
