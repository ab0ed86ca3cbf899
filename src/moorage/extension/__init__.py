"""The extension: settings, manifests, install, delete and health check of what runs in a cluster's `azureml` namespace."""
