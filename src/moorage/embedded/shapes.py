"""How values of a kind merge: which lists are maps by a key, which are sets, and which values are taken whole.

Built-in kinds follow a table of field names taken from Kubernetes' OpenAPI (x-kubernetes-list-type, x-kubernetes-patch-merge-key); custom kinds follow
their schema. A list that nobody described is atomic, as in Kubernetes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


class Shape(Protocol):
    """The merging rules of one value."""

    @property
    def atomic(self) -> bool: ...

    @property
    def is_set(self) -> bool: ...

    def keys_for(self, items: Sequence[Any]) -> tuple[str, ...]:
        """The fields that identify an item of this list; empty when the list is not a map."""
        ...

    def child(self, name: str) -> Shape: ...

    def item(self) -> Shape: ...


# Lists that are maps, by field name. Where the same name has another meaning under another parent, the longer entry wins.
_LIST_KEYS: Mapping[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "imagePullSecrets": ("name",),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "conditions": ("type",),
    "ownerReferences": ("uid",),
    "podIPs": ("ip",),
    "hostIPs": ("ip",),
    "resourceClaims": ("name",),
    "claims": ("name",),
    "schedulingGates": ("name",),
    "secrets": ("name",),
}
_SETS = frozenset({"finalizers", "podCIDRs"})
# Objects that stand for one value: half of a selector or a reference means something else.
_ATOMIC_OBJECTS = frozenset({
    "selector", "labelSelector", "namespaceSelector", "matchLabels", "nodeSelector", "secretKeyRef", "configMapKeyRef", "fieldRef",
    "resourceFieldRef", "involvedObject", "regarding", "related", "claimRef", "nodeSelectorTerms", "roleRef", "overhead",
})  # fmt: skip
_PORT_KEYS: Mapping[str, tuple[str, ...]] = {"containerPort": ("containerPort", "protocol"), "port": ("port", "protocol")}


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """The rules of a built-in kind, found by field names; `path` is where we are."""

    kind: str
    path: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.path[-1] if self.path else ""

    @property
    def atomic(self) -> bool:
        if self.name in _ATOMIC_OBJECTS:
            # A Job's and Deployment's `selector` is a reference-like value; a field called so inside data or annotations is not.
            return "data" not in self.path[:-1]
        return self.kind == "CustomResourceDefinition" and self.name == "openAPIV3Schema"

    @property
    def is_set(self) -> bool:
        return self.name in _SETS and (self.name != "finalizers" or self.path[0] == "metadata")

    def keys_for(self, items: Sequence[Any]) -> tuple[str, ...]:
        if self.name == "ports" and self.kind != "EndpointSlice" and items and isinstance(items[0], Mapping):
            return next((keys for field_name, keys in _PORT_KEYS.items() if field_name in items[0]), ())
        if self.name == "addresses" and self.kind == "Node":
            return ("type",)
        if self.name == "conditions" and self.kind in ("Job", "EndpointSlice"):
            return ()
        if self.name == "secrets" and self.kind != "ServiceAccount":
            return ()
        if self.name == "endpoints" or "endpoints" in self.path:
            return ()
        return _LIST_KEYS.get(self.name, ())

    def child(self, name: str) -> Shape:
        return BuiltIn(self.kind, (*self.path, name))

    def item(self) -> Shape:
        return BuiltIn(self.kind, (*self.path, ""))


_METADATA = BuiltIn("", ("metadata",))


@dataclass(frozen=True, slots=True)
class FromSchema:
    """The rules of a custom kind's schema."""

    schema: Mapping[str, Any] = field(default_factory=dict)
    top: bool = False

    @property
    def atomic(self) -> bool:
        return self.schema.get("x-kubernetes-map-type") == "atomic"

    @property
    def is_set(self) -> bool:
        return self.schema.get("x-kubernetes-list-type") == "set"

    def keys_for(self, items: Sequence[Any]) -> tuple[str, ...]:
        return tuple(self.schema.get("x-kubernetes-list-map-keys") or ()) if self.schema.get("x-kubernetes-list-type") == "map" else ()

    def child(self, name: str) -> Shape:
        if self.top and name == "metadata":
            return _METADATA
        inner = (self.schema.get("properties") or {}).get(name)
        if inner is None:
            inner = self.schema.get("additionalProperties")
        return FromSchema(inner if isinstance(inner, Mapping) else {})

    def item(self) -> Shape:
        return FromSchema(self.schema.get("items") or {})
