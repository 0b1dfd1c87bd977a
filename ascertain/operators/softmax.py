"""Softmax and its logarithm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from ascertain.operators.arguments import argument, unsupported, variable
from ascertain.operators.arrays import position
from ascertain.operators.base import Array, Operator, Ref, Shape, is_numpy
from ascertain.operators.movement import reshaped
from ascertain.operators.reading import Call, aten, onnx

__all__ = ["LogSoftmax", "Softmax"]


@dataclass(frozen=True, eq=False)
class _Along:
    """A function of groups of entries: those that differ in their place on one axis >= 0."""

    axis: int

    def infer(self, *shapes: Shape) -> Shape:
        position(self.axis, len(shapes[0]), type(self).__name__)
        return shapes[0]

    def preserves_order(self, *shapes: Shape) -> bool:
        # within a group all entries are scaled alike; between groups nothing is known
        return shapes[0][self.axis] == prod(shapes[0])


@dataclass(frozen=True, eq=False)
class Softmax(_Along, Operator):
    """exp(x_i) / sum_j exp(x_j) along an axis."""

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        if not is_numpy(x):
            return x.softmax(self.axis + 1)
        e = np.exp(x - x.max(axis=self.axis + 1, keepdims=True))
        return e / e.sum(axis=self.axis + 1, keepdims=True)

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls(0), ((5,),)
        yield cls(1), ((2, 3, 4),)
        yield cls(1), ((1, 4, 1),)


@dataclass(frozen=True, eq=False)
class LogSoftmax(_Along, Operator):
    """x_i - log sum_j exp(x_j) along an axis."""

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        if not is_numpy(x):
            return x.log_softmax(self.axis + 1)
        shifted = x - x.max(axis=self.axis + 1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=self.axis + 1, keepdims=True))

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls(0), ((5,),)
        yield cls(2), ((2, 3, 4),)


# Readers


@onnx("Softmax", "LogSoftmax")
def _softmax_onnx(call: Call) -> Ref:
    x, kind = variable(call), Softmax if call.operator == "Softmax" else LogSoftmax
    old = call.opset < 13
    axis = position(int(call.attributes.get("axis", 1 if old else -1)), len(x.shape), call.operator)
    if not old or prod(x.shape[axis + 1 :]) == 1:
        return call.emit(kind(axis), x)
    # until opset 12 all axes from the given one on form one group
    flat = reshaped(call, x, (prod(x.shape[:axis]), prod(x.shape[axis:])))
    return reshaped(call, call.emit(kind(1), flat), x.shape)


@aten("softmax.int", "_softmax.default", "log_softmax.int", "_log_softmax.default")
def _softmax_aten(call: Call) -> Ref:
    x, kind = variable(call), LogSoftmax if "log" in call.operator else Softmax
    dtype = argument(call, 2, "dtype") if call.operator.endswith(".int") else None
    if dtype is not None and str(dtype) not in ("torch.float32", "torch.float64"):
        raise unsupported(call, f"conversion to {dtype}", "Compute it in float32 or float64.")
    return call.emit(kind(position(int(argument(call, 1, "dim")), len(x.shape), call.operator)), x)
