"""Slopes of good lines: of all lines below a curve, the one that is highest at a point (and above it, lowest).

At the middle of a box that line leaves the smallest area between itself and the curve. It is the supporting line of the convex
envelope there, and touches the curve on both sides of the point, or in it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ascertain.operators.base import Univariate

__all__ = ["supporting_slopes"]

ROUNDS = 5


def supporting_slopes(operator: Univariate, lower: Tensor, upper: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes of the lines below and above f on [lower, upper] that are tightest at ``at``; finite, and good rather than exact.

    Starts with the tangent at the point, which is best where f bends one way; then closes in on the two points where the best line
    touches f, from the chord of the box (each step is one of Newton's for the steepest line from the point that stays).
    """
    width = upper - lower
    left, right = operator.f(lower), operator.f(upper)
    chord = torch.nan_to_num((right - left) / torch.where(width > 0, width, 1.0), nan=0.0, posinf=0.0, neginf=0.0)
    middle = operator.f(at)
    tangent = torch.nan_to_num(operator.derivative(at), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = operator.intercepts(lower, upper, tangent)
    slack = 1e-7 * (middle.abs() + (tangent * at).abs())
    ends = (lower, left, upper, right)
    return (
        _closing(operator, lower, upper, at, chord, (tangent, low, middle - (low + tangent * at) <= slack), ends, False),
        _closing(operator, lower, upper, at, chord, (tangent, high, high + tangent * at - middle <= slack), ends, True),
    )


def _closing(
    operator: Univariate,
    lower: Tensor,
    upper: Tensor,
    at: Tensor,
    chord: Tensor,
    tangent: tuple[Tensor, Tensor, Tensor],
    ends: tuple[Tensor, Tensor, Tensor, Tensor],
    above: bool,
) -> Tensor:
    """The slope on one side, starting from the tangent (slope, intercept, whether it is best)."""
    slope, level, done = tangent
    side = -1.0 if above else 1.0
    if bool(done.all()):
        return slope
    best, top = slope, side * (level + slope * at)
    x, fx, y, fy = ends
    trial = chord
    for _ in range(ROUNDS):
        level, touch = operator.support(lower, upper, trial, above)
        value = side * (level + trial * at)
        gain = (value > top) & ~done
        best, top = torch.where(gain, trial, best), torch.where(gain, value, top)
        f = level + trial * touch  # the value on the side that is touched, where f jumps
        before = touch <= at
        x, fx = torch.where(before, touch, x), torch.where(before, f, fx)
        y, fy = torch.where(before, y, touch), torch.where(before, fy, f)
        new = torch.nan_to_num((fy - fx) / torch.where(y > x, y - x, torch.inf), nan=0.0, posinf=0.0, neginf=0.0)
        if bool(((new - trial).abs() <= 1e-6 * (new.abs() + trial.abs())).logical_or(done).all()):
            break
        trial = new
    return best
