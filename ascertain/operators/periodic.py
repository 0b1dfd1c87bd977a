"""Sine, cosine and tangent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, pi

from ascertain.operators.arguments import variable
from ascertain.operators.base import Array, Operator, Ref, Shape, Univariate, namespace, side
from ascertain.operators.reading import Call, aten, onnx
from ascertain.operators.smooth import fixed, quiet

__all__ = ["Cos", "Sin", "Tan"]


def _misplaced(lower: Array, upper: Array) -> Array:
    """Above the error of a sum of at most 4 rounded terms, each at most max|x| + 8 on the box."""
    xp = namespace(lower)
    return 4 * xp.finfo(lower.dtype).eps * (xp.maximum(-lower, upper) + 8)


@dataclass(frozen=True, eq=False)
class Wave(Univariate):
    """A function of period 2 pi with values from -1 to 1.

    The hollows of f(x) - slope x lie 2 pi apart, each 2 pi slope lower than the one before: the lowest on a box is its last one,
    or its first where the slope is negative. The highest crest is at the other end. One hollow or crest too few or too many near an
    end of the box is as good as one misplaced, because the end itself is a candidate.
    """

    def turns(self, slope: Array) -> tuple[Array, Array]:
        """One hollow and one crest of f(x) - slope x, both in [-4, 8]; NaN where |slope| > 1."""
        raise NotImplementedError

    def _turn(self, lower: Array, upper: Array, slope: Array, above: Array | bool) -> Array:
        """The lowest hollow, or highest crest, that can be in the box; somewhere in the box where none is."""
        xp, sign = namespace(lower), side(above, lower)
        hollow, crest = self.turns(slope)
        first = (crest if above else hollow) if isinstance(above, bool) else xp.where(above, crest, hollow)
        period = xp.copysign(xp.full_like(slope, 2 * pi), slope)
        end = xp.where((period > 0) == above, lower, upper)
        period = sign * period
        place = first + period * xp.floor((end - first) / period)
        # a place outside the box is replaced before it is used, so that no NaN enters the gradient
        return xp.where((place >= lower) & (place <= upper), place, lower)

    @quiet
    def stationary(self, slope: Array, lower: Array, upper: Array) -> tuple[Array, ...]:
        return tuple(self._turn(lower, upper, fixed(slope), above) for above in (False, True))

    def slack(self, lower: Array, upper: Array) -> Array:
        # f'' is at most 1, and no value in the box differs by more than 2 from those at the ends
        error = _misplaced(lower, upper)
        return (error * error).clip(max=2)

    @quiet
    def support(self, lower: Array, upper: Array, slope: Array, above: Array | bool) -> tuple[Array, Array]:
        xp, sign = namespace(lower), side(above, lower)
        best, last = sign * (self.f(lower) - slope * lower), sign * (self.f(upper) - slope * upper)
        at = xp.where(last < best, upper, lower)
        best = xp.minimum(best, last)
        turn = self._turn(lower, upper, fixed(slope), above)
        last = sign * (self.f(turn) - slope * turn)
        at = xp.where(last < best, turn, at)
        best = xp.minimum(best, last) - self.slack(lower, upper)
        return sign * xp.where(best < inf, best, -inf), at

    @quiet
    def interval(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        xp = namespace(lower)
        low, high = self.intercepts(lower, upper, xp.zeros((), dtype=lower.dtype))
        # infinite where an end is NaN, or infinite, which tells nothing only while the box may be shorter than a period
        low, high = xp.where(low > -inf, low.clip(min=-1), low), xp.where(high < inf, high.clip(max=1), high)
        whole = upper - lower > 2 * pi
        return xp.where(whole, -1.0, low), xp.where(whole, 1.0, high)


@dataclass(frozen=True, eq=False)
class Sin(Wave):
    """sin(x)."""

    third = 1.0

    @quiet
    def f(self, x: Array) -> Array:
        return namespace(x).sin(x)

    @quiet
    def derivative(self, x: Array) -> Array:
        return namespace(x).cos(x)

    def turns(self, slope: Array) -> tuple[Array, Array]:
        crest = namespace(slope).arccos(slope)
        return -crest, crest

    def slope_range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        return Cos().interval(lower, upper)

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls(), ((2, 3),)


@dataclass(frozen=True, eq=False)
class Cos(Wave):
    """cos(x)."""

    third = 1.0

    @quiet
    def f(self, x: Array) -> Array:
        return namespace(x).cos(x)

    @quiet
    def derivative(self, x: Array) -> Array:
        return -namespace(x).sin(x)

    def turns(self, slope: Array) -> tuple[Array, Array]:
        angle = namespace(slope).arcsin(slope)
        return pi + angle, -angle

    def slope_range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        low, high = Sin().interval(lower, upper)
        return -high, -low

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls(), ((2, 3),)


@dataclass(frozen=True, eq=False)
class Tan(Univariate):
    """tan(x); defined on boxes without a pole."""

    @quiet
    def f(self, x: Array) -> Array:
        return namespace(x).tan(x)

    @quiet
    def derivative(self, x: Array) -> Array:
        y = namespace(x).tan(x)
        return 1 + y * y

    @quiet
    def defined(self, lower: Array, upper: Array) -> Array:
        # tan rises between poles, and over one pole it falls unless the box is as wide as a period
        return (upper - lower < 3.1415) & (self.f(lower) <= self.f(upper))

    @quiet
    def stationary(self, slope: Array, lower: Array, upper: Array) -> tuple[Array, ...]:
        xp = namespace(lower)
        centre = lower - xp.arctan(self.f(lower))
        angle = xp.arctan(xp.sqrt(fixed(slope) - 1))
        return centre - angle, centre + angle

    @quiet
    def slack(self, lower: Array, upper: Array) -> Array:
        # a candidate off by e costs at most max|f''| e^2 / 2, with f'' = 2 tan (1 + tan^2) on a box widened by e
        xp = namespace(lower)
        error = _misplaced(lower, upper)
        steep = xp.maximum(abs(self.f(lower)), abs(self.f(upper))) + error
        return xp.where(steep * error < 0.25, 4 * steep * (1 + steep * steep) * error * error, inf)

    @quiet
    def interval(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        xp = namespace(lower)
        known = self.defined(lower, upper)
        return xp.where(known, self.f(lower), -inf), xp.where(known, self.f(upper), inf)

    @quiet
    def slope_range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        xp = namespace(lower)
        first, last, known = self.derivative(lower), self.derivative(upper), self.defined(lower, upper)
        least = xp.where(self.f(lower) * self.f(upper) <= 0, 1.0, xp.minimum(first, last))
        return xp.where(known, least, -inf), xp.where(known, xp.maximum(first, last), inf)

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls(), ((2, 3),)


# Readers


@onnx("Sin")
@aten("sin.default", "sin_.default")
def _sin(call: Call) -> Ref:
    return call.emit(Sin(), variable(call))


@onnx("Cos")
@aten("cos.default", "cos_.default")
def _cos(call: Call) -> Ref:
    return call.emit(Cos(), variable(call))


@onnx("Tan")
@aten("tan.default", "tan_.default")
def _tan(call: Call) -> Ref:
    return call.emit(Tan(), variable(call))
