"""The form in which Kubernetes stores quantities. Pure; what they mean is told by `specs.quantities`."""

from __future__ import annotations

from decimal import ROUND_CEILING

from moorage.specs.quantities import LARGEST, SCALES, parse_quantity, suffix_of


def canonical(value: str | int | float) -> str:
    """No fraction and the largest suffix that allows it (`0.5` -> `500m`, `1024Mi` -> `1Gi`); Invalid when it is no quantity."""
    amount = parse_quantity(value, target="quantity")
    suffix = suffix_of(value)
    if amount == 0:
        return "0"
    if suffix.endswith("i"):
        for name, scale in _BINARY:
            if amount % scale == 0 and abs(amount) >= scale:
                return f"{int(amount / scale)}{name}"
    if suffix[:1] in ("e", "E") and len(suffix) > 1 and abs(amount) < LARGEST:
        return str(value)
    for name, scale in _DECIMAL:
        if amount % scale == 0:
            return f"{int(amount / scale)}{name}"
    # Finer than a nano: Kubernetes rounds up.
    return f"{int((amount / SCALES['n']).to_integral_value(rounding=ROUND_CEILING))}n"


_BINARY = tuple((f"{suffix}i", SCALES[f"{suffix}i"]) for suffix in "EPTGMK")
_DECIMAL = tuple((suffix, SCALES[suffix]) for suffix in ("E", "P", "T", "G", "M", "k", "", "m", "u", "n"))
