"""Exponentials, roots, powers: lines against samples, poles, overflow, ranges known in closed form."""

from __future__ import annotations

from math import e, inf, log, nan

import numpy as np
import pytest
import torch

from ascertain.errors import DataError
from ascertain.operators import Elu, Exp, Log, Power, RealPower, Reciprocal, Rsqrt, Softplus, Sqrt, Square
from ascertain.operators.base import Univariate
from tests.operators.lines import KINDS, bounds, boxes, check_lines

EVERYWHERE = [Exp(), Square(), Softplus(), Softplus(20.0), Elu(), Elu(1.6732632423543772), Elu(0.25)]
EVERYWHERE += [Power(n) for n in (2.0, 3.0, 4.0, 5.0, 8.0)]
ABOVE_ZERO = [Log(), Sqrt(), Rsqrt(), *(RealPower(p) for p in (0.5, 0.3, 1.5, 2.7, -0.5, -1.3))]
BESIDE_ZERO = [Reciprocal(), *(Power(n) for n in (-1.0, -2.0, -3.0, -4.0))]


def name(operator: object) -> str:
    return repr(operator) if isinstance(operator, Univariate) else ""


@pytest.mark.parametrize(("dtype", "on_torch"), KINDS)
@pytest.mark.parametrize("operator", EVERYWHERE + ABOVE_ZERO + BESIDE_ZERO, ids=name)
def test_no_sample_outside(operator: Univariate, dtype: type, on_torch: bool) -> None:
    low = -inf if operator in EVERYWHERE else 0.0
    lower, upper = boxes(3, 10_000, dtype, low)
    check_lines(operator, lower, upper, on_torch)
    if operator in BESIDE_ZERO:
        check_lines(operator, -upper, -lower, on_torch)


@pytest.mark.parametrize("operator", EVERYWHERE + ABOVE_ZERO + BESIDE_ZERO, ids=name)
@pytest.mark.parametrize("exponent", [-300, -150, -30, 30, 150, 300])
def test_far_scales(operator: Univariate, exponent: int) -> None:
    lower, upper = boxes(4, 200, np.float64, -inf if operator in EVERYWHERE else 0.0, scale=1.0)
    with np.errstate(over="ignore"):
        lower, upper = lower * 10.0**exponent, np.minimum(upper * 10.0**exponent, 1e308)
    check_lines(operator, lower, np.maximum(lower, upper), on_torch=True)


@pytest.mark.parametrize(
    ("operator", "low", "high", "expected"),
    [
        (Power(4.0), 1, 2, (1, 16)),
        (Power(4.0), -2, 1, (0, 16)),
        (Power(4.0), -2, -1, (1, 16)),
        (Power(3.0), -2, 1, (-8, 1)),
        (Power(-2.0), -2, -0.5, (0.25, 4)),
        (Power(-3.0), -2, -0.5, (-8, -0.125)),
        (Square(), -3, 2, (0, 9)),
        (Sqrt(), 0, 4, (0, 2)),
        (Rsqrt(), 0.25, 4, (0.5, 2)),
        (Reciprocal(), -4, -0.5, (-2, -0.25)),
        (Log(), 1, e, (0, 1)),
        (Exp(), -inf, 0, (0, 1)),
        (Exp(), 0, 1000, (1, inf)),
        (Exp(), -2000, -1000, (0, 0)),
        (Softplus(), -2000, 2000, (0, 2000)),
        (Elu(), -2000, 3, (-1, 3)),
        (Square(), -1e200, 1, (0, inf)),
        (RealPower(1.5), 0, 4, (0, 8)),
    ],
    ids=name,
)
def test_ranges(operator: Univariate, low: float, high: float, expected: tuple[float, float]) -> None:
    assert bounds(operator, low, high) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("slope", [None, 0.0, 1.0, -1.0])
@pytest.mark.parametrize(
    ("operator", "low", "high"),
    [
        *(
            (operator, low, 1.0)
            for operator in (Log(), Rsqrt(), RealPower(-0.5), Reciprocal(), Power(-2.0))
            for low in (0.0, -0.0, -1.0)
        ),
        *((operator, -1.0, high) for operator in (Reciprocal(), Power(-2.0), Power(-3.0)) for high in (0.0, -0.0, 1e-320)),
        *((operator, -1e-320, 1.0) for operator in (Sqrt(), RealPower(0.5), RealPower(1.5))),
        *((operator, low, high) for operator in EVERYWHERE + ABOVE_ZERO for low, high in ((nan, 1.0), (1.0, nan), (nan, nan))),
    ],
    ids=name,
)
def test_nothing_is_known_where_it_is_not_defined(operator: Univariate, low: float, high: float, slope: float | None) -> None:
    assert bounds(operator, low, high, slope) == (-inf, inf)


def test_lines_in_closed_form() -> None:
    assert bounds(Exp(), 0, 1, 1.0) == pytest.approx((1, e - 1))
    assert bounds(Log(), 1, e, 1 / e) == pytest.approx((-1 / e, 0), abs=1e-15)
    assert bounds(Sqrt(), 0, 4, 0.5) == pytest.approx((0, 0.5))
    assert bounds(Reciprocal(), 1, 4, -0.25) == pytest.approx((1, 1.25))
    assert bounds(Softplus(), -1, 1, 0.5)[0] == pytest.approx(log(2))
    assert bounds(Elu(), -1, 1, 1.0) == pytest.approx((0, 1 / e))


def test_threshold_is_covered() -> None:
    x = torch.linspace(19.9, 20.1, 101, dtype=torch.float64)
    y = torch.nn.functional.softplus(x, threshold=20.0)
    low, high = Softplus(20.0).interval(x, x)
    assert (low <= y).all() and (y <= high).all() and float((high - low).max()) < 1e-8


@pytest.mark.parametrize("exponent", [0.0, 0.5, nan, inf, 1.0])
def test_exponents_refused(exponent: float) -> None:
    with pytest.raises(DataError):
        Power(exponent)


@pytest.mark.parametrize("operator", EVERYWHERE + ABOVE_ZERO + BESIDE_ZERO, ids=name)
def test_gradient_in_the_slope_is_the_point(operator: Univariate) -> None:
    lower, upper = (torch.from_numpy(v) for v in boxes(5, 100, np.float64, 0.0))
    lower = lower + 1e-3
    upper = torch.maximum(upper, lower).clamp(max=20.0)
    lower = torch.minimum(lower, upper)
    slope = torch.linspace(-2, 2, 100, dtype=torch.float64).requires_grad_()
    for above in (False, True):
        value, point = operator.support(lower, upper, slope, above)
        (gradient,) = torch.autograd.grad(value.sum(), slope, retain_graph=True)
        torch.testing.assert_close(gradient, -point)
