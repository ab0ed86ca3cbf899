"""The administrator's kubeconfig of the embedded cluster."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import yaml

from moorage.files import write_private

_NAME = "moorage"


def render(server: str, authority_pem: bytes, token: str) -> dict[str, Any]:
    """A kubeconfig with one cluster, one user and one context, all named `moorage`."""
    authority = base64.b64encode(authority_pem).decode()
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": _NAME, "cluster": {"server": server, "certificate-authority-data": authority}}],
        "users": [{"name": _NAME, "user": {"token": token}}],
        "contexts": [{"name": _NAME, "context": {"cluster": _NAME, "user": _NAME, "namespace": "default"}}],
        "current-context": _NAME,
    }


def write(path: Path, server: str, authority_pem: bytes, token: str) -> None:
    """Write it for its owner's eyes only, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(path, yaml.safe_dump(render(server, authority_pem, token), sort_keys=False).encode())
