"""Piecewise linear functions of one variable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ascertain.operators.affine import Scale, Shift, Sum, scaled, shifted
from ascertain.operators.arguments import argument, array, constant, real, unsupported, variable
from ascertain.operators.arrays import fits
from ascertain.operators.base import Array, Composite, Emit, Operator, Ref, Shape, Univariate, is_numpy, namespace
from ascertain.operators.reading import Call, aten, onnx

__all__ = ["Abs", "Clip", "LeakyRelu", "PiecewiseLinear", "Relu", "Sign"]


@dataclass(frozen=True, eq=False)
class Relu(Univariate):
    """max(x, 0): the one nonlinearity into which every continuous piecewise linear operator expands."""

    rectifier = True
    kinks = (0.0,)

    def f(self, x: Array) -> Array:
        return np.maximum(x, 0) if is_numpy(x) else x.relu()

    def derivative(self, x: Array) -> Array:
        return namespace(x).where(x > 0, x * 0 + 1, x * 0)

    def slope_range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        return _slopes(lower, upper, 0.0, 1.0)

    def curved(self, lower: Array, upper: Array) -> Array:
        return (lower < 0) & (upper > 0)

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls(), ((2, 3),)


def _slopes(lower: Array, upper: Array, left: Array | float, right: Array | float) -> tuple[Array, Array]:
    """Range of the derivative of a function with one slope left and one right of 0."""
    xp = namespace(lower)
    first = xp.where(lower > 0, right + xp.zeros_like(lower), left + xp.zeros_like(lower))
    last = xp.where(upper < 0, left + xp.zeros_like(lower), right + xp.zeros_like(lower))
    return xp.minimum(first, last), xp.maximum(first, last)


@dataclass(frozen=True, eq=False)
class PiecewiseLinear(Univariate, Composite):
    """A continuous piecewise linear function: states its own lines, and expands into affine maps and `Relu`."""


@dataclass(frozen=True, eq=False)
class LeakyRelu(PiecewiseLinear):
    """x for x > 0, slope * x below; the slope is a number, or an array that broadcasts to the input (PReLU)."""

    slope: Array | float
    kinks = (0.0,)

    def f(self, x: Array) -> Array:
        return namespace(x).where(x > 0, x, self.slope * x)

    def derivative(self, x: Array) -> Array:
        return namespace(x).where(x > 0, x * 0 + 1, x * 0 + self.slope)

    def slope_range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        return _slopes(lower, upper, self.slope, 1.0)

    def curved(self, lower: Array, upper: Array) -> Array:
        return (lower < 0) & (upper > 0)

    def expand(self, emit: Emit, *inputs: Ref) -> Ref:
        (x,) = inputs
        rectified = emit(Relu(), x)
        if isinstance(self.slope, float):
            return emit(Sum((self.slope, 1.0 - self.slope)), x, rectified)
        rest = 1.0 - self.slope.astype(np.float64)
        return emit(Sum((1.0, 1.0)), emit(Scale(self.slope), x), emit(Scale(rest), rectified))

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls(0.125), ((2, 3),)
        yield cls(-1.5), ((4,),)
        yield cls(np.array([[0.25], [2.0]])), ((1, 2, 3),)


@dataclass(frozen=True, eq=False)
class Abs(PiecewiseLinear):
    """|x|."""

    kinks = (0.0,)

    def f(self, x: Array) -> Array:
        return abs(x)

    def derivative(self, x: Array) -> Array:
        return namespace(x).sign(x)

    def slope_range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        return _slopes(lower, upper, -1.0, 1.0)

    def curved(self, lower: Array, upper: Array) -> Array:
        return (lower < 0) & (upper > 0)

    def expand(self, emit: Emit, *inputs: Ref) -> Ref:
        return emit(Sum((2.0, -1.0)), emit(Relu(), inputs[0]), inputs[0])

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls(), ((2, 3),)


@dataclass(frozen=True, eq=False)
class Clip(PiecewiseLinear):
    """min(max(x, lower), upper); either may be None, a number, or an array that broadcasts to the input."""

    lower: Array | float | None
    upper: Array | float | None

    def kink_points(self) -> tuple[Array, ...]:
        return tuple(b for b in (self.lower, self.upper) if b is not None)

    def f(self, x: Array) -> Array:
        if is_numpy(x):
            y = x if self.lower is None else np.maximum(x, self.lower)
            return y if self.upper is None else np.minimum(y, self.upper)
        y = x if self.lower is None else x.clamp(min=self.lower)
        return y if self.upper is None else y.clamp(max=self.upper)

    def derivative(self, x: Array) -> Array:
        return namespace(x).where(self.f(x) == x, x * 0 + 1, x * 0)

    def slope_range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        flat, rising = lower != lower, lower == lower
        if self.lower is not None:
            flat, rising = flat | (lower <= self.lower), rising & (upper >= self.lower)
        if self.upper is not None:
            flat, rising = flat | (upper >= self.upper), rising & (lower <= self.upper)
        one = namespace(lower).ones_like(lower)
        return namespace(lower).where(flat, one * 0, one), namespace(lower).where(rising, one, one * 0)

    def curved(self, lower: Array, upper: Array) -> Array:
        kinks = self.kink_points()
        inside = [(lower < k) & (upper > k) for k in kinks]
        return inside[0] | inside[-1] if inside else lower != lower

    def expand(self, emit: Emit, *inputs: Ref) -> Ref:
        y = inputs[0]
        # nested, so that an interval of the result never leaves [lower, upper]
        if self.lower is not None:
            y = shifted(emit, emit(Relu(), shifted(emit, y, np.negative(self.lower))), self.lower)
        if self.upper is not None:
            y = emit(Relu(), emit(Shift(np.asarray(self.upper)), emit(Sum((-1.0,)), y)))
            y = emit(Shift(np.asarray(self.upper)), emit(Sum((-1.0,)), y))
        return y

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls(0.0, 6.0), ((2, 3),)
        yield cls(-1.0, None), ((3,),)
        yield cls(None, 0.75), ((3,),)
        yield cls(np.array([-1.0, 0.0, 0.5]), np.array([1.0, 0.0, 0.25])), ((2, 3),)


@dataclass(frozen=True, eq=False)
class Sign(Univariate):
    """-1, 0 or 1. It jumps at 0: bounds on an interval that touches 0 count the value there and the limits from inside."""

    kinks = (0.0,)

    def f(self, x: Array) -> Array:
        # torch gives 0 for NaN, which must stay visible
        return np.sign(x) if is_numpy(x) else x.sign().where(x == x, x)

    def derivative(self, x: Array) -> Array:
        return x * 0

    def surrogate(self, x: Array) -> Array | None:
        # its gradient falls with the distance from the jump but is nowhere 0
        return x / (1 + abs(x))

    def slope_range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        zero = namespace(lower).zeros_like(lower)
        return zero, namespace(lower).where((lower <= 0) & (upper >= 0) & (lower < upper), zero + np.inf, zero)

    def curved(self, lower: Array, upper: Array) -> Array:
        return (lower <= 0) & (upper >= 0) & (lower < upper)

    def candidates(self, lower: Array, upper: Array, slope: Array) -> Iterator[tuple[Array, Array]]:
        xp = namespace(lower)
        yield from super().candidates(lower, upper, slope)
        zero, at_lower = xp.zeros_like(lower), self.f(lower)
        left, right = (lower < 0) & (upper >= 0), (lower <= 0) & (upper > 0)
        yield xp.where(left, zero, lower), xp.where(left, zero - 1, at_lower)
        yield xp.where(right, zero, lower), xp.where(right, zero + 1, at_lower)

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls(), ((2, 3),)


# Readers


@onnx("Relu")
@aten("relu.default", "relu_.default")
def _relu(call: Call) -> Ref:
    return call.emit(Relu(), variable(call))


@onnx("LeakyRelu")
@aten("leaky_relu.default", "leaky_relu_.default")
def _leaky_relu(call: Call) -> Ref:
    name = "alpha" if call.operator == "LeakyRelu" else "negative_slope"
    return call.emit(LeakyRelu(float(argument(call, 1, name, 0.01))), variable(call))


@onnx("PRelu")
@aten("prelu.default", "_prelu_kernel.default")
def _prelu(call: Call) -> Ref:
    x, slope = variable(call), constant(call, 1, "weight")
    if slope is None:
        raise unsupported(call, "no slope", "Give it as a constant.")
    if slope.size == 1:
        return call.emit(LeakyRelu(float(slope.reshape(-1)[0])), x)
    if call.operator == "aten.prelu.default":
        slope = slope.reshape(-1, *[1] * (len(x.shape) - 2))
    if not fits(slope.shape, x.shape):
        raise unsupported(call, f"slopes of shape {slope.shape} for an input of shape {x.shape}", "Reshape the slopes.")
    return call.emit(LeakyRelu(slope), x)


@onnx("Abs")
@aten("abs.default")
def _abs(call: Call) -> Ref:
    return call.emit(Abs(), variable(call))


@onnx("Sign")
@aten("sign.default", "sgn.default")
def _sign(call: Call) -> Ref:
    return call.emit(Sign(), variable(call))


def bound(value: object, *, lower: bool) -> Array | float | None:
    """A bound of a clip: None where it binds no float32, a number where it is one for all entries."""
    if value is None:
        return None
    known = array(value)
    largest = float(np.finfo(np.float32).max)
    if (known <= -largest).all() if lower else (known >= largest).all():
        return None
    return float(known.reshape(-1)[0]) if known.size == 1 else np.clip(known, -largest, largest)


def clipped(call: Call, x: Ref, lower: object, upper: object) -> Ref:
    """min(max(x, lower), upper) for constants or None."""
    if isinstance(lower, Ref) or isinstance(upper, Ref):
        raise unsupported(call, "bounds computed from the network's input", "Use Max and Min.")
    low, high = bound(lower, lower=True), bound(upper, lower=False)
    shapes = [np.shape(b) for b in (low, high) if b is not None]
    if not all(fits(s, x.shape) for s in shapes):
        raise unsupported(call, f"bounds of shapes {shapes} for an input of shape {x.shape}", "Expand the input first.")
    if low is None and high is None:
        return x
    return call.emit(Relu() if high is None and isinstance(low, float) and low == 0.0 else Clip(low, high), x)


@onnx("Clip")
@aten("clamp.default", "clamp.Tensor", "clamp_.default", "clip.default")
def _clip(call: Call) -> Ref:
    return clipped(call, variable(call), argument(call, 1, "min"), argument(call, 2, "max"))


@aten("clamp_min.default", "clamp_min.Tensor")
def _clamp_min(call: Call) -> Ref:
    return clipped(call, variable(call), argument(call, 1, "min"), None)


@aten("clamp_max.default", "clamp_max.Tensor")
def _clamp_max(call: Call) -> Ref:
    return clipped(call, variable(call), None, argument(call, 1, "max"))


@aten("hardtanh.default", "hardtanh_.default")
def _hardtanh(call: Call) -> Ref:
    return clipped(call, variable(call), argument(call, 1, "min_val", -1.0), argument(call, 2, "max_val", 1.0))


@aten("relu6.default", "relu6_.default")
def _relu6(call: Call) -> Ref:
    return clipped(call, variable(call), 0.0, 6.0)


@onnx("HardSigmoid")
def _hard_sigmoid_onnx(call: Call) -> Ref:
    alpha, beta = real(call, 1, "alpha", 0.2), real(call, 2, "beta", 0.5)
    line = shifted(call.emit, scaled(call.emit, variable(call), alpha or 0.0), beta or 0.0)
    return call.emit(Clip(0.0, 1.0), line)


@aten("hardsigmoid.default", "hardsigmoid_.default")
def _hard_sigmoid_aten(call: Call) -> Ref:
    return scaled(call.emit, call.emit(Clip(0.0, 6.0), shifted(call.emit, variable(call), 3.0)), 1.0 / 6.0)
