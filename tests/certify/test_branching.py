"""Points and gains of cuts against brute force: 2,000 points, areas by quadrature, the best lines of a grid of slopes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from ascertain.certify.search.branching import cut_points, gains
from ascertain.operators import Exp, Gelu, Relu, Sigmoid, Sin, Tanh
from ascertain.operators.base import Univariate

CURVES: list[Univariate] = [Sigmoid(), Tanh(), Sin(), Gelu(), Exp(), Relu()]


def best_lines(operator: Univariate, lower: np.ndarray, upper: np.ndarray, slopes: int = 61) -> tuple[np.ndarray, np.ndarray]:
    """Heights at the middle of the highest line below and the lowest one above, by a grid of slopes: (K,) for boxes (K,)."""
    x = np.linspace(lower, upper, 101)
    f, at = operator.f(x), (lower + upper) / 2
    low, high = np.full(lower.shape, -np.inf), np.full(lower.shape, np.inf)
    run = np.where(upper > lower, np.diff(x, axis=0), 1.0)
    chords = np.diff(f, axis=0) / run
    for share in np.linspace(0, 1, slopes):
        slope = chords.min(0) * (1 - share) + chords.max(0) * share
        rest = f - slope * (x - at)
        low, high = np.maximum(low, rest.min(0)), np.minimum(high, rest.max(0))
    return low, high


def area(operators: Sequence[Univariate], lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Of the gap between the best lines: a line's mean over a box is its height at the middle."""
    gaps = [np.subtract(*best_lines(o, lower, upper)[::-1]) for o in operators]
    return np.asarray(sum(gaps) * (upper - lower))


def boxes(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    ends = np.sort(rng.uniform(-5, 5, (2, count)), 0)
    return ends[0], ends[1] + 0.1


@pytest.mark.parametrize("operators", [[o] for o in CURVES] + [[Sigmoid(), Tanh()], [Sin(), Relu(), Tanh()]], ids=str)
def test_points_leave_nearly_the_smallest_area(operators: list[Univariate]) -> None:
    rng = np.random.default_rng(0)
    for lower, upper in zip(*boxes(rng, 3), strict=True):
        found = float(cut_points(operators, torch.tensor([lower]), torch.tensor([upper]))[0])
        assert lower < found < upper
        p = np.append(np.linspace(lower, upper, 2002)[1:-1], [found, (lower + upper) / 2])
        total = area(operators, np.full(p.shape, lower), p) + area(operators, p, np.full(p.shape, upper))
        whole = float(area(operators, np.array([lower]), np.array([upper]))[0])
        # of 17 places and the kinks: close to the best of all, and no worse than the middle
        assert total[-2] <= total[:-2].min() + 0.05 * whole + 1e-9
        assert total[-2] <= total[-1] + 0.01 * whole + 1e-9


@pytest.mark.parametrize("operator", CURVES, ids=lambda o: o.name)
def test_gains_are_areas_removed(operator: Univariate) -> None:
    rng = np.random.default_rng(1)
    lower, upper = boxes(rng, 40)
    point = lower + (upper - lower) * rng.uniform(0.05, 0.95, 40)
    rise, fall = (t.numpy() for t in gains(operator, *(torch.tensor(t) for t in (lower, upper, point))))
    (low, high), first, second = (best_lines(operator, *ends, 401) for ends in ((lower, upper), (lower, point), (point, upper)))
    share = (point - lower) / (upper - lower)
    scale = operator.f(np.linspace(lower, upper, 50)).max(0) - operator.f(np.linspace(lower, upper, 50)).min(0) + 1e-9
    true_rise = share * first[0] + (1 - share) * second[0] - low
    true_fall = high - share * first[1] - (1 - share) * second[1]
    assert np.abs((rise - true_rise) / scale).max() < 0.03 and np.abs((fall - true_fall) / scale).max() < 0.03


def test_nothing_to_gain() -> None:
    flat = torch.tensor([1.0, -3.0, 2.0]).double()
    for t in gains(Relu(), flat, flat + torch.tensor([1.0, 1.0, 0.0]), flat):
        assert torch.equal(t, torch.zeros(3).double())
    assert torch.equal(cut_points([], flat, flat + 2), flat + 1)
    assert torch.equal(cut_points([Tanh()], flat, flat), flat)
    far = cut_points([Sigmoid()], torch.tensor([-1e30]).double(), torch.tensor([1e30]).double())
    assert bool(torch.isfinite(far).all())
