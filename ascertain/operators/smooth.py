"""Exponentials, logarithms, roots and powers: smooth functions that bend one way on each side of 0."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import exp, inf, log, log1p

import numpy as np

from ascertain.operators.affine import scaled, shifted
from ascertain.operators.arguments import real, unsupported, variable
from ascertain.operators.base import Array, Operator, Ref, Shape, Univariate, is_numpy, namespace
from ascertain.operators.curves import Curve, between
from ascertain.operators.reading import Call, aten, onnx

__all__ = ["Elu", "Exp", "Log", "Reciprocal", "Rsqrt", "Softplus", "Sqrt", "Square"]

quiet = np.errstate(all="ignore")
"""Overflow and numbers outside a domain are meant: they end as infinite bounds."""


@dataclass(frozen=True, eq=False)
class Bent(Curve):
    """A function that is monotone, with a monotone derivative, on every box on which it is defined."""

    def _outward(self, least: Array, lower: Array, upper: Array) -> Array:
        least, known = super()._outward(least, lower, upper), self.defined(lower, upper)
        return least if known is True else namespace(lower).where(known, least, -inf)

    @quiet
    def interval(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        return self._ends(*_sorted(self.f(lower), self.f(upper)), lower, upper)

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


def fixed(slope: Array) -> Array:
    """A slope that points are computed from: moving a point where a line touches changes nothing to first order."""
    return slope if is_numpy(slope) else slope.detach()


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

    third = 0.0
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


@dataclass(frozen=True, eq=False)
class Softplus(Bent):
    """log(1 + e^x). Computed as x above a threshold, it is off by at most log(1 + e^-threshold) there: bounds hold for both."""

    third = 0.0963
    threshold: float = inf
    convex = (True,)

    @quiet
    def f(self, x: Array) -> Array:
        if is_numpy(x):
            return np.logaddexp(0, x)
        return namespace(x).nn.functional.softplus(x, threshold=40.0)

    @quiet
    def derivative(self, x: Array) -> Array:
        return 1 / (1 + namespace(x).exp(-x))

    def turns(self, slope: Array) -> tuple[Array, ...]:
        return (namespace(slope).log(_positive(slope) / _positive(1 - slope)),)

    def slack(self, lower: Array, upper: Array) -> Array | float:
        if self.threshold == inf:
            return 0.0
        xp = namespace(upper)
        return xp.where(upper > self.threshold, log1p(exp(-self.threshold)), xp.zeros_like(upper))

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls(), ((2, 3),)
        yield cls(20.0), ((2, 3),)


@dataclass(frozen=True, eq=False)
class Elu(Univariate):
    """x for x > 0, alpha (e^x - 1) below, for a positive alpha."""

    alpha: float = 1.0
    kinks = (0.0,)

    def f(self, x: Array) -> Array:
        xp = namespace(x)
        return xp.where(x > 0, x, self.alpha * xp.expm1(x.clip(max=0)))

    def derivative(self, x: Array) -> Array:
        xp = namespace(x)
        return xp.where(x > 0, 1.0, self.alpha * xp.exp(x.clip(max=0)))

    @quiet
    def stationary(self, slope: Array, lower: Array, upper: Array) -> tuple[Array, ...]:
        return (namespace(slope).log(_positive(fixed(slope)) / self.alpha),)

    def slope_range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        xp = namespace(lower)
        low, high = _sorted(self.derivative(lower), self.derivative(upper))
        bent = (lower <= 0) & (upper >= 0)
        least, most = sorted((1.0, self.alpha))
        return xp.where(bent, low.clip(max=least), low), xp.where(bent, high.clip(min=most), high)

    def curved(self, lower: Array, upper: Array) -> Array:
        return (lower < 0) & (lower < upper)

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls(), ((2, 3),)
        yield cls(1.6732632423543772), ((3,),)
        yield cls(0.25), ((3,),)


def _even(operator: Bent, lower: Array, upper: Array) -> tuple[Array, Array]:
    """Range of an even function that rises with |x|."""
    xp = namespace(lower)
    inside = between(xp.zeros_like(lower), lower, upper)
    return operator._ends(operator.f(inside), xp.maximum(operator.f(lower), operator.f(upper)), lower, upper)


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


@aten("log2.default", "log2_.default")
def _log2(call: Call) -> Ref:
    return scaled(call.emit, call.emit(Log(), variable(call)), 1 / log(2))


@aten("log10.default", "log10_.default")
def _log10(call: Call) -> Ref:
    return scaled(call.emit, call.emit(Log(), variable(call)), 1 / log(10))


@aten("log1p.default", "log1p_.default")
def _log1p(call: Call) -> Ref:
    return call.emit(Log(), shifted(call.emit, variable(call), 1.0))


@aten("expm1.default", "expm1_.default")
def _expm1(call: Call) -> Ref:
    return shifted(call.emit, call.emit(Exp(), variable(call)), -1.0)


@aten("exp2.default", "exp2_.default")
def _exp2(call: Call) -> Ref:
    return call.emit(Exp(), scaled(call.emit, variable(call), log(2)))


def _number(call: Call, position: int, name: str, default: float) -> float:
    """A finite, positive constant."""
    value = real(call, position, name, default)
    if value is None or not 0 < value < inf:
        raise unsupported(call, f"{name} = {value}", "Use a positive number.")
    return value


@onnx("Softplus")
@aten("softplus.default")
def _softplus(call: Call) -> Ref:
    beta, threshold = _number(call, 1, "beta", 1.0), inf
    if call.operator != "Softplus":
        threshold = _number(call, 2, "threshold", 20.0)
        if threshold < 10:
            raise unsupported(call, f"threshold {threshold:g}, at which it jumps,", "Use the default of 20.")
    return scaled(call.emit, call.emit(Softplus(threshold), scaled(call.emit, variable(call), beta)), 1 / beta)


def _elu(call: Call, alpha: float, scale: float, input_scale: float) -> Ref:
    """scale * Elu(alpha) of input_scale * x."""
    return scaled(call.emit, call.emit(Elu(alpha), scaled(call.emit, variable(call), input_scale)), scale)


@onnx("Elu")
def _elu_onnx(call: Call) -> Ref:
    return _elu(call, _number(call, 1, "alpha", 1.0), 1.0, 1.0)


@aten("elu.default", "elu_.default")
def _elu_aten(call: Call) -> Ref:
    alpha, scale = _number(call, 1, "alpha", 1.0), _number(call, 2, "scale", 1.0)
    inward = _number(call, 3, "input_scale", 1.0)
    # right of 0 it is scale * x, whatever the input is scaled with
    return _elu(call, alpha * inward, scale / inward, inward)


@onnx("Selu")
@aten("selu.default", "selu_.default")
def _selu(call: Call) -> Ref:
    alpha, gamma = _number(call, 1, "alpha", 1.6732632423543772), _number(call, 2, "gamma", 1.0507009873554805)
    return _elu(call, alpha, gamma, 1.0)


@onnx("Celu")
@aten("celu.default", "celu_.default")
def _celu(call: Call) -> Ref:
    alpha = _number(call, 1, "alpha", 1.0)
    return _elu(call, 1.0, alpha, 1 / alpha)
