"""Constants that are known: closed forms, enumeration, and published claims that are wrong."""

from dataclasses import replace
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from ascertain import Evidence, lipschitz, lipschitz_pairs
from ascertain.certify.lipschitz import Norms, plant, plant_constant
from ascertain.certify.lipschitz.program import program
from ascertain.certify.lipschitz.solve import bound_of, multipliers
from ascertain.graph import Builder
from ascertain.operators import Abs, Dense, GroupSort, Relu, Scale, Sum
from tests.certify.lipschitz.networks import exact, gaussian, jacobians, maxmin, mlp, operator_norm, orthogonal, regions, square


def residual(blocks, inputs):
    """x + H relu(W x) for each (W, H)."""
    builder = Builder()
    x = y = builder.input((1, inputs))
    for w, h in blocks:
        y = builder(Sum((1.0, 1.0)), y, builder(Dense(h), builder(Relu(), builder(Dense(w), y))))
    return builder.graph(x, y)


@pytest.mark.parametrize("size", [2, 3, 4, 6, 12])
def test_orthogonal_sorting_layers_have_constant_one(size):
    rng = np.random.default_rng(size)
    weights = [orthogonal(12, 12, rng) for _ in range(3)] + [orthogonal(3, 12, rng)]
    found = lipschitz(mlp(weights, lambda: GroupSort(1, size)))
    assert 1 - 1e-9 < found.value < 1 + 1e-6 and found.evidence == Evidence.PROVED


def test_orthogonal_householder_layers_have_constant_one():
    rng = np.random.default_rng(0)
    builder = Builder()
    x = y = builder.input((1, 10))
    for _ in range(3):
        y = builder(Dense(orthogonal(10, 10, rng)), y)
        v = np.zeros((5, 10))
        for j in range(5):
            v[j, 2 * j : 2 * j + 2] = orthogonal(2, 1, rng)[:, 0]
        reflected = builder(Dense(v.T), builder(Abs(), builder(Dense(v), y)))
        y = builder(Sum((1.0, 1.0)), builder(Dense(np.eye(10) - v.T @ v), y), reflected)
    assert lipschitz(builder.graph(x, y)).value == pytest.approx(1, abs=1e-6)


def test_convex_potential_and_sdp_based_layers_have_constant_one():
    rng = np.random.default_rng(3)
    w = rng.standard_normal((6, 10))
    potential = (w.T, -2 / np.linalg.norm(w, 2) ** 2 * w)
    q = np.exp(rng.standard_normal(10))
    sll = (w.T, -2 * w / np.abs(w.T @ w * q / q[:, None]).sum(1))
    for block in (potential, sll):
        found = lipschitz(residual([block], 6)).value
        assert 1 - 1e-7 < found < 1 + 1e-6


KNOWN = [(10, 1.2933, 1.7199, 2.3606), (11, 2.5781, 2.9515, 3.8190), (12, 2.3388, 2.9790, 3.8999)]


@pytest.mark.parametrize(("seed", "least", "neuron", "layer"), KNOWN)
def test_sampled_exact_neuron_layer_and_product_are_in_order(seed, least, neuron, layer):
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal((6, 2)), rng.standard_normal((6, 6)) / 2, rng.standard_normal((2, 6)) / 2]
    biases = [rng.standard_normal(6), rng.standard_normal(6)]
    network = mlp(weights, biases=biases)
    truth = exact(weights, biases)
    sampled = max(np.linalg.norm(j, 2) for j in jacobians(network, 3000))
    values = [lipschitz(network, method=m).value for m in ("interior", "layer", "product")]
    assert sampled <= truth * (1 + 1e-9) <= values[0] <= values[1] <= values[2]
    assert [truth, *values[:2]] == pytest.approx([least, neuron, layer], abs=1e-4)
    assert values[2] == pytest.approx(np.prod([np.linalg.norm(w, 2) for w in weights]), rel=1e-7)


