"""Sums and means over axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from ascertain.operators.arguments import argument, integers, rounded, unsupported, variable
from ascertain.operators.arrays import position
from ascertain.operators.base import Affine, Array, Operator, Ref, Shape, namespace
from ascertain.operators.movement import axes_of
from ascertain.operators.reading import Call, aten, onnx

__all__ = ["Reduce"]


@dataclass(frozen=True, eq=False)
class Reduce(Affine):
    """The sum (or ``mean``) over axes >= 0, which keep size 1 where ``keepdims``."""

    axes: tuple[int, ...]
    keepdims: bool
    mean: bool = False

    def infer(self, *shapes: Shape) -> Shape:
        for axis in self.axes:
            position(axis, len(shapes[0]), "Reduce")
        kept = [1 if i in self.axes else n for i, n in enumerate(shapes[0])]
        return tuple(kept) if self.keepdims else tuple(n for i, n in enumerate(kept) if i not in self.axes)

    def _count(self, shape: Shape) -> int:
        return prod(shape[i] for i in self.axes)

    def linear(self, *inputs: Array) -> Array:
        x = inputs[0]
        total = x.sum(axis=tuple(i + 1 for i in self.axes), keepdims=self.keepdims) if self.axes else x
        return total / self._count(tuple(x.shape[1:])) if self.mean else total

    def forward(self, *inputs: Array) -> Array:
        return self.linear(*inputs)

    def adjoint(self, gradient: Array, *shapes: Shape) -> tuple[Array, ...]:
        (shape,) = shapes
        g = gradient / self._count(shape) if self.mean else gradient
        kept = (1 if i in self.axes else n for i, n in enumerate(shape))
        return (namespace(g).broadcast_to(g.reshape(g.shape[0], *kept), (g.shape[0], *shape)),)

    def terms(self, *shapes: Shape) -> int:
        return self._count(shapes[0]) - 1 + self.mean

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls((0, 2), False), ((2, 3, 4),)
        yield cls((1,), True, mean=True), ((2, 3),)


# Readers


def reduced(call: Call, x: Ref, axes: Sequence[int] | None, keepdims: bool, mean: bool) -> Ref:
    """Sum or mean over axes; None means all, an empty list none."""
    found = axes_of(call, x, axes)
    return call.emit(Reduce(found, keepdims, mean), x) if found else x


@onnx("ReduceSum", "ReduceMean")
def _reduce_onnx(call: Call) -> Ref:
    x, axes = variable(call), integers(call, 1, "axes")
    if not axes:
        axes = () if call.attributes.get("noop_with_empty_axes", 0) else None
    return reduced(call, x, axes, bool(call.attributes.get("keepdims", 1)), call.operator == "ReduceMean")


@onnx("GlobalAveragePool")
def _global_average_pool(call: Call) -> Ref:
    x = variable(call)
    return reduced(call, x, range(2, len(x.shape)), True, True)


@aten("sum.dim_IntList", "mean.dim", "sum.default", "mean.default")
def _reduce_aten(call: Call) -> Ref:
    x, kind = variable(call), "bool" if call.types[-1:] == ("bool",) else rounded(call)
    if kind is not None:
        raise unsupported(call, f"a result of type {kind}", "Sum in float32 or float64.")
    axes = None if call.operator.endswith(".default") else integers(call, 1, "dim")
    keepdims = bool(argument(call, 2, "keepdim", False)) if axes is not None else bool(call.attributes.get("keepdim", False))
    return reduced(call, x, axes or None, keepdims, "mean" in call.operator)
