"""A Kubernetes object as JSON reads it. The one place where Any is allowed."""

from __future__ import annotations

from typing import Any

Manifest = dict[str, Any]
