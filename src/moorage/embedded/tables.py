"""Server-side tables: the columns `kubectl get` shows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from moorage.embedded.kinds import Resource
from moorage.embedded.views import metadata_only
from moorage.specs.manifest import Manifest


def table(resource: Resource, manifests: Sequence[Manifest], *, include: str, now: datetime) -> dict[str, Any]:
    """A meta.k8s.io/v1 Table."""
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "columnDefinitions": [{"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0}],
        "rows": [{"cells": [m["metadata"]["name"]], "object": metadata_only(m)} for m in manifests],
    }
