"""From graphs to stages: composing the stages gives the network's Jacobians back."""

from dataclasses import replace

import numpy as np
import pytest

from ascertain import lipschitz
from ascertain.certify.lipschitz import plant, plant_constant
from ascertain.certify.lipschitz.enclosure import Enclosure
from ascertain.certify.lipschitz.plant import assemble, slopes
from ascertain.certify.lipschitz.program import compose
from ascertain.errors import DataError, UnsupportedError
from ascertain.graph import Builder, lower
from ascertain.operators import (
    Abs,
    BatchNorm,
    Clip,
    Concat,
    Conv,
    Dense,
    Exp,
    Gelu,
    GroupSort,
    LeakyRelu,
    MaxPool,
    Relu,
    Reshape,
    Sigmoid,
    Sign,
    Silu,
    Sin,
    Square,
    Sum,
    Tanh,
)
from tests.certify.lipschitz.networks import gaussian, jacobians, maxmin, mlp


def jacobian_of(form, derivative):
    """The Jacobian of a plant whose nonlinearities have these derivatives, one after the other."""
    gate, out, _ = compose(form)
    n0, n = form.inputs, form.inputs + form.size
    # w = D G v, v = (x, w): solve (I - D Gw) w = D Gx x
    w = np.linalg.solve(np.eye(n - n0) - derivative[:, None] * gate[:, n0:], derivative[:, None] * gate[:, :n0])
    return out[:, :n0] + out[:, n0:] @ w


def convolutional(seed=0):
    r = np.random.default_rng(seed)
    builder = Builder()
    x = builder.input((1, 2, 6, 6))
    y = builder(Conv(r.normal(size=(3, 2, 3, 3)) / 4, r.normal(size=3), (1, 1), ((1, 1), (1, 1)), (1, 1)), x)
    y = builder(BatchNorm(*(r.uniform(0.5, 2, size=3) for _ in range(4)), 1e-5), y)
    y = builder(Relu(), y)
    z = builder(Conv(r.normal(size=(3, 3, 3, 3)) / 5, None, (1, 1), ((1, 1), (1, 1)), (1, 1)), y)
    y = builder(Sum((1.0, 1.0)), y, builder(LeakyRelu(0.1), z))
    y = builder(MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), y)
    y = builder(Dense(r.normal(size=(4, 27)) / 5, None), builder(Reshape((1, 27)), y))
    return builder.graph(x, builder(Concat(1), y, builder(Tanh(), y)))


def sorted_network():
    return mlp(gaussian((5, 12, 12, 3), 1), lambda: GroupSort(1, 4))


