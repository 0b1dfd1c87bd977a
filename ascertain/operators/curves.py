"""Smooth functions of one variable that bend one way and the other in turn: their lines, from as few points as it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ascertain.operators.base import Array, Univariate, is_numpy, namespace, side

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

    def _points(self, lower: Array, upper: Array, slope: Array, above: Array | bool) -> list[Array]:
        """Where f(x) - slope x may be smallest, or largest for lines ``above``."""
        turns = [between(t, lower, upper) for t in self.stationary(slope, lower, upper)]
        sides: tuple[list[Array], list[Array]] = ([], [])
        for p, convex in zip(turns, self.convex, strict=True):
            sides[not convex].append(p)
        for end, convex in ((lower, self.convex[0]), (upper, self.convex[-1])):
            sides[convex].append(end)
        if isinstance(above, bool):
            return sides[above]
        low, high = sides
        return [pick(above, high[min(i, len(high) - 1)], low[min(i, len(low) - 1)]) for i in range(max(len(low), len(high)))]

    def _outward(self, least: Array, lower: Array, upper: Array) -> Array:
        """With the slack; minus infinity where not a number, or where it overflowed to the wrong side."""
        slack = self.slack(lower, upper)
        if not (isinstance(slack, float) and slack == 0.0):
            least = least - slack
        return namespace(least).nan_to_num(least, nan=-np.inf, posinf=-np.inf, neginf=-np.inf)

    def _ends(self, low: Array, high: Array, lower: Array, upper: Array) -> tuple[Array, Array]:
        """A range of f with the slack."""
        return self._outward(low, lower, upper), -self._outward(-high, lower, upper)

    def support(self, lower: Array, upper: Array, slope: Array, above: Array | bool) -> tuple[Array, Array]:
        xp = namespace(lower)
        with np.errstate(all="ignore"):
            at, *others = self._points(lower, upper, slope, above)
            sign = side(above, lower)
            best = sign * (self.f(at) - slope * at)
            for p in others:
                value = sign * (self.f(p) - slope * p)
                best, at = xp.minimum(best, value), pick(value < best, p, at)
            return sign * self._outward(best, lower, upper), at
