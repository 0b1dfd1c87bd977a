"""Solvers against each other and against the tables; whatever they answer, only what is proved comes back."""

import numpy as np
import pytest

from ascertain import Evidence, lipschitz
from ascertain.certify.lipschitz import Norms, plant, plant_constant
from ascertain.certify.lipschitz import solve as solving
from ascertain.certify.lipschitz.interior import interior
from ascertain.certify.lipschitz.program import program
from ascertain.certify.lipschitz.rigorous import NotVerified, prove
from ascertain.certify.lipschitz.solve import Multipliers, Variables, multipliers
from ascertain.certify.lipschitz.start import float_storage, start
from ascertain.errors import DataError, UnsupportedError
from ascertain.operators import Abs, Gelu, GroupSort, LeakyRelu
from tests.certify.lipschitz.networks import gaussian, maxmin, mlp, square

TABLE = [(16, 2, 2.6120), (16, 3, 2.6792), (16, 5, 4.1203), (32, 2, 2.3704), (32, 5, 6.0254), (64, 2, 2.3688), (64, 3, 2.7622)]


@pytest.mark.parametrize(("width", "depth", "optimum"), TABLE)
def test_random_networks_of_the_tables(width, depth, optimum):
    found = lipschitz(mlp(square(width, depth)))
    assert found.value == pytest.approx(optimum, abs=6e-5)
    assert found.gap < 1e-8 and found.value == pytest.approx(found.estimate, rel=1e-7)


ACTIVATIONS = [None, maxmin, Abs, Gelu, lambda: LeakyRelu(0.2), lambda: GroupSort(1, 3)]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_clarabel_agrees(activation):
    network = mlp(gaussian((5, 12, 12, 4), 3), *(() if activation is None else (activation,)))
    ours, theirs = lipschitz(network), lipschitz(network, method="clarabel")
    assert theirs.method == "cvxpy with clarabel" and theirs.evidence == Evidence.PROVED
    assert ours.value == pytest.approx(theirs.estimate, rel=1e-5) and ours.value <= theirs.value * (1 + 1e-6)


@pytest.mark.parametrize("norms", [Norms(2, 1), Norms(np.inf, 2), Norms(np.inf, 1)])
@pytest.mark.parametrize("layers", [False, True])
def test_clarabel_agrees_in_other_norms(norms, layers):
    form = plant(mlp(gaussian((4, 8, 8, 3), 2))).reduced()
    ours = multipliers(form, norms, layers=layers)
    theirs = multipliers(form, norms, layers=layers, method="clarabel")
    assert ours.value == pytest.approx(theirs.value, rel=1e-5)
    assert ours.gap < 1e-7


@pytest.mark.parametrize("activation", [*ACTIVATIONS[:5]])
@pytest.mark.parametrize("sizes", [(5, 16, 16, 3), (3, 16, 16, 9), (20, 8, 8, 20)])
def test_first_order_method_comes_near_from_above(activation, sizes):
    network = mlp(gaussian(sizes, 3), *(() if activation is None else (activation,)))
    best, near = lipschitz(network), lipschitz(network, method="first-order")
    assert near.method == ("interior point" if activation is Abs else "first-order method") and near.evidence == Evidence.PROVED
    assert best.value * (1 - 1e-7) <= near.value <= best.value * 1.01


def test_gradient_of_the_first_order_method_is_the_slope():
    import torch

    from ascertain.certify.lipschitz.first_order import _Chain

    for activation in (maxmin, Gelu):
        form = plant(mlp(gaussian((5, 8, 8, 3), 1), activation)).reduced()
        chain = _Chain(form, "cpu")
        x = torch.log(torch.as_tensor(np.concatenate(start(form)[0]))) + 0.1
        _, gradient = chain(x, 16.0)
        d = torch.randn(len(x), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        slope = (chain(x + 1e-6 * d, 16.0)[0] - chain(x - 1e-6 * d, 16.0)[0]) / 2e-6
        assert slope == pytest.approx(float(gradient @ d), rel=1e-5)


def test_the_interior_point_may_stop_at_any_time():
    form = plant(mlp(square(16, 3))).reduced()
    best = lipschitz(mlp(square(16, 3))).value
    values = []
    for steps in range(0, 14, 3):
        lam, storage = start(form)
        rho = np.array([1.5 * np.linalg.eigvalsh(storage)[-1]])
        found = interior(program(form), rho, np.concatenate(lam), steps=steps)
        proof = prove(form, Norms(), found.factors, np.zeros(0), np.zeros(0))
        assert proof.value <= np.sqrt(found.value) * (1 + 1e-9)
        assert np.sqrt(max(found.value * (1 - found.gap), 0)) <= best * (1 + 1e-9) or found.residual > 1e-6
        values.append(proof.value)
    assert values == sorted(values, reverse=True) and values[-1] < 1.001 * best
    assert lipschitz(mlp(square(16, 3)), timeout=1e-9).value >= best


def test_a_start_is_strictly_feasible_for_every_network():
    for seed in range(5):
        for activation in ACTIVATIONS[1:]:
            form = plant(mlp(gaussian((4, 12, 6, 12, 3), seed, scale=3.0), activation)).reduced()
            factors, storage = start(form)
            again = float_storage(form, factors)
            assert np.linalg.eigvalsh(storage - again)[0] > -1e-9 * np.linalg.norm(storage)


@pytest.mark.parametrize("wrong", [0.0, 1e-9, np.nan, np.inf, -1.0])
def test_wrong_multipliers_prove_nothing(wrong):
    form = plant(mlp(square(8, 2))).reduced()
    with pytest.raises(NotVerified):
        prove(form, Norms(), np.full(form.size, wrong), np.zeros(0), np.zeros(0))


def test_an_inaccurate_solver_cannot_make_the_value_too_small(monkeypatch):
    network = mlp(square(8, 2))
    best = lipschitz(network)

    def hasty(form, norms, **options):
        lam, _ = start(form)
        rough = Variables(np.concatenate(lam) * np.random.default_rng(0).uniform(0.2, 1.5, form.size))
        return Multipliers((rough, Variables(np.concatenate(lam))), best.value / 3, 0.0, "hasty", 1)

    monkeypatch.setattr("ascertain.certify.lipschitz.constant.multipliers", hasty)
    found = lipschitz(network)
    assert found.value >= best.value * (1 - 1e-7) and found.evidence == Evidence.PROVED

    def useless(form, norms, **options):
        return Multipliers((Variables(np.full(form.size, np.nan)),), 1.0, 0.0, "useless", 1)

    monkeypatch.setattr("ascertain.certify.lipschitz.constant.multipliers", useless)
    with pytest.raises(UnsupportedError, match="could not be verified"):
        plant_constant(plant(network))
    assert lipschitz(network).method == "product of norms"


def test_solvers_that_are_not_installed_are_named():
    with pytest.raises(DataError, match="mosek is not installed"):
        lipschitz(mlp(square(4, 2)), method="mosek")


def test_wide_networks_go_to_the_first_order_method(monkeypatch):
    monkeypatch.setattr(solving, "MOST", 20)
    assert lipschitz(mlp(square(16, 2))).method == "first-order method"


def test_deep_networks_converge():
    found = lipschitz(mlp(square(10, 12)))
    assert found.gap < 1e-8 and found.method == "interior point" and found.value < 0.05 * found.product
