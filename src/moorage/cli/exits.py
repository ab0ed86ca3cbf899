"""Exit codes: the one place that says what a script may conclude from them."""

from __future__ import annotations

from enum import IntEnum

from moorage.errors import Conflict, Forbidden, Invalid, MoorageError, NotFound, Unauthenticated, Unavailable


class Exit(IntEnum):
    """What the process ends with.

    OK           what was asked for is done (or, with --no-wait, accepted)
    FAILED       the operation, the job or the scoring request failed
    USAGE        a wrong option, or input that the service or the document check refuses
    NOT_FOUND    the named thing does not exist
    CONFLICT     it exists already, or changed underneath
    UNREACHABLE  no service there, not signed in, or without the right
    INTERRUPTED  Ctrl-C
    """

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    UNREACHABLE = 5
    INTERRUPTED = 130


def exit_code(error: MoorageError) -> Exit:
    """The exit code an error ends the command with."""
    match error:
        case NotFound():
            return Exit.NOT_FOUND
        case Conflict():
            return Exit.CONFLICT
        case Unavailable() if error.code == "CannotReachEndpoint":
            return Exit.FAILED
        case Unavailable() | Unauthenticated() | Forbidden():
            return Exit.UNREACHABLE
        case Invalid():
            return Exit.USAGE
        case _:
            return Exit.FAILED
