"""CustomResourceDefinitions as objects: their defaults, their conditions, and what about them cannot be served. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from moorage.clock import rfc3339
from moorage.embedded import jsonpath, schema
from moorage.errors import Invalid
from moorage.specs.manifest import Manifest


def complete(crd: Manifest, moment: datetime) -> None:
    """Defaults and status in place: this cluster takes every acceptable definition into service at once."""
    spec = crd.get("spec")
    if not isinstance(spec, dict) or not isinstance(spec.get("names"), dict) or not isinstance(spec.get("versions"), list):
        return
    names = spec["names"]
    names.setdefault("singular", str(names.get("kind", "")).lower())
    names.setdefault("listKind", f"{names.get('kind', '')}List")
    spec.setdefault("conversion", {"strategy": "None"})
    stored = [
        version["name"] for version in spec["versions"] if isinstance(version, dict) and version.get("storage") and version.get("name")
    ]
    status = crd.get("status") or {}
    status["acceptedNames"] = names
    status["storedVersions"] = list(dict.fromkeys([*(status.get("storedVersions") or ()), *stored]))
    kept = {condition["type"]: condition for condition in status.get("conditions") or ()}
    for type_, reason, message in (
        ("NamesAccepted", "NoConflicts", "no conflicts found"),
        ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
    ):
        if (kept.get(type_) or {}).get("status") != "True":
            kept[type_] = {"type": type_, "status": "True", "reason": reason, "message": message, "lastTransitionTime": rfc3339(moment)}
    status["conditions"] = list(kept.values())
    crd["status"] = status


def invalid_fields(crd: Manifest) -> list[Invalid]:
    """Why a definition cannot be served."""
    spec = crd.get("spec")
    if not isinstance(spec, dict):
        return [_required("spec")]
    found = [_required(f"spec.{name}") for name in ("group", "scope", "versions") if not spec.get(name)]
    names = spec.get("names") if isinstance(spec.get("names"), dict) else {}
    found += [_required(f"spec.names.{name}") for name in ("kind", "plural") if not (names or {}).get(name)]
    if found:
        return found
    expected = f"{spec['names']['plural']}.{spec['group']}"
    if crd["metadata"]["name"] != expected:
        name = crd["metadata"]["name"]
        found.append(_wrong("metadata.name", f'"{name}"', f'must be spec.names.plural+"."+spec.group (here {expected})'))
    if spec["scope"] not in ("Namespaced", "Cluster"):
        found.append(_wrong("spec.scope", f'"{spec["scope"]}"', 'supported values: "Cluster", "Namespaced"'))
    if (spec.get("conversion") or {}).get("strategy", "None") != "None":
        found.append(
            _wrong("spec.conversion.strategy", '"Webhook"', "this cluster converts between versions by changing apiVersion only (None)")
        )
    if sum(bool(version.get("storage")) for version in spec["versions"]) != 1:
        found.append(_wrong("spec.versions", "...", "must have exactly one version marked as storage version"))
    for index, version in enumerate(spec["versions"]):
        found += _version_findings(version, f"spec.versions[{index}]")
    return found


def _version_findings(version: dict[str, Any], path: str) -> list[Invalid]:
    found = [_required(f"{path}.name")] if not version.get("name") else []
    for index, column in enumerate(version.get("additionalPrinterColumns") or ()):
        try:
            jsonpath.check(column.get("jsonPath", ""))
        except Invalid as error:
            found.append(Invalid(error.message, code=error.code, target=f"{path}.additionalPrinterColumns[{index}].jsonPath"))
    declared = (version.get("schema") or {}).get("openAPIV3Schema")
    if not isinstance(declared, dict):
        return [*found, _required(f"{path}.schema.openAPIV3Schema")]
    return found + schema.unusable(declared, f"{path}.schema.openAPIV3Schema")


def _required(path: str) -> Invalid:
    return Invalid("Required value", code="FieldValueRequired", target=path)


def _wrong(path: str, value: str, reason: str) -> Invalid:
    return Invalid(f"Invalid value: {value}: {reason}", code="FieldValueInvalid", target=path)
