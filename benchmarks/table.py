"""How every benchmark says what it found."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator

Row = tuple[str, str]


def show(title: str, rows: Iterable[Row]) -> Iterator[str]:
    yield f"\n{title}"
    for name, value in rows:
        yield f"  {name:<58} {value}"


def median(values: Iterable[float]) -> float:
    return statistics.median(values)
