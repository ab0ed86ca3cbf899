"""Byte ranges and preconditions of blob requests, as Azure answers them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias

from moorage.errors import Conflict, Invalid
from moorage.store import Blob

_RANGE = re.compile(r"^bytes=(\d*)-(\d*)$")
Headers: TypeAlias = Mapping[str, str]


def byte_range(headers: Headers, size: int) -> tuple[int, int] | None:
    """The first byte and the one after the last, None for the whole; Invalid with InvalidRange when it begins beyond the end.

    A range of an empty blob is invalid too: the SDK expects that and asks again without one.
    """
    text = headers.get("x-ms-range") or headers.get("range") or ""
    match = _RANGE.match(text.replace(" ", ""))
    if not match or match[1] == match[2] == "":
        # RFC 9110: a range that does not parse is as good as none.
        return None
    if match[1] == "":
        start, end = max(0, size - int(match[2])), size
    else:
        start, end = int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
    if start >= size or (match[2] and match[1] and int(match[2]) < start):
        raise Invalid("The range specified is invalid for the current size of the resource.", code="InvalidRange")
    return start, end


def unmodified(headers: Headers, blob: Blob) -> bool:
    """Check a read's preconditions: whether the answer is 304; Invalid with ConditionNotMet for 412."""
    if (wanted := headers.get("if-match")) is not None and not _lists(wanted, blob.etag):
        raise Invalid("The condition specified using HTTP conditional header(s) is not met.", code="ConditionNotMet")
    return (unwanted := headers.get("if-none-match")) is not None and _lists(unwanted, blob.etag)


def check_write(headers: Headers, current: Blob | None) -> None:
    """Check a write's preconditions against what is there."""
    if current is not None and headers.get("if-none-match", "").strip() == "*":
        raise Conflict("The specified blob already exists.", code="BlobAlreadyExists")
    if (wanted := headers.get("if-match")) is not None and (current is None or not _lists(wanted, current.etag)):
        raise Invalid("The condition specified using HTTP conditional header(s) is not met.", code="ConditionNotMet")


def _lists(header: str, etag: str) -> bool:
    return any(each.strip() in ("*", etag, etag.strip('"')) for each in header.split(","))
