"""The audit log as an account of who used which permission."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moorage.specs.manifest import Manifest

_PREFIX = "system:serviceaccount:"


@dataclass(frozen=True, slots=True, order=True)
class Permission:
    """A verb on a resource, as RBAC writes both."""

    account: str
    group: str
    resource: str
    verb: str


@dataclass(frozen=True, slots=True)
class Account:
    """What was used and what was denied, each with how often."""

    used: Counter[Permission]
    denied: Counter[Permission]


def read(log: Path, namespace: str, *, since: int = 0) -> Account:
    """What the service accounts of a namespace did after byte `since` of the log."""
    account = Account(Counter(), Counter())
    for event in _events(log, since):
        # Nobody, where the sign-in was refused (401), as with the token of an agent that has just gone.
        name = str(event["user"].get("username") or "")
        reference = event.get("objectRef")
        if not name.startswith(f"{_PREFIX}{namespace}:") or reference is None:
            continue
        code = (event.get("responseStatus") or {}).get("code")
        part = f"/{reference['subresource']}" if reference.get("subresource") else ""
        permission = Permission(name.rpartition(":")[2], reference.get("apiGroup", ""), f"{reference['resource']}{part}", event["verb"])
        (account.denied if code == 403 else account.used)[permission] += 1
        if event["verb"] == "patch" and code == 201:
            # An apply that makes the object is asked for both.
            account.used[replace(permission, verb="create")] += 1
    return account


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


@dataclass(frozen=True, slots=True, order=True)
class Request:
    """Who asked for what, as the audit log tells it."""

    user: str
    verb: str
    resource: str

    @property
    def writes(self) -> bool:
        return self.verb in ("create", "update", "patch", "delete", "deletecollection")

    @property
    def beats(self) -> bool:
        """Whether it only says that somebody lives."""
        return self.resource in ("leases.coordination.k8s.io", "nodes/status")


def requests(log: Path, *, since: int = 0) -> Counter[Request]:
    """Every request after byte `since` of the log that ended, each with how often; a watch ends when its connection does, and is counted then."""
    counted: Counter[Request] = Counter()
    for event in _events(log, since):
        reference = event.get("objectRef") or {}
        group = f".{reference['apiGroup']}" if reference.get("apiGroup") else ""
        part = f"/{reference['subresource']}" if reference.get("subresource") else ""
        resource = f"{reference['resource']}{group}{part}" if "resource" in reference else str(event["requestURI"]).partition("?")[0]
        counted[Request(str(event["user"]["username"]), event["verb"], resource)] += event["stage"] == "ResponseComplete"
    return +counted


def _events(log: Path, since: int) -> Iterator[dict[str, Any]]:
    with log.open("rb") as file:
        file.seek(since)
        for line in file:
            # The last line may still be being written.
            if line.endswith(b"\n"):
                yield json.loads(line)
