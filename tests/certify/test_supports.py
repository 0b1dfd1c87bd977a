"""Slopes of supporting lines against the best of a fine grid of slopes, each with its tightest intercept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ascertain.certify.supports import supporting_slopes
from ascertain.operators import Exp, Gelu, Reciprocal, Relu, Sigmoid, Sign, Sin, Sqrt, Tanh
from ascertain.operators.base import Univariate

CURVES: list[tuple[Univariate, float, float]] = [
    (Sigmoid(), -8, 8),
    (Tanh(), -5, 5),
    (Sin(), -9, 9),
    (Gelu(), -6, 6),
    (Exp(), -4, 4),
    (Sqrt(), 0.01, 9),
    (Reciprocal(), 0.1, 9),
    (Relu(), -3, 3),
    (Sign(), -2, 2),
]


def heights(
    operator: Univariate, lower: np.ndarray, upper: np.ndarray, at: np.ndarray, slopes: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Heights at a point of the tightest lines of given slopes (K, n) below and above, from 2,001 points of each box."""
    x = np.linspace(lower, upper, 2001)
    rest = operator.f(x)[None] - slopes[:, None] * (x - at)
    if isinstance(operator, Sign):  # a box that ends just right of zero holds both one-sided values
        crossing = (lower < 0) & (upper > 0)
        for side in (-1.0, 1.0):
            rest = np.concatenate([rest, np.where(crossing, side + slopes * at, rest[:, 0])[:, None]], 1)
    return rest.min(1), rest.max(1)


@pytest.mark.parametrize("share", [0.5, 0.2, 0.9])
@pytest.mark.parametrize("curve", CURVES, ids=lambda c: c[0].name)
def test_as_high_as_the_best_of_a_grid(curve: tuple[Univariate, float, float], share: float) -> None:
    operator, first, last = curve
    rng = np.random.default_rng(0)
    ends = np.sort(rng.uniform(first, last, (2, 60)), 0)
    lower, upper = ends[0], ends[1]
    at = lower + share * (upper - lower)
    found = supporting_slopes(operator, *(torch.tensor(t) for t in (lower, upper, at)))
    assert all(bool(torch.isfinite(s).all()) for s in found)
    x = np.linspace(lower, upper, 2001)
    steepest = np.abs(np.diff(operator.f(x), axis=0) / np.diff(x, axis=0)).max(0).clip(max=60)
    grid = np.linspace(-steepest, steepest, 801)
    low, high = (h.max(0) if i == 0 else h.min(0) for i, h in enumerate(heights(operator, lower, upper, at, grid)))
    own_low = heights(operator, lower, upper, at, found[0].numpy()[None])[0][0]
    own_high = heights(operator, lower, upper, at, found[1].numpy()[None])[1][0]
    span = operator.f(x).max(0) - operator.f(x).min(0) + 1e-9
    gaps = np.concatenate([(low - own_low) / span, (own_high - high) / span])
    # a few Newton steps: nearly always the best line, never far from it
    assert np.quantile(gaps, 0.9) <= 0.003, f"nine in ten within {np.quantile(gaps, 0.9)}"
    assert gaps.max() <= 0.05, f"the worst is {gaps.max()} of the range of f below the best"


@pytest.mark.parametrize("curve", CURVES, ids=lambda c: c[0].name)
def test_points_and_far_boxes_have_finite_slopes(curve: tuple[Univariate, float, float]) -> None:
    operator, *_ = curve
    at = torch.tensor([1e-300, 1.0, 1e300, -1e300, 0.0]).double()
    for width in (0.0, 1e-300, 1.0, 1e300, torch.inf):
        found = supporting_slopes(operator, at, at + width, at)
        assert all(bool(torch.isfinite(s).all()) for s in found)
