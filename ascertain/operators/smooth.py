"""Exponentials, logarithms, roots and powers: smooth functions that bend one way on each side of 0."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

import numpy as np

from ascertain.operators.arguments import variable
from ascertain.operators.base import Array, Operator, Ref, Shape, is_numpy, namespace
from ascertain.operators.curves import Curve, between
from ascertain.operators.reading import Call, aten, onnx

__all__ = ["Exp", "Log", "Reciprocal", "Rsqrt", "Sqrt", "Square"]

quiet = np.errstate(all="ignore")
"""Overflow and numbers outside a domain are meant: they end as infinite bounds."""


@dataclass(frozen=True, eq=False)
class Bent(Curve):
    """A function that is monotone, with a monotone derivative, on every box on which it is defined."""

    def _outward(self, low: Array, high: Array, lower: Array, upper: Array) -> tuple[Array, Array]:
        low, high = super()._outward(low, high, lower, upper)
        known = self.defined(lower, upper)
        if known is True:
            return low, high
        xp = namespace(lower)
        return xp.where(known, low, -inf), xp.where(known, high, inf)

    @quiet
    def interval(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        return self._outward(*_sorted(self.f(lower), self.f(upper)), lower, upper)

    @quiet
    def slope_range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        low, high = _sorted(self.derivative(lower), self.derivative(upper))
        known = self.defined(lower, upper)
        xp = namespace(lower)
        return (low, high) if known is True else (xp.where(known, low, -inf), xp.where(known, high, inf))

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls(), ((2, 3),)


def _sorted(a: Array, b: Array) -> tuple[Array, Array]:
    xp = namespace(a)
    return xp.minimum(a, b), xp.maximum(a, b)


def _positive(x: Array) -> Array:
    """max(x, 0), never -0: it divides."""
    return abs(np.maximum(x, 0) if is_numpy(x) else x.clamp(min=0))


@dataclass(frozen=True, eq=False)
class Exp(Bent):
    """e^x."""

    convex = (True,)

    @quiet
    def f(self, x: Array) -> Array:
        return namespace(x).exp(x)

    def derivative(self, x: Array) -> Array:
        return self.f(x)

    def turns(self, slope: Array) -> tuple[Array, ...]:
        return (namespace(slope).log(_positive(slope)),)


@dataclass(frozen=True, eq=False)
class Log(Bent):
    """Natural logarithm; defined for x > 0."""

    convex = (False,)
    domain = (0.0, inf)

    @quiet
    def f(self, x: Array) -> Array:
        return namespace(x).log(x)

    @quiet
    def derivative(self, x: Array) -> Array:
        return 1 / x

    def defined(self, lower: Array, upper: Array) -> Array:
        return lower > 0

    def turns(self, slope: Array) -> tuple[Array, ...]:
        return (1 / _positive(slope),)


@dataclass(frozen=True, eq=False)
class Sqrt(Bent):
    """Square root; defined for x >= 0, with an infinite derivative at 0."""

    convex = (False,)
    domain = (0.0, inf)

    @quiet
    def f(self, x: Array) -> Array:
        return namespace(x).sqrt(x)

    @quiet
    def derivative(self, x: Array) -> Array:
        return 0.5 / abs(self.f(x))

    def defined(self, lower: Array, upper: Array) -> Array:
        return lower >= 0

    def turns(self, slope: Array) -> tuple[Array, ...]:
        root = 0.5 / _positive(slope)
        return (root * root,)


@dataclass(frozen=True, eq=False)
class Rsqrt(Bent):
    """1 / sqrt(x); defined for x > 0."""

    convex = (True,)
    domain = (0.0, inf)

    @quiet
    def f(self, x: Array) -> Array:
        return 1 / np.sqrt(x) if is_numpy(x) else x.rsqrt()

    @quiet
    def derivative(self, x: Array) -> Array:
        return -0.5 * self.f(x) / x

    def defined(self, lower: Array, upper: Array) -> Array:
        return lower > 0

    def turns(self, slope: Array) -> tuple[Array, ...]:
        return (_positive(-2 * slope) ** (-2 / 3),)


@dataclass(frozen=True, eq=False)
class Reciprocal(Bent):
    """1 / x; defined on boxes without 0."""

    convex = (False, True)

    @quiet
    def f(self, x: Array) -> Array:
        return 1 / x

    @quiet
    def derivative(self, x: Array) -> Array:
        return -1 / (x * x)

    def defined(self, lower: Array, upper: Array) -> Array:
        return (lower > 0) | (upper < 0)

    def turns(self, slope: Array) -> tuple[Array, ...]:
        x = 1 / namespace(slope).sqrt(_positive(-slope))
        return -x, x


@dataclass(frozen=True, eq=False)
class Square(Bent):
    """x^2."""

    convex = (True,)

    @quiet
    def f(self, x: Array) -> Array:
        return x * x

    def derivative(self, x: Array) -> Array:
        return 2 * x

    def turns(self, slope: Array) -> tuple[Array, ...]:
        return (slope / 2,)

    @quiet
    def interval(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        return _even(self, lower, upper)


def _even(operator: Bent, lower: Array, upper: Array) -> tuple[Array, Array]:
    """Range of an even function that rises with |x|."""
    xp = namespace(lower)
    inside = between(xp.zeros_like(lower), lower, upper)
    return operator._outward(operator.f(inside), xp.maximum(operator.f(lower), operator.f(upper)), lower, upper)


# Readers


@onnx("Exp")
@aten("exp.default", "exp_.default")
def _exp(call: Call) -> Ref:
    return call.emit(Exp(), variable(call))


@onnx("Log")
@aten("log.default", "log_.default")
def _log(call: Call) -> Ref:
    return call.emit(Log(), variable(call))


@onnx("Sqrt")
@aten("sqrt.default", "sqrt_.default")
def _sqrt(call: Call) -> Ref:
    return call.emit(Sqrt(), variable(call))


@aten("rsqrt.default", "rsqrt_.default")
def _rsqrt(call: Call) -> Ref:
    return call.emit(Rsqrt(), variable(call))


@onnx("Reciprocal")
@aten("reciprocal.default", "reciprocal_.default")
def _reciprocal(call: Call) -> Ref:
    return call.emit(Reciprocal(), variable(call))


@aten("square.default", "square_.default")
def _square(call: Call) -> Ref:
    return call.emit(Square(), variable(call))