def coupled(w1, w2):
    """LipSDP-Network (Fazlyab et al. 2019, theorem 2 with all pairs), which is no bound."""
    import cvxpy as cp

    n, inputs = w1.shape
    rho, diagonal = cp.Variable(), cp.Variable(n, nonneg=True)
    edges = np.array([np.eye(n)[i] - np.eye(n)[j] for i, j in combinations(range(n), 2)]).T
    t = cp.diag(diagonal) + edges @ cp.diag(cp.Variable(edges.shape[1], nonneg=True)) @ edges.T
    matrix = cp.bmat([[-rho * np.eye(inputs), w1.T @ t], [t @ w1, -2 * t + w2.T @ w2]])
    cp.Problem(cp.Minimize(rho), [matrix << 0]).solve(solver="CLARABEL")
    return np.sqrt(max(rho.value, 0.0))


COUNTEREXAMPLES = [
    ([[1.0], [1.0]], [[1.0, -1.0]], [0.0, -1.0], 1.0),
    ([[1.0, 0.2], [1.0, -0.3], [0.9, 0.1]], [[1.0, -1.0, 0.5]], [0.0, -1.0, 2.0], 1.4714),
]


@pytest.mark.parametrize(("w1", "w2", "bias", "truth"), COUNTEREXAMPLES)
def test_multipliers_between_neurons_are_no_bound_and_ours_is(w1, w2, bias, truth):
    weights, biases = [np.array(w1), np.array(w2)], [np.array(bias)]
    assert exact(weights, biases) == pytest.approx(truth, abs=1e-4)
    assert coupled(*weights) < 0.75 * truth
    assert truth - 1e-4 <= lipschitz(mlp(weights, biases=biases)).value <= truth + 1e-3


def paired(weights, full):
    """MaxMin by storage matrices diag(lambda) + S' Gamma S: Gamma diagonal (Pauli et al. 2024) or any symmetric matrix."""
    import cvxpy as cp

    rho = cp.Variable()
    storage, constraints = rho * np.eye(weights[0].shape[1]), []
    for w in weights[:-1]:
        groups = len(w) // 2
        sums = np.kron(np.eye(groups), np.ones((1, 2)))
        gamma = cp.Variable((groups, groups), symmetric=True) if full else cp.diag(cp.Variable(groups))
        after = cp.diag(np.kron(np.eye(groups), np.ones((2, 1))) @ cp.Variable(groups, nonneg=True)) + sums.T @ gamma @ sums
        constraints.append(storage - w.T @ after @ w >> 0)
        storage = after
    constraints.append(storage - weights[-1].T @ weights[-1] >> 0)
    cp.Problem(cp.Minimize(rho), constraints).solve(solver="CLARABEL")
    return np.sqrt(rho.value)


def test_maxmin_is_at_most_the_published_bound_and_equals_the_one_with_all_sums_coupled():
    weights = gaussian((5, 12, 12, 3), 1)
    found = lipschitz(mlp(weights, maxmin)).value
    assert found == pytest.approx(paired(weights, True), rel=1e-5)
    assert found < 0.999 * paired(weights, False)


def test_constants_scale_with_the_weights():
    weights = square(12, 2, 3)
    base = lipschitz(mlp(weights)).value
    for factor in (1e-3, 7.0, 1e4):
        scaled = [weights[0], factor * weights[1], *weights[2:]]
        assert lipschitz(mlp(scaled)).value == pytest.approx(factor * base, rel=1e-6)


def test_a_network_is_at_most_the_product_of_its_parts():
    network = mlp(square(12, 3, 4))
    middle = network.nodes[4].name
    parts = [lipschitz(network, layers=(network.input, middle)), lipschitz(network, layers=(middle, network.output))]
    assert lipschitz(network).value <= parts[0].value * parts[1].value


def test_storage_recursion_gives_the_value_of_the_program():
    form = plant(mlp(square(10, 3, 4))).reduced()
    found = multipliers(form)
    assert bound_of(form, found.found[0].factors) == pytest.approx(found.value, rel=1e-9)


