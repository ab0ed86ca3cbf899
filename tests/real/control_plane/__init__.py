"""A real Kubernetes control plane on loopback: etcd, API server, controllers, scheduler; TLS, RBAC and audit log on. `scripts/kubernetes` drives it."""
