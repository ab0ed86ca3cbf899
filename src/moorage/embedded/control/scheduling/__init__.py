"""Where a pod goes: a pure decision over a snapshot of nodes and pods, in the words of Kubernetes' scheduler where there is no place."""
