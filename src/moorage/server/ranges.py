"""Byte ranges and preconditions of blob requests, as Azure answers them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeAlias

from moorage.errors import Conflict, Invalid, MoorageError
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
    _check_current(headers, blob)
    if (unwanted := headers.get("if-none-match")) is not None:
        return _lists(unwanted, blob.etag)
    since = _date(headers, "if-modified-since")
    return since is not None and blob.modified_at.replace(microsecond=0) <= since


def check_write(headers: Headers, current: Blob | None) -> None:
    """Check a write's preconditions against what is there."""
    unwanted = headers.get("if-none-match")
    if current is not None and unwanted is not None and unwanted.strip() == "*":
        raise Conflict("The specified blob already exists.", code="BlobAlreadyExists")
    _check_current(headers, current)
    since = _date(headers, "if-modified-since")
    if current is not None and (
        (unwanted is not None and _lists(unwanted, current.etag))
        or (since is not None and current.modified_at.replace(microsecond=0) <= since)
    ):
        raise _not_met()


def of_source(headers: Headers) -> dict[str, str]:
    """The preconditions that a copy names for its source, under their usual names."""
    return {name.removeprefix("x-ms-source-"): value for name, value in headers.items() if name.startswith("x-ms-source-if-")}


def _check_current(headers: Headers, current: Blob | None) -> None:
    if (wanted := headers.get("if-match")) is not None and (current is None or not _lists(wanted, current.etag)):
        raise _not_met()
    since = _date(headers, "if-unmodified-since")
    if current is not None and since is not None and current.modified_at.replace(microsecond=0) > since:
        raise _not_met()


def _date(headers: Headers, name: str) -> datetime | None:
    if not (text := headers.get(name)):
        return None
    try:
        found = parsedate_to_datetime(text)
    except ValueError as error:
        raise Invalid(f"{name} is not a date as HTTP writes it.", code="InvalidHeaderValue", target=name) from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _not_met() -> MoorageError:
    return Invalid("The condition specified using HTTP conditional header(s) is not met.", code="ConditionNotMet")


def _lists(header: str, etag: str) -> bool:
    return any(each.strip() in ("*", etag, etag.strip('"')) for each in header.split(","))
