"""ISO 8601 durations as the original's SDK writes them: `PT20M`, `PT0.5S`, `P1DT2H`."""

from __future__ import annotations

import re
from datetime import timedelta

from moorage.errors import Invalid

_DURATION = re.compile(
    r"^(?P<sign>-)?P(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?"
    r"(?:T(?=\d)(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?$"
)


def iso(duration: timedelta) -> str:
    """`timedelta(milliseconds=500)` -> `PT0.5S`; nothing at all is `P0D`."""
    if duration < timedelta(0):
        raise ValueError("a duration in a document is never negative")
    micro = duration // timedelta(microseconds=1)
    seconds, micro = divmod(micro, 1_000_000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    fraction = f"{seconds}.{micro:06d}".rstrip("0") if micro else str(seconds)
    time = "".join((f"{hours}H" if hours else "", f"{minutes}M" if minutes else "", f"{fraction}S" if seconds or micro else ""))
    day = f"{days}D" if days else ""
    if not day and not time:
        return "P0D"
    return f"P{day}{'T' + time if time else ''}"


def parse_iso(text: str) -> timedelta:
    """Back again; Invalid when it is no duration (months and years have no length and are refused)."""
    found = _DURATION.match(text)
    if not found or found["sign"] or text in ("P", "PT"):
        raise Invalid(f"'{text}' is no ISO 8601 duration such as PT30S or P1DT2H.")
    part = {name: float(found[name] or 0) for name in ("weeks", "days", "hours", "minutes", "seconds")}
    return timedelta(weeks=part["weeks"], days=part["days"], hours=part["hours"], minutes=part["minutes"], seconds=part["seconds"])
