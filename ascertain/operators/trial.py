"""One run of the battery: its random numbers, what it counted, and how it fails."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from ascertain.errors import AscertainError
from ascertain.operators.base import Shape

__all__ = ["BatteryFailure", "Trial", "reflected"]


class BatteryFailure(AscertainError):
    """An operator states a fact that is wrong; the message names operator and fact."""


def reflected(x: np.ndarray, domain: tuple[float, float]) -> np.ndarray:
    """Numbers outside a domain mirrored at its end."""
    first, last = domain
    x = x if first == -np.inf else first + abs(x - first)
    return x if last == np.inf else last - abs(last - x)


@dataclass
class Trial:
    """Records comparisons by fact."""

    name: str
    random: np.random.Generator
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    worst: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def numbers(self, shape: Shape, domain: tuple[float, float] = (-np.inf, np.inf)) -> np.ndarray:
        """Normal numbers of mixed scales, in a domain with one end at most."""
        return reflected(self.random.normal(size=shape) * 2.0 ** self.random.integers(-3, 4, size=shape), domain)

    def holds(self, fact: str, truth: bool, complaint: str) -> None:
        """A fact that is true or not."""
        self.counts[fact] += 1
        self.worst[fact] = max(self.worst[fact], 0.0)
        if not truth:
            raise BatteryFailure(f"{self.name}: {fact}: {complaint}.")

    def within(self, fact: str, error: np.ndarray, allowed: np.ndarray | float, complaint: str = "") -> None:
        """error <= allowed everywhere; NaN fails."""
        errors, limits = np.broadcast_arrays(np.asarray(error, float), np.asarray(allowed, float))
        if not errors.size:
            return
        self.counts[fact] += errors.size
        bad = ~(errors <= limits)
        if bad.any():
            k = int(np.argmax(bad))
            e, a = errors.reshape(-1)[k], limits.reshape(-1)[k]
            raise BatteryFailure(f"{self.name}: {fact}: off by {e:.3g} where {a:.3g} is allowed{complaint and f' ({complaint})'}.")
        share = np.divide(np.maximum(errors, 0), limits, out=np.zeros(errors.shape), where=(limits > 0) & np.isfinite(limits))
        self.worst[fact] = max(self.worst[fact], float(share.max()))
