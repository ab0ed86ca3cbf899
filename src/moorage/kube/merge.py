"""JSON merge patches (RFC 7386) between two documents. Pure."""

from __future__ import annotations

from typing import Any

from moorage.specs.manifest import Manifest


def without_nulls(value: Any) -> Any:
    """The value with null members of objects left out: in a merge patch, as in a stored manifest, null means absent."""
    match value:
        case dict():
            return {key: without_nulls(item) for key, item in value.items() if item is not None}
        case list() | tuple():
            return [without_nulls(item) for item in value]
        case _:
            return value


def merge_patch(old: Manifest, new: Manifest) -> Manifest:
    """The smallest merge patch that makes `old` equal to `new`; empty when they are equal. `new` holds no nulls."""
    patch: Manifest = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if key in old and before == value:
            continue
        if isinstance(value, dict) and isinstance(before, dict):
            patch[key] = merge_patch(before, value)
        else:
            patch[key] = value
    return patch
