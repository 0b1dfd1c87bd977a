"""Attention layers as torch exports them; masks hide exactly what they should, or are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional

import ascertain
from ascertain.errors import InputError, UnsupportedError
from ascertain.graph.graph import Builder
from ascertain.graph.passes import lower
from ascertain.operators import Shift, Softmax
from ascertain.operators.masking import masked
from ascertain.operators.reading import ATEN, MASKS, ONNX, Call, Masked, NotSupported
from ascertain.operators.softmax import softmax
from tests.operators.layers import First, Function, assert_equal

R = np.random.default_rng(5)
CAUSAL = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
ADDED = torch.where(CAUSAL, -torch.inf, torch.randn(5, 5, generator=torch.Generator().manual_seed(3)))


class Attention(torch.nn.Module):
    def __init__(self, mask: torch.Tensor | None = None, weights: bool = False, **options: bool) -> None:
        super().__init__()
        self.layer = torch.nn.MultiheadAttention(8, 2, batch_first=True, **options)
        self.mask, self.weights = mask, weights

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x, x, x, attn_mask=self.mask, need_weights=self.weights)[0]


def attention(x: torch.Tensor, **options: Any) -> torch.Tensor:
    query, key, value = x[None], 2 * x[None], x[None] + 1
    return functional.scaled_dot_product_attention(query, key, value, **options)


def block(**options: bool) -> torch.nn.Module:
    return torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **options)


LAYERS = {
    "multihead": Attention(),
    "with weights": Attention(weights=True),
    "causal": Attention(CAUSAL),
    "causal with weights": Attention(CAUSAL, weights=True),
    "numbers and minus infinity": Attention(ADDED),
    "no bias": Attention(bias=False),
    "block": block(),
    "block, norm first": block(norm_first=True),
    "function": Function(lambda x: attention(x)),
    "causal function": Function(lambda x: attention(x, is_causal=True, scale=0.3)),
    "masked function": Function(lambda x: attention(x, attn_mask=~CAUSAL.T)),
    "by hand": Function(lambda x: torch.softmax(torch.einsum("bqd,bkd->bqk", x, x) + ADDED, -1) @ x),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_equals_torch(name: str, tmp_path: Path) -> None:
    assert_equal(LAYERS[name], (1, 5, 8), tmp_path)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_hidden_entries_weigh_nothing(axis: int) -> None:
    shape = (3, 4, 5)
    hidden = R.random(shape) < 0.4
    hidden &= ~hidden.all(axis, keepdims=True)
    builder = Builder()
    x = builder.input(shape)
    y = softmax(Call("Softmax", "node", (x,), {}, 13, builder), masked(x, hidden), axis)
    graph = builder.graph(x, y)
    value = R.normal(size=(2, *shape))
    weights = np.where(hidden, 0.0, np.exp(value))
    expected = weights / weights.sum(axis + 1, keepdims=True)
    for found in (graph, lower(graph)):
        np.testing.assert_allclose(found(value), expected, rtol=1e-12, atol=0)
        assert (found(value)[:, hidden] == 0).all()


def test_nothing_hidden_is_a_plain_softmax() -> None:
    builder = Builder()
    x = builder.input((2, 3))
    assert masked(x, np.zeros((2, 3), bool)) is x
    y = softmax(Call("Softmax", "node", (x,), {}, 13, builder), x, 1)
    assert isinstance(builder.nodes[y.index].operator, Softmax)


def test_masks_add_up() -> None:
    builder = Builder()
    x = builder.input((2, 3))
    first, second = np.array([True, False, False]), np.array([[False, True, False], [False, False, True]])
    both = masked(masked(x, first), second)
    assert isinstance(both, Masked) and (both.hidden == (first | second)).all()


def test_only_softmax_takes_masks() -> None:
    assert MASKS == {"Softmax", "softmax.int", "_softmax.default"} <= {*ONNX, *ATEN}
    builder = Builder()
    x = builder.input((3,))
    y = ONNX["Add"](Call("Add", "node", (x, np.array([0, -np.inf, 1], np.float32)), {}, 13, builder))
    assert isinstance(y, Masked) and y.hidden.tolist() == [False, True, False]
    (shift,) = (n.operator for n in builder.nodes[1:])
    assert isinstance(shift, Shift) and shift.offset.tolist() == [0, 0, 1]


def loaded(function: Any) -> ascertain.Graph:
    return ascertain.load(Function(function), input_shape=(1, 5, 5))


def test_the_least_float_hides_only_before_a_softmax() -> None:
    low = torch.where(CAUSAL, torch.finfo(torch.float32).min, 0.0)
    x = R.normal(size=(2, 1, 5, 5))
    hidden, infinite = (loaded(lambda x, m=m: torch.softmax(x + m, -1)) for m in (low, torch.where(CAUSAL, -torch.inf, 0.0)))
    np.testing.assert_array_equal(hidden(x), infinite(x))
    assert len(hidden.nodes) > len(loaded(lambda x: torch.softmax(x + 1, -1)).nodes)
    np.testing.assert_array_equal(loaded(lambda x: torch.amax(x + low, -1))(x), (x + low.numpy()).max(-1))
    assert loaded(lambda x: x + low)(x).min() < -1e38
    everywhere = loaded(lambda x: torch.softmax(x + torch.full((5,), torch.finfo(torch.float32).min), -1))
    np.testing.assert_allclose(everywhere(x), 0.2, rtol=1e-12)


REFUSED = {
    "right before a softmax": lambda x: (x + ADDED).sum(-1),
    "before log-softmax": lambda x: torch.log_softmax(x + ADDED, -1),
    "in a list": lambda x: torch.cat([x, x + ADDED], -1),
    "everything is hidden": lambda x: torch.softmax(x + torch.full((5,), -torch.inf), -1),
    "dropout": lambda x: functional.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name: str) -> None:
    with pytest.raises(UnsupportedError, match=r"softmax|hidden|dropout"):
        ascertain.load(Function(REFUSED[name]), input_shape=(1, 5, 5))


def test_refuses_an_output_of_minus_infinity() -> None:
    with pytest.raises(InputError, match="minus infinity"):
        ascertain.load(Function(lambda x: x + ADDED), input_shape=(5, 5))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_other_infinities_are_refused(value: float) -> None:
    bad = torch.zeros(5)
    bad[2] = value
    with pytest.raises(InputError, match="NaN or infinite"):
        ascertain.load(Function(lambda x: torch.softmax(x + bad, -1)), input_shape=(1, 5))


def test_einsum_refuses() -> None:
    builder = Builder()
    x = builder.input((3, 3))
    call = Call("Einsum", "node", (x,), {"equation": "ii->i"}, 13, builder)
    with pytest.raises(NotSupported, match="twice"):
        ONNX["Einsum"](call)
    for equation in ("ij,jk->ik", "ijk->i", "ij->k"):
        with pytest.raises(InputError, match="Einsum"):
            ONNX["Einsum"](Call("Einsum", "node", (x,), {"equation": equation}, 13, builder))


def test_first_of_several_outputs(tmp_path: Path) -> None:
    layer = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    assert_equal(First(Function(lambda x: layer(x, x, x)), 1), (1, 5, 8), tmp_path)
