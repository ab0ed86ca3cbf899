"""Object metadata as the API server keeps it: names, uids, generations, and what a write may not change. Pure but for the random parts handed in."""

from __future__ import annotations

import re
import secrets
import uuid
from collections.abc import Mapping
from typing import Any

from moorage.embedded.kinds import Resource
from moorage.errors import Invalid
from moorage.specs.manifest import Manifest

# Kubernetes leaves out vowels and look-alikes (k8s.io/apimachinery/pkg/util/rand).
_SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_GENERATED_NAME_LIMIT = 63
_SYSTEM_FIELDS = (
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "resourceVersion",
    "selfLink",
)

DNS_LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
DNS_SUBDOMAIN = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
QUALIFIED_NAME = re.compile(r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
LABEL_VALUE = re.compile(r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")

SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
KEY_RULE = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
    "(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character "
    "(e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
# Kinds with a spec whose changes Kubernetes does not count.
_UNCOUNTED = frozenset(
    {
        ("", plural)
        for plural in ("limitranges", "namespaces", "nodes", "persistentvolumeclaims", "persistentvolumes", "resourcequotas", "services")
    }
    | {("coordination.k8s.io", "leases")}
)
_LABEL_NAMED = frozenset({("", "namespaces"), ("", "services")})
# RBAC names are path segments: they may hold colons and capitals.
_PATH_NAMED_GROUPS = frozenset({"rbac.authorization.k8s.io"})


def new_uid() -> str:
    return str(uuid.uuid4())


def generated_name(prefix: str) -> str:
    """`prefix` with five random characters, cut to fit a DNS label."""
    suffix = "".join(secrets.choice(_SUFFIX_ALPHABET) for _ in range(5))
    return prefix[: _GENERATED_NAME_LIMIT - len(suffix)] + suffix


def fresh(manifest: Manifest, moment: str, resource: Resource) -> None:
    """Make a submitted object's metadata that of a new object."""
    metadata = manifest["metadata"]
    for name in _SYSTEM_FIELDS:
        metadata.pop(name, None)
    metadata["uid"] = new_uid()
    metadata["creationTimestamp"] = moment
    if _counts_generations(resource, manifest):
        metadata["generation"] = 1


def carried_over(before: Manifest, after: Manifest, resource: Resource) -> None:
    """Put the system's fields of `before` into its replacement, and count the generation up when what was asked for changed."""
    old, new = before["metadata"], after["metadata"]
    for name in _SYSTEM_FIELDS:
        if name in old:
            new[name] = old[name]
        else:
            new.pop(name, None)
    if _counts_generations(resource, after) and wanted(before, resource) != wanted(after, resource):
        new["generation"] = old.get("generation", 0) + 1


def wanted(manifest: Manifest, resource: Resource) -> Mapping[str, Any]:
    """The part of an object that people write, and whose change is a new generation."""
    if resource.definition is None:
        return {"spec": manifest.get("spec")}
    hidden = ("metadata", "apiVersion", "kind", "status") if resource.has_status else ("metadata", "apiVersion", "kind")
    return {name: value for name, value in manifest.items() if name not in hidden}


def _counts_generations(resource: Resource, manifest: Manifest) -> bool:
    return resource.definition is not None or ("spec" in manifest and resource.storage not in _UNCOUNTED)


def invalid_fields(manifest: Manifest, resource: Resource) -> list[Invalid]:
    """What is wrong with an object's metadata."""
    metadata = manifest["metadata"]
    found = list(invalid_name(resource, metadata["name"]))
    for key, value in (metadata.get("labels") or {}).items():
        if not QUALIFIED_NAME.match(key) or len(key.rpartition("/")[2]) > 63:
            found.append(_wrong("metadata.labels", key, KEY_RULE))
        if not isinstance(value, str) or not LABEL_VALUE.match(value) or len(value) > 63:
            found.append(_wrong("metadata.labels", value, _label_value_rule(value)))
    for key, value in (metadata.get("annotations") or {}).items():
        if not QUALIFIED_NAME.match(key.lower()):
            found.append(_wrong("metadata.annotations", key, KEY_RULE))
        if not isinstance(value, str):
            found.append(_wrong("metadata.annotations", value, f"the value of '{key}' must be a string"))
    for index, finalizer in enumerate(metadata.get("finalizers") or ()):
        if "/" not in str(finalizer) and finalizer not in ("orphan", "foregroundDeletion", "kubernetes"):
            found.append(
                _wrong(f"metadata.finalizers[{index}]", finalizer, "name is neither a standard finalizer name nor is it fully qualified")
            )
    for index, owner in enumerate(metadata.get("ownerReferences") or ()):
        for name in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(name):
                found.append(Invalid("must not be empty", code="FieldValueInvalid", target=f"metadata.ownerReferences[{index}].{name}"))
    if sum(1 for owner in metadata.get("ownerReferences") or () if owner.get("controller")) > 1:
        found.append(
            Invalid("Only one reference can have Controller set to true", code="FieldValueInvalid", target="metadata.ownerReferences")
        )
    return found


def invalid_name(resource: Resource, name: str) -> list[Invalid]:
    if resource.kind.group in _PATH_NAMED_GROUPS:
        bad = name in (".", "..") or "/" in name or "%" in name
        return [_wrong("metadata.name", name, "may not contain '/' or '%'")] if bad else []
    if (resource.kind.group, resource.kind.plural) in _LABEL_NAMED:
        if len(name) > 63:
            return [_wrong("metadata.name", name, "must be no more than 63 characters")]
        return [] if DNS_LABEL.match(name) else [_wrong("metadata.name", name, LABEL_RULE)]
    if len(name) > 253:
        return [_wrong("metadata.name", name, "must be no more than 253 characters")]
    return [] if DNS_SUBDOMAIN.match(name) else [_wrong("metadata.name", name, SUBDOMAIN_RULE)]


def _label_value_rule(value: object) -> str:
    if not isinstance(value, str):
        return "must be a string"
    if len(value) > 63:
        return "must be no more than 63 characters"
    return (
        "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
        "character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
    )


def _wrong(path: str, value: object, reason: str) -> Invalid:
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    return Invalid(f"Invalid value: {shown}: {reason}", code="FieldValueInvalid", target=path)
