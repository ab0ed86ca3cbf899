"""Which Kubernetes this API server says it is: the one whose API and words it follows."""

from __future__ import annotations

MAJOR, MINOR = "1", "37"
GIT_VERSION = "v1.37.0+moorage"
