"""Kubernetes quantities (`100m`, `2Gi`, `1e3`) as exact numbers, so that two of them can be compared."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from moorage.errors import Invalid

_QUANTITY = re.compile(
    r"^(?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))(?P<suffix>|n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?[0-9]{1,18})$"
)
# What each suffix multiplies by, in the order of their sizes.
SCALES = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTPE", 1)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", 1)},
}

# What Kubernetes cuts larger ones to (apimachinery, resource.maxAllowed).
LARGEST = Decimal(2**63 - 1)
_LARGEST_EXPONENT = 400


def is_quantity(value: Any) -> bool:
    """Whether it is one: a string of the grammar, or a plain number."""
    if isinstance(value, str):
        return bool(_QUANTITY.match(value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def suffix_of(value: str | int | float) -> str:
    """The suffix as it was written; empty for none, and for what is no quantity."""
    found = _QUANTITY.match(str(value))
    return found["suffix"] if found else ""


def parse_quantity(value: str | int | float, *, target: str) -> Decimal:
    """The number a quantity stands for (cores, bytes, pieces); Invalid, naming `target`, when it is none."""
    text = str(value).strip()
    found = _QUANTITY.match(text)
    if found is None:
        raise Invalid(f"{target}: '{value}' is not a quantity. Write e.g. 500m or 2 for CPU, 1500Mi or 2Gi for memory.", target=target)
    suffix = found["suffix"]
    number = Decimal(found["number"])
    if suffix in SCALES:
        amount = number * SCALES[suffix]
    else:
        # Beyond these exponents every number is the largest or next to nothing, and Decimal itself would give up.
        amount = number.scaleb(max(-_LARGEST_EXPONENT, min(int(suffix[1:]), _LARGEST_EXPONENT)))
    return max(-LARGEST, min(amount, LARGEST))
