"""The kubelet and kube-proxy of the laptop cluster: pods bound to a node run as processes, Services forward through userspace listeners."""
