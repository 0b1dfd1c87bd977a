"""Constants on input sets: closed forms, enumeration of regions, samples, the table of the notes, and every family of operators."""

from itertools import pairwise

import numpy as np
import pytest

from ascertain.certify.lipschitz import local_lipschitz
from ascertain.errors import DataError, ShapeError, UnsupportedError
from ascertain.evidence import Evidence
from ascertain.graph import Builder
from ascertain.operators import Exp, Heaviside, Relu, Sigmoid, Sin, Softmax, Tanh
from ascertain.properties.sets import Box, LpBall, Polytope
from tests.certify.lipschitz.networks import exact, gaussian, maxmin, mlp, operator_norm, regions
from tests.certify.lipschitz.test_jacobian import MODULES, autograd, made

NORMS = (1, 2, np.inf)


def around(center, radius):
    return Box(np.asarray(center, float) - radius, np.asarray(center, float) + radius)


def table(sizes, radius):
    """The networks of the local table: He initialisation, seed 7."""
    rng = np.random.default_rng(7)
    weights = [rng.standard_normal((b, a)) * np.sqrt(2 / a) for a, b in pairwise(sizes)]
    biases = [rng.standard_normal(b) * 0.3 for b in sizes[1:-1]]
    center = rng.standard_normal(sizes[0]) * 0.5
    return mlp(weights, biases=biases), around(center, radius), weights, biases


@pytest.mark.parametrize("norm", NORMS)
def test_linear_networks_are_exact(norm):
    weights = gaussian([3, 4], 0)
    found = local_lipschitz(mlp(weights), around([0.0] * 3, 1.0), norm)
    true = np.linalg.norm(weights[0], norm)
    assert found.lower <= true * (1 + 1e-12) and true * (1 - 1e-12) <= found.upper <= true * (1 + 1e-8)
    assert found.evidence is Evidence.PROVED and found.undecided == 0


@pytest.mark.parametrize(
    "activation, low, high, true",
    [
        (Relu, -1.0, -0.5, 0.0),
        (Relu, -1.0, 0.5, 6.0),
        (Tanh, 1.0, 2.0, 6 / np.cosh(1.0) ** 2),
        (Tanh, -1.0, 3.0, 6.0),
        (Sigmoid, -3.0, -2.0, 6 * np.exp(-2) / (1 + np.exp(-2)) ** 2),
        (Sin, 1.0, 2.0, 6 * np.cos(1.0)),
        (Exp, -1.0, 1.0, 6 * np.e),
    ],
)
def test_one_neuron(activation, low, high, true):
    network = mlp([np.array([[2.0]]), np.array([[3.0]])], activation)
    found = local_lipschitz(network, Box(np.array([low / 2]), np.array([high / 2])))
    assert found.lower <= true * (1 + 1e-12) + 1e-300 and true * (1 - 1e-12) <= found.upper <= true * (1 + 1e-5) + 1e-9


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_enumeration_of_regions(norm, seed):
    rng = np.random.default_rng(seed)
    weights, biases = gaussian([2, 4, 4, 2], seed), [rng.normal(size=4), rng.normal(size=4)]
    true = max(operator_norm(j, norm, norm) for j in regions(weights, biases, box=1.0))
    found = local_lipschitz(mlp(weights, biases=biases), around([0.0, 0.0], 1.0), norm, method="search", timeout=100)
    assert found.lower <= true * (1 + 1e-9) and true * (1 - 1e-9) <= found.upper <= true * (1 + 1e-5)


def test_global_on_a_large_box():
    rng = np.random.default_rng(0)
    weights, biases = gaussian([2, 4, 1], 0), [rng.normal(size=4)]
    found = local_lipschitz(mlp(weights, biases=biases), around([0.0, 0.0], 50.0), np.inf, method="search")
    assert found.upper == pytest.approx(exact(weights, biases, np.inf, np.inf), rel=1e-5)


ROOTS = [
    ((2, 8, 8, 1), 1.0, 1.6557, 1.756),
    ((2, 16, 16, 1), 0.5, 2.2002, 3.267),
    ((4, 16, 16, 1), 0.5, 3.5886, 5.731),
    ((10, 20, 15, 10, 1), 0.2, 2.23, 4.866),
]