def dense_matrix(weights, form, factors, value):
    """The matrix of the program for rho = value^2, as rationals of the floats, of a plain chain."""
    p = program(form)
    n, n0 = p.size, form.inputs
    gate, low, high = ([[Fraction(float(v)) for v in row] for row in np.atleast_2d(a)] for a in (p.gate, p.low, p.high))
    out = [[Fraction(float(v)) for v in row] for row in weights[-1]]
    matrix = [[Fraction(0)] * n for _ in range(n)]
    for i in range(n0):
        matrix[i][i] = Fraction(value) ** 2
    last = n - len(out[0])
    for i in range(len(out[0])):
        for j in range(len(out[0])):
            matrix[last + i][last + j] -= sum(row[i] * row[j] for row in out)
    for i, lam in enumerate(Fraction(float(f)) for f in factors):
        a = [-low[0][i] * g for g in gate[i]]
        b = [-high[0][i] * g for g in gate[i]]
        a[n0 + i] += 1
        b[n0 + i] += 1
        for j in range(n):
            for k in range(n):
                if (a[j] and b[k]) or (b[j] and a[k]):
                    matrix[j][k] += lam * (a[j] * b[k] + b[j] * a[k])
    return matrix


def positive(matrix):
    """Whether a matrix of rationals is positive definite: all pivots of elimination are positive."""
    a = [row[:] for row in matrix]
    for k in range(len(a)):
        if a[k][k] <= 0:
            return False
        for i in range(k + 1, len(a)):
            if a[i][k]:
                f = a[i][k] / a[k][k]
                a[i] = [x - f * y for x, y in zip(a[i], a[k], strict=True)]
    return True


@pytest.mark.parametrize("sizes", [(3, 5, 5, 2), (3, 5, 5, 5, 2)])
def test_exact_elimination_accepts_the_proved_value_and_rejects_less(sizes):
    weights = gaussian(sizes, 0)
    form = plant(mlp(weights))
    found = lipschitz(mlp(weights))
    factors = np.concatenate(found.certificate.factors)
    assert found.value == pytest.approx(found.estimate, rel=1e-6)
    assert positive(dense_matrix(weights, form, factors, found.value))
    assert not positive(dense_matrix(weights, form, factors, found.value * (1 - 1e-6)))


def test_a_network_may_end_in_its_activation():
    weights = gaussian((4, 6, 5), 2)
    found = lipschitz(mlp(weights, last=True)).value
    sampled = max(np.linalg.norm(j, 2) for j in jacobians(mlp(weights, last=True), 2000))
    assert sampled <= found <= np.linalg.norm(weights[0], 2) * np.linalg.norm(weights[1], 2) * (1 + 1e-9)
    single = lipschitz(mlp(weights[:1], last=True)).value
    assert single == pytest.approx(np.linalg.norm(weights[0], 2), rel=1e-6)


def test_nonlinearities_with_one_slope_are_put_in():
    weights = gaussian((4, 6, 6, 3), 5)
    form = plant(mlp(weights))
    rng = np.random.default_rng(0)
    fixed = rng.uniform(size=12) < 0.5
    value = rng.uniform(size=12)

    def with_slopes(width):
        low, high = np.where(fixed, value, 0.0), np.where(fixed, value + width, 1.0)
        stages = [replace(s, low=low[6 * k : 6 * k + 6], high=high[6 * k : 6 * k + 6]) for k, s in enumerate(form.stages)]
        return replace(form, stages=tuple(stages))

    exact_slopes = plant_constant(with_slopes(0.0))
    assert exact_slopes.neurons == 12 - fixed.sum()
    near = plant_constant(with_slopes(1e-6)).value
    assert exact_slopes.value <= near * (1 + 1e-9) and near == pytest.approx(exact_slopes.value, rel=1e-4)


def test_order_and_copies_of_neurons_do_not_matter():
    weights = gaussian((5, 8, 8, 3), 6)
    base = lipschitz(mlp(weights)).value
    order = np.random.default_rng(0).permutation(8)
    moved = [weights[0][order], weights[1][:, order], weights[2]]
    assert lipschitz(mlp(moved)).value == pytest.approx(base, rel=1e-6)
    split = [np.vstack([weights[0], weights[0][:1]]), np.hstack([weights[1], weights[1][:, :1] / 2]), weights[2]]
    split[1][:, 0] /= 2
    assert lipschitz(mlp(split)).value == pytest.approx(base, rel=1e-5)


PAIRS = [(p, q) for p in (1, 2, np.inf) for q in (1, 2, np.inf)]


