"""Functions that jump: steps, rounding, comparisons and choices by them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ascertain.operators.affine import combined, scaled, shifted
from ascertain.operators.arguments import argument, array, real, unsupported, variable
from ascertain.operators.base import Array, Operator, Ref, Shape, Univariate, namespace
from ascertain.operators.bilinear import multiply
from ascertain.operators.masking import masked
from ascertain.operators.piecewise import Relu
from ascertain.operators.reading import Call, aten, onnx
from ascertain.operators.smooth import quiet

__all__ = ["Ceil", "Floor", "Heaviside", "Round"]


@dataclass(frozen=True, eq=False)
class Heaviside(Univariate):
    """0 left of 0, 1 right of it, and a given value there."""

    at_zero: float
    kinks = (0.0,)

    def f(self, x: Array) -> Array:
        xp = namespace(x)
        # a comparison hides NaN
        return xp.where(x == 0, self.at_zero, xp.where(x > 0, 1.0, xp.where(x < 0, 0.0, x)))

    def derivative(self, x: Array) -> Array:
        return namespace(x).zeros_like(x)

    def surrogate(self, x: Array) -> Array | None:
        # its gradient falls with the distance from the jump but is nowhere 0
        return 0.5 + 0.5 * x / (1 + abs(x))

    def slope_range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        zero, jumps = namespace(lower).zeros_like(lower), self.curved(lower, upper)
        xp = namespace(lower)
        return xp.where(jumps & (not 0 <= self.at_zero <= 1), -np.inf, zero), xp.where(jumps, np.inf, zero)

    def curved(self, lower: Array, upper: Array) -> Array:
        return (lower <= 0) & (upper >= 0) & (lower < upper)

    def candidates(self, lower: Array, upper: Array, slope: Array) -> Iterator[tuple[Array, Array]]:
        xp = namespace(lower)
        yield from super().candidates(lower, upper, slope)
        zero, at_lower = xp.zeros_like(lower), self.f(lower)
        left, right = (lower < 0) & (upper >= 0), (lower <= 0) & (upper > 0)
        yield xp.where(left, zero, lower), xp.where(left, zero, at_lower)
        yield xp.where(right, zero, lower), xp.where(right, zero + 1, at_lower)

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        for value in (0.0, 0.5, 1.0, 3.0):
            yield cls(value), ((2, 3),)


@dataclass(frozen=True, eq=False)
class Staircase(Univariate):
    """A function that rises by 1 at places 1 apart and is constant between them.

    Between jumps f(x) - slope x is a line, and its limits on either side of a jump change by the same amount from each jump to the
    next: the extremes are at the ends of the box, or at its first or last jump.
    """

    phase: ClassVar[float]
    """Where it jumps: at whole numbers plus this."""
    above: ClassVar[float] = 0.0
    """Its value right of the jump at ``phase``."""

    def derivative(self, x: Array) -> Array:
        return namespace(x).zeros_like(x)

    def surrogate(self, x: Array) -> Array | None:
        return x

    def slope_range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        xp = namespace(lower)
        zero = xp.zeros_like(lower)
        return zero, xp.where(self.curved(lower, upper), np.inf, zero)

    def curved(self, lower: Array, upper: Array) -> Array:
        return self.f(lower) != self.f(upper)

    @quiet
    def candidates(self, lower: Array, upper: Array, slope: Array) -> Iterator[tuple[Array, Array]]:
        xp = namespace(lower)
        yield from super().candidates(lower, upper, slope)
        at_lower, a, b = self.f(lower), lower - self.phase, upper - self.phase
        # jumps with a part of the box on their left, then those with a part on their right
        for place, limit in ((xp.floor(a) + 1, -1), (xp.floor(b), -1), (xp.ceil(a), 0), (xp.ceil(b) - 1, 0)):
            jump = place + self.phase
            inside = (jump > lower) & (jump <= upper) if limit else (jump >= lower) & (jump < upper)
            yield xp.where(inside, jump, lower), xp.where(inside, place + (self.above + limit), at_lower)

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls(), ((2, 3),)


@dataclass(frozen=True, eq=False)
class Floor(Staircase):
    """The largest whole number not above x."""

    phase = 0.0

    def f(self, x: Array) -> Array:
        return namespace(x).floor(x)


@dataclass(frozen=True, eq=False)
class Ceil(Staircase):
    """The smallest whole number not below x."""

    phase, above = 0.0, 1.0

    def f(self, x: Array) -> Array:
        return namespace(x).ceil(x)


@dataclass(frozen=True, eq=False)
class Round(Staircase):
    """The nearest whole number, the even one of two equally near."""

    phase, above = 0.5, 1.0

    def f(self, x: Array) -> Array:
        return namespace(x).round(x)


# Readers


@onnx("Floor")
@aten("floor.default", "floor_.default")
def _floor(call: Call) -> Ref:
    return call.emit(Floor(), variable(call))


@onnx("Ceil")
@aten("ceil.default", "ceil_.default")
def _ceil(call: Call) -> Ref:
    return call.emit(Ceil(), variable(call))


@onnx("Round")
@aten("round.default", "round_.default")
def _round(call: Call) -> Ref:
    return call.emit(Round(), variable(call))


@aten("round.decimals")
def _round_decimals(call: Call) -> Ref:
    factor = 10.0 ** int(argument(call, 1, "decimals"))
    return scaled(call.emit, call.emit(Round(), scaled(call.emit, variable(call), factor)), 1 / factor)


@aten("heaviside.default", "heaviside_.default")
def _heaviside(call: Call) -> Ref:
    return call.emit(Heaviside(real(call, 1, "values", None) or 0.0), variable(call))


_AT_EQUAL = {"greater": 0.0, "gt": 0.0, "less": 0.0, "lt": 0.0, "greaterorequal": 1.0, "ge": 1.0, "lessorequal": 1.0, "le": 1.0}


@onnx("Greater", "GreaterOrEqual", "Less", "LessOrEqual")
@aten(*(f"{name}.{kind}" for name in ("gt", "ge", "lt", "le") for kind in ("Scalar", "Tensor")))
def _compare(call: Call) -> Ref:
    name = call.operator.removeprefix("aten.").split(".")[0].lower()
    sign = -1.0 if name.startswith("l") else 1.0
    # torch rounds a bare number to the precision of the tensor, which moves the jump
    precise = "float64" in call.types[:2]
    first, second = (np.float32(v) if isinstance(v, float) and not precise else v for v in call.inputs[:2])
    difference = combined(call, first, second, sign, -sign)
    return call.emit(Heaviside(_AT_EQUAL[name]), difference)


def _true_or_false(call: Call, count: int) -> None:
    """Refuses inputs that are numbers."""
    kinds = [kind for kind in call.types[:count] if kind != "bool"]
    if kinds:
        raise unsupported(call, f"numbers of type {kinds[0] or 'Python'}", "Compare them with another number before.")


@onnx("Not")
@aten("logical_not.default", "bitwise_not.default")
def _not(call: Call) -> Ref:
    _true_or_false(call, 1)
    return shifted(call.emit, scaled(call.emit, variable(call), -1.0), 1.0)


@onnx("And")
@aten("logical_and.default", "bitwise_and.Tensor", "__and__.Tensor")
def _and(call: Call) -> Ref:
    _true_or_false(call, 2)
    return _times(call, call.inputs[0], call.inputs[1], (0.0, 1.0))


@onnx("Or")
@aten("logical_or.default", "bitwise_or.Tensor", "__or__.Tensor")
def _or(call: Call) -> Ref:
    _true_or_false(call, 2)
    a, b = (combined(call, 1.0, c, 1.0, -1.0) if isinstance(c, Ref) else 1.0 - array(c) for c in call.inputs[:2])
    return combined(call, 1.0, _times(call, a, b, (0.0, 1.0)), 1.0, -1.0)


def _times(call: Call, first: object, second: object, known: tuple[float, float] | None = None) -> Ref:
    """The product of two values of which one may be constant."""
    if isinstance(first, Ref) and isinstance(second, Ref):
        return multiply(call.emit, first, second, known)
    return scaled(call.emit, first, array(second)) if isinstance(first, Ref) else scaled(call.emit, variable(call, 1), array(first))


def chosen(call: Call, condition: object, yes: object, no: object) -> Ref:
    """``yes`` where the condition is 1, ``no`` where it is 0."""
    if not isinstance(condition, Ref):
        return _chosen_by_mask(call, np.asarray(condition, dtype=bool), yes, no)
    if not all(isinstance(v, Ref) or np.isfinite(array(v)).all() for v in (yes, no)):
        raise unsupported(call, "an infinite value under a condition computed from the network's input", "Use a finite one.")
    if isinstance(yes, Ref) or isinstance(no, Ref):
        difference: object = combined(call, yes, no, 1.0, -1.0)
    else:
        difference = array(yes) - array(no)
    return combined(call, _times(call, condition, difference), no)


def _chosen_by_mask(call: Call, mask: np.ndarray, yes: object, no: object) -> Ref:
    """``yes`` where a constant mask says so; constants of minus infinity hide what is there."""
    total: Ref | None = None
    hidden: np.ndarray = np.zeros((), dtype=bool)
    offset: np.ndarray = np.zeros(())
    for value, here in ((yes, mask), (no, ~mask)):
        if isinstance(value, Ref):
            part = scaled(call.emit, value, here.astype(np.float64))
            total = part if total is None else combined(call, total, part)
        else:
            known = array(value)
            hidden = hidden | (here & np.isneginf(known))
            offset = offset + np.where(here & ~np.isneginf(known), known, 0.0)
    if total is None:
        raise unsupported(call, "constants only", "Replace it by its value in the model.")
    return masked(shifted(call.emit, total, offset), hidden)


@onnx("Where")
@aten("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def _where(call: Call) -> Ref:
    return chosen(call, *call.inputs[:3])


@aten("masked_fill.Scalar", "masked_fill.Tensor", "masked_fill_.Scalar", "masked_fill_.Tensor")
def _masked_fill(call: Call) -> Ref:
    x, condition, value = call.inputs[:3]
    return chosen(call, condition, value, x)


@onnx("ThresholdedRelu")
@aten("threshold.default", "threshold_.default")
def _threshold(call: Call) -> Ref:
    above, value = real(call, 1, "alpha", 1.0) or 0.0, real(call, 2, "value", 0.0) or 0.0
    shift = shifted(call.emit, variable(call), -above)
    step = scaled(call.emit, call.emit(Heaviside(0.0), shift), above - value)
    return shifted(call.emit, combined(call, call.emit(Relu(), shift), step), value)
