"""Affine maps with given coefficients: products with constants, scaling, shifting, weighted sums."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from ascertain.errors import ShapeError
from ascertain.operators.arguments import argument, array, unsupported, variable
from ascertain.operators.arrays import broadcast, fits, fold, repeats, spread
from ascertain.operators.base import Affine, Array, Emit, Operator, Ref, Shape, namespace
from ascertain.operators.normalization import MERGED, bias_size, merge
from ascertain.operators.reading import Call, Masked, aten, onnx

__all__ = ["Dense", "MatrixProduct", "Scale", "Shift", "Sum"]


@dataclass(frozen=True, eq=False)
class Dense(Affine):
    """y = x @ weight.T + bias on the last axis; weight ``(out, in)``, bias ``(out,)`` or None.

    Stored parameters may be off the true ones by one relative rounding, which `terms` counts; after `merge` by a few more, those
    of ``bias`` relative to ``margin`` ``(out,)``.
    """

    weight: Array
    bias: Array | None = None
    margin: Array | None = None

    def infer(self, *shapes: Shape) -> Shape:
        out, size = map(int, self.weight.shape)
        if not shapes[0] or shapes[0][-1] != size:
            raise ShapeError(f"Dense takes {size} features on the last axis, got shape {shapes[0]}. Reshape the input.")
        return (*shapes[0][:-1], out)

    def linear(self, *inputs: Array) -> Array:
        return inputs[0] @ self.weight.T

    def forward(self, *inputs: Array) -> Array:
        y = self.linear(*inputs)
        return y if self.bias is None else y + self.bias

    def adjoint(self, gradient: Array, *shapes: Shape) -> tuple[Array, ...]:
        return (gradient @ self.weight,)

    def then(self, after: Operator, *shapes: Shape) -> Operator | None:
        out = self.infer(*shapes)
        if len(out) == 2 and self.margin is None:
            merged = merge(after, out, self.weight, (-1, 1), self.bias)
            if merged is not None:
                return Dense(*merged)
        if not isinstance(after, Shift) or self.bias is not None or after.infer(out) != out:
            return None
        offset = np.broadcast_to(after.offset, out).reshape(-1, out[-1])
        return Dense(self.weight, offset[0].copy()) if (offset == offset[0]).all() else None

    def restrict(self, index: Array, *shapes: Shape) -> Array | None:
        flat = prod(shapes[0]) == self.weight.shape[1]
        return self.weight[index].reshape(-1, *shapes[0]) if flat else None

    def magnitude(self) -> Affine:
        return Dense(abs(self.weight), bias_size(self.bias, self.margin), self.margin)

    def terms(self, *shapes: Shape) -> int:
        return int(max(self.weight.shape)) + 2 + (0 if self.margin is None else MERGED)

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        r = np.random.default_rng(0)
        yield cls(r.normal(size=(4, 7)), r.normal(size=4)), ((7,),)
        yield cls(r.normal(size=(4, 3))), ((2, 5, 3),)
        yield cls(r.normal(size=(4, 3)), r.normal(size=4), np.full(4, 4.0)), ((1, 3),)


@dataclass(frozen=True, eq=False)
class MatrixProduct(Affine):
    """y = matrix @ x (``left``) or x @ matrix with the batching rules of numpy.matmul; both have at least two axes."""

    matrix: Array
    left: bool

    def _rank(self, shape: Shape) -> int:
        return max(int(self.matrix.ndim), len(shape))

    def infer(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        matrix: Shape = tuple(self.matrix.shape)
        first, second = (matrix, x) if self.left else (x, matrix)
        if len(x) < 2 or self.matrix.ndim < 2 or first[-1] != second[-2]:
            raise ShapeError(f"MatrixProduct cannot multiply shapes {first} and {second}. Transpose or reshape one of them.")
        return (*broadcast("MatrixProduct", first[:-2], second[:-2]), first[-2], second[-1])

    def linear(self, *inputs: Array) -> Array:
        x = spread(inputs[0], self._rank(tuple(inputs[0].shape[1:])))
        return self.matrix @ x if self.left else x @ self.matrix

    def forward(self, *inputs: Array) -> Array:
        return self.linear(*inputs)

    def adjoint(self, gradient: Array, *shapes: Shape) -> tuple[Array, ...]:
        transposed = namespace(self.matrix).swapaxes(self.matrix, -1, -2)
        return (fold(transposed @ gradient if self.left else gradient @ transposed, shapes[0]),)

    def magnitude(self) -> Affine:
        return replace(self, matrix=abs(self.matrix))

    def terms(self, *shapes: Shape) -> int:
        rank = self._rank(shapes[0])
        batch = self.infer(*shapes)[: rank - 2]
        return int(max(self.matrix.shape[-2:])) * repeats(shapes[0][:-2], batch)

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        r = np.random.default_rng(0)
        yield cls(r.normal(size=(4, 3)), True), ((3, 2),)
        yield cls(r.normal(size=(2, 1, 4, 3)), True), ((5, 3, 2),)
        yield cls(r.normal(size=(3, 2, 4)), False), ((5, 2),)
        yield cls(r.normal(size=(2, 4)), False), ((3, 1, 2),)


@dataclass(frozen=True, eq=False)
class Scale(Affine):
    """y = factor * x elementwise with broadcasting. The stored factor may be off the true one by one relative rounding."""

    factor: Array

    def infer(self, *shapes: Shape) -> Shape:
        return broadcast("Scale", shapes[0], tuple(self.factor.shape))

    def linear(self, *inputs: Array) -> Array:
        return spread(inputs[0], self.factor.ndim) * self.factor

    def forward(self, *inputs: Array) -> Array:
        return self.linear(*inputs)

    def adjoint(self, gradient: Array, *shapes: Shape) -> tuple[Array, ...]:
        return (fold(gradient * self.factor, shapes[0]),)

    def magnitude(self) -> Affine:
        return Scale(abs(self.factor))

    def terms(self, *shapes: Shape) -> int:
        return 1 + repeats(shapes[0], self.infer(*shapes))

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        r = np.random.default_rng(0)
        yield cls(np.array(-0.1)), ((2, 3),)
        yield cls(r.normal(size=(4, 1, 3))), ((2, 3),)
        yield cls(r.normal(size=(3,))), ((1,),)


@dataclass(frozen=True, eq=False)
class Shift(Affine):
    """y = x + offset with broadcasting. The stored offset may be off the true one by one relative rounding."""

    offset: Array

    def infer(self, *shapes: Shape) -> Shape:
        return broadcast("Shift", shapes[0], tuple(self.offset.shape))

    def linear(self, *inputs: Array) -> Array:
        x = inputs[0]
        out = self.infer(tuple(x.shape[1:]))
        return x if out == tuple(x.shape[1:]) else namespace(x).broadcast_to(spread(x, len(out)), (x.shape[0], *out))

    def forward(self, *inputs: Array) -> Array:
        return spread(inputs[0], self.offset.ndim) + self.offset

    def adjoint(self, gradient: Array, *shapes: Shape) -> tuple[Array, ...]:
        return (fold(gradient, shapes[0]),)

    def magnitude(self) -> Affine:
        return Shift(abs(self.offset))

    def terms(self, *shapes: Shape) -> int:
        return 1 + repeats(shapes[0], self.infer(*shapes))

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        r = np.random.default_rng(0)
        yield cls(np.array(0.3)), ((2, 3),)
        yield cls(r.normal(size=(4, 1, 3))), ((2, 1),)


@dataclass(frozen=True, eq=False)
class Sum(Affine):
    """y = sum_i coefficients[i] * x_i with broadcasting; sums, differences and negation."""

    coefficients: tuple[float, ...]

    def infer(self, *shapes: Shape) -> Shape:
        if len(shapes) != len(self.coefficients):
            raise ShapeError(f"Sum has {len(self.coefficients)} coefficients for {len(shapes)} inputs. Give one for each input.")
        return broadcast("Sum", *shapes)

    def linear(self, *inputs: Array) -> Array:
        rank = max(x.ndim for x in inputs) - 1
        total = None
        for c, x in zip(self.coefficients, inputs, strict=True):
            part = spread(x, rank)
            if total is None:
                total = part if c == 1.0 else c * part
            elif abs(c) == 1.0:
                total = total + part if c == 1.0 else total - part
            else:
                total = total + c * part
        return total

    def forward(self, *inputs: Array) -> Array:
        return self.linear(*inputs)

    def adjoint(self, gradient: Array, *shapes: Shape) -> tuple[Array, ...]:
        folded = [fold(gradient, shape) for shape in shapes]
        return tuple(g if c == 1.0 else c * g for c, g in zip(self.coefficients, folded, strict=True))

    def magnitude(self) -> Affine:
        return Sum(tuple(abs(c) for c in self.coefficients))

    def terms(self, *shapes: Shape) -> int:
        out = self.infer(*shapes)
        longest = max(len(shapes), *(repeats(s, out) for s in shapes)) - 1
        return longest + (0 if all(abs(c) == 1.0 for c in self.coefficients) else 2)

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls((-1.0,)), ((2, 3),)
        yield cls((1.0, -1.0)), ((2, 3), (2, 3))
        yield cls((1.0, 0.1, -2.5)), ((4, 1), (3,), (2, 1, 1))


# Readers


def scaled(emit: Emit, x: Ref, factor: np.ndarray | float) -> Ref:
    """factor * x."""
    factor = np.asarray(factor)
    if factor.ndim == 0 and factor == 1.0:
        return x
    return emit(Sum((float(factor),)), x) if factor.ndim == 0 and abs(factor) == 1.0 else emit(Scale(factor), x)


def shifted(emit: Emit, x: Ref, offset: np.ndarray | float) -> Ref:
    """x + offset; nothing is emitted when that changes neither value nor shape."""
    offset = np.asarray(offset)
    if not offset.any() and fits(offset.shape, x.shape):
        return x
    return emit(Shift(offset), x)


def combined(call: Call, first: object, second: object, a: float = 1.0, b: float = 1.0) -> Ref:
    """a * first + b * second, where one of the two may be constant, and that one minus infinity where it hides an entry."""
    if isinstance(first, Ref) and isinstance(second, Ref):
        return call.emit(Sum((a, b)), first, second)
    if isinstance(first, Ref):
        return _offset(call.emit, scaled(call.emit, first, a), times(second, b))
    if isinstance(second, Ref):
        return _offset(call.emit, scaled(call.emit, second, b), times(first, a))
    raise unsupported(call, "constants only", "Replace it by its value in the model.")


_LEAST = float(np.finfo(np.float32).min)
"""What exporters write for minus infinity."""


def _offset(emit: Emit, x: Ref, offset: np.ndarray) -> Ref:
    hidden = offset <= _LEAST
    if not hidden.any():
        return shifted(emit, x, offset)
    finite = bool(np.isfinite(offset).all())
    y = shifted(emit, x, offset if finite else np.where(hidden, 0, offset))
    return Masked(y.index, y.shape, hidden, finite)


def times(value: object, factor: float) -> np.ndarray:
    """factor * a constant."""
    known = array(value)
    return known if factor == 1.0 else known.astype(np.float64) * factor


@onnx("Add")
@aten("add.Tensor", "add.Scalar", "add_.Tensor")
def _add(call: Call) -> Ref:
    if call.types[-1:] == ("bool",):
        raise unsupported(call, "truth values, whose sum is no number", "Convert them to floats before.")
    return combined(call, call.inputs[0], call.inputs[1], 1.0, _alpha(call))


@onnx("Sub")
@aten("sub.Tensor", "sub.Scalar", "sub_.Tensor")
def _sub(call: Call) -> Ref:
    return combined(call, call.inputs[0], call.inputs[1], 1.0, -_alpha(call))


@aten("rsub.Tensor", "rsub.Scalar")
def _rsub(call: Call) -> Ref:
    return combined(call, call.inputs[0], call.inputs[1], -_alpha(call), 1.0)


def _alpha(call: Call) -> float:
    return float(argument(call, 2, "alpha", 1.0))


@onnx("Sum")
def _sum(call: Call) -> Ref:
    values = [v for v in call.inputs if isinstance(v, Ref)]
    total = values[0] if len(values) == 1 else call.emit(Sum((1.0,) * len(values)), *values)
    for known in (v for v in call.inputs if not isinstance(v, Ref)):
        total = shifted(call.emit, total, array(known))
    return total


@onnx("Mean")
def _mean(call: Call) -> Ref:
    return scaled(call.emit, _sum(call), 1.0 / len(call.inputs))


@onnx("Neg")
@aten("neg.default")
def _neg(call: Call) -> Ref:
    return call.emit(Sum((-1.0,)), variable(call))
