"""Piecewise linear functions of one variable, and the maximum of two."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ascertain.operators.arguments import variable
from ascertain.operators.base import Array, Operator, Ref, Shape, Univariate, is_numpy, namespace
from ascertain.operators.reading import Call, aten, onnx

__all__ = ["Relu"]


@dataclass(frozen=True, eq=False)
class Relu(Univariate):
    """max(x, 0): the one nonlinearity into which every continuous piecewise linear operator expands."""

    rectifier = True
    kinks = (0.0,)

    def f(self, x: Array) -> Array:
        return np.maximum(x, 0) if is_numpy(x) else x.relu()

    def slope_range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        xp = namespace(lower)
        zero, one = xp.zeros_like(lower), xp.ones_like(lower)
        return xp.where(lower > 0, one, zero), xp.where(upper < 0, zero, one)

    def curved(self, lower: Array, upper: Array) -> Array:
        return (lower < 0) & (upper > 0)

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls(), ((2, 3),)


@onnx("Relu")
@aten("relu.default", "relu_.default")
def _relu(call: Call) -> Ref:
    return call.emit(Relu(), variable(call))
