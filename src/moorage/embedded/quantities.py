"""Kubernetes quantities (`500m`, `2Gi`, `1e3`) as exact numbers. Pure."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal
from typing import Any

_QUANTITY = re.compile(
    r"^(?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))(?P<suffix>|n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?[0-9]+)$"
)
_SCALES = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTPE", 1)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", 1)},
}


def is_quantity(value: Any) -> bool:
    """Whether it is one: a string of the grammar, or a plain number."""
    if isinstance(value, str):
        return bool(_QUANTITY.match(value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def parse(value: Any) -> Decimal:
    """The exact value; ValueError when it is no quantity."""
    if not is_quantity(value):
        raise ValueError(f"{value!r} is not a quantity")
    found = _QUANTITY.match(str(value))
    if found is None:
        return Decimal(str(value))
    suffix = found["suffix"]
    if suffix[:1] in ("e", "E") and suffix != "E" and suffix != "Ei":
        return Decimal(found["number"]).scaleb(int(suffix[1:]))
    return Decimal(found["number"]) * _SCALES[suffix]


def canonical(value: Any) -> str:
    """The form Kubernetes stores: no fraction, the largest suffix that allows it (`0.5` -> `500m`, `1024Mi` -> `1Gi`). ValueError when it is none."""
    amount = parse(value)
    found = _QUANTITY.match(str(value))
    suffix = found["suffix"] if found else ""
    if amount == 0:
        return "0"
    if suffix.endswith("i"):
        for name, scale in _BINARY:
            if amount % scale == 0 and abs(amount) >= scale:
                return f"{int(amount / scale)}{name}"
    if suffix[:1] in ("e", "E") and len(suffix) > 1:
        return str(value)
    for name, scale in _DECIMAL:
        if amount % scale == 0:
            return f"{int(amount / scale)}{name}"
    # Finer than a nano: Kubernetes rounds up.
    return f"{int((amount / _SCALES['n']).to_integral_value(rounding=ROUND_CEILING))}n"


_BINARY = tuple((f"{suffix}i", _SCALES[f"{suffix}i"]) for suffix in "EPTGMK")
_DECIMAL = tuple((suffix, _SCALES[suffix]) for suffix in ("E", "P", "T", "G", "M", "k", "", "m", "u", "n"))
