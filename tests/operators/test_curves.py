"""Lines of curves: sampled on random boxes in both precisions, against dense grids, at the ends of the number line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ascertain.operators import Atan, Erf, Gelu, Hardswish, LogSigmoid, Mish, Sigmoid, Silu, Softsign, Tanh, TanhGelu
from ascertain.operators.base import Univariate
from ascertain.operators.curves import Curve

CURVES = (Sigmoid(), Tanh(), Atan(), Erf(), Softsign(), LogSigmoid(), Gelu(), TanhGelu(), Silu(), Mish(), Hardswish())
BOUNDED = (Sigmoid(), Tanh(), Atan(), Erf(), Softsign())

every = pytest.mark.parametrize("curve", CURVES, ids=lambda c: c.name)


def boxes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes whose places and widths have all scales, numbers of float32."""
    r = np.random.default_rng(seed)
    centre = r.normal(size=count) * 10.0 ** r.uniform(-8, 2, size=count)
    width = 10.0 ** r.uniform(-9, 1.5, size=count) * (r.uniform(size=count) < 0.95)
    lower, upper = (centre - width).astype(np.float32), centre.astype(np.float32)
    return lower.astype(float), np.maximum(lower, upper).astype(float)


def slopes(curve: Curve, lower: np.ndarray, upper: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    r = np.random.default_rng(seed)
    width = upper - lower
    tangent = curve.derivative(lower + width * r.uniform(size=lower.shape))
    return {
        "random": r.uniform(-0.4, 1.4, size=lower.shape),
        "chord": np.where(width > 0, (curve.f(upper) - curve.f(lower)) / np.where(width > 0, width, 1), 0.5),
        "tangent": tangent,
        "near 0": r.normal(size=lower.shape) * 10.0 ** r.uniform(-30, 0, size=lower.shape),
        "near 1": 1 + r.normal(size=lower.shape) * 10.0 ** r.uniform(-16, 0, size=lower.shape),
        "steep": r.normal(size=lower.shape) * 1e3,
    }


@every
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_samples_lie_between_the_lines(curve: Curve, dtype: torch.dtype) -> None:
    lower, upper = boxes(10_000, 1)
    left, right = torch.from_numpy(lower).to(dtype), torch.from_numpy(upper).to(dtype)
    samples = lower + (upper - lower) * np.linspace(0, 1, 33)[:, None]
    samples = np.clip(samples, lower, upper)
    values, unit = curve.f(samples), float(torch.finfo(dtype).eps) / 2
    slack = np.asarray(curve.slack(left, right), float)
    for name, slope in slopes(curve, lower, upper, 2).items():
        s = torch.from_numpy(slope).to(dtype)
        (low, low_at), (high, high_at) = (
            [t.double().numpy() for t in curve.support(left, right, s, above)] for above in (False, True)
        )
        exact = s.double().numpy()
        rest = values - exact * samples
        # the room that the users of lines leave for rounding
        furthest = abs(exact) * np.maximum(abs(lower), abs(upper))
        below, above = (16 * unit * (furthest + abs(t)) + 1e-37 for t in (low, high))
        assert (rest >= low - below).all() and (rest <= high + above).all(), name
        for at, intercept, room in ((low_at, low, below), (high_at, high, above)):
            assert ((at >= lower) & (at <= upper)).all(), name
            assert (abs(curve.f(at) - exact * at - intercept) <= room + 2 * slack).all(), name
        same = [t.double().numpy() for t in curve.intercepts(left, right, s)]
        assert (same[0] == low).all() and (same[1] == high).all()


@every
def test_lines_touch_dense_grids(curve: Curve) -> None:
    r = np.random.default_rng(3)
    lower = r.normal(size=300) * 3
    upper = lower + r.uniform(size=300) * 8
    grid = lower + (upper - lower) * np.linspace(0, 1, 4001)[:, None]
    # between two grid points f(x) - slope x, stationary in between, moves by at most |f''| / 2 (step / 2)^2, and |f''| <= 2
    between = 1.0 * ((upper - lower) / 4000) ** 2 / 4 * 1.1
    if isinstance(curve, Hardswish):
        between = between + 2.0 * (upper - lower) / 4000
    for slope in slopes(curve, lower, upper, 4).values():
        low, high = curve.intercepts(lower, upper, slope)
        rest = curve.f(grid) - slope * grid
        room = 2e-14 * (1 + abs(slope)) * np.maximum(abs(lower), abs(upper)) + 1e-12
        assert (rest.min(0) - low <= between + room).all() and (high - rest.max(0) <= between + room).all()
        assert (rest.min(0) - low >= -room).all() and (high - rest.max(0) >= -room).all()
    low, high = curve.interval(lower, upper)
    assert (abs(curve.f(grid).min(0) - low) <= between + 1e-12).all() and (
        abs(curve.f(grid).max(0) - high) <= between + 1e-12
    ).all()
    smallest, largest = curve.slope_range(lower, upper)
    d = curve.derivative(grid)
    step = 1.5 * (upper - lower) / 4000 + 1e-12
    assert (d.min(0) >= smallest - 1e-12).all() and (d.max(0) <= largest + 1e-12).all()
    if not isinstance(curve, Hardswish):
        assert (d.min(0) - smallest <= step).all() and (largest - d.max(0) <= step).all()


@every
def test_agrees_with_comparing_every_candidate(curve: Curve) -> None:
    lower, upper = boxes(3000, 5)
    for slope in slopes(curve, lower, upper, 6).values():
        low, high = curve.intercepts(lower, upper, slope)
        with np.errstate(all="ignore"):
            least, most = (Univariate.support(curve, lower, upper, slope, above)[0] for above in (False, True))
        room = 1e-15 * (abs(slope) * np.maximum(abs(lower), abs(upper)) + abs(low) + abs(high)) + 4e-13
        assert (abs(low - least) <= room).all() and (abs(high - most) <= room).all()


def made(values: list[float], dtype: Any) -> Any:
    return torch.tensor([values], dtype=dtype) if isinstance(dtype, torch.dtype) else np.array([values], dtype=dtype)


@every
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, np.float64, np.float32], ids=str)
def test_ends_of_the_number_line(curve: Curve, dtype: Any) -> None:
    inf, nan, huge = np.inf, np.nan, 1e38
    lower = made([-inf, 0.0, -huge, -huge, nan, 0.0, -1e-40, 0.0], dtype)
    upper = made([inf, inf, huge, -huge, 1.0, nan, 1e-40, 0.0], dtype)
    low, high = (np.asarray(t)[0] for t in curve.interval(lower, upper))
    assert not np.isnan(low).any() and not np.isnan(high).any() and (low <= high).all()
    assert not np.isfinite([low[4:6], high[4:6]]).any()
    if any(isinstance(curve, type(c)) for c in BOUNDED):
        limit = np.pi / 2 if isinstance(curve, Atan) else 1.0
        assert (abs(np.delete([low, high], [4, 5], axis=1)) <= limit * (1 + 1e-6)).all()
    smallest, largest = (np.asarray(t)[0] for t in curve.slope_range(lower, upper))
    assert np.isfinite(np.delete([smallest, largest], [4, 5], axis=1)).all()
    for slope in (0.0, -0.0, 0.5, 1.0, nan, 1e30, -1e30, 1e-40):
        low, high = (np.asarray(t)[0] for t in curve.intercepts(lower, upper, made([slope] * 8, dtype)))
        assert not np.isnan(low).any() and not np.isnan(high).any()
        assert not np.isfinite([low[4:6], high[4:6]]).any()
        if slope == slope:
            assert np.isfinite([low[7], high[7]]).all() and high[7] - low[7] <= 1e-6


@every
def test_gradient_of_intercepts_is_the_touching_point(curve: Curve) -> None:
    r = np.random.default_rng(8)
    lower = torch.from_numpy(r.normal(size=(1, 50)) * 2)
    upper = lower + torch.from_numpy(r.uniform(0.1, 3, size=(1, 50)))
    slope = torch.from_numpy(r.uniform(0.05, 0.9, size=(1, 50))).requires_grad_()
    for above in (False, True):
        intercept, at = curve.support(lower, upper, slope, above)
        (gradient,) = torch.autograd.grad(intercept.sum(), slope, retain_graph=True)
        assert torch.allclose(gradient, -at, atol=1e-9)
