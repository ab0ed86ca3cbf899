"""What is wrong with roles and bindings (kubernetes/pkg/apis/rbac/validation). Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moorage.embedded.metadata import DNS_SUBDOMAIN, SUBDOMAIN_RULE
from moorage.errors import Invalid
from moorage.specs.manifest import Manifest

_GROUP = "rbac.authorization.k8s.io"
# A subject's kind and the group it belongs to.
_SUBJECTS = {"ServiceAccount": "", "User": _GROUP, "Group": _GROUP}


def role(manifest: Manifest, before: Manifest | None) -> Iterator[Invalid]:
    """A Role's or ClusterRole's rules."""
    for index, rule in enumerate(manifest.get("rules") or ()):
        yield from _rule(f"rules[{index}]", rule, namespaced=manifest.get("kind") == "Role")


def _rule(path: str, rule: Mapping[str, Any], *, namespaced: bool) -> Iterator[Invalid]:
    if not rule.get("verbs"):
        yield _required(f"{path}.verbs")
    if urls := rule.get("nonResourceURLs"):
        if namespaced:
            yield _wrong(f"{path}.nonResourceURLs", urls, "namespaced rules cannot apply to non-resource URLs")
        elif any(rule.get(name) for name in ("apiGroups", "resources", "resourceNames")):
            yield _wrong(f"{path}.nonResourceURLs", urls, "rules cannot apply to both regular resources and non-resource URLs")
        return
    if not rule.get("apiGroups"):
        yield _required(f"{path}.apiGroups", "resource rules must supply at least one api group")
    if not rule.get("resources"):
        yield _required(f"{path}.resources", "resource rules must supply at least one resource")


def binding(manifest: Manifest, before: Manifest | None) -> Iterator[Invalid]:
    """A binding's role, which never changes, and its subjects."""
    ref: dict[str, Any] = manifest.get("roleRef") or {}
    if before is not None and before.get("roleRef") != manifest.get("roleRef"):
        # Kubernetes shows the fields by their names in Go.
        shown = {name[0].upper() + name[1:].replace("piGroup", "PIGroup"): ref.get(name, "") for name in ("apiGroup", "kind", "name")}
        yield _wrong("roleRef", shown, "field is immutable")
        return
    kinds = ("Role", "ClusterRole") if manifest.get("kind") == "RoleBinding" else ("ClusterRole",)
    if ref.get("apiGroup") != _GROUP:
        yield _unsupported("roleRef.apiGroup", ref.get("apiGroup"), [_GROUP])
    if ref.get("kind") not in kinds:
        yield _unsupported("roleRef.kind", ref.get("kind"), kinds)
    if not ref.get("name"):
        yield _required("roleRef.name")
    subjects = list(enumerate(manifest.get("subjects") or ()))
    for index, subject in subjects:
        yield from _subject_kind(f"subjects[{index}]", subject)
    for index, subject in subjects:
        yield from _subject_name(f"subjects[{index}]", subject, namespaced=manifest.get("kind") == "RoleBinding")


def _subject_kind(path: str, subject: Mapping[str, Any]) -> Iterator[Invalid]:
    kind = subject.get("kind")
    if kind not in _SUBJECTS:
        yield _unsupported(f"{path}.kind", kind, list(_SUBJECTS))
    elif (subject.get("apiGroup") or "") != _SUBJECTS[kind]:
        yield _unsupported(f"{path}.apiGroup", subject.get("apiGroup"), [_SUBJECTS[kind]])


def _subject_name(path: str, subject: Mapping[str, Any], *, namespaced: bool) -> Iterator[Invalid]:
    name = subject.get("name") or ""
    if not name:
        yield _required(f"{path}.name")
    elif subject.get("kind") == "ServiceAccount":
        if not DNS_SUBDOMAIN.match(name):
            yield _wrong(f"{path}.name", name, SUBDOMAIN_RULE)
        if not namespaced and not subject.get("namespace"):
            yield _required(f"{path}.namespace")


def _required(path: str, why: str = "") -> Invalid:
    return Invalid(f"Required value{': ' + why if why else ''}", code="FieldValueRequired", target=path)


def _wrong(path: str, value: object, why: str) -> Invalid:
    return Invalid(f"Invalid value: {json.dumps(value, separators=(',', ':'))}: {why}", code="FieldValueInvalid", target=path)


def _unsupported(path: str, value: object, supported: Sequence[str]) -> Invalid:
    shown = ", ".join(f'"{one}"' for one in supported)
    return Invalid(f'Unsupported value: "{value or ""}": supported values: {shown}', code="FieldValueNotSupported", target=path)
