"""Sigmoid and its kin: rising functions of one variable, steepest at 0."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import pi, sqrt

import numpy as np

from ascertain.operators.arguments import variable
from ascertain.operators.base import Array, Operator, Ref, Shape, is_numpy, namespace
from ascertain.operators.curves import Curve, between
from ascertain.operators.reading import Call, aten, onnx

__all__ = ["Atan", "Erf", "LogSigmoid", "Sigmoid", "Softsign", "Tanh"]


@dataclass(frozen=True, eq=False)
class Rising(Curve):
    """A rising f: its range on a box lies between its values at the ends."""

    def interval(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        xp = namespace(lower)
        with np.errstate(all="ignore"):
            a, b = self.f(lower), self.f(upper)
            # both count for both: f rises only up to its rounding, and NaN at either end leaves nothing known
            return self._ends(xp.minimum(a, b), xp.maximum(a, b), lower, upper)


@dataclass(frozen=True, eq=False)
class SShaped(Rising):
    """A rising f, convex left of 0 and concave right of it, whose derivative is even."""

    convex = (True, False)

    def turn(self, slope: Array) -> Array:
        """The x >= 0 where f'(x) = slope: infinite for slopes below 0, and 0 for slopes above f'(0)."""
        raise NotImplementedError

    def turns(self, slope: Array) -> tuple[Array, ...]:
        q = self.turn(slope)
        return -q, q

    def slope_range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        xp = namespace(lower)
        with np.errstate(all="ignore"):
            nearest = xp.maximum(xp.maximum(lower, -upper), xp.zeros_like(lower))
            a, b = self.derivative(xp.maximum(-lower, upper)), self.derivative(nearest)
            return xp.minimum(a, b), xp.maximum(a, b)

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls(), ((2, 3),)


def _share(x: Array) -> Array:
    """A slope as a share of the steepest, from 0 (never -0: it divides) to 1."""
    return abs(between(x, 0.0, 1.0))


def _bell(x: Array) -> Array:
    """exp(-|x|) / (1 + exp(-|x|))^2, without overflow."""
    e = namespace(x).exp(-abs(x))
    return e / (1 + e) ** 2


@dataclass(frozen=True, eq=False)
class Sigmoid(SShaped):
    """1 / (1 + exp(-x))."""

    third = 0.125

    def f(self, x: Array) -> Array:
        if not is_numpy(x):
            return x.sigmoid()
        e = np.exp(-abs(x))
        return np.where(x < 0, e, 1) / (1 + e)

    def derivative(self, x: Array) -> Array:
        return _bell(x)

    def turn(self, slope: Array) -> Array:
        # with r = sqrt(1 - 4 s): exp(q) = (1 + r)^2 / (4 s)
        xp = namespace(slope)
        t = _share(4 * slope)
        return xp.log((1 + xp.sqrt(1 - t)) ** 2 / t)


@dataclass(frozen=True, eq=False)
class Tanh(SShaped):
    """tanh x."""

    third = 2.0

    def f(self, x: Array) -> Array:
        return namespace(x).tanh(x)

    def derivative(self, x: Array) -> Array:
        return 4 * _bell(2 * x)

    def turn(self, slope: Array) -> Array:
        # f' = 1 - f^2, and exp(2 q) = (1 + f) / (1 - f)
        xp = namespace(slope)
        t = _share(slope)
        return 0.5 * xp.log((1 + xp.sqrt(1 - t)) ** 2 / t)


@dataclass(frozen=True, eq=False)
class Atan(SShaped):
    """arctan x."""

    third = 2.0

    def f(self, x: Array) -> Array:
        return namespace(x).arctan(x)

    def derivative(self, x: Array) -> Array:
        return 1 / (1 + x * x)

    def turn(self, slope: Array) -> Array:
        t = _share(slope)
        return namespace(slope).sqrt((1 - t) / t)


@dataclass(frozen=True, eq=False)
class Erf(SShaped):
    """2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x."""

    third = 2.2568

    def f(self, x: Array) -> Array:
        if not is_numpy(x):
            return x.erf()
        from scipy.special import erf

        return np.asarray(erf(x))

    def derivative(self, x: Array) -> Array:
        return 2 / sqrt(pi) * namespace(x).exp(-x * x)

    def turn(self, slope: Array) -> Array:
        xp = namespace(slope)
        return xp.sqrt(-xp.log(_share(slope * (sqrt(pi) / 2))))


@dataclass(frozen=True, eq=False)
class Softsign(SShaped):
    """x / (1 + |x|)."""

    def f(self, x: Array) -> Array:
        # beyond these ends it is -1 and 1 in any precision, and infinity would divide infinity
        inner = between(x, -1e30, 1e30)
        return inner / (1 + abs(inner))

    def derivative(self, x: Array) -> Array:
        return 1 / (1 + abs(x)) ** 2

    def turn(self, slope: Array) -> Array:
        # (1 + q)^2 = 1 / t
        t = _share(slope)
        return (1 - t) / (t + namespace(slope).sqrt(t))


@dataclass(frozen=True, eq=False)
class LogSigmoid(Rising):
    """The logarithm of the sigmoid: -log(1 + exp(-x)), concave."""

    third = 0.0963
    convex = (False,)

    def f(self, x: Array) -> Array:
        if is_numpy(x):
            return np.minimum(x, 0) - np.log1p(np.exp(-abs(x)))
        from torch.nn.functional import logsigmoid

        return logsigmoid(x)

    def derivative(self, x: Array) -> Array:
        return Sigmoid().f(-x)

    def turns(self, slope: Array) -> tuple[Array, ...]:
        t = _share(slope)
        return (namespace(slope).log((1 - t) / t),)

    def slope_range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        xp = namespace(lower)
        with np.errstate(all="ignore"):
            a, b = self.derivative(upper), self.derivative(lower)
            return xp.minimum(a, b), xp.maximum(a, b)

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls(), ((2, 3),)


# Readers


@onnx("Sigmoid")
@aten("sigmoid.default", "sigmoid_.default")
def _sigmoid(call: Call) -> Ref:
    return call.emit(Sigmoid(), variable(call))


@onnx("Tanh")
@aten("tanh.default", "tanh_.default")
def _tanh(call: Call) -> Ref:
    return call.emit(Tanh(), variable(call))


@onnx("Atan")
@aten("atan.default", "atan_.default", "arctan.default", "arctan_.default")
def _atan(call: Call) -> Ref:
    return call.emit(Atan(), variable(call))


@onnx("Erf")
@aten("erf.default", "erf_.default", "special_erf.default")
def _erf(call: Call) -> Ref:
    return call.emit(Erf(), variable(call))


@onnx("Softsign")
def _softsign(call: Call) -> Ref:
    return call.emit(Softsign(), variable(call))


@aten("log_sigmoid.default")
def _log_sigmoid(call: Call) -> Ref:
    return call.emit(LogSigmoid(), variable(call))
