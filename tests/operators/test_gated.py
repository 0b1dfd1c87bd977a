"""GELU and its kin against torch and scipy; what misplaced turning points cost, over all slopes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import special
from torch.nn import functional

from ascertain.errors import DataError
from ascertain.operators import Gelu, Hardswish, Mish, Silu, TanhGelu
from ascertain.operators.base import Univariate
from ascertain.operators.gated import Gated

TORCH: list[tuple[Univariate, Callable[[torch.Tensor], torch.Tensor]]] = [
    (Gelu(), functional.gelu),
    (TanhGelu(), lambda x: functional.gelu(x, approximate="tanh")),
    (Silu(), functional.silu),
    (Mish(), functional.mish),
    (Hardswish(), functional.hardswish),
]
SMOOTH = (Gelu(), TanhGelu(), Silu(), Mish())


@pytest.mark.parametrize(("operator", "peer"), TORCH, ids=lambda v: getattr(v, "name", ""))
def test_values_and_derivatives_equal_torch(operator: Univariate, peer: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x = torch.linspace(-30, 30, 20_000, dtype=torch.float64, requires_grad=True)
    y = peer(x)
    (d,) = torch.autograd.grad(y.sum(), x)
    for values, slopes in (
        (operator.f(x.detach().numpy()), operator.derivative(x.detach().numpy())),
        (operator.f(x.detach()).numpy(), operator.derivative(x.detach()).numpy()),
    ):
        assert (abs(values - y.detach().numpy()) <= 1e-15 * (1 + abs(x.detach().numpy()))).all()
        assert abs(slopes - d.numpy()).max() < 1e-13


def exact(operator: Gated, x: np.ndarray) -> np.ndarray:
    """f by functions that neither cancel nor round the argument of a steep one, in extended precision."""
    x = x.astype(np.longdouble)
    if isinstance(operator, Gelu):
        return np.asarray(x * special.ndtr(x.astype(float)))
    e = np.exp(-abs(x))
    if isinstance(operator, Silu):
        return np.asarray(x * np.where(x < 0, e, 1) / (1 + e))
    if isinstance(operator, Mish):
        return np.asarray(x * np.tanh(np.log1p(np.exp(x))))
    z = x * np.sqrt(8 / np.longdouble("3.14159265358979323846")) * (1 + np.longdouble("0.044715") * x * x)
    return np.asarray(x / (1 + np.exp(-z)))


@pytest.mark.parametrize("operator", SMOOTH, ids=lambda v: v.name)
def test_values_within_four_last_places_and_slack(operator: Gated) -> None:
    r = np.random.default_rng(1)
    x = np.concatenate([r.normal(size=20_000) * 10.0 ** r.uniform(-9, 1, size=20_000), np.linspace(-9, 9, 5001)])
    x = x.astype(np.float32).astype(float)
    expected = exact(operator, x)
    for unit, values in (
        (2.0**-53, operator.f(x)),
        (2.0**-53, operator.f(torch.from_numpy(x)).numpy()),
        (2.0**-24, operator.f(torch.from_numpy(x).float()).numpy()),
    ):
        dtype = np.float64 if unit < 1e-12 else np.float32
        slack = operator.slack(x.astype(dtype), x.astype(dtype))
        assert (abs(values - expected) <= 8 * unit * abs(expected) + slack + 1e-17 * abs(x)).all()


def root(operator: Gated, slope: np.ndarray, low: float, high: float, *, rising: bool) -> np.ndarray:
    """Where f' equals slopes on a piece, by bisection."""
    a, b = np.full_like(slope, low), np.full_like(slope, high)
    for _ in range(70):
        m = (a + b) / 2
        right = (operator.derivative(m) < slope) == rising
        a, b = np.where(right, m, a), np.where(right, b, m)
    return (a + b) / 2


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("operator", (*SMOOTH, TanhGelu(0.044715 + 1.9e-8)), ids=lambda v: v.name)
def test_cost_of_misplaced_points(operator: Gated, dtype: type) -> None:
    (least, most), (p, q) = operator.slopes, operator.bends
    near = np.exp(-np.linspace(0, 36, 10_001))
    even = np.linspace(0, 1, 20_001)[1:-1]
    shares = np.concatenate([even, near, 1 - near])
    pieces = (
        (least * shares, -60.0, p, False),
        (least + (most - least) * shares, p, q, True),
        (1 + (most - 1) * shares, q, 60.0, False),
    )
    unit = float(np.finfo(dtype).eps) / 2
    for k, (wanted, low, high, rising) in enumerate(pieces):
        rounded = wanted.astype(dtype)
        limit = {0: rounded < 0, 1: rounded == rounded, 2: rounded > 1}[k]
        rounded = rounded[limit]
        slope = rounded.astype(float)
        with np.errstate(all="ignore"):
            found = operator.turns(rounded)[k].astype(float)
        right = root(operator, slope, low, high, rising=rising)
        off = [operator.derivative(x) - slope for x in (found, (found + right) / 2)]
        assert abs(off[0]).max() <= operator.residual
        # Simpson's rule for the integral of f' - slope between the two points: no cancellation
        cost = abs(found - right) / 6 * abs(4 * off[1] + off[0])
        assert (2 * cost <= operator.misplaced + 8 * unit * abs(operator.f(right))).all()


@pytest.mark.parametrize("operator", SMOOTH, ids=lambda v: v.name)
def test_stated_points(operator: Gated) -> None:
    bends, h = np.array(operator.bends), 1e-5
    assert abs(operator.derivative(np.array([operator.valley]))).max() < 1e-15
    assert abs(operator.derivative(bends) - operator.slopes).max() < 1e-15
    assert abs(operator.derivative(bends + h) - operator.derivative(bends - h)).max() < 1e-13


def test_other_coefficients_are_refused() -> None:
    with pytest.raises(DataError, match=r"0\.044715"):
        TanhGelu(0.0448)
