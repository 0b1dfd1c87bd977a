"""Sine, cosine, tangent: lines against samples, long boxes, far arguments, poles."""

from __future__ import annotations

from math import cos, inf, nan, pi, sin

import numpy as np
import pytest
import torch

from ascertain.operators import Cos, Sin, Tan
from ascertain.operators.base import Univariate
from tests.operators.lines import KINDS, bounds, boxes, check_lines

WAVES = [Sin(), Cos()]


@pytest.mark.parametrize(("dtype", "on_torch"), KINDS)
@pytest.mark.parametrize("operator", [*WAVES, Tan()], ids=lambda o: o.name)
def test_no_sample_outside(operator: Univariate, dtype: type, on_torch: bool) -> None:
    check_lines(operator, *boxes(6, 10_000, dtype), on_torch, samples=65)


@pytest.mark.parametrize(("dtype", "on_torch"), KINDS)
@pytest.mark.parametrize("operator", WAVES, ids=lambda o: o.name)
@pytest.mark.parametrize("exponent", [2, 4, 6, 8, 12, 15, 18, 30])
def test_far_arguments(operator: Univariate, exponent: int, dtype: type, on_torch: bool) -> None:
    r = np.random.default_rng(exponent)
    lower = (r.normal(size=500) * 10.0**exponent).astype(dtype)
    upper = np.maximum(lower, (lower + abs(r.normal(size=500)) * 10.0 ** r.integers(-2, exponent, size=500)).astype(dtype))
    check_lines(operator, lower, upper, on_torch, samples=257)


@pytest.mark.parametrize("operator", [*WAVES, Tan()], ids=lambda o: o.name)
def test_boxes_that_end_near_turns_and_poles(operator: Univariate) -> None:
    r = np.random.default_rng(8)
    near = np.arange(-2000, 2000) * (pi / 2)
    for _ in range(20):
        lower = near + np.spacing(near) * r.integers(-4, 5, size=near.shape)
        upper = near + r.integers(0, 3, size=near.shape) * (pi / 2)
        upper = np.maximum(lower, upper + np.spacing(upper) * r.integers(-4, 5, size=near.shape))
        check_lines(operator, lower, upper, on_torch=True)


@pytest.mark.parametrize("operator", WAVES, ids=lambda o: o.name)
def test_extremes_against_a_grid(operator: Univariate) -> None:
    lower, upper = boxes(9, 300, np.float64)
    upper = np.minimum(upper, lower + 60)
    x = lower + (upper - lower) * np.linspace(0, 1, 20_001)[:, None]
    for slope in (-1.5, -1.0, -0.3, 0.0, 1e-3, 0.8, 1.0, 2.0):
        low, high = operator.intercepts(lower, upper, np.full_like(lower, slope))
        rest = operator.f(x) - slope * x
        np.testing.assert_allclose(low, rest.min(0), atol=2e-5)
        np.testing.assert_allclose(high, rest.max(0), atol=2e-5)


def test_ranges() -> None:
    assert bounds(Sin(), 0, pi) == pytest.approx((0, 1), abs=1e-15)
    assert bounds(Sin(), 1, 2) == pytest.approx((sin(1), 1))
    assert bounds(Cos(), 1, 4) == pytest.approx((-1, cos(1)))
    assert bounds(Cos(), -0.5, 0.25) == pytest.approx((cos(0.5), 1))
    assert bounds(Tan(), -1, 1) == (float(np.tan(-1.0)), float(np.tan(1.0)))


@pytest.mark.parametrize("operator", WAVES, ids=lambda o: o.name)
def test_infinite_boxes(operator: Univariate) -> None:
    for low, high in ((-inf, inf), (0, inf), (-inf, 3), (-1e300, 1e300)):
        assert bounds(operator, low, high) == (-1, 1)
    for low, high in ((nan, 1), (1, nan), (nan, nan)):
        assert bounds(operator, low, high) == bounds(operator, low, high, 0.5) == (-inf, inf)
    assert bounds(operator, -inf, inf, 0.5) == (-inf, inf)


def test_poles() -> None:
    for low, high in ((1, 2), (-2, 2), (1.5, 1.6), (0, pi), (0, 100), (-inf, inf), (nan, 1), (1e300, 2e300), (-2, -1.5)):
        assert bounds(Tan(), low, high) == bounds(Tan(), low, high, 1.0) == (-inf, inf)
    assert bounds(Tan(), 2, 4)[0] < bounds(Tan(), 2, 4)[1] < inf


@pytest.mark.parametrize("operator", [*WAVES, Tan()], ids=lambda o: o.name)
def test_gradient_in_the_slope_is_the_point(operator: Univariate) -> None:
    lower = torch.linspace(-1.2, 0.5, 100, dtype=torch.float64)
    slope = torch.linspace(-2, 2, 100, dtype=torch.float64).requires_grad_()
    for above in (False, True):
        value, point = operator.support(lower, lower + 0.9, slope, above)
        (gradient,) = torch.autograd.grad(value.sum(), slope, retain_graph=True)
        torch.testing.assert_close(gradient, -point)
