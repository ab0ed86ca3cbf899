"""Completion indexes as a Job names them: `0-2,5`. Pure."""

from __future__ import annotations


def count_indexes(text: str, completions: int) -> int:
    """How many indexes `0-2,5` names; ValueError in Kubernetes' words."""
    total, last = 0, -1
    for part in text.split(",") if text else ():
        limits = part.split("-")
        if len(limits) > 2:
            rule = "violates the requirement that an index interval can have at most two parts separated by '-'"
            raise ValueError(f'the fragment "{part}" {rule}')
        for limit in limits:
            if not limit.isdigit():
                raise ValueError(f'cannot convert string to integer for index: "{limit}"')
            if int(limit) >= completions:
                raise ValueError(f'too large index: "{limit}"')
        first, end = int(limits[0]), int(limits[-1])
        if len(limits) == 2 and first >= end:
            raise ValueError(f"non-increasing order, previous: {first}, current: {end}")
        if last >= first:
            raise ValueError(f"non-increasing order, previous: {last}, current: {first}")
        total, last = total + end - first + 1, end
    return total
