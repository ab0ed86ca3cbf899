"""Nodes with real containers for a test control plane: Kubernetes' kubelet and kube-proxy, containerd and runc, each node in namespaces of its own."""
