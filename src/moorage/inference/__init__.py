"""The inference operator: OnlineDeployments become Deployments and Services of Kubernetes; OnlineEndpoints get a status."""
