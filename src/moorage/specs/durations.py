"""ISO 8601 durations as the API writes them (`PT20M`, `PT0.5S`). Years and months are refused: they have no fixed length."""

from __future__ import annotations

import re
from datetime import timedelta

from moorage.errors import Invalid

_ISO = re.compile(
    r"^P(?:(?P<weeks>\d+(?:\.\d+)?)W)?(?:(?P<days>\d+(?:\.\d+)?)D)?"
    r"(?:T(?:(?P<hours>\d+(?:\.\d+)?)H)?(?:(?P<minutes>\d+(?:\.\d+)?)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?$"
)


def parse_duration(text: str, *, target: str) -> timedelta:
    """Read an ISO 8601 duration.

    Args:
        text: e.g. `PT1H30M`.
        target: the field it stands in, for the message.

    Raises:
        Invalid: it is none, or it is longer than the calendar has.
    """
    found = _ISO.match(text)
    parts = {unit: float(amount) for unit, amount in (found.groupdict().items() if found else ()) if amount is not None}
    if not parts:
        raise Invalid(f"{target}: '{text}' is not an ISO 8601 duration. Write e.g. PT20M for twenty minutes or PT0.5S.", target=target)
    try:
        return timedelta(**parts)
    except OverflowError as error:
        raise Invalid(f"{target}: '{text}' is too long for a duration.", target=target) from error


def format_duration(span: timedelta) -> str:
    """The shortest exact form: `PT1H`, `PT20M`, `PT0.5S`, `P1DT2H`."""
    total = span.total_seconds()
    days, rest = divmod(total, 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes, seconds = divmod(rest, 60)
    time = "".join(
        f"{amount:.6f}".rstrip("0").rstrip(".") + unit for amount, unit in ((hours, "H"), (minutes, "M"), (seconds, "S")) if amount
    )
    day = f"{int(days)}D" if days else ""
    return f"P{day}" + (f"T{time}" if time else "") if day or time else "PT0S"
