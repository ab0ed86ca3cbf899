"""Kinds that a CustomResourceDefinition defines: what a version of it serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moorage.embedded.kinds import Resource
from moorage.kube.kinds import Kind
from moorage.specs.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Definition:
    """One served version of a CustomResourceDefinition."""

    name: str
    schema: Mapping[str, Any]
    columns: tuple[Mapping[str, Any], ...] = ()
    scale: Mapping[str, str] | None = None
    only_version: bool = True


def resources(crd: Manifest) -> tuple[Resource, ...]:
    """What a CustomResourceDefinition makes the API serve, the preferred version first."""
    spec = crd["spec"]
    names = spec["names"]
    found = []
    for version in spec["versions"]:
        if not version.get("served"):
            continue
        subresources = version.get("subresources") or {}
        definition = Definition(
            name=crd["metadata"]["name"],
            schema=(version.get("schema") or {}).get("openAPIV3Schema") or {},
            columns=tuple(version.get("additionalPrinterColumns") or ()),
            scale=subresources.get("scale"),
            only_version=len(spec["versions"]) == 1,
        )
        found.append(
            Resource(
                kind=Kind(spec["group"], version["name"], names["kind"], names["plural"], namespaced=spec["scope"] == "Namespaced"),
                short_names=tuple(names.get("shortNames") or ()),
                categories=tuple(names.get("categories") or ()),
                subresources=frozenset(subresources),
                singular=names.get("singular") or names["kind"].lower(),
                list_kind=names.get("listKind") or f"{names['kind']}List",
                storage=(spec["group"], names["plural"]),
                definition=definition,
            )
        )
    return tuple(found)
