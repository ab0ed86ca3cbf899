"""The admission plugins that look at other objects: LimitRanger, PodSecurity and ResourceQuota, in Kubernetes' order.

They read the store as writers see it and never wait, so that between a quota's check and the write that it allows no other write comes in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moorage.embedded import limitranges, podsecurity, quota
from moorage.embedded.kinds import Resource
from moorage.embedded.objects import ObjectStore
from moorage.embedded.storage import Key
from moorage.embedded.version import MINOR
from moorage.errors import Forbidden, Invalid
from moorage.specs.manifest import Manifest

_LABEL = "pod-security.kubernetes.io/"
_VERSION = re.compile(r"^v1\.(0|[1-9][0-9]*)$")
_CLAIMS, _PODS, _QUOTAS, _RANGES = ("", "persistentvolumeclaims"), ("", "pods"), ("", "resourcequotas"), ("", "limitranges")
_TEMPLATES = frozenset({"Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job"})


def default(resource: Resource, manifest: Manifest, store: ObjectStore) -> None:
    """What the namespace's LimitRanges add to a new pod, in place."""
    if resource.storage == _PODS and (ranges := _in_namespace(_RANGES, manifest, store)):
        limitranges.default(manifest, ranges)


def check(resource: Resource, before: Manifest | None, after: Manifest, store: ObjectStore) -> list[str]:
    """Forbidden when the object breaks a LimitRange or the namespace's Pod Security Standard; else the warnings for whoever writes it."""
    if before is None and resource.storage in (_PODS, _CLAIMS):
        limitranges.check(resource.kind.kind, after["metadata"]["name"], after, _in_namespace(_RANGES, after, store))
    if resource.definition is not None:
        return []
    if resource.storage == _PODS:
        return _pod_security(before, after, store)
    if resource.kind.kind in _TEMPLATES:
        return _template_warnings(after, store)
    if resource.storage == ("", "namespaces") and before is not None:
        return _new_level_warnings(before, after, store)
    return []


def hold_to_quotas(resource: Resource, before: Manifest | None, after: Manifest, store: ObjectStore) -> None:
    """Forbidden when what the object adds is more than a quota of its namespace leaves. The last thing before the write."""
    quotas = _in_namespace(_QUOTAS, after, store) if resource.kind.namespaced and resource.storage != _QUOTAS else []
    if quotas:
        quota.check(*resource.storage, before, after, quotas, lambda one: used(one, store))


def used(found: Manifest, store: ObjectStore) -> quota.Usage:
    """What the objects of a quota's namespace use of it, staged writes included."""
    usages = []
    for place in quota.places(found):
        for one in _in_namespace(place, found, store):
            if quota.counts(found, *place, one):
                usages.append(quota.usage(*place, one))
    return quota.total(usages)


def _in_namespace(storage: tuple[str, str], manifest: Manifest, store: ObjectStore) -> list[Manifest]:
    namespace = manifest["metadata"].get("namespace", "")
    return [entry.manifest() for entry in sorted(store.latest_all(storage, namespace), key=lambda entry: entry.key.name)]


# Pod Security.


@dataclass(frozen=True, slots=True)
class Policy:
    """A level and the version whose rules are meant, as labels say it."""

    level: str = "privileged"
    version: str = "latest"

    @property
    def minor(self) -> int:
        found = _VERSION.match(self.version)
        return min(int(found[1]), int(MINOR)) if found else int(MINOR)

    def violations(self, pod: Mapping[str, Any]) -> Sequence[podsecurity.Violation]:
        return podsecurity.violations(dict(pod), self.level, self.minor)

    def __str__(self) -> str:
        return f'"{self.level}:{self.version}"'


def invalid_labels(namespace: Manifest) -> Iterable[Invalid]:
    """Labels of Pod Security that no standard belongs to."""
    labels = namespace["metadata"].get("labels") or {}
    for mode in ("enforce", "audit", "warn"):
        level, version = labels.get(_LABEL + mode), labels.get(f"{_LABEL}{mode}-version")
        if level is not None and level not in podsecurity.LEVELS:
            yield _wrong(_LABEL + mode, level, f"must be one of {', '.join(podsecurity.LEVELS)}")
        if version is not None and version != "latest" and not _VERSION.match(version):
            yield _wrong(f"{_LABEL}{mode}-version", version, 'must be "latest" or "v1.x"')


def _wrong(label: str, value: str, words: str) -> Invalid:
    return Invalid(f'Invalid value: "{value}": {words}', code="FieldValueInvalid", target=f"metadata.labels[{label}]")


def _policy(namespace: Manifest, mode: str) -> Policy:
    labels = namespace["metadata"].get("labels") or {}
    return Policy(labels.get(_LABEL + mode, "privileged"), labels.get(f"{_LABEL}{mode}-version", "latest"))


def _namespace_of(manifest: Manifest, store: ObjectStore) -> Manifest:
    found = store.latest(Key("", "namespaces", "", manifest["metadata"].get("namespace", "")))
    return found.manifest() if found is not None else {"metadata": {}}


def _pod_security(before: Manifest | None, pod: Manifest, store: ObjectStore) -> list[str]:
    if before is not None and _judged(before) == _judged(pod):
        return []
    namespace = _namespace_of(pod, store)
    enforced = _policy(namespace, "enforce")
    if found := enforced.violations(pod):
        name = pod["metadata"]["name"]
        raise Forbidden(f'pods "{name}" is forbidden: violates PodSecurity {enforced}: {_told(found)}', target=name)
    return _warning(namespace, pod)


def _judged(pod: Manifest) -> Any:
    """What of a pod can change and is judged anew: the images (an update of anything else is none of this plugin's business)."""
    spec = pod["spec"]
    return [[c.get("image") for c in spec.get(place) or ()] for place in ("containers", "initContainers", "ephemeralContainers")]


def _warning(namespace: Manifest, pod: Mapping[str, Any]) -> list[str]:
    warned = _policy(namespace, "warn")
    found = warned.violations(pod)
    return [f"would violate PodSecurity {warned}: {_told(found)}"] if found else []


def _template_warnings(manifest: Manifest, store: ObjectStore) -> list[str]:
    template = (manifest.get("spec") or {}).get("template") or {}
    return _warning(_namespace_of(manifest, store), template)


def _told(found: Sequence[podsecurity.Violation]) -> str:
    return ", ".join(str(one) for one in found)


def _new_level_warnings(before: Manifest, after: Manifest, store: ObjectStore) -> list[str]:
    """Which pods a new level would refuse, were they made now."""
    enforced = _policy(after, "enforce")
    if enforced == _policy(before, "enforce") or enforced.level == "privileged":
        return []
    names: dict[str, list[str]] = {}
    for entry in store.latest_all(_PODS, after["metadata"]["name"]):
        if found := enforced.violations(entry.manifest()):
            names.setdefault(", ".join(one.reason for one in found), []).append(entry.key.name)
    if not names:
        return []
    told = []
    for reasons, pods in names.items():
        others = "" if len(pods) == 1 else " (and 1 other pod)" if len(pods) == 2 else f" (and {len(pods) - 1} other pods)"
        told.append(f"{min(pods)}{others}: {reasons}")
    return [f'existing pods in namespace "{after["metadata"]["name"]}" violate the new PodSecurity enforce level {enforced}', *sorted(told)]
