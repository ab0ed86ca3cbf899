"""Kubernetes quantities (`100m`, `2Gi`, `1e3`) as exact numbers, so that two of them can be compared."""

from __future__ import annotations

import re
from decimal import Decimal

from moorage.errors import Invalid

_QUANTITY = re.compile(r"^(?P<number>[+-]?(?:\d+\.?\d*|\.\d+))(?P<suffix>[eE][+-]?\d+|n|u|m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi|E|Ei)?$")
_FACTORS = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12), "P": Decimal(10**15), "E": Decimal(10**18),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40), "Pi": Decimal(2**50), "Ei": Decimal(2**60),
}  # fmt: skip


def parse_quantity(value: str | int | float, *, target: str) -> Decimal:
    """The number a quantity stands for (cores, bytes, pieces); Invalid, naming `target`, when it is none."""
    found = _QUANTITY.match(str(value).strip())
    if not found:
        raise Invalid(f"{target}: '{value}' is not a quantity. Write e.g. 500m or 2 for CPU, 1500Mi or 2Gi for memory.", target=target)
    suffix = found["suffix"] or ""
    factor = Decimal(f"1{suffix}") if suffix[:1] in ("e", "E") and len(suffix) > 1 and suffix != "Ei" else _FACTORS.get(suffix, Decimal(1))
    return Decimal(found["number"]) * factor
