"""Server-side apply and field ownership, pure: who set which field, what an apply takes over, what it lets go, and with whom it collides.

Follows sigs.k8s.io/structured-merge-diff: a field set is a set of paths whose elements are those of FieldsV1 (`f:name`, `k:{"name":"x"}`, `v:"x"`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from operator import itemgetter
from typing import Any

import orjson

from moorage.embedded.patch import same
from moorage.embedded.shapes import Shape
from moorage.errors import Conflict, Invalid
from moorage.specs.manifest import Manifest

Path = tuple[str, ...]
Fields = frozenset[Path]
NONE: Fields = frozenset()

# Identity and what the server writes: nobody owns them.
_UNOWNED: Fields = frozenset(
    {("f:apiVersion",), ("f:kind",), ("f:metadata",)}
    | {
        ("f:metadata", f"f:{name}")
        for name in (
            "name", "namespace", "generateName", "creationTimestamp", "selfLink", "uid", "generation", "managedFields", "resourceVersion",
            "deletionTimestamp", "deletionGracePeriodSeconds",
        )
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Manager:
    """One entry of managedFields: who, how (`Apply` or `Update`) and through which subresource."""

    name: str
    operation: str
    api_version: str
    subresource: str = ""


Managers = dict[Manager, Fields]


def fields_of(value: Any, shape: Shape) -> Fields:
    """The fields an object sets: its leaves, its list items, and its empty containers."""
    found: set[Path] = set()
    _collect(value, shape, (), found)
    return frozenset(found - _UNOWNED)


def _collect(value: Any, shape: Shape, path: Path, found: set[Path]) -> None:
    if isinstance(value, Mapping) and value and not shape.atomic:
        for name, inner in value.items():
            here = (*path, f"f:{name}")
            if here not in _UNOWNED or here == ("f:metadata",):
                _collect(inner, shape.child(name), here, found)
    elif isinstance(value, list) and value and not shape.atomic and shape.is_set:
        found.update((*path, _set_element(item)) for item in value)
    elif isinstance(value, list) and value and not shape.atomic and (keys := shape.keys):
        for item in value:
            here = (*path, _item_element(item, keys))
            found.add(here)
            if isinstance(item, Mapping):
                _collect(item, shape.item(), here, found)
    elif path:
        found.add(path)


_KEY_DEFAULTS = {"protocol": "TCP"}


def _item_element(item: Any, keys: Sequence[str]) -> str:
    if not isinstance(item, Mapping):
        raise Invalid(f"expected an object with {', '.join(keys)}, got {item!r}", code="Invalid")
    identity = {}
    for key in sorted(keys):
        value = item.get(key, _KEY_DEFAULTS.get(key))
        if value is not None:
            identity[key] = value
    return "k:" + orjson.dumps(identity).decode()


def _set_element(item: Any) -> str:
    return "v:" + orjson.dumps(item).decode()


# FieldsV1: the same set as nested objects.


def to_fields_v1(fields: Fields) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path in sorted(fields):
        here = tree
        for element in path:
            here = here.setdefault(element, {})
        if path[-1].startswith("k:"):
            here.setdefault(".", {})
    return tree


def tree_of(manifest: Manifest, shape: Shape) -> dict[str, Any]:
    """`to_fields_v1(fields_of(...))` of a whole object in one walk without a set in between, because every create pays for it."""
    tree: dict[str, Any] = {}
    for name in sorted(manifest):
        value = manifest[name]
        if name == "metadata":
            value = {inner: value[inner] for inner in value if ("f:metadata", f"f:{inner}") not in _UNOWNED}
            if not value:
                continue
        elif (f"f:{name}",) in _UNOWNED:
            continue
        here = tree[f"f:{name}"] = {}
        _grow(here, value, shape.child(name))
    return tree


def _grow(tree: dict[str, Any], value: Any, shape: Shape) -> None:
    if not value or not isinstance(value, dict | list) or shape.atomic:
        return
    if isinstance(value, dict):
        for name in sorted(value):
            here = tree.setdefault(f"f:{name}", {})
            if isinstance(inner := value[name], dict | list):
                _grow(here, inner, shape.child(name))
    elif shape.is_set:
        tree |= {element: {} for element in sorted(map(_set_element, value))}
    elif keys := shape.keys:
        single = shape.item()
        for element, item in sorted(((_item_element(item, keys), item) for item in value), key=itemgetter(0)):
            here = tree.setdefault(element, {})
            here.setdefault(".", {})
            _grow(here, item, single)


def from_fields_v1(tree: Mapping[str, Any]) -> Fields:
    found: set[Path] = set()
    _walk(tree, (), found)
    return frozenset(found)


def _walk(tree: Mapping[str, Any], path: Path, found: set[Path]) -> None:
    for element, inner in tree.items():
        if element == ".":
            found.add(path)
        elif inner:
            _walk(inner, (*path, element), found)
        else:
            found.add((*path, element))


@dataclass(slots=True)
class Ownership:
    """managedFields, parsed: who owns what, since when; `raw` keeps the trees as they were read, for those that do not change."""

    fields: Managers = dataclass_field(default_factory=dict)
    times: dict[Manager, str] = dataclass_field(default_factory=dict)
    raw: dict[Manager, tuple[Fields, dict[str, Any]]] = dataclass_field(default_factory=dict)


def read_ownership(manifest: Manifest) -> Ownership:
    found = Ownership()
    for entry in manifest.get("metadata", {}).get("managedFields") or ():
        manager = Manager(entry.get("manager", ""), entry.get("operation", ""), entry.get("apiVersion", ""), entry.get("subresource", ""))
        tree = entry.get("fieldsV1") or {}
        owned = from_fields_v1(tree)
        found.fields[manager] = owned
        found.times[manager] = entry.get("time", "")
        found.raw[manager] = owned, tree
    return found


def create_ownership(manifest: Manifest, by: Manager, moment: str, shape: Shape) -> None:
    """Give a new object to whoever made it, all of it."""
    entry = {"manager": by.name, "operation": by.operation, "apiVersion": by.api_version, "time": moment}
    tree = tree_of(manifest, shape)
    if tree:
        manifest["metadata"]["managedFields"] = [entry | {"fieldsType": "FieldsV1", "fieldsV1": tree}]
    else:
        manifest["metadata"].pop("managedFields", None)


def write_ownership(manifest: Manifest, ownership: Ownership) -> None:
    """Put it into the manifest, appliers first as Kubernetes orders them, without those that own nothing any more."""
    entries = []
    for manager, owned in ownership.fields.items():
        if not owned:
            continue
        entry: dict[str, Any] = {"manager": manager.name, "operation": manager.operation, "apiVersion": manager.api_version}
        if ownership.times.get(manager):
            entry["time"] = ownership.times[manager]
        before, tree = ownership.raw.get(manager, (NONE, {}))
        entry |= {"fieldsType": "FieldsV1", "fieldsV1": tree if before == owned else to_fields_v1(owned)}
        if manager.subresource:
            entry["subresource"] = manager.subresource
        entries.append(entry)
    entries.sort(key=lambda entry: (entry["operation"] != "Apply", entry.get("time", ""), entry["manager"]))
    if entries:
        manifest["metadata"]["managedFields"] = entries
    else:
        manifest["metadata"].pop("managedFields", None)


def changes(before: Manifest, after: Manifest, shape: Shape) -> tuple[Fields, Fields]:
    """The fields that are new or have another value, and those that are gone."""
    changed: set[Path] = set()
    gone: set[Path] = set()
    _diff(before, after, shape, (), changed, gone)
    return frozenset(changed - _UNOWNED), frozenset(gone - _UNOWNED)


def _diff(before: Any, after: Any, shape: Shape, path: Path, changed: set[Path], gone: set[Path]) -> None:
    if path in _UNOWNED and path != ("f:metadata",):
        return
    if same(before, after):
        return
    if isinstance(before, dict) and isinstance(after, dict) and before and after and not shape.atomic:
        for name in before.keys() | after.keys():
            here = (*path, f"f:{name}")
            if name not in after:
                _collect(before[name], shape.child(name), here, gone)
            elif name not in before:
                _collect(after[name], shape.child(name), here, changed)
            else:
                _diff(before[name], after[name], shape.child(name), here, changed, gone)
        return
    if isinstance(before, list) and isinstance(after, list) and before and after and not shape.atomic and shape.keys:
        old = {_item_element(item, shape.keys): item for item in before}
        new = {_item_element(item, shape.keys): item for item in after}
        for element in old.keys() | new.keys():
            here = (*path, element)
            if element not in new:
                gone.add(here)
                _collect(old[element], shape.item(), here, gone)
            elif element not in old:
                changed.add(here)
                _collect(new[element], shape.item(), here, changed)
            else:
                _diff(old[element], new[element], shape.item(), here, changed, gone)
        return
    was: set[Path] = set()
    now: set[Path] = set()
    _collect(before, shape, path, was)
    _collect(after, shape, path, now)
    # Items of a set are their own values: those in both did not change. Any other leaf did.
    kept = {element for element in was & now if element[-1].startswith("v:")}
    changed |= now - kept
    gone |= was - now


def updated(changed: Fields, gone: Fields, managers: Managers, by: Manager) -> Managers:
    """Ownership after a PUT, PATCH or POST by `by`: it owns what it changed or added; what is gone belongs to nobody."""
    result = {manager: owned - gone - (NONE if manager == by else changed) for manager, owned in managers.items()}
    result[by] = result.get(by, NONE) | changed
    return {manager: owned for manager, owned in result.items() if owned}


def applied(live: Manifest, config: Manifest, managers: Managers, by: Manager, shape: Shape, *, force: bool) -> tuple[Manifest, Managers]:
    """What an apply of `config` by `by` makes of `live`, and who owns what then. Conflict, with a cause per field, unless `force`."""
    wanted = fields_of(config, shape)
    merged: Manifest = _merge(live, config, shape)
    others = {manager: owned for manager, owned in managers.items() if manager != by}
    changed = changes(live, merged, shape)[0]
    collisions = {manager: owned & changed for manager, owned in others.items() if owned & changed}
    if collisions and not force:
        raise _conflict(collisions)
    held = wanted.union(*others.values())
    # An empty container that was applied and has content now is still wanted (structured-merge-diff: EnsureNamedFieldsAreMembers).
    released = managers.get(by, NONE) - held - {path[:length] for path in held for length in range(1, len(path))}
    result = _without(merged, released, shape)
    gone = changes(live, result, shape)[1]
    after = {manager: owned - changed - gone for manager, owned in others.items()}
    after[by] = wanted
    return result, {manager: owned for manager, owned in after.items() if owned}


def _conflict(collisions: Mapping[Manager, Fields]) -> Conflict:
    causes, lines = [], []
    for manager, paths in sorted(collisions.items(), key=lambda item: item[0].name):
        using = f" using {manager.api_version}" if manager.operation == "Update" else ""
        reason = f'conflict with "{manager.name}"{" with subresource " + repr(manager.subresource).replace(chr(39), chr(34)) if manager.subresource else ""}{using}'
        shown = sorted(map(describe, paths))
        causes += [Conflict(reason, code="FieldManagerConflict", target=path) for path in shown]
        several = reason.replace("conflict with", "conflicts with", 1)
        lines.append(f"{reason}: {shown[0]}" if len(shown) == 1 else f"{several}:\n" + "\n".join(f"- {path}" for path in shown))
    total = len(causes)
    message = f"Apply failed with {total} conflict{'s' if total > 1 else ''}: " + "\n".join(lines)
    return Conflict(message, details=tuple(causes))


def describe(path: Path) -> str:
    """`.spec.containers[name="web"].image`, as Kubernetes prints field paths."""
    text = ""
    for element in path:
        tag, _, rest = element.partition(":")
        if tag == "f":
            text += f".{rest}"
        elif tag == "k":
            keys = orjson.loads(rest)
            text += "[" + ",".join(f"{key}={orjson.dumps(value).decode()}" for key, value in keys.items()) + "]"
        else:
            text += f"[={rest}]"
    return text


def _merge(live: Any, config: Any, shape: Shape) -> Any:
    if isinstance(live, Mapping) and isinstance(config, Mapping) and not shape.atomic:
        result = dict(live)
        for name, value in config.items():
            result[name] = _merge(live[name], value, shape.child(name)) if name in live else copy.deepcopy(value)
        return result
    if isinstance(live, list) and isinstance(config, list) and not shape.atomic:
        if shape.is_set:
            return [*live, *(item for item in config if item not in live)]
        if keys := shape.keys:
            return _merge_items(live, config, keys, shape.item())
    return copy.deepcopy(config)


def _merge_items(live: list[Any], config: list[Any], keys: Sequence[str], shape: Shape) -> list[Any]:
    """Applied items in the applied order, the others behind the item they followed (structured-merge-diff merges orders this way)."""
    before = {_item_element(item, keys): item for item in live}
    wanted = {_item_element(item, keys): item for item in config}
    if len(wanted) != len(config):
        raise Invalid(f"duplicate items for key {', '.join(keys)}", code="Invalid")
    result: list[str] = []
    remaining = list(wanted)
    for element in before:
        if element not in wanted:
            result.append(element)
        elif element in remaining:
            cut = remaining.index(element) + 1
            result += remaining[:cut]
            remaining = remaining[cut:]
    result += remaining
    return [
        _merge(before[element], wanted[element], shape)
        if element in before and element in wanted
        else copy.deepcopy(wanted.get(element, before.get(element)))
        for element in result
    ]


def _without(value: Any, paths: Iterable[Path], shape: Shape) -> Any:
    """The object without these fields, and without the containers that this empties."""
    tree: dict[str, Any] = {}
    ends: set[Path] = set()
    for path in paths:
        here = tree
        for element in path:
            here = here.setdefault(element, {})
        ends.add(path)
    return _prune(value, tree, (), ends, shape) if tree else value


def _prune(value: Any, tree: Mapping[str, Any], path: Path, ends: set[Path], shape: Shape) -> Any:
    if isinstance(value, Mapping):
        result = dict(value)
        for element, inner in tree.items():
            name = element[2:]
            if name not in result:
                continue
            if not inner:
                del result[name]
                continue
            result[name] = _prune(result[name], inner, (*path, element), ends, shape.child(name))
            if result[name] in ({}, []):
                del result[name]
        return result
    if isinstance(value, list):
        if shape.is_set:
            return [item for item in value if _set_element(item) not in tree]
        keys = shape.keys
        kept = []
        for item in value:
            element = _item_element(item, keys) if keys else ""
            if element in tree and (*path, element) in ends:
                # The item itself was let go, and with it what defaulting and others left in it unowned.
                continue
            kept.append(_prune(item, tree[element], (*path, element), ends, shape.item()) if element in tree else item)
        return kept
    return value
