"""Nodes as somebody declares them: names, labels, taints, and what they offer, extended resources that only exist in name included. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from moorage.errors import Invalid
from moorage.specs.manifest import Manifest
from moorage.specs.quantities import is_quantity

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_OWN = frozenset({"cpu", "memory", "pods", "ephemeral-storage"})
_FIELDS = frozenset({"name", "labels", "taints", "capacity"})
MOST = 20


@dataclass(frozen=True, slots=True)
class Declared:
    """One node.

    Args:
        labels: beside those every node has.
        taints: given to a new node; later they are whoever changes them.
        capacity: replaces what the machine has to offer, and adds to it.
    """

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[Manifest] = ()
    capacity: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> Manifest:
        """As it was declared, for a file."""
        return {**asdict(self), "taints": [dict(taint) for taint in self.taints]}


def numbered(count: int) -> tuple[Declared, ...]:
    """Nodes of which nobody has said more than how many."""
    return tuple(Declared(f"node-{number}") for number in range(count))


def read(document: Any) -> tuple[Declared, ...]:
    """Nodes from a list of mappings with `name`, `labels`, `taints` and `capacity`; Invalid with the field that is wrong."""
    if not isinstance(document, list) or not 0 < len(document) <= MOST:
        raise Invalid(f"Nodes are declared as a list of 1 to {MOST} mappings, each with a name.", target="nodes")
    found = tuple(_node(entry, f"nodes[{index}]") for index, entry in enumerate(document))
    names = [one.name for one in found]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise Invalid(f"Two nodes are called {double!r}; names must differ.", target="nodes")
    return found


def _node(entry: Any, path: str) -> Declared:
    if not isinstance(entry, Mapping):
        raise Invalid(f"{path} must be a mapping with a name.", target=path)
    if unknown := sorted(str(name) for name in entry.keys() - _FIELDS):
        raise Invalid(f"{path} has an unknown field {unknown[0]!r}; known are {', '.join(sorted(_FIELDS))}.", target=f"{path}.{unknown[0]}")
    name = entry.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Invalid(f"{path}.name must be lower case letters, digits and '-', not {name!r}.", target=f"{path}.name")
    taints = entry.get("taints") or []
    if not isinstance(taints, list):
        raise Invalid(f"{path}.taints must be a list.", target=f"{path}.taints")
    labels = _pairs(entry.get("labels"), f"{path}.labels")
    if wrong := next((value for value in labels.values() if not _VALUE.fullmatch(value)), None):
        raise Invalid(f"{path}.labels has {wrong!r}, which is no value of a label.", target=f"{path}.labels")
    return Declared(
        name,
        labels,
        tuple(_taint(taint, f"{path}.taints[{index}]") for index, taint in enumerate(taints)),
        _capacity(entry.get("capacity"), f"{path}.capacity"),
    )


def _pairs(found: Any, path: str) -> dict[str, str]:
    if not isinstance(found or {}, Mapping):
        raise Invalid(f"{path} must be a mapping.", target=path)
    for key, value in (found or {}).items():
        if not isinstance(key, str) or not _KEY.fullmatch(key) or isinstance(value, bool | Mapping | list) or value is None:
            raise Invalid(f"{path} must map names such as 'example.com/name' to texts or numbers, not {key!r} to {value!r}.", target=path)
    return {key: str(value) for key, value in (found or {}).items()}


def _taint(found: Any, path: str) -> Manifest:
    if not isinstance(found, Mapping) or found.keys() - {"key", "value", "effect"} or found.get("effect") not in _EFFECTS:
        raise Invalid(f"{path} must have a key, an effect of {', '.join(_EFFECTS)}, and perhaps a value.", target=path)
    pairs = _pairs({found.get("key"): found.get("value", "")}, path)
    ((key, value),) = pairs.items()
    return {"key": key, "effect": found["effect"], **({"value": value} if value else {})}


def _capacity(found: Any, path: str) -> dict[str, str]:
    amounts = _pairs(found, path)
    for name, amount in amounts.items():
        where = f"{path}.{name}"
        if name not in _OWN and "/" not in name:
            raise Invalid(f"{where}: a resource of your own needs a domain, such as example.com/{name}.", target=where)
        if not is_quantity(amount) or amount.startswith("-"):
            raise Invalid(f"{where} must be an amount such as 4 or 16Gi, not {amount!r}.", target=where)
        if "/" in name and not amount.isdigit():
            raise Invalid(f"{where} must be a whole number, not {amount!r}.", target=where)
    return amounts
