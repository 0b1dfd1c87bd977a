"""Radii, signs of slopes and budgets against closed forms, samples, and the verifier."""

import numpy as np
import pytest

from ascertain.certify.lipschitz import certified_radii, jacobian_bounds, lipschitz_budget, monotonicity
from ascertain.certify.verify import verify
from ascertain.errors import DataError, ShapeError
from ascertain.operators import Relu, Tanh
from ascertain.properties import robust
from ascertain.properties.sets import Box
from tests.certify.lipschitz.networks import gaussian, mlp


@pytest.mark.parametrize("norm, dual", [(1, np.inf), (2, 2), (np.inf, 1)])
def test_radius_of_linear_classifiers_is_exact(norm, dual):
    weights = gaussian([4, 3], 0)
    x = np.array([0.3, -0.2, 0.5, 0.1])
    y = weights[0] @ x
    label = int(y.argmax())
    others = [b for b in range(3) if b != label]
    true = min((y[label] - y[b]) / np.linalg.norm(weights[0][label] - weights[0][b], dual) for b in others)
    found = certified_radii(mlp(weights), x, label, norm, limit=100.0)
    assert true * (1 - 1e-3) <= found.value <= true * (1 + 1e-12)


@pytest.mark.parametrize("norm", [2, np.inf])
@pytest.mark.parametrize("activation", [Relu, Tanh])
def test_radius_agrees_with_the_verifier(norm, activation):
    rng = np.random.default_rng(1)
    network = mlp(gaussian([3, 8, 8, 3], 2), activation, [rng.normal(size=8) * 0.3 for _ in range(2)])
    for x in rng.normal(size=(3, 3)):
        label = int(network(x[None, None]).argmax())
        found = certified_radii(network, x, label, norm, limit=3.0)
        assert found.local > 0 and found.general > 0
        asked = robust(x, found.value * (1 - 1e-9), norm, label=label, classes=3)
        assert str(verify(network, asked, timeout=20).status) != "violated"


def test_wrong_labels_have_no_radius():
    network = mlp(gaussian([3, 8, 3], 2))
    x = np.ones(3)
    wrong = int(network(x[None, None]).argmin())
    assert certified_radii(network, x, wrong).value == 0.0
    with pytest.raises(ShapeError, match="label"):
        certified_radii(network, x, 7)
    with pytest.raises(DataError, match="finite"):
        certified_radii(network, x * np.nan, 0)


def test_monotone_networks():
    weights = [abs(w) for w in gaussian([3, 6, 6, 2], 3)]
    weights[0][:, 2] *= -1
    found = monotonicity(mlp(weights, Tanh), Box(-np.ones(3), np.ones(3)))
    np.testing.assert_array_equal(found.signs, [[1, 1, -1]] * 2)
    low, high = jacobian_bounds(mlp(weights, Tanh), Box(-np.ones(3), np.ones(3)))
    np.testing.assert_array_equal([low, high], [found.lower, found.upper])


def test_signs_that_change_are_refuted():
    network = mlp([np.array([[1.0], [-1.0]]), np.array([[1.0, 1.0]])])  # |x|
    found = monotonicity(network, Box(-np.ones(1), np.ones(1)))
    assert found.signs.tolist() == [[0.0]] and found.least[0, 0] == pytest.approx(-1) and found.most[0, 0] == pytest.approx(1)


@pytest.mark.parametrize("norm", [1, 2, np.inf])
def test_budget_is_in_order(norm):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 3))
    network = mlp(gaussian([3, 8, 2], 4))
    y = network(x[:, None]).reshape(30, 2)
    found = lipschitz_budget(network, x, y, norm, timeout=10)
    assert found.forced == found.chord <= found.upper.value * (1 + 1e-12)
    assert 0 < found.attained <= found.upper.value and np.isfinite(list(found.lines.values())).all()
    assert "L <=" in str(found)
    with pytest.raises(DataError, match="two inputs"):
        lipschitz_budget(network, x[:1])
