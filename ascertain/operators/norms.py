"""Numbers that sum up many entries and are not linear: norms, sums of squares, variances, log-sum-exp, the largest k."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, prod

from ascertain.operators.affine import Sum, scaled
from ascertain.operators.arguments import argument, integers, unsupported, variable
from ascertain.operators.arrays import position
from ascertain.operators.base import Ref
from ascertain.operators.bilinear import divide
from ascertain.operators.maximum import GroupSort, ReduceMax
from ascertain.operators.movement import axes_of, reshaped, transposed
from ascertain.operators.piecewise import Abs
from ascertain.operators.reading import Call, aten, onnx
from ascertain.operators.reduction import reduced
from ascertain.operators.selection import sliced
from ascertain.operators.smooth import Log, Sqrt, Square
from ascertain.operators.softmax import LogSumExp

__all__: list[str] = []

Reduction = Callable[[Call, Ref, Sequence[int] | None, bool], Ref]


def _sum_square(call: Call, x: Ref, axes: Sequence[int] | None, keepdims: bool) -> Ref:
    return reduced(call, call.emit(Square(), x), axes, keepdims, False)


def _length(call: Call, x: Ref, axes: Sequence[int] | None, keepdims: bool) -> Ref:
    found = axes_of(call, x, axes)
    if prod(x.shape[i] for i in found) == 1:
        return _sum_absolute(call, x, found, keepdims)
    return call.emit(Sqrt(), _sum_square(call, x, found, keepdims))


def _sum_absolute(call: Call, x: Ref, axes: Sequence[int] | None, keepdims: bool) -> Ref:
    return reduced(call, call.emit(Abs(), x), axes, keepdims, False)


def _log_sum(call: Call, x: Ref, axes: Sequence[int] | None, keepdims: bool) -> Ref:
    return call.emit(Log(), reduced(call, x, axes, keepdims, False))


def _log_sum_exp(call: Call, x: Ref, axes: Sequence[int] | None, keepdims: bool) -> Ref:
    found = axes_of(call, x, axes)
    if not found:
        return x
    rest = [i for i in range(len(x.shape)) if i not in found]
    moved = transposed(call, x, (*rest, *found))
    flat = reshaped(call, moved, (*(x.shape[i] for i in rest), prod(x.shape[i] for i in found)))
    shape = [1 if i in found else n for i, n in enumerate(x.shape)]
    y = call.emit(LogSumExp(len(rest)), flat)
    return reshaped(call, y, shape if keepdims else [n for i, n in enumerate(shape) if i in rest])


_REDUCTIONS: dict[str, Reduction] = {
    "ReduceL1": _sum_absolute,
    "ReduceL2": _length,
    "ReduceSumSquare": _sum_square,
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": _log_sum_exp,
}


@onnx(*_REDUCTIONS)
def _reduce(call: Call) -> Ref:
    axes = integers(call, 1, "axes")
    if not axes:
        axes = () if call.attributes.get("noop_with_empty_axes", 0) else None
    return _REDUCTIONS[call.operator](call, variable(call), axes, bool(call.attributes.get("keepdims", 1)))


@aten("logsumexp.default")
def _logsumexp(call: Call) -> Ref:
    return _log_sum_exp(call, variable(call), integers(call, 1, "dim") or None, bool(argument(call, 2, "keepdim", False)))


@aten("linalg_vector_norm.default")
def _norm(call: Call) -> Ref:
    x, order = variable(call), float(argument(call, 1, "ord", 2.0))
    axes, keepdims = integers(call, 2, "dim") or None, bool(argument(call, 3, "keepdim", False))
    if order == inf:
        return call.emit(ReduceMax(axes_of(call, x, axes), keepdims), call.emit(Abs(), x))
    known = {1.0: _sum_absolute, 2.0: _length}.get(order)
    if known is None:
        raise unsupported(call, f"order {order}", "Use order 1, 2 or infinity.")
    return known(call, x, axes, keepdims)


def _spread(call: Call) -> tuple[Ref, Ref]:
    """Variance, or its root, and mean."""
    x, correction = variable(call), float(argument(call, 2, "correction", 1.0))
    axes, keepdims = axes_of(call, x, integers(call, 1, "dim") or None), bool(argument(call, 3, "keepdim", False))
    count = prod(x.shape[i] for i in axes)
    if count <= correction:
        raise unsupported(call, f"{count} entries and correction {correction}", "Give it more entries: it divides by zero.")
    mean = reduced(call, x, axes, True, True)
    squares = call.emit(Square(), call.emit(Sum((1.0, -1.0)), x, mean))
    variance = scaled(call.emit, reduced(call, squares, axes, keepdims, True), count / (count - correction))
    root = ".std" in call.operator
    return call.emit(Sqrt(), variance) if root else variance, reshaped(call, mean, variance.shape)


@aten("var.correction", "std.correction")
def _variance(call: Call) -> Ref:
    return _spread(call)[0]


@aten("var_mean.correction", "std_mean.correction")
def _variance_mean(call: Call) -> tuple[Ref, ...]:
    return _spread(call)


def _largest(call: Call, axis: int, largest: bool, in_order: bool) -> tuple[Ref, ...]:
    """The k largest or smallest entries along an axis, in order."""
    x, count = variable(call), integers(call, 1, "k")
    if not in_order:
        raise unsupported(call, "entries in no order", "Ask for them in order.")
    axis = position(axis, len(x.shape), call.operator)
    if count is None or len(count) != 1 or not 0 < count[0] <= x.shape[axis]:
        raise unsupported(call, f"k = {count} of {x.shape[axis]} entries", "Take at least one entry, and no more than there are.")
    return (sliced(call, call.emit(GroupSort(axis, x.shape[axis], largest), x), {axis: slice(count[0])}),)


@aten("topk.default")
def _topk(call: Call) -> tuple[Ref, ...]:
    last = int(argument(call, 2, "dim", -1))
    return _largest(call, last, bool(argument(call, 3, "largest", True)), bool(argument(call, 4, "sorted", True)))


@onnx("TopK")
def _top_k(call: Call) -> tuple[Ref, ...]:
    get = call.attributes.get
    return _largest(call, int(get("axis", -1)), bool(get("largest", 1)), bool(get("sorted", 1)))


@onnx("LpNormalization")
def _lp_normalization(call: Call) -> Ref:
    x = variable(call)
    axis = position(int(call.attributes.get("axis", -1)), len(x.shape), call.operator)
    norm = _length if int(call.attributes.get("p", 2)) == 2 else _sum_absolute
    return divide(call.emit, x, norm(call, x, (axis,), True))
