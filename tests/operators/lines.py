"""Lines and ranges of an operator against samples, on many boxes at once, in any precision and on both kinds of arrays."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import inf
from typing import Any

import numpy as np
import torch

from ascertain.operators.base import Univariate

KINDS = [(np.float32, False), (np.float64, False), (np.float32, True), (np.float64, True)]
"""(precision, whether on torch)."""


def boxes(seed: int, count: int, dtype: type, low: float = -np.inf, scale: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of mixed widths around mixed places, some of no width and some of one unit's width, mirrored above ``low``."""
    r = np.random.default_rng(seed)
    centre = scale * r.normal(size=count) * 10.0 ** r.integers(-3, 2, size=count)
    width = abs(r.normal(size=count)) * 10.0 ** r.integers(-9, 2, size=count)
    ends = [e if low == -np.inf else low + abs(e - low) for e in (centre, centre + width)]
    lower, upper = np.minimum(*ends).astype(dtype), np.maximum(*ends).astype(dtype)
    upper[::50] = lower[::50]
    upper[1::50] = np.nextafter(lower[1::50], dtype(np.inf))
    return lower, upper


def slopes(operator: Univariate, lower: np.ndarray, upper: np.ndarray) -> Iterator[np.ndarray]:
    """Zero, random ones, chords and tangents."""
    r = np.random.default_rng(1)
    yield np.zeros_like(lower)
    yield (r.normal(size=lower.shape) * 10.0 ** r.integers(-3, 3, size=lower.shape)).astype(lower.dtype)
    with np.errstate(all="ignore"):
        point = (lower + (upper - lower) * r.uniform(size=lower.shape)).astype(lower.dtype)
        for slope in ((operator.f(upper) - operator.f(lower)) / (upper - lower), operator.derivative(point)):
            yield np.where(abs(slope) < 1e12, slope, 0).astype(lower.dtype)


def check_lines(operator: Univariate, lower: np.ndarray, upper: np.ndarray, on_torch: bool, samples: int = 33) -> None:
    """No sample lies outside a line or the range by more than the rounding that users of the lines add."""
    unit = float(np.finfo(lower.dtype).eps) / 2
    tiny = float(np.finfo(lower.dtype).tiny)
    share = np.linspace(0, 1, samples)[:, None]
    x = np.clip(lower.astype(float) * (1 - share) + upper.astype(float) * share, lower, upper)
    f = operator.f(x)
    inner = np.nanmax(abs(np.stack([lower, upper])), 0).astype(float)
    for slope in slopes(operator, lower, upper):
        (low, low_at), (high, high_at) = (
            through(partial(operator.support, above=above), on_torch)(lower, upper, slope) for above in (False, True)
        )
        rest = f - slope.astype(float) * x
        room = 16 * unit * (abs(slope.astype(float)) * inner + np.where(np.isfinite(low), abs(low), 0)) + tiny
        assert (low.astype(float) - room <= rest).all(), worst(low - room - rest, lower, upper, slope)
        room = 16 * unit * (abs(slope.astype(float)) * inner + np.where(np.isfinite(high), abs(high), 0)) + tiny
        assert (rest <= high.astype(float) + room).all(), worst(rest - high - room, lower, upper, slope)
        for point in (low_at, high_at):
            assert ((point >= lower) & (point <= upper)).all()
    low, high = (v.astype(float) for v in through(operator.interval, on_torch)(lower, upper))
    assert ((f >= low) | (low - f <= 16 * unit * abs(low) + tiny)).all() and (low < inf).all()
    assert ((f <= high) | (f - high <= 16 * unit * abs(high) + tiny)).all() and (high > -inf).all()


def worst(excess: np.ndarray, lower: np.ndarray, upper: np.ndarray, slope: np.ndarray) -> str:
    k = int(np.nanargmax(excess.max(0)))
    return f"off by {excess.max(0)[k]} on [{lower[k]!r}, {upper[k]!r}] for slope {slope[k]!r}"


def through(function: Any, on_torch: bool) -> Any:
    """The function on numpy arrays, computed on torch where asked for."""
    if not on_torch:
        return np.errstate(all="ignore")(function)
    return lambda *arrays: tuple(t.numpy() for t in function(*(torch.from_numpy(a.copy()) for a in arrays)))


def bounds(operator: Univariate, low: float, high: float, slope: float | None = None) -> tuple[float, float]:
    """Range, or intercepts for a slope, on one box in float64."""
    lower, upper = np.array([float(low)]), np.array([float(high)])
    with np.errstate(all="ignore"):
        a, b = operator.interval(lower, upper) if slope is None else operator.intercepts(lower, upper, np.array([slope]))
    return float(a[0]), float(b[0])
