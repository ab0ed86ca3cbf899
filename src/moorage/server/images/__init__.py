"""Images of environments with a build context: made by the operator's builder, once each, while the jobs and deployments that need them wait."""
