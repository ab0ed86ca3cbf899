"""Kubernetes as this project sees it: the Cluster protocol, kinds, informers, work queue, controllers."""
