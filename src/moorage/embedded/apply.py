"""Server-side apply and field ownership, pure: who set which field, what an apply takes over, what it lets go, and with whom it collides.

Follows sigs.k8s.io/structured-merge-diff: a field set is a set of paths whose elements are those of FieldsV1 (`f:name`, `k:{"name":"x"}`, `v:"x"`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
Times = dict[Manager, str]


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


def read_managers(manifest: Manifest) -> tuple[Managers, Times]:
    managers: Managers = {}
    times: Times = {}
    for entry in manifest.get("metadata", {}).get("managedFields") or ():
        manager = Manager(entry.get("manager", ""), entry.get("operation", ""), entry.get("apiVersion", ""), entry.get("subresource", ""))
        managers[manager] = from_fields_v1(entry.get("fieldsV1") or {})
        times[manager] = entry.get("time", "")
    return managers, times


def write_managers(manifest: Manifest, managers: Managers, times: Times) -> None:
    """Put the managers into the manifest, appliers first as Kubernetes orders them, dropping those that own nothing any more."""
    entries = []
    for manager, fields in managers.items():
        if not fields:
            continue
        entry: dict[str, Any] = {"manager": manager.name, "operation": manager.operation, "apiVersion": manager.api_version}
        if times.get(manager):
            entry["time"] = times[manager]
        entry |= {"fieldsType": "FieldsV1", "fieldsV1": to_fields_v1(fields)}
        if manager.subresource:
            entry["subresource"] = manager.subresource
        entries.append(entry)
    entries.sort(key=lambda entry: (entry["operation"] != "Apply", entry.get("time", ""), entry["manager"]))
    if entries:
        manifest["metadata"]["managedFields"] = entries
    else:
        manifest["metadata"].pop("managedFields", None)


def updated(before: Manifest | None, after: Manifest, managers: Managers, by: Manager, shape: Shape) -> Managers:
    """Ownership after a PUT, PATCH or POST by `by`: it owns what it changed or added; what is gone belongs to nobody."""
    old = fields_of(before, shape) if before else NONE
    new = fields_of(after, shape)
    changed = frozenset(path for path in new if path not in old or not same(_at(before, path), _at(after, path)))
    changed = frozenset(path for path in changed if not _only_nested(path, old, before, after))
    result: Managers = {}
    for manager, owned in managers.items():
        kept = owned & new
        result[manager] = kept if manager == by else kept - changed
    result[by] = (result.get(by, NONE)) | changed
    return {manager: owned for manager, owned in result.items() if owned}


def _only_nested(path: Path, old: Fields, before: Any, after: Any) -> bool:
    # A list item that was there before is not itself changed when one of its fields is.
    return path[-1].startswith("k:") and path in old


def applied(live: Manifest, config: Manifest, managers: Managers, by: Manager, shape: Shape, *, force: bool) -> tuple[Manifest, Managers]:
    """What an apply of `config` by `by` makes of `live`, and who owns what then. Conflict, with a cause per field, unless `force`."""
    wanted = fields_of(config, shape)
    merged: Manifest = _merge(live, config, shape)
    others = {manager: owned for manager, owned in managers.items() if manager != by}
    changed = frozenset(path for path in wanted if not _container(path, wanted) and not same(_at(live, path), _at(merged, path)))
    collisions = {manager: owned & changed for manager, owned in others.items() if owned & changed}
    # A manager that updated a field and now applies it does not collide with itself... only if the name is the same and it was an Update
    # does Kubernetes still report it, so neither do we make an exception.
    if collisions and not force:
        raise _conflict(collisions)
    held = wanted.union(*others.values())
    # An empty container that was applied and has content now is still wanted (structured-merge-diff: EnsureNamedFieldsAreMembers).
    released = managers.get(by, NONE) - held - {path[:length] for path in held for length in range(1, len(path))}
    result = _without(merged, released, shape)
    present = fields_of(result, shape)
    after = {manager: (owned - changed) & present for manager, owned in others.items()}
    after[by] = wanted
    return result, {manager: owned for manager, owned in after.items() if owned}


def _container(path: Path, fields: Fields) -> bool:
    return path[-1].startswith("k:") and any(len(other) > len(path) and other[: len(path)] == path for other in fields)


def _conflict(collisions: Mapping[Manager, Fields]) -> Conflict:
    causes, lines = [], []
    for manager, paths in sorted(collisions.items(), key=lambda item: item[0].name):
        using = f" using {manager.api_version}" if manager.operation == "Update" else ""
        reason = f'conflict with "{manager.name}"{" with subresource " + repr(manager.subresource).replace(chr(39), chr(34)) if manager.subresource else ""}{using}'
        shown = sorted(map(describe, paths))
        causes += [Conflict(reason, code="FieldManagerConflict", target=path) for path in shown]
        lines.append(f"{reason}: {shown[0]}" if len(shown) == 1 else f"{reason}:\n" + "\n".join(f"- {path}" for path in shown))
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


def _at(value: Any, path: Path) -> Any:
    here = value
    for element in path:
        tag, _, rest = element.partition(":")
        if tag == "f":
            if not isinstance(here, Mapping):
                return None
            here = here.get(rest)
        elif tag == "k":
            identity = orjson.loads(rest)
            if not isinstance(here, list):
                return None
            here = next(
                (
                    item
                    for item in here
                    if isinstance(item, Mapping)
                    and all(item.get(key, _KEY_DEFAULTS.get(key)) == wanted for key, wanted in identity.items())
                ),
                None,
            )
        else:
            wanted = orjson.loads(rest)
            return wanted if isinstance(here, list) and wanted in here else None
    return here
