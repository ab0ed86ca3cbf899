"""What runs inside workload pods: `python -m moorage.podside fetch|environment|upload`, and the scoring server in `scoring`.

Light on purpose: standard library only at import, so that a pod loses no time on it.
"""
