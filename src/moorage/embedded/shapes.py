"""How values of a kind merge: which lists are maps by a key, which are sets, and which values are taken whole.

Built-in kinds follow Kubernetes' own markers (`fields`), custom kinds their schema. A list that nobody described is atomic, as in Kubernetes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

from moorage.embedded import fields


class Shape(Protocol):
    """The merging rules of one value."""

    @property
    def atomic(self) -> bool: ...

    @property
    def is_set(self) -> bool: ...

    @property
    def keys(self) -> tuple[str, ...]:
        """The fields that identify an item of this list to an apply; empty when the list is not a map."""
        ...

    @property
    def patch_key(self) -> str:
        """The field that identifies an item to a strategic patch; empty when the list is replaced."""
        ...

    def child(self, name: str) -> Shape: ...

    def item(self) -> Shape: ...


@dataclass(frozen=True, slots=True)
class Plain:
    """Nothing known: objects merge, lists are taken whole."""

    atomic: bool = False
    is_set: bool = False
    keys: tuple[str, ...] = ()
    patch_key: str = ""

    def child(self, name: str) -> Shape:
        return self

    def item(self) -> Shape:
        return self


PLAIN = Plain()


@dataclass(frozen=True, slots=True)
class Known:
    """A value of a built-in kind. Shapes are made once per message and shared: they are walked for every write."""

    atomic: bool = False
    is_set: bool = False
    keys: tuple[str, ...] = ()
    patch_key: str = ""
    of: fields.Message | None = None
    single: Shape = PLAIN

    def child(self, name: str) -> Shape:
        return self.single if self.of is None else _children(self.of.name).get(name, PLAIN)

    def item(self) -> Shape:
        return self.single


@cache
def _of_message(name: str) -> Shape:
    message = fields.message(name)
    return Known(atomic=message.atomic, of=message)


@cache
def _children(name: str) -> Mapping[str, Shape]:
    return {field_name: _of_field(found) for field_name, found in fields.message(name).by_name.items()}


def _of_field(found: fields.Field) -> Shape:
    single = PLAIN if fields.is_value(found.type) else _of_message(found.type)
    if not found.card and not fields.is_value(found.type):
        return single
    return Known(atomic=found.atomic, is_set=found.is_set, keys=found.merge_keys, patch_key=found.patch_key, single=single)


def built_in(group: str, kind: str) -> Shape:
    """The rules of a built-in kind; only its metadata's when its fields are not in the table (CustomResourceDefinition)."""
    found = fields.kind_message(group, kind)
    return _of_message(found.name) if found is not None else _OnlyMetadata()


@dataclass(frozen=True, slots=True)
class _OnlyMetadata:
    atomic: bool = False
    is_set: bool = False
    keys: tuple[str, ...] = ()
    patch_key: str = ""

    def child(self, name: str) -> Shape:
        return _of_message("meta.v1.ObjectMeta") if name == "metadata" else PLAIN

    def item(self) -> Shape:
        return PLAIN


@dataclass(frozen=True, slots=True)
class FromSchema:
    """The rules of a custom kind's schema. Custom kinds take no strategic patches."""

    schema: Mapping[str, Any] = field(default_factory=dict)
    top: bool = False

    @property
    def atomic(self) -> bool:
        return self.schema.get("x-kubernetes-map-type") == "atomic"

    @property
    def is_set(self) -> bool:
        return self.schema.get("x-kubernetes-list-type") == "set"

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self.schema.get("x-kubernetes-list-map-keys") or ()) if self.schema.get("x-kubernetes-list-type") == "map" else ()

    @property
    def patch_key(self) -> str:
        return ""

    def child(self, name: str) -> Shape:
        if self.top and name == "metadata":
            return _of_message("meta.v1.ObjectMeta")
        inner = (self.schema.get("properties") or {}).get(name)
        if inner is None:
            inner = self.schema.get("additionalProperties")
        return FromSchema(inner if isinstance(inner, Mapping) else {})

    def item(self) -> Shape:
        return FromSchema(self.schema.get("items") or {})
