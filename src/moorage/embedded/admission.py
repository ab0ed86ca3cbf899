"""What happens to an object between the request and the store, by kind: defaults, normalisation, allocation, and validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moorage.clock import Clock
from moorage.embedded.kinds import Resource
from moorage.embedded.objects import ObjectStore
from moorage.errors import Invalid
from moorage.specs.manifest import Manifest

if TYPE_CHECKING:
    from moorage.embedded.registry import Writer


@dataclass(frozen=True, slots=True)
class View:
    """What admission may look at beside the object."""

    store: ObjectStore
    clock: Clock


def create(resource: Resource, manifest: Manifest, view: View, writer: Writer) -> None:
    """Bring a new object into the form in which it is stored."""
    if resource.definition is None and resource.kind.kind == "Namespace":
        manifest.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
        manifest["status"] = {"phase": "Active"}
    if resource.definition is None and resource.kind.kind == "Pod":
        manifest["status"] = {"phase": "Pending"}


def update(resource: Resource, subresource: str, before: Manifest, after: Manifest, view: View, writer: Writer) -> None:
    """Bring a changed object into the form in which it is stored."""


def invalid_fields(resource: Resource, subresource: str, manifest: Manifest, before: Manifest | None) -> list[Invalid]:
    """What is wrong with the object, one finding per field."""
    return []
