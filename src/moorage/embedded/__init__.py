"""The laptop cluster: enough of Kubernetes in one process for kubectl, our client, our controllers and pods as local processes."""