NETWORKS = {
    "relu": mlp(gaussian((4, 7, 6, 3), 0)),
    "maxmin": mlp(gaussian((4, 8, 6, 3), 0), maxmin),
    "groupsort": sorted_network(),
    "convolution": convolutional(),
    "leaky": mlp(gaussian((4, 7, 6, 3), 0), lambda: LeakyRelu(0.25)),
    "abs": mlp(gaussian((4, 7, 6, 3), 0), Abs),
    "clip": mlp(gaussian((4, 7, 6, 3), 0), lambda: Clip(-0.5, 0.75)),
    "tanh": mlp(gaussian((4, 7, 6, 3), 0), Tanh),
    "sigmoid": mlp(gaussian((4, 7, 6, 3), 0), Sigmoid),
    "gelu": mlp(gaussian((4, 7, 6, 3), 0), Gelu),
    "silu": mlp(gaussian((4, 7, 6, 3), 0), Silu),
    "sin": mlp(gaussian((4, 7, 6, 3), 0), Sin),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_stages_compose_to_the_networks_jacobian(name):
    network = NETWORKS[name]
    lowered = lower(network, keep=(Abs, LeakyRelu, Clip))
    form = assemble(lowered, {})
    rng = np.random.default_rng(1)
    for seed in range(3):
        x = rng.normal(size=(1, *network.input_shape))
        values = lowered.values(x)
        derivative = []
        for stage in form.stages:
            for node in (lowered.nodes[i] for i in stage.nodes):
                derivative.append(np.asarray(node.operator.derivative(values[node.inputs[0]])).reshape(-1))
        step, error = 1e-6, []
        found = jacobian_of(form, np.concatenate(derivative))
        for j in range(network.input_size):
            d = np.zeros(x.size)
            d[j] = step
            d = d.reshape(x.shape)
            error.append(((network(x + d) - network(x - d)) / (2 * step)).reshape(-1) - found[:, j])
        assert np.abs(error).max() < 1e-5, seed


@pytest.mark.parametrize("name", NETWORKS)
def test_no_sampled_jacobian_is_above_the_constant(name):
    network = NETWORKS[name]
    found = lipschitz(network)
    sampled = max(max(np.linalg.norm(j, 2) for j in jacobians(network, 1500, scale=s)) for s in (0.1, 1.0, 10.0))
    assert 0.2 * found.value < sampled <= found.value
    assert found.value <= found.product * (1 + 1e-9)
    assert found.value == pytest.approx(found.estimate, rel=1e-6)


SLOPES = [(Gelu, -0.128904, 1.128904), (Silu, -0.099839, 1.099839), (Sin, -1, 1), (Sigmoid, 0, 0.25), (Tanh, 0, 1)]


@pytest.mark.parametrize(("operator", "least", "most"), SLOPES)
def test_one_activation_has_its_largest_slope_as_constant(operator, least, most):
    network = mlp([np.eye(1)], operator, last=True)
    assert lipschitz(network).value == pytest.approx(max(most, -least), abs=1e-5)
    low, high = slopes(network.nodes[-1])
    assert low[0] == pytest.approx(least, abs=1e-6) and high[0] == pytest.approx(most, abs=1e-6)


def test_unknown_slopes_are_named_all_at_once():
    builder = Builder()
    x = builder.input((1, 3))
    builder.scope = "first"
    y = builder(Exp(), x)
    builder.scope = "second"
    y = builder(Square(), y)
    builder.scope = "third"
    y = builder(Sign(), y)
    with pytest.raises(UnsupportedError, match=r"Exp at 'first', Square at 'second', Sign at 'third'.*input set") as caught:
        lipschitz(builder.graph(x, y))
    assert [name for name, _ in caught.value.operators] == ["Exp", "Square", "Sign"]


def test_matrices_that_would_be_too_large_are_refused():
    with pytest.raises(UnsupportedError, match="too many"):
        assemble(lower(NETWORKS["relu"]), {}, limit=20)


def test_weights_that_are_no_numbers_or_overflow_are_refused():
    weights = gaussian((3, 4, 2), 0)
    weights[0][1, 1] = np.nan
    with pytest.raises(DataError, match="NaN or infinite"):
        plant(mlp(weights))
    weights[0][1, 1] = 1e300
    with pytest.raises(DataError, match="overflow"), np.errstate(over="ignore", invalid="ignore"):
        lipschitz(mlp([weights[0], np.full((4, 4), 1e300), np.full((4, 4), 1e300)], Abs))


def test_smaller_ranges_of_slopes_give_smaller_constants():
    network = lower(NETWORKS["relu"])
    whole = assemble(network, {})
    (node,) = whole.stages[0].nodes
    on = assemble(network, {node: (np.ones(7), np.ones(7))})
    value = plant_constant(on).value
    assert value < plant_constant(whole).value
    w = gaussian((4, 7, 6, 3), 0)
    assert value == pytest.approx(lipschitz(mlp([w[1] @ w[0], w[2]])).value, rel=1e-6)


def test_dead_and_idle_neurons_do_no_harm():
    weights = gaussian((4, 7, 6, 3), 0)
    base = lipschitz(mlp(weights)).value
    for column in (0, 3):
        dead = [np.vstack([weights[0], np.zeros((1, 4))]), np.hstack([weights[1], np.ones((6, 1))]), weights[2]]
        idle = [np.vstack([weights[0], np.ones((1, 4))]), np.hstack([weights[1], np.zeros((6, 1))]), weights[2]]
        assert lipschitz(mlp(dead)).value == pytest.approx(base, rel=1e-6)
        assert lipschitz(mlp(idle)).value == pytest.approx(base, rel=1e-6), column
    assert lipschitz(mlp([weights[0], 0 * weights[1], weights[2]])).value == pytest.approx(0, abs=1e-100)


def test_width_one_and_no_hidden_layer():
    assert lipschitz(mlp([np.array([[3.0]]), np.array([[-2.0]])])).value == pytest.approx(6, rel=1e-7)
    assert lipschitz(mlp([np.array([[3.0]])])).value == pytest.approx(3, rel=1e-7)
    assert lipschitz(mlp([np.array([[1.0, 2.0]])], last=True)).value == pytest.approx(5**0.5, rel=1e-7)


@pytest.mark.parametrize("scale", [1e-60, 1e-12, 1e12, 1e60])
def test_weights_of_any_size(scale):
    weights = gaussian((4, 7, 6, 3), 0)
    base = lipschitz(mlp(weights)).value
    assert lipschitz(mlp([weights[0] * scale, weights[1] / scale, weights[2]])).value == pytest.approx(base, rel=1e-6)
    assert lipschitz(mlp([*weights[:2], weights[2] * scale])).value == pytest.approx(base * scale, rel=1e-6)


def test_toward_and_along():
    form = plant(NETWORKS["relu"])
    one = form.toward(np.array([1.0, -1.0, 0.0])).along(2)
    assert one.inputs == 1 and one.output.shape[0] == 1
    derivative = np.random.default_rng(0).integers(0, 2, form.size).astype(float)
    whole = jacobian_of(form, derivative)
    assert jacobian_of(one, derivative)[0, 0] == pytest.approx(whole[0, 2] - whole[1, 2])


def test_an_uncertain_weight_counts():
    form = plant(NETWORKS["relu"])
    base = plant_constant(form).value
    first = form.stages[0]
    doubt = Enclosure(first.gate.middle, np.full(first.gate.shape, 1e-4))
    assert plant_constant(replace(form, stages=(replace(first, gate=doubt), *form.stages[1:]))).value > base


NORMS = [(p, q) for p in (1, 2, np.inf) for q in (1, 2, np.inf)]


@pytest.mark.parametrize("method", ["auto", "layer", "product"])
@pytest.mark.parametrize(("p", "q"), NORMS)
def test_networks_that_never_move_have_constant_zero(p, q, method):
    weights = gaussian((3, 4, 4, 2), 0)
    for place in range(3):
        flat = [w * (i != place) for i, w in enumerate(weights)]
        assert lipschitz(mlp(flat), p, output_norm=q, method=method).value <= 1e-100
    column = [weights[0] * np.array([1.0, 0.0, 1.0]), *weights[1:]]
    assert lipschitz(mlp(column), p, output_norm=q, method=method).value > 0


@pytest.mark.parametrize(("p", "q"), NORMS)
def test_linear_networks_with_one_multiplier_for_each_layer(p, q):
    network = mlp(gaussian((3, 2), 0))
    assert lipschitz(network, p, output_norm=q, method="layer").value == lipschitz(network, p, output_norm=q).value


def test_slopes_on_boxes_are_exact_only_where_the_operator_states_them():
    def on(operator, low, high):
        builder = Builder()
        x = builder.input((1,))
        y = builder(operator, x)
        box = np.full((1, 1), float(low)), np.full((1, 1), float(high))
        return tuple(float(s[0]) for s in slopes(builder.nodes[y.index], box))

    assert on(LeakyRelu(0.01), -3, -2) == (0.01, 0.01) and on(Relu(), -3, -2) == (0, 0) and on(Clip(0, 1), 2, 3) == (0, 0)
    low, high = on(Gelu(), 10, 11)
    assert low < 1 < high < 1 + 1e-11  # the derivative itself rounds to 1 there
    low, high = on(Exp(), 36, 40)
    assert low < np.exp(36.0) and high > np.exp(40.0)
    assert on(Tanh(), -30, 30)[0] == 0 and on(Tanh(), -30, 30)[1] == 1


def test_sorting_is_known_in_every_norm():
    weights = gaussian((4, 6, 3), 0)
    for norm in (1, 2, np.inf):
        truth = np.prod([np.linalg.norm(w, norm) for w in weights])
        assert lipschitz(mlp(weights, lambda: GroupSort(1, 3)), norm, method="product").value == pytest.approx(truth, rel=1e-6)
