"""Passes keep the network's function, and graphs that break a rule are refused with the node's name."""

from dataclasses import replace

import numpy as np
import pytest

from ascertain.errors import DataError, ModelError, ShapeError
from ascertain.graph import Builder, Graph, Node, lower
from ascertain.graph.graph import Constant, Input
from ascertain.graph.legality import check
from ascertain.graph.passes import PASSES, dead_code, fuse, identities, share
from ascertain.operators.affine import Dense, Scale, Shift, Sum
from ascertain.operators.base import Composite, Univariate
from ascertain.operators.convolution import Conv
from ascertain.operators.movement import Reshape, Transpose
from ascertain.operators.normalization import BatchNorm
from ascertain.operators.piecewise import Relu

R = np.random.default_rng(0)
W = R.normal(size=(4, 3)).astype(np.float32)
B = R.normal(size=4).astype(np.float32)


def build(write, shape=(1, 3)):
    builder = Builder()
    x = builder.input(shape)
    return check(builder.graph(x, write(builder, x)))


def kinds(graph):
    return [n.operator.name for n in graph.nodes[1:]]


def equal(first, second):
    assert first.input_shape == second.input_shape and first.output_shape == second.output_shape
    x = R.normal(size=(5, *first.input_shape))
    assert np.allclose(first(x), second(x), rtol=1e-13, atol=1e-13)


class Twice(Composite):
    """relu(x) + relu(x), written out in two steps."""

    def infer(self, *shapes):
        return shapes[0]

    def forward(self, *inputs):
        return 2 * np.maximum(inputs[0], 0)

    def expand(self, emit, *inputs):
        return emit(Outer(), inputs[0])


class Outer(Twice):
    def expand(self, emit, *inputs):
        return emit(Sum((1.0, 1.0)), emit(Relu(), inputs[0]), emit(Relu(), inputs[0]))


def test_lowering_leaves_no_composites_and_shares_their_parts():
    graph = build(lambda b, x: b(Twice(), b(Dense(W, B), x)))
    lowered = lower(graph)
    assert kinds(lowered) == ["Dense", "Relu", "Sum"]
    equal(graph, lowered)
    assert not any(isinstance(n.operator, Composite) for n in lowered.nodes)
    assert lower(lowered).hash == lowered.hash


def test_products_and_their_bias_become_one_exactly():
    graph = build(lambda b, x: b(Relu(), b(Shift(B), b(Dense(W), x))))
    lowered = lower(graph)
    assert kinds(lowered) == ["Dense", "Relu"]
    assert np.array_equal(lowered.nodes[1].operator.bias, B)
    equal(graph, lowered)
    # One number for all outputs broadcasts.
    graph = build(lambda b, x: b(Shift(np.float32(0.5).reshape(1)), b(Dense(W), x)))
    assert kinds(lower(graph)) == ["Dense"]
    equal(graph, lower(graph))


@pytest.mark.parametrize("offset", [R.normal(size=(2, 4)), R.normal(size=(2, 1)), R.normal(size=(2, 1, 1, 4))])
def test_offsets_that_are_no_bias_stay(offset):
    graph = build(lambda b, x: b(Shift(offset), b(Dense(W), x)), (2, 3) if offset.ndim < 4 else (1, 3))
    assert kinds(lower(graph)) == ["Dense", "Shift"]
    equal(graph, lower(graph))


def test_offsets_are_never_added_up():
    """The sum of two offsets rounds by more than its own size says when they cancel."""
    graph = build(lambda b, x: b(Shift(B), b(Dense(W, B), x)))
    assert kinds(lower(graph)) == ["Dense", "Shift"]


def norm(channels):
    a, b, c = R.normal(size=(3, channels))
    return BatchNorm(a, b, c, R.uniform(0.1, 2, size=channels), 1e-5)


