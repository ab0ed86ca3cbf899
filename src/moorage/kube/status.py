"""Kubernetes' Status bodies as this project's errors, message and field causes kept, long texts cut. Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from moorage.errors import Conflict, Expired, Forbidden, Invalid, MoorageError, NotFound, Throttled, Unauthenticated, Unavailable
from moorage.specs.manifest import Manifest

_LONGEST_MESSAGE = 2000
_MOST_CAUSES = 20
_CLASSES: dict[int, type[MoorageError]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    408: Unavailable,
    409: Conflict,
    410: Expired,
}


def error_of(code: int, body: Manifest | str, *, retry_after: timedelta | None = None) -> MoorageError:
    """The error that an answer with HTTP status `code` stands for.

    Args:
        body: a Status, or whatever text stood in its place (a proxy's page).
        retry_after: from the header, for 429.
    """
    status: Manifest = body if isinstance(body, dict) else {}
    text = status.get("message") or (body if isinstance(body, str) else "") or status.get("reason") or ""
    message = _cut(str(text).strip() or "The Kubernetes API gave no reason") + ("" if status else f" (HTTP {code})")
    details: Manifest = status.get("details") or {}
    if code == 429:
        seconds = details.get("retryAfterSeconds")
        after = timedelta(seconds=seconds) if isinstance(seconds, int) and seconds > 0 else None
        if retry_after is None:
            retry_after = after or timedelta(seconds=1)
        return Throttled(
            message, retry_after=retry_after, details=tuple(_cause(cause) for cause in (details.get("causes") or ())[:_MOST_CAUSES])
        )
    found = _CLASSES.get(code)
    if found is None:
        found = Invalid if 400 <= code < 500 else Unavailable
    causes = tuple(_cause(cause) for cause in (details.get("causes") or ())[:_MOST_CAUSES]) if found in (Invalid, Conflict) else ()
    return found(message, target=causes[0].target if len(causes) == 1 else details.get("name"), details=causes)


def _cause(cause: Manifest) -> MoorageError:
    field: Any = cause.get("field")
    return Invalid(_cut(str(cause.get("message") or cause.get("reason") or "")), target=str(field) if field else None)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}…"
