"""The default roles and bindings of Kubernetes (`policy.json`, made by scripts/kubernetes_roles.py), put into a cluster when it starts.

As on Kubernetes, a default role or binding that lacks rules or subjects is completed at every start, unless it is annotated not to be.
"""

from __future__ import annotations

import asyncio
from functools import cache
from importlib import resources
from typing import Any

import orjson

from moorage.clock import rfc3339
from moorage.embedded.authorization import GROUP
from moorage.embedded.metadata import new_uid
from moorage.embedded.rbac import parse_rules, uncovered
from moorage.embedded.registry import Registry
from moorage.embedded.storage import Key
from moorage.specs.manifest import Manifest

AUTOUPDATE = "rbac.authorization.kubernetes.io/autoupdate"
_PLURALS = {"ClusterRole": "clusterroles", "ClusterRoleBinding": "clusterrolebindings", "Role": "roles", "RoleBinding": "rolebindings"}


# What metrics-server brings to a cluster, since its API is built in here.
_METRICS_READER: Manifest = {
    "kind": "ClusterRole",
    "metadata": {
        "name": "system:aggregated-metrics-reader",
        "labels": {f"rbac.authorization.k8s.io/aggregate-to-{role}": "true" for role in ("admin", "edit", "view")}
        | {"k8s-app": "metrics-server"},
    },
    "rules": [{"apiGroups": ["metrics.k8s.io"], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]}],
}


@cache
def defaults() -> tuple[Manifest, ...]:
    parsed: list[Manifest] = orjson.loads((resources.files(__package__) / "policy.json").read_bytes())
    return (*parsed, _METRICS_READER)


async def ensure(registry: Registry) -> None:
    """Make every default role and binding that is missing, and complete the others. Idempotent."""
    moment = rfc3339(registry.clock())
    writes = []
    for wanted in defaults():
        meta = wanted["metadata"]
        key = Key(GROUP, _PLURALS[wanted["kind"]], meta.get("namespace", ""), meta["name"])
        found = registry.store.latest(key)
        # Straight into the store: these are as the real server wrote them, and going through admission would double the time of a start.
        if found is None:
            made = {**meta, "uid": new_uid(), "creationTimestamp": moment}
            writes.append(registry.store.put(key, {"apiVersion": f"{GROUP}/v1", **wanted, "metadata": made}))
        elif (completed := completion(found.manifest(), wanted)) is not None:
            writes.append(registry.store.put(key, completed))
    await asyncio.gather(*writes)


def completion(live: Manifest, wanted: Manifest) -> Manifest | None:
    """The live default with the rules or subjects that it lacks; None when it lacks none or is not to be touched. Pure."""
    if ((live["metadata"].get("annotations") or {}).get(AUTOUPDATE)) == "false":
        return None
    after = dict(live)
    if "subjects" in wanted:
        had: list[Any] = live.get("subjects") or []
        after["subjects"] = [*had, *(subject for subject in wanted["subjects"] if subject not in had)]
    elif "aggregationRule" not in wanted and live.get("rules") != wanted.get("rules"):
        rules: list[Any] = live.get("rules") or []
        owned = parse_rules(rules)
        if lacking := [rule for rule in wanted.get("rules") or () if uncovered(owned, parse_rules([rule]))]:
            after["rules"] = [*rules, *lacking]
    return after if after != live else None
