"""Growing pauses between retries, with jitter so that many clients do not come back at the same instant."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta


@dataclass(slots=True)
class Backoff:
    """Doubling pauses.

    Args:
        initial: the first pause.
        maximum: no pause is longer.
        jitter: share of the pause that is random: 0.5 gives 50 to 100 % of it.
        pick: a number in [0, 1); tests hand in a constant.
    """

    initial: timedelta
    maximum: timedelta
    jitter: float = 0.5
    pick: Callable[[], float] = random.random
    failures: int = field(default=0, init=False)

    def next(self) -> timedelta:
        """The pause after one more failure."""
        # 2^40 times any initial pause is over any maximum; the exponent must not grow without bound.
        whole: timedelta = min(self.initial * (1 << min(self.failures, 40)), self.maximum)
        self.failures += 1
        return whole * (1 - self.jitter * self.pick())

    def reset(self) -> None:
        self.failures = 0
