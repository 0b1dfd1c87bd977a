"""Recurrent layers of fixed length equal torch's; what depends on the length of a sequence is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ascertain
from ascertain.errors import InputError, UnsupportedError
from ascertain.graph.graph import Builder
from ascertain.operators.reading import ONNX, Call, NotSupported
from tests.operators.layers import First, Function, assert_equal

R = np.random.default_rng(2)
TWICE: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "batch_first": True}


class Started(torch.nn.Module):
    """An LSTM that starts from states computed from the input, or from constant ones."""

    def __init__(self, constant: bool) -> None:
        super().__init__()
        self.layer, self.constant = torch.nn.LSTM(3, 3), constant
        self.start = torch.nn.Parameter(torch.zeros(1, 1, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.start if self.constant else x[:1]
        return self.layer(x, (h, 2 * h))[0]


LAYERS = {
    "LSTM": (First(torch.nn.LSTM(3, 4, **TWICE)), (1, 5, 3)),
    "LSTM last cell": (First(torch.nn.LSTM(3, 4, **TWICE), 1, 1), (1, 3, 3)),
    "LSTM last state": (First(torch.nn.LSTM(3, 4, num_layers=2), 1, 0), (3, 2, 3)),
    "GRU": (First(torch.nn.GRU(3, 4, **TWICE)), (1, 4, 3)),
    "GRU last state": (First(torch.nn.GRU(3, 4), 1), (4, 2, 3)),
    "RNN": (First(torch.nn.RNN(3, 4, **TWICE)), (1, 4, 3)),
    "RNN relu": (First(torch.nn.RNN(3, 4, nonlinearity="relu", bias=False)), (4, 1, 3)),
    "no batch axis": (First(torch.nn.LSTM(3, 4)), (4, 3)),
    "one step": (First(torch.nn.GRU(3, 4)), (1, 1, 3)),
    "constant start": (Started(True), (3, 1, 3)),
    "variable start": (Started(False), (3, 1, 3)),
    "LSTM cell": (First(torch.nn.LSTMCell(3, 4)), (1, 3)),
    "GRU cell": (torch.nn.GRUCell(3, 4), (1, 3)),
    "RNN cell": (torch.nn.RNNCell(3, 4), (1, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_equals_torch(name: str, tmp_path: Path) -> None:
    module, shape = LAYERS[name]
    assert_equal(module, shape, tmp_path)


def test_refuses_projections_and_dropout_in_training() -> None:
    with pytest.raises(UnsupportedError, match="proj_size"):
        ascertain.load(First(torch.nn.LSTM(3, 4, proj_size=2)), input_shape=(5, 1, 3))
    layer = torch.nn.GRU(3, 4, num_layers=2, dropout=0.5)
    ascertain.load(First(layer), input_shape=(5, 1, 3))

    def trained(x: torch.Tensor) -> torch.Tensor:
        return torch.gru(x, torch.zeros(2, 1, 4), list(layer.parameters()), True, 2, 0.5, True, False, False)[0]

    with pytest.raises(UnsupportedError, match="training mode"):
        ascertain.load(Function(trained), input_shape=(5, 1, 3))


def test_refuses_lengths_that_depend_on_the_data() -> None:
    layer = torch.nn.LSTM(3, 4)

    def packed(x: torch.Tensor) -> torch.Tensor:
        lengths = (x[:, :, 0] > 0).sum(0)
        return layer(torch.nn.utils.rnn.pack_padded_sequence(x, lengths))[1][0]

    with pytest.raises(InputError):
        ascertain.load(Function(packed), input_shape=(5, 1, 3))


def call(op: str, *inputs: Any, **attributes: Any) -> Any:
    builder = Builder()
    x = builder.input((4, 1, 3))
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[op]
    weights = [R.normal(size=(1, gates * 2, n)) for n in (3, 2)]
    given = (x, *weights, None, *inputs)
    return ONNX[op](Call(op, "node", given, {"hidden_size": 2, **attributes}, 14, builder, 1))


REFUSED = [
    (call, ("LSTM",), {"layout": 1}, "layout"),
    (call, ("LSTM",), {"clip": 3.0}, "clip"),
    (call, ("LSTM",), {"input_forget": 1}, "input_forget"),
    (call, ("LSTM", None, None, None, np.ones((1, 6))), {}, "peepholes"),
    (call, ("GRU", np.array([3], np.int32)), {}, "lengths"),
    (call, ("RNN",), {"activations": ["Softsign"]}, "softsign"),
    (call, ("RNN",), {"direction": "bidirectional"}, "directions"),
]


@pytest.mark.parametrize(("function", "arguments", "attributes", "words"), REFUSED)
def test_refuses_with_reason_and_advice(function: Any, arguments: Any, attributes: Any, words: str) -> None:
    with pytest.raises(NotSupported, match=words):
        function(*arguments, **attributes)


def test_parameters_that_do_not_fit_are_named() -> None:
    with pytest.raises(InputError, match="initial state of shape"):
        call("GRU", None, np.zeros((1, 1, 3)))
    builder = Builder()
    x = builder.input((4, 1, 5))
    weights = [R.normal(size=(1, 2, n)) for n in (3, 2)]
    with pytest.raises(InputError, match="for 5 features"):
        ONNX["RNN"](Call("RNN", "node", (x, *weights), {"hidden_size": 2}, 14, builder, 1))
