"""Recurrent layers of fixed length (RNN, LSTM, GRU), written out step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ascertain.errors import ShapeError
from ascertain.operators.affine import Dense, Sum, combined, scaled
from ascertain.operators.arguments import argument, array, constant, unsupported, variable
from ascertain.operators.base import Operator, Ref
from ascertain.operators.bilinear import multiply
from ascertain.operators.movement import Reshape, Transpose
from ascertain.operators.piecewise import Relu
from ascertain.operators.reading import Call, aten, onnx
from ascertain.operators.selection import Concat, sliced
from ascertain.operators.sigmoidal import Sigmoid, Tanh

__all__: list[str] = []

State = Ref | np.ndarray
"""A hidden state ``(1, N, H)``; a constant before the first step."""

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_ACTIVATIONS: dict[str, type[Operator]] = {"sigmoid": Sigmoid, "tanh": Tanh, "relu": Relu}
_USUAL = {"RNN": ("tanh",), "GRU": ("sigmoid", "tanh"), "LSTM": ("sigmoid", "tanh", "tanh")}


@dataclass(frozen=True)
class _Cell:
    """One direction of one layer, its gates in the order of ONNX: input, output, forget, cell, or update, reset, hidden."""

    kind: str
    weight: np.ndarray
    """``(gates * H, I)``"""
    recurrence: np.ndarray
    """``(gates * H, H)``"""
    bias: np.ndarray
    own_bias: np.ndarray
    """Both ``(gates * H,)``: added to the product with the input, and with the state."""
    activations: tuple[str, ...]
    reset_after: bool = True
    """Whether a GRU resets the product with the state rather than the state."""

    @property
    def size(self) -> int:
        return int(self.recurrence.shape[1])

    def checked(self, call: Call, features: int) -> _Cell:
        """The cell itself, if its arrays fit each other and the input."""
        rows, size = _GATES[self.kind] * self.size, self.size
        shapes = [a.shape for a in (self.weight, self.recurrence, self.bias, self.own_bias)]
        if shapes != [(rows, features), (rows, size), (rows,), (rows,)]:
            raise ShapeError(f"{call.operator} for {features} features has parameters of shapes {shapes}. Export the model again.")
        return self


# States that may be constants


def _product(call: Call, x: Ref, y: State) -> State:
    if isinstance(y, Ref):
        return multiply(call.emit, x, y)
    return scaled(call.emit, x, y) if y.any() else y


def _sum(call: Call, x: Ref, y: State, sign: float = 1.0) -> Ref:
    return x if not isinstance(y, Ref) and not y.any() else combined(call, x, y, 1.0, sign)


def _recur(call: Call, matrix: np.ndarray, h: State, bias: np.ndarray | None = None) -> State:
    if isinstance(h, Ref):
        return call.emit(Dense(matrix, bias), h)
    known: np.ndarray = h.astype(np.float64) @ matrix.T
    return known if bias is None else known + bias


def _part(call: Call, x: Ref, start: int, stop: int) -> Ref:
    """Features from start to stop."""
    return sliced(call, x, {2: slice(start, stop)})


# One step: what the input gives, state, cell state -> state, cell state


def _rnn_step(call: Call, cell: _Cell, given: Ref, h: State, c: State) -> tuple[Ref, State]:
    return _activated(call, cell, 0, _sum(call, given, _recur(call, cell.recurrence, h))), c


def _lstm_step(call: Call, cell: _Cell, given: Ref, h: State, c: State) -> tuple[Ref, State]:
    n = cell.size
    total = _sum(call, given, _recur(call, cell.recurrence, h))
    gates = _activated(call, cell, 0, _part(call, total, 0, 3 * n))
    news = _activated(call, cell, 1, _part(call, total, 3 * n, 4 * n))
    enter, leave, keep = (_part(call, gates, i * n, (i + 1) * n) for i in range(3))
    fresh = _sum(call, multiply(call.emit, enter, news), _product(call, keep, c))
    return multiply(call.emit, leave, _activated(call, cell, 2, fresh)), fresh


def _gru_step(call: Call, cell: _Cell, given: Ref, h: State, c: State) -> tuple[Ref, State]:
    n = cell.size
    total = _sum(call, _part(call, given, 0, 2 * n), _recur(call, cell.recurrence[: 2 * n], h))
    gates = _activated(call, cell, 0, total)
    update, reset = _part(call, gates, 0, n), _part(call, gates, n, 2 * n)
    matrix, bias = cell.recurrence[2 * n :], cell.own_bias[2 * n :]
    if cell.reset_after:
        recalled = _product(call, reset, _recur(call, matrix, h, bias))
    else:
        recalled = _recur(call, matrix, _product(call, reset, h))
    news = _activated(call, cell, 1, _sum(call, _part(call, given, 2 * n, 3 * n), recalled))
    change = call.emit(Sum((-1.0, 1.0)), news, h) if isinstance(h, Ref) else _sum(call, call.emit(Sum((-1.0,)), news), h)
    return call.emit(Sum((1.0, 1.0)), news, multiply(call.emit, update, change)), c


_STEPS: dict[str, Callable[[Call, _Cell, Ref, State, State], tuple[Ref, State]]] = {
    "RNN": _rnn_step,
    "GRU": _gru_step,
    "LSTM": _lstm_step,
}


def _activated(call: Call, cell: _Cell, i: int, x: Ref) -> Ref:
    return call.emit(_ACTIVATIONS[cell.activations[i]](), x)


def _run(call: Call, cell: _Cell, x: Ref, h: State, c: State, backward: bool) -> tuple[Ref, Ref, State]:
    """All states ``(L, N, H)`` of a cell on ``(L, N, I)``, the last state and the last cell state."""
    cell.checked(call, x.shape[2])
    own = cell.own_bias.astype(np.float64)
    if cell.kind == "GRU" and cell.reset_after:
        own = np.concatenate([own[: 2 * cell.size], np.zeros(cell.size)])
    given = call.emit(Dense(cell.weight, cell.bias + own), x)
    length, states = x.shape[0], list[Ref]()
    for t in reversed(range(length)) if backward else range(length):
        h, c = _STEPS[cell.kind](call, cell, sliced(call, given, {0: slice(t, t + 1)}), h, c)
        states.append(h)
    last = states[-1]
    return _joined(call, states[::-1] if backward else states, 0), last, c


def _joined(call: Call, parts: Sequence[Ref], axis: int) -> Ref:
    return parts[0] if len(parts) == 1 else call.emit(Concat(axis), *parts)


def _state(call: Call, value: object, place: int, shape: tuple[int, int, int]) -> State:
    """The initial state of one direction, from the states ``(directions, N, H)`` of all; zero where none is given."""
    if value is None:
        return np.zeros((1, *shape[1:]))
    known = value if isinstance(value, Ref) else array(value)
    if known.shape != shape:
        raise ShapeError(f"{call.operator} takes an initial state of shape {shape}, got {known.shape}. Reshape it.")
    return sliced(call, known, {0: slice(place, place + 1)}) if isinstance(known, Ref) else known[place : place + 1]


def _value(call: Call, state: State) -> Ref:
    if not isinstance(state, Ref):
        raise unsupported(call, "no steps", "Give it a sequence of at least one step.")
    return state


def _layer(call: Call, x: Ref, cells: Sequence[_Cell], backward: Sequence[bool], states: Sequence[object]) -> list[list[Ref]]:
    """For each direction of a layer: all states, the last one, and for an LSTM the last cell state."""
    if len(x.shape) != 3 or x.shape[0] < 1:
        raise unsupported(call, f"an input of shape {x.shape}", "Give it steps, batch and features.")
    found = []
    for i, (cell, back) in enumerate(zip(cells, backward, strict=True)):
        shape = (len(cells), x.shape[1], cell.size)
        h, c = (_state(call, s, i, shape) for s in states)
        y, last, memory = _run(call, cell, x, h, c, back)
        found.append([y, last, *([_value(call, memory)] if cell.kind == "LSTM" else [])])
    return found


# ONNX


@onnx("RNN", "GRU", "LSTM")
def _recurrent_onnx(call: Call) -> tuple[Ref, ...]:
    x, kind, get = variable(call), call.operator, call.attributes.get
    direction = str(get("direction", "forward"))
    backward = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[direction]
    weight, recurrence, bias = constant(call, 1), constant(call, 2), constant(call, 3)
    if weight is None or recurrence is None or weight.ndim != 3 or recurrence.ndim != 3 or len(weight) != len(backward):
        raise unsupported(call, "weights that are missing or of other directions", "Export the model again.")
    _refuse(call, x)
    rows, size = recurrence.shape[1:]
    bias = np.zeros((len(backward), 2 * rows)) if bias is None else bias
    names = _activation_names(call, len(backward))
    after = bool(get("linear_before_reset", 0))
    cells = [_Cell(kind, weight[i], recurrence[i], bias[i, :rows], bias[i, rows:], names[i], after) for i in range(len(backward))]
    given = (argument(call, 5, "initial_h"), argument(call, 6, "initial_c"))
    found = _layer(call, x, cells, backward, given)
    length, batch = x.shape[:2]
    ys = [call.emit(Reshape((length, 1, batch, size)), y) for y, *_ in found]
    lasts = [_joined(call, [f[k] for f in found], 0) for k in range(1, len(found[0]))]
    return (_joined(call, ys, 1), *lasts)[: call.outputs or None]


def _activation_names(call: Call, directions: int) -> list[tuple[str, ...]]:
    """The activations of every direction."""
    usual = _USUAL[call.operator]
    named = [str(a).lower() for a in call.attributes.get("activations") or usual * directions]
    strange = [a for a in named if a not in _ACTIVATIONS]
    if strange or len(named) != len(usual) * directions:
        raise unsupported(call, f"activations {', '.join(strange or named)}", f"Use {', '.join(_ACTIVATIONS)}.")
    return [tuple(named[i * len(usual) : (i + 1) * len(usual)]) for i in range(directions)]


def _refuse(call: Call, x: Ref) -> None:
    """What is not read: other layouts, clipping, coupled gates, peepholes, sequences of several lengths."""
    get = call.attributes.get
    if int(get("layout", 0)):
        raise unsupported(call, "layout 1", "Put the steps on axis 0.")
    if float(get("clip", 0.0)) or int(get("input_forget", 0)):
        raise unsupported(call, "clip or input_forget", "Export the model without it.")
    peepholes = constant(call, 7)
    if peepholes is not None and peepholes.any():
        raise unsupported(call, "peepholes", "Export the model without them.")
    lengths = argument(call, 4, "sequence_lens")
    if lengths is not None and (isinstance(lengths, Ref) or (np.asarray(lengths) != x.shape[0]).any()):
        raise unsupported(call, "sequences of several lengths", "Fix the length: use all steps of every sequence.")


# ATen


@aten("lstm.input", "gru.input", "rnn_tanh.input", "rnn_relu.input")
def _recurrent_aten(call: Call) -> tuple[Ref, ...]:
    x, given, parameters, biased, layers, dropout, train, bidirectional, batch_first = (*call.inputs, None)[:9]
    kind = "LSTM" if "lstm" in call.operator else "GRU" if "gru" in call.operator else "RNN"
    names = ("relu",) if "relu" in call.operator else _USUAL[kind]
    if train and float(dropout):
        raise unsupported(call, "dropout in training mode", "Call model.eval() before exporting.")
    x = variable(call)
    x = call.emit(Transpose((1, 0, 2)), x) if batch_first else x
    count, directions = (4 if biased else 2), 2 if bidirectional else 1
    if len(parameters) != count * layers * directions:
        raise unsupported(call, "projections (proj_size)", "Use a linear layer after it.")
    states = [list(given)[k] if kind == "LSTM" else given for k in range(2 if kind == "LSTM" else 1)]
    ends: list[list[Ref]] = []
    for layer in range(layers):
        place = layer * directions
        mine = [parameters[(place + i) * count : (place + i + 1) * count] for i in range(directions)]
        cells = [_torch_cell(call, kind, p, names) for p in mine]
        starts = [_slice(call, s, place, place + directions) for s in states]
        found = _layer(call, x, cells, (False, True)[:directions], (*starts, None)[:2])
        x = _joined(call, [y for y, *_ in found], 2)
        ends += [f[1:] for f in found]
    lasts = [_joined(call, [end[k] for end in ends], 0) for k in range(len(ends[0]))]
    return (call.emit(Transpose((1, 0, 2)), x) if batch_first else x, *lasts)


def _slice(call: Call, states: object, start: int, stop: int) -> object:
    return sliced(call, states, {0: slice(start, stop)}) if isinstance(states, Ref) else array(states)[start:stop]


def _torch_cell(call: Call, kind: str, parameters: Sequence[object], names: tuple[str, ...]) -> _Cell:
    """Torch orders gates as input, forget, cell, output, or reset, update, new."""
    order = {"RNN": (0,), "GRU": (1, 0, 2), "LSTM": (0, 3, 1, 2)}[kind]
    if any(isinstance(p, Ref) for p in parameters):
        raise unsupported(call, "weights computed from the network's input", "Make them constants of the model.")
    known = [array(p) for p in parameters]
    size = known[1].shape[1]
    rows = np.concatenate([np.arange(i * size, (i + 1) * size) for i in order])
    weight, recurrence, *biases = (p[rows] for p in known)
    bias, own = biases or (np.zeros(len(rows)),) * 2
    return _Cell(kind, weight, recurrence, bias, own, names)
