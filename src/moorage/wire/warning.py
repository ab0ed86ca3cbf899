"""Warnings that travel beside an answer, in a header that clients who do not know of it pass over; Kubernetes warns in the same way."""

from __future__ import annotations

import re
from collections.abc import Sequence

# RFC 7234, 5.5: 299 is a miscellaneous persistent warning.
HEADER = "Warning"
# Of warnings about fields in run history.
SOURCE = "fields"
_WARNING = re.compile(r'299 \S+ "((?:[^"\\]|\\.)*)"')
_LONGEST = 500


def header(messages: Sequence[str]) -> dict[str, str]:
    """The header with these warnings; what is not visible ASCII is written as escapes, and none is longer than 500 characters."""
    if not messages:
        return {}
    plain = (_visible(message)[:_LONGEST] for message in messages)
    return {HEADER: ", ".join('299 moorage "' + re.sub(r'([\\"])', r"\\\1", text) + '"' for text in plain)}


def _visible(text: str) -> str:
    """Text as a header can hold it: no line ends, no control characters."""
    return "".join(each if " " <= each <= "~" else each.encode("unicode_escape").decode() for each in " ".join(text.split()))


def read_header(text: str) -> list[str]:
    """The warnings in a header's value."""
    return [re.sub(r"\\(.)", r"\1", found) for found in _WARNING.findall(text)]