@pytest.mark.parametrize("sizes, radius, true, program", ROOTS)
def test_table_at_the_root(sizes, radius, true, program):
    network, box, _, _ = table(sizes, radius)
    found = local_lipschitz(network, box, method="program")
    assert true - 1e-4 <= found.upper <= program + 1e-3
    assert found.lower <= found.upper
    bounds = local_lipschitz(network, box, method="bounds")
    assert bounds.upper >= max(true - 1e-4, found.lower) and bounds.root["optimised bounds"] <= bounds.root["bounds"]


@pytest.mark.parametrize("sizes, radius, true, program", ROOTS[:2])
def test_table_exact(sizes, radius, true, program):
    network, box, _, _ = table(sizes, radius)
    searched = local_lipschitz(network, box, method="search", timeout=200)
    solved = local_lipschitz(network, box, method="milp")
    assert searched.evidence is Evidence.PROVED and solved.evidence is Evidence.BOUNDED
    assert searched.gap <= 1e-5 and searched.lower == pytest.approx(true, abs=1e-4)
    assert solved.upper == pytest.approx(searched.lower, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_mixed_integer_program_equals_the_enumeration_of_regions(seed):
    rng = np.random.default_rng(seed)
    weights, biases = gaussian([2, 5, 5, 1], seed), [0.3 * rng.normal(size=5) for _ in range(2)]
    true = max(operator_norm(j, np.inf, np.inf) for j in regions(weights, biases, box=1.0))
    found = local_lipschitz(mlp(weights, biases=biases), around([0.0, 0.0], 1.0), method="milp")
    assert found.upper == pytest.approx(true, rel=1e-9) and found.lower <= true * (1 + 1e-12)


def test_many_inputs_by_the_program():
    network, box, _, _ = table((100, 24, 24, 1), 0.05)
    found = local_lipschitz(network, box, method="program")
    assert found.lower <= found.root["program"] < 0.5 * found.root["bounds"]


@pytest.mark.parametrize("name, norm", [(name, NORMS[i % 3]) for i, name in enumerate(MODULES)])
def test_never_below_samples(name, norm):
    module, graph, inputs = made(name, seed=4)
    rng = np.random.default_rng(5)
    box = around(rng.normal(size=inputs), 0.2)
    found = local_lipschitz(graph, box, norm, method="bounds")
    sampled = max(np.linalg.norm(j, norm) for j in autograd(module, box.sample(rng, 2000)))
    assert sampled <= found.upper * (1 + 1e-6)
    assert sampled * 0.7 <= found.lower <= found.upper
    j = np.linalg.norm(autograd(module, found.witness[None])[0], norm)
    assert found.lower <= j * (1 + 1e-6)


def rectified(weights, biases, points):
    """Jacobians (B, n_out, n_in) of a rectifier network."""
    value, jacobian = points, np.broadcast_to(np.eye(points.shape[1]), (len(points), *(points.shape[1],) * 2))
    for w, b in zip(weights[:-1], biases, strict=True):
        z = value @ w.T + b
        value, jacobian = np.maximum(z, 0), (z > 0)[:, :, None] * (w @ jacobian)
    return weights[-1] @ jacobian


def test_never_below_a_hundred_thousand_samples():
    network, box, weights, biases = table((4, 16, 16, 1), 0.5)
    sampled = abs(rectified(weights, biases, box.sample(np.random.default_rng(0), 100_000))).sum(2).max()
    found = local_lipschitz(network, box, timeout=5)
    assert sampled <= found.upper and sampled <= found.lower * (1 + 1e-8)


def test_balls_and_polytopes():
    rng = np.random.default_rng(2)
    weights, biases = gaussian([2, 6, 2], 3), [rng.normal(size=6) * 0.3]
    network = mlp(weights, biases=biases)
    square = local_lipschitz(network, around([0.2, 0.1], 0.5), 2, method="search", timeout=3)
    for p in (1, 2):
        ball = LpBall(np.array([0.2, 0.1]), 0.5, p)
        found = local_lipschitz(network, ball, 2, method="search", timeout=3)
        best = np.linalg.norm(rectified(weights, biases, ball.sample(rng, 500)), 2, axis=(1, 2)).max()
        assert best <= found.upper <= square.upper * (1 + 1e-6) and found.lower <= found.upper
        assert ball.contains(found.witness)
    half = Polytope(around([0.2, 0.1], 0.5), np.array([[1.0, 1.0]]), np.array([0.0]))
    found = local_lipschitz(network, half, 2, method="search", timeout=3)
    assert half.contains(found.witness) and found.lower <= found.upper <= square.upper * (1 + 1e-6)


def test_only_inputs_that_vary_count():
    network = mlp([np.array([[1.0, 100.0]])])
    box = Box(np.array([-1.0, 2.0]), np.array([1.0, 2.0]))
    assert local_lipschitz(network, box).upper == pytest.approx(1.0, rel=1e-8)
    point = Box(np.ones(2), np.ones(2))
    assert local_lipschitz(network, point).upper == 0.0


def test_pairs_and_directions():
    weights = gaussian([3, 5, 3], 6)
    network, box = mlp(weights), around([0.5, 0.2, 0.1], 0.3)
    pair = local_lipschitz(network, box, 2, pair=(0, 2), method="search")
    direction = local_lipschitz(network, box, 2, directions=np.array([1.0, 0.0, -1.0]), method="search")
    assert pair.upper == pytest.approx(direction.upper, rel=1e-5)
    assert pair.upper <= local_lipschitz(network, box, 2).upper * np.sqrt(2)


def test_kinks_in_the_center_attain_nothing_wrong():
    # relu(x) - relu(-x) = x: slopes 1 on both sides, although the chain rule allows 0 to 2 at the kink
    network = mlp([np.array([[1.0], [-1.0]]), np.array([[1.0, -1.0]])])
    found = local_lipschitz(network, around([0.0], 1.0), method="search", timeout=1)
    assert found.lower <= 1.0 <= found.upper


@pytest.mark.parametrize("scale", [1e-100, 1e-8, 1e8, 1e100])
def test_scales(scale):
    weights, biases = gaussian([2, 4, 1], 1), [np.random.default_rng(1).normal(size=4)]
    plain = local_lipschitz(mlp(weights, biases=biases), around([0.1, 0.2], 1.0), method="search")
    large = local_lipschitz(mlp([weights[0], scale * weights[1]], biases=biases), around([0.1, 0.2], 1.0), method="search")
    assert large.upper == pytest.approx(scale * plain.upper, rel=1e-4)


def test_maxmin_and_attention_by_search():
    weights = [w / np.linalg.norm(w, 2) for w in gaussian([2, 4, 4, 2], 1)]
    found = local_lipschitz(mlp(weights, maxmin), around([0.0, 0.1], 0.5), 2, timeout=5)
    assert found.lower <= found.upper <= 1 + 1e-6
    builder = Builder()
    x = builder.input((3,))
    soft = local_lipschitz(builder.graph(x, builder(Softmax(0), x)), around([0.0] * 3, 1.0), 2, method="search", timeout=10)
    assert soft.lower <= soft.upper <= 0.5 and soft.lower >= 0.999 * soft.upper


def test_bad_input():
    network, box = mlp(gaussian([2, 3, 2], 0)), around([0.0, 0.0], 1.0)
    for options in ({"method": "magic"}, {"timeout": 0.0}, {"tolerance": 2.0}, {"norm": 3}):
        with pytest.raises(DataError):
            local_lipschitz(network, box, **options)
    with pytest.raises(ShapeError, match="coordinates"):
        local_lipschitz(network, around([0.0], 1.0))
    with pytest.raises(ShapeError, match="pair"):
        local_lipschitz(network, box, pair=(0, 0))
    with pytest.raises(UnsupportedError, match="norm inf"):
        local_lipschitz(network, box, 2, method="milp")
    builder = Builder()
    x = builder.input((2,))
    with pytest.raises(UnsupportedError, match="smaller set"):
        local_lipschitz(builder.graph(x, builder(Heaviside(0.0), x)), box, timeout=1)
