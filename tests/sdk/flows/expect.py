"""What flows expect, in few words."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def raises(kind: type[BaseException], words: str, call: Callable[..., Any], *arguments: Any) -> BaseException:
    """Expect an error of a kind that says something; the error."""
    try:
        call(*arguments)
    except kind as error:
        assert words in str(error), f"{words!r} is not in: {error}"
        return error
    raise AssertionError(f"no {kind.__name__}")


def names(found: Any) -> set[str]:
    return {each.name for each in found}


def until(holds: Callable[[], Any], what: str, seconds: float = 200) -> Any:
    """Wait for something of the service or its cluster; nothing there can wake us."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.2)
    return found
