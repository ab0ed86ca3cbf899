"""Failures and plain successes as metav1.Status: one table from our error tree to HTTP codes and Kubernetes' reasons."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from moorage.embedded.authorization import Denied
from moorage.embedded.registry import Target
from moorage.embedded.webhooks import Refused
from moorage.errors import Conflict, Expired, Forbidden, Invalid, MoorageError, NotFound, Throttled, Unauthenticated, Unavailable
from moorage.specs.manifest import Manifest

_CODES: dict[type[MoorageError], tuple[int, str]] = {
    NotFound: (404, "NotFound"),
    Conflict: (409, "Conflict"),
    Expired: (410, "Expired"),
    Unauthenticated: (401, "Unauthorized"),
    Forbidden: (403, "Forbidden"),
    Throttled: (429, "TooManyRequests"),
    Unavailable: (503, "ServiceUnavailable"),
    Invalid: (422, "Invalid"),
}
# Codes by which an error says that it is another member of its family.
_BY_REASON = {
    "AlreadyExists": 409,
    "BadRequest": 400,
    "MethodNotAllowed": 405,
    "NotAcceptable": 406,
    "UnsupportedMediaType": 415,
    "RequestEntityTooLarge": 413,
    "NotImplemented": 501,
    "Timeout": 504,
}


# A patch that cannot be carried out, and an apply of fields that no schema has: Kubernetes tells these without what they were about.
_PATCH_REFUSED = "the server rejected our request due to an error in our request"
_BARE = {"PatchFailed": (422, "Invalid"), "Untyped": (500, "")}


def code_and_reason(error: MoorageError) -> tuple[int, str]:
    if isinstance(error, Refused):
        return error.status, error.reason
    if error.code in _BARE:
        return _BARE[error.code]
    if error.code in _BY_REASON:
        return _BY_REASON[error.code], error.code
    return next((found for family, found in _CODES.items() if isinstance(error, family)), (500, "InternalError"))


def failure(error: MoorageError, target: Target | None = None) -> tuple[int, Manifest]:
    """The HTTP code and Status of a failure; `target` adds what the request was about."""
    code, reason = code_and_reason(error)
    details: dict[str, Any] = {}
    if target is not None and error.code not in _BARE and not isinstance(error, Refused):
        kind = target.resource.kind
        # A create has its name in the body, so that only the error knows it.
        name = target.name or (error.target if reason in ("Invalid", "AlreadyExists") else None)
        details = {"name": name or None, "group": kind.group or None, "kind": kind.plural if code != 422 else kind.kind}
    if isinstance(error, Denied):
        asked = error.asked
        details = {"name": asked.name or None, "group": asked.group or None, "kind": asked.resource or None}
    causes = [{"reason": cause.code, "message": cause.message, "field": cause.target} for cause in error.details]
    if causes:
        details["causes"] = causes
    if isinstance(error, Throttled) and error.retry_after > timedelta(0):
        details["retryAfterSeconds"] = max(1, round(error.retry_after.total_seconds()))
    message = _PATCH_REFUSED if error.code == "PatchFailed" else error.message
    return code, status(code, reason, message, details)


def status(code: int, reason: str, message: str, details: dict[str, Any] | None = None) -> Manifest:
    answer: Manifest = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message}
    if reason:
        answer["reason"] = reason
    if shown := {name: value for name, value in (details or {}).items() if value is not None}:
        answer["details"] = shown
    return {**answer, "code": code}


def success(target: Target, uid: str) -> Manifest:
    kind = target.resource.kind
    details = {"name": target.name, "group": kind.group, "kind": kind.plural, "uid": uid}
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {name: value for name, value in details.items() if value},
    }
