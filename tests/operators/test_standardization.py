"""Layers that normalise by the input's own statistics: equal torch's, and never leave the range that is known of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given
from hypothesis import strategies as st

import ascertain
from ascertain.errors import ShapeError, UnsupportedError
from ascertain.graph.graph import Builder
from ascertain.graph.passes import lower
from ascertain.operators import Product, Standardize
from ascertain.operators.reading import ATEN, Call, NotSupported
from tests.operators.layers import Function, assert_equal

R = np.random.default_rng(4)
LAYERS = {
    "layer": (torch.nn.LayerNorm(6), (1, 3, 6)),
    "layer over two axes": (torch.nn.LayerNorm((3, 6), eps=0.1, bias=False), (1, 3, 6)),
    "layer without weights": (torch.nn.LayerNorm(6, elementwise_affine=False), (2, 6)),
    "RMS": (torch.nn.RMSNorm(6), (1, 3, 6)),
    "RMS without weights": (torch.nn.RMSNorm(6, eps=1e-3, elementwise_affine=False), (1, 3, 6)),
    "group": (torch.nn.GroupNorm(2, 6), (1, 6, 2, 3)),
    "group of vectors": (torch.nn.GroupNorm(3, 6, affine=False), (2, 6)),
    "instance": (torch.nn.InstanceNorm2d(3, affine=True), (1, 3, 4, 2)),
    "instance of signals": (torch.nn.InstanceNorm1d(3), (1, 3, 4)),
    "instance, stored statistics": (torch.nn.InstanceNorm2d(3, affine=True, track_running_stats=True), (1, 3, 4, 2)),
    "by hand": (Function(lambda x: (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 0.1)), (1, 5)),
    "unit length": (Function(functional.normalize), (1, 5)),
    "log-sum-exp": (Function(lambda x: torch.logsumexp(x, (1, 2))), (1, 3, 2)),
    "variance": (Function(lambda x: torch.var_mean(x, -1, correction=0)[0] + x.var()), (1, 5)),
    "largest three": (Function(lambda x: x.topk(3)[0]), (1, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_equals_torch(name: str, tmp_path: Path) -> None:
    module, shape = LAYERS[name]
    assert_equal(module, shape, tmp_path)


def known(operator: Standardize, shape: tuple[int, ...]) -> tuple[float, float]:
    """The range that the expansion states of its result."""
    builder = Builder()
    x = builder.input(shape)
    graph = lower(builder.graph(x, builder(operator, x)))
    (product,) = (n.operator for n in graph.nodes if isinstance(n.operator, Product))
    assert product.known is not None
    return product.known


@given(st.integers(2, 9), st.booleans(), st.floats(-6, 6), st.integers(0, 2**31))
def test_range_holds_and_is_reached(count: int, centred: bool, power: float, seed: int) -> None:
    operator = Standardize((0,), 1e-300, centred)
    low, high = known(operator, (count,))
    assert low == -high and high == pytest.approx(np.sqrt(count - centred), rel=1e-15)
    r = np.random.default_rng(seed)
    values = 10**power * (r.normal(size=(50, count)) + 5 * r.normal(size=(50, 1)))
    assert (abs(operator.forward(values)) <= high * (1 + 1e-9)).all()
    # one entry away from all others reaches it
    assert operator.forward(np.eye(count)[:1] * 10**power)[0, 0] == pytest.approx(high, rel=1e-9)


@pytest.mark.parametrize("function", [lambda x: x.topk(2)[1] * 1.0, lambda x: torch.native_layer_norm(x, [5], None, None, 0.1)[2]])
def test_outputs_that_no_reader_gives_are_named(function: Any) -> None:
    with pytest.raises(UnsupportedError, match=r"(topk|native_layer_norm)\.default at .*its output [12] is not known"):
        ascertain.load(Function(function), input_shape=(1, 5))


def test_refuses() -> None:
    with pytest.raises(ShapeError, match="axis 2"):
        Standardize((2,), 0.1).infer((3, 4))
    builder = Builder()
    x = builder.input((1, 6, 2))
    refused = [
        ("layer_norm.default", (x, [3]), "normalized_shape"),
        ("layer_norm.default", (x, [2], None, None, 0.0), "epsilon 0"),
        ("layer_norm.default", (x, [2], np.ones(3)), "parameters of shape"),
        ("group_norm.default", (x, 4), "4 groups"),
        ("instance_norm.default", (builder.input((1, 6)), None, None, None, None, True), "places|shape"),
        ("linalg_vector_norm.default", (x, 3.0), "order 3"),
        ("var.correction", (builder.input((1, 1)), [1]), "divides by zero"),
        ("topk.default", (x, 3), "k = "),
        ("topk.default", (x, 1, -1, True, False), "order"),
    ]
    for name, inputs, words in refused:
        with pytest.raises(NotSupported, match=words):
            ATEN[name](Call(f"aten.{name}", "node", inputs, {}, 0, builder))
