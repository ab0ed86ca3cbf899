"""Strategic merge patch, pure: merge patch that knows which lists are maps, with `$patch`, `$deleteFromPrimitiveList` and `$setElementOrder`.

Merge keys come from `shapes`; they are not always those of an apply (`containerPort` alone, not with `protocol`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from moorage.embedded.shapes import Shape
from moorage.errors import Invalid

_DELETE_PRIMITIVE = "$deleteFromPrimitiveList/"
_ORDER = "$setElementOrder/"
_RETAIN = "$retainKeys"


def strategic_merge(target: Any, patch: Any, shape: Shape) -> Any:
    """The target with the patch merged in. Invalid when the patch leaves out a merge key or uses an unknown directive."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    match patch.get("$patch"):
        case "replace":
            return {name: copy.deepcopy(value) for name, value in patch.items() if name != "$patch"}
        case "delete":
            return {}
        case None | "merge":
            pass
        case other:
            raise Invalid(f"Unknown patch type '{other}' in map", code="BadRequest")
    result = dict(target) if isinstance(target, Mapping) else {}
    if _RETAIN in patch:
        result = {name: value for name, value in result.items() if name in patch[_RETAIN]}
    for name, value in patch.items():
        if name.startswith(_DELETE_PRIMITIVE):
            field_name = name.removeprefix(_DELETE_PRIMITIVE)
            result[field_name] = [item for item in result.get(field_name) or [] if item not in value]
        elif name.startswith("$"):
            continue
        elif value is None:
            result.pop(name, None)
        elif isinstance(value, Mapping):
            result[name] = strategic_merge(result.get(name), value, shape.child(name))
        elif isinstance(value, list):
            order = patch.get(_ORDER + name)
            result[name] = _merge_list(result.get(name), value, shape.child(name), order)
        else:
            result[name] = value
    for name, order in patch.items():
        # An order without a patch of its list: kubectl sends it when only items left or moved.
        if name.startswith(_ORDER) and (field_name := name.removeprefix(_ORDER)) not in patch and isinstance(result.get(field_name), list):
            result[field_name] = _ordered(result[field_name], order, shape.child(field_name).patch_key or None)
    return result


def _merge_list(target: Any, patch: list[Any], shape: Shape, order: Sequence[Any] | None) -> list[Any]:
    target = target if isinstance(target, list) else []
    if any(isinstance(item, Mapping) and item.get("$patch") == "replace" for item in patch):
        return [copy.deepcopy(item) for item in patch if item.get("$patch") != "replace"]
    if shape.is_set:
        return _ordered([*target, *(item for item in patch if item not in target)], order, None)
    key = shape.patch_key
    if not key:
        return copy.deepcopy(patch)
    result = list(target)
    for item in patch:
        if not isinstance(item, Mapping) or key not in item:
            raise Invalid(f"map: {item} does not contain declared merge key: {key}", code="BadRequest")
        place = next((index for index, there in enumerate(result) if isinstance(there, Mapping) and there.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            if place is not None:
                del result[place]
        elif place is None:
            result.append(strategic_merge({}, item, shape.item()))
        else:
            result[place] = strategic_merge(result[place], item, shape.item())
    return _ordered(result, order, key)


def _ordered(items: list[Any], order: Sequence[Any] | None, key: str | None) -> list[Any]:
    """Items in the wanted order; those it does not name stay behind the item they followed."""
    if not order:
        return items
    wanted = [(entry.get(key) if key and isinstance(entry, Mapping) else entry) for entry in order]
    ranks: list[tuple[int, int]] = []
    last = -1
    for position, item in enumerate(items):
        identity = item.get(key) if key and isinstance(item, Mapping) else item
        if identity in wanted:
            last = wanted.index(identity)
        ranks.append((last, position))
    return [items[position] for _, position in sorted(ranks)]
