"""The one table from errors to HTTP. 5xx and 429 make the SDK retry for seconds, so nothing a user did may end there."""

from __future__ import annotations

import math

from moorage.errors import (
    Conflict,
    Expired,
    Forbidden,
    Invalid,
    MoorageError,
    NotFound,
    Throttled,
    Unauthenticated,
    Unavailable,
)
from moorage.specs.manifest import Manifest

_STATUS_OF_CLASS: tuple[tuple[type[MoorageError], int], ...] = (
    (Invalid, 400),
    (Unauthenticated, 401),
    (Forbidden, 403),
    (NotFound, 404),
    (Conflict, 409),
    (Expired, 410),
    (Throttled, 429),
    (Unavailable, 503),
)
_STATUS_OF_CODE = {
    "MethodNotAllowed": 405,
    "ConditionNotMet": 412,
    "LeaseNotPresentWithBlobOperation": 412,
    "SourceConditionNotMet": 412,
    "PreconditionFailed": 412,
    "RequestBodyTooLarge": 413,
    "InvalidRange": 416,
    # A full disk does not empty itself within a client's retries, so not 507.
    "InsufficientStorage": 413,
}


def status_of(error: MoorageError) -> int:
    """The HTTP status of an error: by its code where that has one of its own, else by its class."""
    if error.code in _STATUS_OF_CODE:
        return _STATUS_OF_CODE[error.code]
    return next((status for kind, status in _STATUS_OF_CLASS if isinstance(error, kind)), 500)


def headers_of(error: MoorageError) -> dict[str, str]:
    match error:
        case Throttled():
            return {"Retry-After": str(max(1, math.ceil(error.retry_after.total_seconds())))}
        case Unavailable() if status_of(error) == 503:
            return {"Retry-After": "1"}
        case Unauthenticated():
            return {"WWW-Authenticate": "Bearer"}
        case _:
            return {}


def envelope_of(error: MoorageError, request_id: str = "") -> Manifest:
    """ARM's error body."""
    body = _described(error)
    if request_id:
        body["additionalInfo"] = [{"type": "RequestId", "info": {"value": request_id}}]
    return {"error": body}


def _described(error: MoorageError) -> Manifest:
    body: Manifest = {"code": error.code, "message": error.message, "details": [_described(each) for each in error.details]}
    if error.target:
        body["target"] = error.target
    return body
