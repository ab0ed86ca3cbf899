"""The audit log as an account of who used which permission."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moorage.specs.manifest import Manifest

_PREFIX = "system:serviceaccount:"
# A starting API server authorizes before it has read any role, built-in ones included. Clients must live with that, so it is no fault of a role.
_COLD = 'clusterrole.rbac.authorization.k8s.io "system:basic-user" not found'


@dataclass(frozen=True, slots=True, order=True)
class Permission:
    """A verb on a resource, as RBAC writes both."""

    account: str
    group: str
    resource: str
    verb: str


@dataclass(frozen=True, slots=True)
class Account:
    """What was used and how often, and what was denied, with the API server's words."""

    used: Counter[Permission]
    denied: tuple[str, ...]


def read(log: Path, namespace: str, *, since: int = 0) -> Account:
    """What the service accounts of a namespace did after byte `since` of the log."""
    used: Counter[Permission] = Counter()
    denied: list[str] = []
    for event in _events(log, since):
        name = str(event["user"]["username"])
        reference = event.get("objectRef")
        if not name.startswith(f"{_PREFIX}{namespace}:") or reference is None:
            continue
        status = event.get("responseStatus") or {}
        if status.get("code") == 403:
            if _COLD in status.get("message", ""):
                continue
            denied.append(f"{name} {event['verb']} {event['requestURI']}: {status.get('message', '')}")
            continue
        part = f"/{reference['subresource']}" if reference.get("subresource") else ""
        account, resource = name.rpartition(":")[2], f"{reference['resource']}{part}"
        used[Permission(account, reference.get("apiGroup", ""), resource, event["verb"])] += 1
        if event["verb"] == "patch" and status.get("code") == 201:
            # An apply that makes the object is asked for both.
            used[Permission(account, reference.get("apiGroup", ""), resource, "create")] += 1
    return Account(used, tuple(denied))


def granted(manifests: Iterable[Manifest]) -> set[Permission]:
    """What the ClusterRoles among the manifests grant, the role of account NAME being `moorage-NAME`."""
    return {
        Permission(role["metadata"]["name"].removeprefix("moorage-"), group, resource, verb)
        for role in manifests
        if role["kind"] == "ClusterRole"
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def _events(log: Path, since: int) -> Iterator[dict[str, Any]]:
    with log.open("rb") as file:
        file.seek(since)
        for line in file:
            # The last line may still be being written.
            if line.endswith(b"\n"):
                yield json.loads(line)
