"""Moorage: any Kubernetes cluster as a compute target for machine learning."""

__version__ = "0.1.0"
