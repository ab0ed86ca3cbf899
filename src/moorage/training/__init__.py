"""The training operator: TrainingJobs become Jobs of Kubernetes, and what their pods do becomes a status."""
