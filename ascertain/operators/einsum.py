"""Einsum, in sums, products with constants and products of two values."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from string import ascii_lowercase

import numpy as np

from ascertain.errors import ShapeError
from ascertain.operators.affine import Dense, MatrixProduct, Scale
from ascertain.operators.arguments import array, unsupported
from ascertain.operators.base import Ref, Shape
from ascertain.operators.bilinear import Product
from ascertain.operators.movement import reshaped, transposed
from ascertain.operators.reading import Call, aten, onnx
from ascertain.operators.reduction import reduced

__all__: list[str] = []

Operand = tuple[Ref | np.ndarray, str]
"""A value or a constant, and a letter for each of its axes."""


@onnx("Einsum")
@aten("einsum.default")
def _einsum(call: Call) -> Ref:
    equation = str(call.attributes["equation"] if call.operator == "Einsum" else call.inputs[0])
    given = call.inputs if call.operator == "Einsum" else call.inputs[1]
    values = [v if isinstance(v, Ref) else array(v) for v in given]
    *terms, out = _letters(call, equation, [len(v.shape) for v in values])
    operands = list(zip(values, terms, strict=True))
    while len(operands) > 1:
        first, second, *others = operands
        wanted = out + "".join(letters for _, letters in others)
        operands = [_pair(call, first, second, _kept(first[1] + second[1], wanted)), *others]
    y, letters = _summed(call, operands[0], out)
    if not isinstance(y, Ref):
        raise unsupported(call, "constants only", "Replace it by its value in the model.")
    if sorted(letters) != sorted(out):
        raise ShapeError(f"{call.operator} {equation!r} names an axis of the result that no operand has. Leave it out.")
    return transposed(call, y, [letters.index(c) for c in out])


def _kept(letters: str, wanted: str) -> str:
    return "".join(dict.fromkeys(c for c in letters if c in wanted))


def _letters(call: Call, equation: str, ranks: Sequence[int]) -> list[str]:
    """One letter from a to z for each axis of all operands and of the result; what an ellipsis stands for gets letters too."""
    inputs, arrow, out = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    named = [len(t.replace("...", "")) for t in terms]
    fits = len(terms) == len(ranks) and all(
        rank >= n if "..." in t else rank == n for t, n, rank in zip(terms, named, ranks, strict=False)
    )
    if not fits:
        raise ShapeError(f"{call.operator} {equation!r} does not fit operands of {list(ranks)} axes. Give each axis a letter.")
    widths = [rank - n for rank, n in zip(ranks, named, strict=True)]
    # no characters that may stand in an equation
    dots = "".join(map(str, range(max(widths))))
    found = [t.replace("...", dots[len(dots) - w :]) for t, w in zip(terms, widths, strict=True)]
    if any(len(set(t)) < len(t) for t in found):
        raise unsupported(call, f"a letter twice in one operand of {equation!r}", "Take the diagonal before.")
    once = "".join(sorted(c for c in set(inputs) if c.isalpha() and inputs.count(c) == 1))
    found.append(out.replace("...", dots) if arrow else dots + once)
    plain = dict(zip(dict.fromkeys("".join(found)), ascii_lowercase, strict=False))
    return ["".join(plain[c] for c in term) for term in found]


def _summed(call: Call, operand: Operand, wanted: str) -> Operand:
    """An operand summed over the letters that nothing else wants."""
    value, letters = operand
    axes = [i for i, c in enumerate(letters) if c not in wanted]
    if not axes:
        return operand
    summed = reduced(call, value, axes, False, False) if isinstance(value, Ref) else value.sum(tuple(axes))
    return summed, _kept(letters, wanted)


def _pair(call: Call, first: Operand, second: Operand, out: str) -> Operand:
    """The einsum of two operands, whose sizes of 1 are repeated."""
    sizes = [(c, n) for value, letters in (first, second) for c, n in zip(letters, value.shape, strict=True)]
    size = {c: max(n for d, n in sizes if d == c) for c, _ in sizes}
    if any(n not in (1, size[c]) for c, n in sizes):
        shapes = f"{first[0].shape} and {second[0].shape}"
        raise ShapeError(f"{call.operator} got operands of shapes {shapes}, in which one letter has two sizes. Make them equal.")
    first, second = _thinned(call, first, size), _thinned(call, second, size)
    first, second = _summed(call, first, second[1] + out), _summed(call, second, first[1] + out)
    (x, a), (y, b) = first, second
    if isinstance(x, Ref):
        return (call.emit(Product(f"{a},{b}->{out}"), x, y), out) if isinstance(y, Ref) else (_constant(call, x, a, y, b, out), out)
    return (_constant(call, y, b, x, a, out) if isinstance(y, Ref) else np.einsum(f"{a},{b}->{out}", x, y)), out


def _thinned(call: Call, operand: Operand, size: dict[str, int]) -> Operand:
    """An operand without the axes of size 1 along which it is repeated."""
    value, letters = operand
    kept = [(n, c) for n, c in zip(value.shape, letters, strict=True) if n == size[c]]
    shape: Shape = tuple(n for n, _ in kept)
    return reshaped(call, value, shape) if isinstance(value, Ref) else value.reshape(shape), "".join(c for _, c in kept)


def _constant(call: Call, x: Ref, a: str, known: np.ndarray, b: str, out: str) -> Ref:
    """The einsum of a value and a constant: the matrix product that sums over the letters of both that the result lacks."""
    batch, inner = _kept(a, "".join(c for c in b if c in out)), "".join(c for c in a if c in b and c not in out)
    free, new = "".join(c for c in a if c not in b), "".join(c for c in b if c not in a)
    size = dict(zip(a + b, (*x.shape, *known.shape), strict=True))
    lead, summed, rows, columns = (tuple(size[c] for c in part) for part in (batch, inner, free, new))
    x = transposed(call, x, [a.index(c) for c in batch + free + inner])
    matrix = known.transpose([b.index(c) for c in batch + new + inner])
    if not inner and not new:
        y = call.emit(Scale(matrix.reshape(*lead, *[1] * len(free))), x)
    elif not batch:
        flat = reshaped(call, x, (*rows, prod(summed)))
        y = call.emit(Dense(np.ascontiguousarray(matrix.reshape(prod(columns), prod(summed)))), flat)
    else:
        right = matrix.reshape(*lead, prod(columns), prod(summed)).swapaxes(-1, -2)
        flat = reshaped(call, x, (*lead, prod(rows), prod(summed)))
        y = call.emit(MatrixProduct(np.ascontiguousarray(right), False), flat)
    order = batch + free + new
    return transposed(call, reshaped(call, y, (*lead, *rows, *columns)), [order.index(c) for c in out])
