"""Smooth functions of one variable that bend one way and the other in turn: their lines, from as few points as it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ascertain.operators.base import Array, Univariate, is_numpy, namespace

__all__ = ["Curve", "between", "pick"]


def between(x: Array, low: Array | float, high: Array | float) -> Array:
    """min(max(x, low), high); NaN stays."""
    return np.minimum(np.maximum(x, low), high) if is_numpy(x) else x.clamp(low, high)


def pick(choice: Array, yes: Array, no: Array) -> Array:
    """``yes`` where chosen, else ``no``, for finite numbers."""
    if is_numpy(no):
        return np.where(choice, yes, no)
    # torch's where branches on every entry: several times slower than this on masks without pattern
    return no.lerp(yes, choice.to(no.dtype))


@dataclass(frozen=True, eq=False)
class Curve(Univariate):
    """A smooth f whose line is divided into pieces, convex and concave in turn, each with at most one x where f'(x) = slope.

    f(x) - slope x is smallest on a box where a convex piece turns, or at an end of the box in a concave piece, and the other way
    round; so the smallest and the largest value are looked for on different points.
    """

    convex: ClassVar[tuple[bool, ...]]
    """Whether each piece, from left to right, is convex."""

    def turns(self, slope: Array) -> tuple[Array, ...]:
        """For each piece the x where f'(x) = slope, or its end (perhaps infinite) nearest to that slope where there is none."""
        raise NotImplementedError

    def stationary(self, slope: Array, lower: Array, upper: Array) -> tuple[Array, ...]:
        # where a line touches f, moving the point changes nothing to first order: no gradient is needed through the slope
        with np.errstate(all="ignore"):
            return self.turns(slope if is_numpy(slope) else slope.detach())

    def _points(self, lower: Array, upper: Array, slope: Array) -> tuple[list[Array], list[Array]]:
        """Where f(x) - slope x may be smallest, and where it may be largest."""
        turns = [between(t, lower, upper) for t in self.stationary(slope, lower, upper)]
        low = [p for p, convex in zip(turns, self.convex, strict=True) if convex]
        high = [p for p, convex in zip(turns, self.convex, strict=True) if not convex]
        for end, convex in ((lower, self.convex[0]), (upper, self.convex[-1])):
            (high if convex else low).append(end)
        return low, high

    def _offsets(self, lower: Array, upper: Array, slope: Array) -> tuple[list[Array], list[Array], list[Array], list[Array]]:
        """The points of each side, and f(x) - slope x there."""
        low, high = self._points(lower, upper, slope)
        return low, [self.f(p) - slope * p for p in low], high, [self.f(p) - slope * p for p in high]

    def _outward(self, low: Array, high: Array, lower: Array, upper: Array) -> tuple[Array, Array]:
        """With the slack; infinite where not a number, or where they overflow to the wrong side."""
        slack = self.slack(lower, upper)
        if not (isinstance(slack, float) and slack == 0.0):
            low, high = low - slack, high + slack
        xp = namespace(low)
        return xp.nan_to_num(low, nan=-np.inf, posinf=-np.inf, neginf=-np.inf), xp.nan_to_num(
            high, nan=np.inf, posinf=np.inf, neginf=np.inf
        )

    def support(self, lower: Array, upper: Array, slope: Array) -> tuple[Array, Array, Array, Array]:
        xp = namespace(lower)
        with np.errstate(all="ignore"):
            low_points, lows, high_points, highs = self._offsets(lower, upper, slope)
            low, low_at = lows[0], low_points[0]
            for p, value in zip(low_points[1:], lows[1:], strict=True):
                low, low_at = xp.minimum(low, value), pick(value < low, p, low_at)
            high, high_at = highs[0], high_points[0]
            for p, value in zip(high_points[1:], highs[1:], strict=True):
                high, high_at = xp.maximum(high, value), pick(value > high, p, high_at)
            low, high = self._outward(low, high, lower, upper)
        return low, low_at, high, high_at

    def intercepts(self, lower: Array, upper: Array, slope: Array) -> tuple[Array, Array]:
        xp = namespace(lower)
        with np.errstate(all="ignore"):
            _, lows, _, highs = self._offsets(lower, upper, slope)
            low, high = lows[0], highs[0]
            for value in lows[1:]:
                low = xp.minimum(low, value)
            for value in highs[1:]:
                high = xp.maximum(high, value)
            return self._outward(low, high, lower, upper)
