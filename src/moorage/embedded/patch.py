"""JSON patch (RFC 6902) and JSON merge patch (RFC 7386), pure. Neither changes what it is given."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from moorage.errors import Invalid

# As on Kubernetes (jsonpatch.AccumulatedCopySizeLimit, maxJSONPatchOperations): a few lines that copy what was copied would fill any memory.
_MOST_COPIED = 3 * 1024 * 1024
_MOST_OPERATIONS = 10_000


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386: objects merge, null removes, everything else replaces."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge_patch(result.get(name), value)
    return result


def json_patch(target: Any, operations: Sequence[Any]) -> Any:
    """RFC 6902: all operations or none. Invalid names the operation that cannot be done."""
    if not isinstance(operations, Sequence) or isinstance(operations, str | bytes):
        raise Invalid("a JSON patch is a list of operations", code="BadRequest")
    if len(operations) > _MOST_OPERATIONS:
        words = f"The allowed maximum operations in a JSON patch is {_MOST_OPERATIONS}, got {len(operations)}"
        raise Invalid(words, code="RequestEntityTooLarge")
    document = copy.deepcopy(target)
    copied = 0
    for operation in operations:
        copied += _copies(document, operation)
        if copied > _MOST_COPIED:
            words = f"Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {_MOST_COPIED}"
            raise Invalid(words, code="RequestEntityTooLarge")
        document = _operate(document, operation)
    return document


def _copies(document: Any, operation: Any) -> int:
    """How many bytes a `copy` adds."""
    if not isinstance(operation, Mapping) or operation.get("op") != "copy":
        return 0
    return len(orjson.dumps(_find(document, str(operation.get("from", "")))))


def _operate(document: Any, operation: Any) -> Any:
    if not isinstance(operation, Mapping) or not isinstance(operation.get("path"), str):
        raise Invalid("every operation of a JSON patch is an object with 'op' and 'path'", code="BadRequest")
    path = operation["path"]
    match operation.get("op"):
        case "add":
            return _add(document, path, _value(operation))
        case "remove":
            return _remove(document, path)[0]
        case "replace":
            _find(document, path)
            return _replace(document, path, _value(operation))
        case "move":
            document, value = _remove(document, str(operation.get("from", "")))
            return _add(document, path, value)
        case "copy":
            return _add(document, path, copy.deepcopy(_find(document, str(operation.get("from", "")))))
        case "test":
            if not same(_find(document, path), operation.get("value")):
                raise Invalid(f"testing path {path} failed", code="PatchFailed", target=path)
            return document
        case other:
            raise Invalid(f"Unexpected kind: {other}", code="BadRequest", target=path)


def same(left: Any, right: Any) -> bool:
    """JSON equality: true is not 1."""
    return bool(left == right) and isinstance(left, bool) == isinstance(right, bool)


def _value(operation: Mapping[str, Any]) -> Any:
    if "value" not in operation:
        raise Invalid(f"operation '{operation['op']}' at {operation['path']} has no value", code="BadRequest")
    return copy.deepcopy(operation["value"])


def _parts(path: str) -> list[str]:
    if path == "":
        return []
    if not path.startswith("/"):
        raise Invalid(f"'{path}' is not a JSON pointer: it must start with '/'", code="BadRequest", target=path)
    return [part.replace("~1", "/").replace("~0", "~") for part in path[1:].split("/")]


def _step(here: Any, part: str, path: str) -> Any:
    if isinstance(here, Mapping) and part in here:
        return here[part]
    if isinstance(here, list) and part.isdigit() and int(part) < len(here):
        return here[int(part)]
    raise Invalid(f"the path {path} does not exist (at '{part}')", code="PatchFailed", target=path)


def _find(document: Any, path: str) -> Any:
    here = document
    for part in _parts(path):
        here = _step(here, part, path)
    return here


def _parent(document: Any, path: str) -> tuple[Any, str]:
    parts = _parts(path)
    here = document
    for part in parts[:-1]:
        here = _step(here, part, path)
    return here, parts[-1]


def _add(document: Any, path: str, value: Any) -> Any:
    if path == "":
        return value
    here, last = _parent(document, path)
    if isinstance(here, dict):
        here[last] = value
    elif isinstance(here, list) and (last == "-" or (last.isdigit() and int(last) <= len(here))):
        here.insert(len(here) if last == "-" else int(last), value)
    else:
        raise Invalid(f"cannot add at {path}: no such place", code="PatchFailed", target=path)
    return document


def _replace(document: Any, path: str, value: Any) -> Any:
    if path == "":
        return value
    here, last = _parent(document, path)
    here[int(last) if isinstance(here, list) else last] = value
    return document


def _remove(document: Any, path: str) -> tuple[Any, Any]:
    if path == "":
        return None, document
    here, last = _parent(document, path)
    value = _step(here, last, path)
    if isinstance(here, list):
        del here[int(last)]
    else:
        del here[last]
    return document, value
