"""Sigmoid and its kin against scipy, and their turning points against the derivative."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import special

from ascertain.operators import Atan, Erf, LogSigmoid, Sigmoid, Softsign, Tanh
from ascertain.operators.base import Array, Univariate
from ascertain.operators.sigmoidal import SShaped

REFERENCES: list[tuple[Univariate, Callable[[Array], Array]]] = [
    (Sigmoid(), special.expit),
    (Tanh(), np.tanh),
    (Atan(), np.arctan),
    (Erf(), special.erf),
    (Softsign(), lambda x: x / (1 + abs(x))),
    (LogSigmoid(), special.log_expit),
]


def numbers() -> np.ndarray:
    r = np.random.default_rng(0)
    scales = r.normal(size=20_000) * 10.0 ** r.uniform(-12, 2, size=20_000)
    return np.concatenate([scales, np.linspace(-40, 40, 4001)]).astype(np.float32).astype(float)


@pytest.mark.parametrize(("operator", "reference"), REFERENCES, ids=lambda v: getattr(v, "name", ""))
def test_values_within_four_last_places(operator: Univariate, reference: Callable[[Array], Array]) -> None:
    x = numbers()
    expected = reference(x)
    with np.errstate(over="ignore"):
        found = {
            "numpy double": (operator.f(x), 2.0**-50),
            "torch double": (operator.f(torch.from_numpy(x)).numpy(), 2.0**-50),
            "numpy single": (operator.f(x.astype(np.float32)), 2.0**-21),
            "torch single": (operator.f(torch.from_numpy(x).float()).numpy(), 2.0**-21),
        }
    for name, (values, relative) in found.items():
        assert (abs(values - expected) <= relative * abs(expected) + (1e-30 if "single" in name else 1e-290)).all(), name


@pytest.mark.parametrize(("operator", "reference"), REFERENCES, ids=lambda v: getattr(v, "name", ""))
def test_derivative(operator: Univariate, reference: Callable[[Array], Array]) -> None:
    x = np.linspace(-8, 8, 1001) + 0.003
    h = 1e-5
    assert abs(operator.derivative(x) - (reference(x + h) - reference(x - h)) / (2 * h)).max() < 1e-9


@pytest.mark.parametrize("operator", [Sigmoid(), Tanh(), Atan(), Erf(), Softsign()], ids=lambda v: v.name)
def test_turning_points(operator: SShaped) -> None:
    top = float(operator.derivative(np.zeros(1))[0])
    slope = top * np.concatenate([np.linspace(0, 1, 2001)[1:-1], 10.0 ** -np.linspace(0.1, 12, 200)])
    q = operator.turn(slope)
    assert (q > 0).all() and (abs(operator.derivative(q) / slope - 1) < 1e-12).all()
    with np.errstate(all="ignore"):
        assert (operator.turn(np.array([0.0, -0.0, -1.0])) == np.inf).all()
    assert (operator.turn(np.array([top * 1.1, 7.0])) == 0).all()
