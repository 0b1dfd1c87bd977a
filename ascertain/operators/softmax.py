"""Softmax and its logarithm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from ascertain.operators.affine import Sum
from ascertain.operators.arguments import argument, unsupported, variable
from ascertain.operators.arrays import position
from ascertain.operators.base import Array, Composite, Emit, Operator, Planar, Ref, Shape, is_numpy, namespace
from ascertain.operators.masking import over_shown
from ascertain.operators.movement import reshaped
from ascertain.operators.reading import Call, Masked, aten, onnx

__all__ = ["LogSoftmax", "LogSumExp", "Softmax"]


def _along(axis: int, shapes: tuple[Shape, ...], name: str) -> int:
    return position(axis, len(shapes[0]), name)


def _shifted(x: Array, axis: int) -> tuple[Array, Array]:
    """exp(x - largest entry), and that entry, along an axis."""
    xp = namespace(x)
    top = xp.amax(x, axis, keepdims=True)
    return xp.exp(x - top), top


def _chords(lower: Array, upper: Array, top: Array) -> tuple[Array, Array]:
    """Slope and value at ``lower`` of the chords of exp(x - top) on [lower, upper]."""
    xp = namespace(lower)
    low, high, width = xp.exp(lower - top), xp.exp(upper - top), upper - lower
    # where the box is small the difference of the two would cancel
    small = width < 1
    divisor = xp.where(width > 0, width, 1.0)
    near = low * xp.where(width > 0, xp.expm1(xp.where(small, width, 1.0)) / divisor, 1.0)
    return xp.where(small, near, (high - low) / divisor), low


def _others(lower: Array, upper: Array) -> Array:
    """log of exp(lower_k) + sum over j != k of exp(upper_j), less lower_k: ``(B, G, n)``."""
    xp = namespace(lower)
    gap = upper[:, :, None, :] - lower[:, :, :, None]
    n = range(lower.shape[-1])
    gap[:, :, n, n] = 0.0
    top = xp.amax(gap, -1, keepdims=True)
    return top[..., 0] + xp.log(xp.exp(gap - top).sum(-1))


@dataclass(frozen=True, eq=False)
class Softmax(Planar):
    """exp(x_i) / sum_j exp(x_j) along an axis. Planes: Wei et al. 2023, "Convex Bounds on the Softmax Function"."""

    total = 1.0

    def infer(self, *shapes: Shape) -> Shape:
        _along(self.axis, shapes, self.name)
        return shapes[0]

    def preserves_order(self, *shapes: Shape) -> bool:
        # within a group all entries are scaled alike; between groups nothing is known
        return shapes[0][self.axis] == prod(shapes[0])

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        if not is_numpy(x):
            return x.softmax(self.axis + 1)
        e, _ = _shifted(x, self.axis + 1)
        return e / e.sum(axis=self.axis + 1, keepdims=True)

    def grouped(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        xp = namespace(lower)
        # differences of entries are rounded relative to themselves, which exp turns into an absolute error of its argument
        unsure = 8 * xp.finfo(lower.dtype).eps
        return xp.exp(-_others(lower, upper) * (1 + unsure)), xp.exp(-_others(upper, lower) * (1 - unsure))

    def planes(self, lower: Array, upper: Array, at: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        xp = namespace(lower)
        n = range(lower.shape[-1])
        # below: exp(x_k) over the sum of chords is convex, so that its tangent at the point is a lower bound
        top = xp.amax(upper, -1, keepdims=True)
        chord, start = _chords(lower, upper, top)
        total = (start + chord * (at - lower)).sum(-1, keepdims=True)
        value = xp.exp(at - top) / total
        below = -value[..., None] * (chord / total)[..., None, :]
        below[:, :, n, n] += value
        # above: p = exp(t) for the concave t = x_k - logsumexp(x): the chord of exp, then the tangent of t
        t_low, t_high = -_others(lower, upper), -_others(upper, lower)
        slope, base = _chords(t_low, t_high, xp.zeros_like(t_low))
        e, peak = _shifted(at, -1)
        sums = e.sum(-1, keepdims=True)
        here = at - peak - xp.log(sums)
        above = -slope[..., None] * (e / sums)[..., None, :]
        above[:, :, n, n] += slope
        return (
            (below, value - (below * at[..., None, :]).sum(-1)),
            (above, base + slope * (here - t_low) - (above * at[..., None, :]).sum(-1)),
        )

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls(0), ((5,),)
        yield cls(1), ((2, 3, 4),)
        yield cls(1), ((1, 4, 1),)


@dataclass(frozen=True, eq=False)
class LogSumExp(Planar):
    """log sum_j exp(x_j) along an axis, which keeps size 1."""

    def infer(self, *shapes: Shape) -> Shape:
        axis = _along(self.axis, shapes, self.name)
        return tuple(1 if i == axis else n for i, n in enumerate(shapes[0]))

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        if not is_numpy(x):
            return x.logsumexp(self.axis + 1, keepdim=True)
        e, top = _shifted(x, self.axis + 1)
        return top + np.log(e.sum(axis=self.axis + 1, keepdims=True))

    def grouped(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        xp = namespace(lower)
        (low, a), (high, b) = _shifted(lower, -1), _shifted(upper, -1)
        # the logarithm may cancel the entry, but not its error
        slack = 8 * (lower.shape[-1] + 1) * xp.finfo(lower.dtype).eps
        return a + xp.log(low.sum(-1, keepdims=True)) - slack, b + xp.log(high.sum(-1, keepdims=True)) + slack

    def planes(self, lower: Array, upper: Array, at: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        xp = namespace(lower)
        # below: the tangent of a convex function; above: the tangent of the logarithm of the sum of chords
        e, peak = _shifted(at, -1)
        sums = e.sum(-1, keepdims=True)
        below = e / sums
        top = xp.amax(upper, -1, keepdims=True)
        chord, start = _chords(lower, upper, top)
        total = (start + chord * (at - lower)).sum(-1, keepdims=True)
        above = chord / total
        return (
            (below[..., None, :], peak + xp.log(sums) - (below * at).sum(-1, keepdims=True)),
            (above[..., None, :], top + xp.log(total) - (above * at).sum(-1, keepdims=True)),
        )

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls(0), ((5,),)
        yield cls(1), ((2, 3, 4),)


@dataclass(frozen=True, eq=False)
class LogSoftmax(Composite):
    """x_i - log sum_j exp(x_j) along an axis."""

    axis: int

    def infer(self, *shapes: Shape) -> Shape:
        _along(self.axis, shapes, self.name)
        return shapes[0]

    def preserves_order(self, *shapes: Shape) -> bool:
        return shapes[0][self.axis] == prod(shapes[0])

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return x - LogSumExp(self.axis).forward(x)

    def expand(self, emit: Emit, *inputs: Ref) -> Ref:
        return emit(Sum((1.0, -1.0)), inputs[0], emit(LogSumExp(self.axis), inputs[0]))

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls(0), ((5,),)
        yield cls(2), ((2, 3, 4),)


# Readers


def softmax(call: Call, x: Ref, axis: int) -> Ref:
    """Softmax along an axis >= 0, over what a mask shows where there is one."""
    return over_shown(call, x, axis, Softmax(1)) if isinstance(x, Masked) else call.emit(Softmax(axis), x)


@onnx("Softmax", masks=True)
@onnx("LogSoftmax")
def _softmax_onnx(call: Call) -> Ref:
    x, kind = variable(call), Softmax if call.operator == "Softmax" else LogSoftmax
    old = call.opset < 13
    axis = position(int(call.attributes.get("axis", 1 if old else -1)), len(x.shape), call.operator)
    if not old or prod(x.shape[axis + 1 :]) == 1:
        return softmax(call, x, axis) if kind is Softmax else call.emit(kind(axis), x)
    if isinstance(x, Masked):
        raise unsupported(call, "a mask over several axes", "Export the model with opset 13 or later.")
    # until opset 12 all axes from the given one on form one group
    flat = reshaped(call, x, (prod(x.shape[:axis]), prod(x.shape[axis:])))
    return reshaped(call, call.emit(kind(1), flat), x.shape)


@aten("softmax.int", "_softmax.default", masks=True)
@aten("log_softmax.int", "_log_softmax.default")
def _softmax_aten(call: Call) -> Ref:
    x, kind = variable(call), LogSoftmax if "log" in call.operator else Softmax
    dtype = argument(call, 2, "dtype") if call.operator.endswith(".int") else None
    if dtype is not None and str(dtype) not in ("torch.float32", "torch.float64"):
        raise unsupported(call, f"conversion to {dtype}", "Compute it in float32 or float64.")
    axis = position(int(argument(call, 1, "dim")), len(x.shape), call.operator)
    return softmax(call, x, axis) if kind is Softmax else call.emit(kind(axis), x)