def conv(size):
    return Conv(R.normal(size=(2, 2, size, size)), None, (1, 1), ((size // 2,) * 2,) * 2, (1, 1))


def test_batch_norm_merges_into_the_product_before_it():
    def write(b, x):
        y = b(Relu(), b(norm(2), b(conv(3), x)))
        y = b(norm(2), b(conv(3), y))
        y = b(Relu(), b(Sum((1.0, 1.0)), y, b(norm(2), b(conv(1), x))))
        y = b(Reshape((1, 24)), y)
        return b(Relu(), b(norm(3), b(Dense(R.normal(size=(3, 24)), R.normal(size=3)), y)))

    graph = build(write, (1, 2, 4, 3))
    lowered = lower(graph)
    assert kinds(lowered) == ["Conv", "Relu", "Conv", "Conv", "Sum", "Relu", "Reshape", "Dense", "Relu"]
    equal(graph, lowered)
    assert lower(lowered).hash == lowered.hash


def test_batch_norm_of_a_value_used_twice_stays():
    def write(b, x):
        h = b(conv(3), x)
        return b(Sum((1.0, 1.0)), b(norm(2), h), h)

    graph = build(write, (1, 2, 4, 3))
    assert kinds(lower(graph)) == ["Conv", "BatchNorm", "Sum"]
    # two in a row: the first merges, as roundings may not add up
    graph = build(lambda b, x: b(norm(2), b(norm(2), b(conv(3), x))), (1, 2, 4, 3))
    assert kinds(lower(graph)) == ["Conv", "BatchNorm"]
    equal(graph, lower(graph))


def test_values_used_twice_or_returned_are_not_fused_away():
    def write(b, x):
        h = b(Dense(W), x)
        return b(Sum((1.0, 1.0)), b(Shift(B), h), h)

    graph = build(write)
    assert kinds(lower(graph)) == ["Dense", "Shift", "Sum"]
    equal(graph, lower(graph))
    builder = Builder()
    x = builder.input((1, 3))
    h = builder(Dense(W), x)
    builder(Shift(B), h)
    graph = builder.graph(x, h)
    assert kinds(lower(graph)) == ["Dense"]
    equal(graph, lower(graph))


def test_movements_merge_and_vanish():
    def write(b, x):
        x = b(Transpose((2, 0, 1)), b(Transpose((1, 2, 0)), x))
        return b(Reshape((6, 4)), b(Reshape((24,)), b(Reshape((4, 6)), x)))

    graph = build(write, (2, 3, 4))
    assert kinds(lower(graph)) == ["Reshape"]
    equal(graph, lower(graph))
    graph = build(lambda b, x: b(Transpose((1, 0)), x), (2, 2))
    assert kinds(lower(graph)) == ["Transpose"]
    graph = build(lambda b, x: b(Reshape((2, 2)), x), (2, 2))
    assert kinds(lower(graph)) == [] and lower(graph).input == lower(graph).output
    equal(graph, lower(graph))


def test_equal_nodes_are_shared_and_different_ones_are_not():
    def write(b, x):
        parts = [b(Relu(), b(Dense(W, B), x)), b(Relu(), b(Dense(W.copy(), B.copy()), x)), b(Relu(), b(Dense(-W, B), x))]
        return b(Sum((1.0, 2.0, 3.0)), *parts)

    graph = build(write)
    assert kinds(share(graph)) == ["Dense", "Relu", "Dense", "Relu", "Sum"]
    equal(graph, share(graph))


def random_step(r, builder, x, last):
    n = x.shape[-1]
    operators = [
        Relu(),
        Twice(),
        Transpose((1, 0)),
        Reshape((x.shape[1], x.shape[0])),
        Dense(r.normal(size=(n, n))),
        Shift(r.normal(size=n)),
        Scale(np.array(2.0)),
        Sum((1.0, -2.0)),
    ]
    operator = operators[int(r.integers(len(operators)))]
    if not isinstance(operator, Sum):
        return builder(operator, x)
    return builder(operator, x, last) if last.shape == x.shape else x


def test_random_graphs_keep_their_function():
    for seed in range(60):
        r = np.random.default_rng(seed)
        builder = Builder()
        refs = [builder.input((2, 3))]
        for _ in range(int(r.integers(1, 14))):
            refs.append(random_step(r, builder, refs[int(r.integers(len(refs)))], refs[-1]))
        graph = check(builder.graph(refs[0], refs[-1]))
        equal(graph, lower(graph))
        for rewrite in PASSES:
            equal(graph, check(rewrite(graph)))


def test_passes_return_the_same_graph_where_nothing_changes():
    graph = build(lambda b, x: b(Relu(), b(Dense(W, B), x)))
    assert dead_code(graph) is graph and share(graph) is graph and identities(graph) is graph
    assert fuse(graph).hash == graph.hash


class Odd(Univariate):
    pass


def test_illegal_graphs_are_refused_by_name():
    good = build(lambda b, x: b(Relu(), b(Dense(W, B), x)))
    x, dense, relu = good.nodes
    bad = [
        (replace(good, nodes=(x, replace(dense, inputs=(2,)), relu)), ModelError),
        (replace(good, nodes=(x, replace(dense, inputs=(-1,)), relu)), ModelError),
        (replace(good, nodes=(x, replace(dense, inputs=()), relu)), ModelError),
        (replace(good, nodes=(x, replace(dense, shape=(1, 5)), relu)), ShapeError),
        (replace(good, nodes=(x, replace(dense, operator=Input(), inputs=()), relu)), ModelError),
        (replace(good, nodes=(x, replace(dense, operator=Dense(W * np.float32(np.nan), B)), relu)), DataError),
        (replace(good, nodes=(x, replace(dense, operator=Dense(W, np.full_like(B, np.inf))), relu)), DataError),
        (replace(good, nodes=(x, replace(dense, operator=Dense(W.astype(np.float16), B)), relu)), DataError),
        (replace(good, nodes=(x, replace(dense, operator=Dense(W.astype(complex), B)), relu)), DataError),
        (replace(good, nodes=(x, replace(dense, operator=Dense(W[:, :2], B)), relu)), ShapeError),
    ]
    for graph, error in bad:
        with pytest.raises(error, match=dense.name):
            check(graph)
    for graph in (replace(good, input=7), replace(good, output=-1), Graph((), 0, 0), replace(good, input=1)):
        with pytest.raises(ModelError):
            check(graph)


def test_outputs_that_do_not_depend_on_the_input_are_refused():
    nodes = (Node("x", Input(), (), (1,)), Node("c", Constant(np.ones(2)), (), (2,)))
    with pytest.raises(ModelError, match="'c' does not depend"):
        check(Graph(nodes, 0, 1))


def test_constants_evaluate_in_numpy_and_torch():
    import torch

    builder = Builder()
    x = builder.input((2,))
    graph = check(builder.graph(x, builder(Sum((1.0, 1.0)), x, builder.constant(np.array([1.0, 2.0])))))
    assert graph(np.zeros((3, 2))).tolist() == [[1.0, 2.0]] * 3
    found = graph(torch.zeros(3, 2))
    assert found.dtype == torch.float32 and found.tolist() == [[1.0, 2.0]] * 3
