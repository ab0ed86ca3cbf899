"""The error tree: what a caller can do about a failure decides its class.

    MoorageError            any failure this project explains; `code` is the ARM error code
      Invalid               the caller's input is wrong; changing it helps
      NotFound              the named thing does not exist
      Conflict              it exists already, or changed underneath; re-read and retry
      Expired               a resume token or resource version is too old; list again
      Unauthenticated       no or bad credential
      Forbidden             a good credential without the right
      Throttled             later, after `retry_after`
      Unavailable           the other side cannot be reached or is not ready; retrying helps

A failing user job is a condition of that job, never an exception. Library errors are translated in the package that owns the library.
"""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar


class MoorageError(Exception):
    """A failure with an ARM error code, a message that says what to do, and optionally the field or resource it is about.

    Args:
        message: one or two sentences: what is wrong, and the remedy. Never a secret.
        code: ARM error code; the class's own when left out.
        target: the field (`inputs.data.path`) or resource name the message is about.
        details: further findings of the same kind, e.g. every invalid field of a document.
    """

    default_code: ClassVar[str] = "InternalError"

    def __init__(self, message: str, *, code: str | None = None, target: str | None = None, details: tuple[MoorageError, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.target = target
        self.details = details


class Invalid(MoorageError):
    default_code = "UserError"


class NotFound(MoorageError):
    default_code = "NotFound"


class Conflict(MoorageError):
    default_code = "Conflict"


class Expired(MoorageError):
    default_code = "Expired"


class Unauthenticated(MoorageError):
    default_code = "Unauthorized"


class Forbidden(MoorageError):
    default_code = "Forbidden"


class Throttled(MoorageError):
    default_code = "TooManyRequests"

    def __init__(
        self,
        message: str,
        *,
        retry_after: timedelta = timedelta(seconds=1),
        code: str | None = None,
        target: str | None = None,
        details: tuple[MoorageError, ...] = (),
    ) -> None:
        super().__init__(message, code=code, target=target, details=details)
        self.retry_after = retry_after


class Unavailable(MoorageError):
    default_code = "ServiceUnavailable"
