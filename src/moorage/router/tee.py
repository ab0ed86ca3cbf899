"""What one copy of a request holds in memory: pure counting, with a bound for each copy and one for all of them together.

Bytes are put in as the caller sends them and taken out as the mirrored deployment reads them. What does not fit is the copy's loss, never the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from moorage.router.head import LAST_CHUNK, framed


class Overflow(Enum):
    """Which bound a copy met; the value is the reason that metrics and the access log give."""

    COPY = "behind"
    ALL = "memory"


@dataclass(slots=True)
class Budget:
    """What all copies may hold together.

    Args:
        limit: bytes.
        held: bytes held now.
    """

    limit: int
    held: int = 0


class Tee:
    """The bytes of one copy between the caller who sends them and the connection that takes them.

    Args:
        limit: most bytes held at once, those that a connection has taken and cannot get rid of among them.
        budget: shared with all other copies.
        chunked: frame each piece as a chunk of a chunked body, and end with the last one.
    """

    __slots__ = ("_budget", "_chunked", "_limit", "_stuck", "_waiting")

    def __init__(self, limit: int, budget: Budget, *, chunked: bool) -> None:
        self._limit = limit
        self._budget = budget
        self._chunked = chunked
        # One array, not a list of pieces: a caller's chunks of one byte each would weigh forty times as much.
        self._waiting = bytearray()
        self._stuck = 0

    @property
    def held(self) -> int:
        return len(self._waiting) + self._stuck

    def put(self, data: bytes) -> Overflow | None:
        """Take a piece of the body; the bound that it would break, and then nothing is taken."""
        piece = framed(data) if self._chunked else data
        if self.held + len(piece) > self._limit:
            return Overflow.COPY
        if self._budget.held + len(piece) > self._budget.limit:
            return Overflow.ALL
        self._budget.held += len(piece)
        self._waiting += piece
        return None

    def end(self) -> None:
        """The body is whole. Its last chunk is worth no refusal: five bytes."""
        if self._chunked:
            self._waiting += LAST_CHUNK
            self._budget.held += len(LAST_CHUNK)

    def take(self) -> bytearray:
        """All that waits, as it goes on the wire; it counts no more, unless it is `stuck`."""
        taken, self._waiting = self._waiting, bytearray()
        self._budget.held -= len(taken)
        return taken

    def stuck(self, size: int) -> None:
        """Of what was taken, `size` bytes lie in the connection's buffer, which has asked for a pause; 0 once it is through."""
        self._budget.held += size - self._stuck
        self._stuck = size

    def close(self) -> None:
        """Hold nothing any more."""
        self.take()
        self.stuck(0)