@pytest.fixture(scope="module")
def enumerated():
    """A network with its Jacobians on all regions."""
    rng = np.random.default_rng(10)
    weights = [rng.standard_normal((6, 2)), rng.standard_normal((6, 6)) / 2, rng.standard_normal((2, 6)) / 2]
    biases = [rng.standard_normal(6), rng.standard_normal(6)]
    return mlp(weights, biases=biases), regions(weights, biases)


@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_every_pair_of_norms_is_above_the_exact_constant(enumerated, p, q):
    network, pieces = enumerated
    found = lipschitz(network, p, output_norm=q)
    truth = max(operator_norm(j, p, q) for j in pieces)
    assert truth <= found.value <= 2 * truth
    assert found.value == pytest.approx(found.estimate, rel=1e-6)


def test_norms_are_in_order():
    network = mlp(square(6, 2, 3))
    value = {(p, q): lipschitz(network, p, output_norm=q).value for p, q in PAIRS}
    for p in (1, 2, np.inf):
        assert value[p, np.inf] <= value[p, 2] * (1 + 1e-9) and value[p, 2] <= value[p, 1] * (1 + 1e-9)
        assert value[p, 1] <= np.sqrt(3) * value[p, 2] * (1 + 1e-6)
    for q in (1, 2, np.inf):
        assert value[1, q] <= value[2, q] * (1 + 1e-9) and value[2, q] <= value[np.inf, q] * (1 + 1e-9)


def test_linear_networks_have_the_norm_of_their_matrix():
    w = np.random.default_rng(0).standard_normal((3, 4))
    for p, q in PAIRS:
        found = lipschitz(mlp([w]), p, output_norm=q).value
        truth = operator_norm(w, p, q)
        slack = 1.3 if (p, q) in ((np.inf, 1), (np.inf, 2), (2, 1)) else 1 + 1e-7
        assert truth <= found * (1 + 1e-12) and found <= slack * truth


def test_scaled_branches():
    builder = Builder()
    x = builder.input((1, 3))
    left, right = builder(Relu(), builder(Scale(np.array([1.0, 2.0, 3.0])), x)), builder(Abs(), x)
    found = lipschitz(builder.graph(x, builder(Sum((1.0, 1.0)), left, right)))
    assert found.value == pytest.approx(4.0, rel=1e-6)  # slope 3 and slope 1 where x > 0


def test_norms_of_plants_are_data():
    assert Norms() == Norms(2.0, 2.0)


@pytest.mark.parametrize(("size", "value"), [(3, 3.789), (4, 4.6452), (6, 6.555)])
def test_sorting_networks_of_comparators(size, value):
    weights = gaussian((4, 12, 12, 3), size)
    found = lipschitz(mlp(weights, lambda: GroupSort(1, size))).value
    assert 0.9995 * value <= found <= value + 6e-4  # other sorting networks give slightly other values


def test_householder_layers_couple_what_they_preserve():
    rng = np.random.default_rng(5)
    weights = [rng.standard_normal((b, a)) / np.sqrt(a) for a, b in ((4, 10), (10, 10), (10, 3))]
    builder = Builder()
    x = y = builder.input((1, 4))
    for w in weights[:2]:
        v = np.zeros((5, 10))
        for j in range(5):
            r = rng.standard_normal(2)
            v[j, 2 * j : 2 * j + 2] = r / np.linalg.norm(r)
        y = builder(Dense(w), y)
        reflected = builder(Dense(v.T), builder(Abs(), builder(Dense(v), y)))
        y = builder(Sum((1.0, 1.0)), builder(Dense(np.eye(10) - v.T @ v), y), reflected)
    found = lipschitz(builder.graph(x, builder(Dense(weights[2]), y)))
    assert found.value == pytest.approx(2.138, abs=6e-4) and found.neurons == 10


def test_margins_from_one_program():
    weights = gaussian((10, 32, 32, 10), 51, 1.5)
    whole = lipschitz(mlp(weights)).value
    ratio = lipschitz_pairs(mlp(weights))[np.triu_indices(10, 1)] / (np.sqrt(2) * whole)
    assert ratio.max() <= 1 + 1e-6 and ratio.mean() == pytest.approx(0.79, abs=0.01)
