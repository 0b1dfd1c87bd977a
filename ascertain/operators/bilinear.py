"""Products: of two values that both depend on the input (bilinear), and of a value with a constant (affine)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from string import ascii_lowercase

import numpy as np

from ascertain.errors import ShapeError
from ascertain.operators.affine import Dense, MatrixProduct, Sum, combined, scaled, shifted, times
from ascertain.operators.arguments import argument, array, unsupported, variable
from ascertain.operators.arrays import broadcast
from ascertain.operators.base import Array, Bilinear, Emit, Operator, Ref, Shape, namespace
from ascertain.operators.movement import Reshape, Transpose
from ascertain.operators.reading import Call, aten, onnx

__all__ = ["Product", "divide", "matmul", "multiply"]


@dataclass(frozen=True, eq=False)
class Product(Bilinear):
    """The einsum of two values: elementwise product, matrix product, and whatever lies between."""

    def infer(self, *shapes: Shape) -> Shape:
        x, y, out = self.terms
        if (len(x), len(y)) != (len(shapes[0]), len(shapes[1])):
            raise ShapeError(f"Product {self.subscripts} got shapes {shapes[0]} and {shapes[1]}. Give one axis for each letter.")
        size: dict[str, int] = {}
        for letter, n in zip(x + y, (*shapes[0], *shapes[1]), strict=True):
            if size.setdefault(letter, n) != n:
                raise ShapeError(f"Product {self.subscripts} got shapes {shapes[0]} and {shapes[1]}. Axis {letter} differs.")
        return tuple(size[letter] for letter in out)

    def forward(self, *inputs: Array) -> Array:
        x, y, out = self.terms
        xp = namespace(inputs[0])
        if x == y == out:
            return inputs[0] * inputs[1]
        equation = f"Z{x},Z{y}->Z{out}"
        return xp.einsum(equation, *inputs, optimize=True) if xp is np else xp.einsum(equation, *inputs)

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls("ab,ab->ab"), ((2, 3), (2, 3))
        yield cls("a,ba->ba"), ((3,), (2, 3))
        yield cls("hik,hkj->hij"), ((2, 3, 4), (2, 4, 2))
        yield cls("k,k->"), ((4,), (4,))


def _squeezed(emit: Emit, x: Ref, out: Shape, letters: str) -> tuple[Ref, str]:
    """A factor without the axes along which it is repeated, and the letters of those it keeps."""
    mine = letters[len(letters) - len(x.shape) :]
    kept = [n == full for n, full in zip(x.shape, out[len(out) - len(x.shape) :], strict=True)]
    shape = tuple(n for n, keep in zip(x.shape, kept, strict=True) if keep)
    return x if all(kept) else emit(Reshape(shape), x), "".join(c for c, keep in zip(mine, kept, strict=True) if keep)


def multiply(emit: Emit, x: Ref, y: Ref, known: tuple[float, float] | None = None) -> Ref:
    """x * y elementwise, with the broadcasting of numpy; ``known`` is a range that the product is known to lie in."""
    from ascertain.operators.smooth import Square

    if x == y:
        return emit(Square(), x)
    out = broadcast("Mul", x.shape, y.shape)
    letters = ascii_lowercase[: len(out)]
    (a, mine), (b, yours) = _squeezed(emit, x, out, letters), _squeezed(emit, y, out, letters)
    return emit(Product(f"{mine},{yours}->{letters}", known), a, b)


def matmul(emit: Emit, x: Ref, y: Ref) -> Ref:
    """x @ y by the rules of numpy.matmul."""
    if not x.shape or not y.shape:
        raise ShapeError(f"a matrix product of shapes {x.shape} and {y.shape} is not defined. Give each at least one axis.")
    left, right = x.shape[:-2] if len(x.shape) > 1 else (), y.shape[:-2] if len(y.shape) > 1 else ()
    batch = broadcast("MatMul", left, right)
    letters = ascii_lowercase[: len(batch)]
    row, inner, column = "x", "y", "z"
    (a, mine), (b, yours) = _matrices(emit, x, left, batch, letters), _matrices(emit, y, right, batch, letters)
    row, column = (row if len(x.shape) > 1 else ""), (column if len(y.shape) > 1 else "")
    return emit(Product(f"{mine}{row}{inner},{yours}{inner}{column}->{letters}{row}{column}"), a, b)


def _matrices(emit: Emit, x: Ref, own: Shape, batch: Shape, letters: str) -> tuple[Ref, str]:
    """A stack of matrices without the axes along which it is repeated, and the letters of those it keeps."""
    mine = letters[len(letters) - len(own) :]
    kept = [n == full for n, full in zip(own, batch[len(batch) - len(own) :], strict=True)]
    shape = (*(n for n, keep in zip(own, kept, strict=True) if keep), *x.shape[len(own) :])
    return x if all(kept) else emit(Reshape(shape), x), "".join(c for c, keep in zip(mine, kept, strict=True) if keep)


def divide(emit: Emit, x: Ref, y: Ref) -> Ref:
    """x / y elementwise."""
    from ascertain.operators.smooth import Reciprocal

    return multiply(emit, x, emit(Reciprocal(), y))


# Readers


def multiplied(call: Call, matrix: np.ndarray, x: Ref, left: bool) -> Ref:
    """matrix @ x or x @ matrix for any numbers of axes, as numpy.matmul."""
    if not left and matrix.ndim == 2:
        return call.emit(Dense(np.ascontiguousarray(matrix.T)), x)
    flat = len(x.shape) == 1
    column = call.emit(Reshape((*x.shape, 1) if left else (1, *x.shape)), x) if flat else x
    full = matrix if matrix.ndim > 1 else (matrix[None, :] if left else matrix[:, None])
    y = call.emit(MatrixProduct(full, left), column)
    drop = {len(y.shape) - 1 if left else len(y.shape) - 2} if flat else set()
    drop |= {len(y.shape) - 2 if left else len(y.shape) - 1} if matrix.ndim == 1 else set()
    return call.emit(Reshape(tuple(n for i, n in enumerate(y.shape) if i not in drop)), y) if drop else y


def matrix_product(call: Call, first: object, second: object) -> Ref:
    """first @ second."""
    if isinstance(first, Ref) and isinstance(second, Ref):
        return matmul(call.emit, first, second)
    if isinstance(first, Ref):
        return multiplied(call, array(second), first, left=False)
    if not isinstance(second, Ref):
        raise unsupported(call, "a product of constants only", "Replace it by its value in the model.")
    return multiplied(call, array(first), second, left=True)


def dense(call: Call, x: Ref, weight: np.ndarray, bias: object) -> Ref:
    """x @ weight.T + bias for a bias that is a constant of any broadcasting shape, a value, or None."""
    known = None if bias is None or isinstance(bias, Ref) else array(bias)
    fits = known is not None and (known.size == 1 or known.size == weight.shape[0] == known.shape[-1])
    row = np.ascontiguousarray(np.broadcast_to(known.reshape(-1), weight.shape[:1])) if known is not None and fits else None
    y = call.emit(Dense(weight, row), x)
    if isinstance(bias, Ref):
        return call.emit(Sum((1.0, 1.0)), y, bias)
    return y if known is None or fits else shifted(call.emit, y, known)


def general_product(call: Call, a: object, b: object, c: object, alpha: float, beta: float) -> Ref:
    """alpha * a @ b + beta * c for matrices."""
    bias = (
        c
        if c is None or (isinstance(c, Ref) and beta == 1.0)
        else scaled(call.emit, c, beta)
        if isinstance(c, Ref)
        else times(c, beta)
    )
    if isinstance(a, Ref) and not isinstance(b, Ref):
        return dense(call, a, np.ascontiguousarray(times(b, alpha).T), bias)
    y = scaled(call.emit, matrix_product(call, a, b), alpha)
    return y if bias is None else combined(call, y, bias)


def _transposed(call: Call, value: object) -> object:
    return call.emit(Transpose((1, 0)), value) if isinstance(value, Ref) else array(value).T


@onnx("Gemm")
def _gemm(call: Call) -> Ref:
    get = call.attributes.get
    a = _transposed(call, call.inputs[0]) if get("transA", 0) else call.inputs[0]
    b = _transposed(call, call.inputs[1]) if get("transB", 0) else call.inputs[1]
    c = call.inputs[2] if len(call.inputs) > 2 else None
    return general_product(call, a, b, c, float(get("alpha", 1.0)), float(get("beta", 1.0)))


@aten("addmm.default", "baddbmm.default")
def _addmm(call: Call) -> Ref:
    c, a, b = call.inputs[:3]
    alpha, beta = float(call.attributes.get("alpha", 1)), float(call.attributes.get("beta", 1))
    if call.operator.endswith("addmm.default"):
        return general_product(call, a, b, c, alpha, beta)
    return combined(call, matrix_product(call, a, b), c, alpha, beta)


@aten("linear.default")
def _linear(call: Call) -> Ref:
    x, weight = call.inputs[:2]
    bias = argument(call, 2, "bias")
    if isinstance(x, Ref) and not isinstance(weight, Ref):
        known = array(weight)
        return dense(call, x, known, bias) if known.ndim == 2 else _biased(call, multiplied(call, known, x, left=False), bias)
    turned = call.emit(Transpose((1, 0)), weight) if isinstance(weight, Ref) and len(weight.shape) == 2 else weight
    return _biased(call, matrix_product(call, x, turned), bias)


def _biased(call: Call, y: Ref, bias: object) -> Ref:
    return y if bias is None else combined(call, y, bias)


@onnx("MatMul")
@aten("mm.default", "matmul.default", "bmm.default", "mv.default", "dot.default")
def _matmul(call: Call) -> Ref:
    return matrix_product(call, *call.inputs[:2])


@onnx("Mul")
@aten("mul.Tensor", "mul.Scalar", "mul_.Tensor")
def _mul(call: Call) -> Ref:
    first, second = call.inputs[:2]
    if isinstance(first, Ref) and isinstance(second, Ref):
        return multiply(call.emit, first, second)
    return scaled(call.emit, first, array(second)) if isinstance(first, Ref) else scaled(call.emit, second, array(first))


@onnx("Div")
@aten("div.Tensor", "div.Scalar", "div_.Tensor")
def _div(call: Call) -> Ref:
    divided, divisor = call.inputs[:2]
    if isinstance(divisor, Ref):
        from ascertain.operators.smooth import Reciprocal

        if not isinstance(divided, Ref):
            return scaled(call.emit, call.emit(Reciprocal(), divisor), array(divided))
        return divide(call.emit, divided, divisor)
    known = array(divisor).astype(np.float64)
    # the reciprocal is then normal, so that it is within one relative rounding of the true one
    if not (np.isfinite(known).all() and (abs(known) > 1e-300).all() and (abs(known) < 1e300).all()):
        raise unsupported(call, "a divisor that is zero, infinite or NaN", "Check the model's constants.")
    return scaled(call.emit, variable(call), 1.0 / known)
