"""GELU and its kin: x times a gate that opens from 0 to 1 as x rises. Each falls, rises, and ends as x.

f' runs from 0 down to its least value, up to its largest, and down to 1, so f is concave, convex, concave. f' = s has no closed
inverse. It is smooth, though, in variables that take out its square-root ends, and polynomials of those place a point within a few
millionths, or better. Intercepts err by the square of that: `Gated.slack` counts it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import exp, pi, sqrt
from typing import ClassVar

import numpy as np

from ascertain.errors import DataError
from ascertain.operators.affine import scaled
from ascertain.operators.arguments import real, unsupported, variable
from ascertain.operators.base import Array, Operator, Ref, Shape, is_numpy, namespace
from ascertain.operators.curves import Curve, between
from ascertain.operators.reading import Call, aten, onnx

__all__ = ["Gelu", "Hardswish", "Mish", "Silu", "TanhGelu"]

_FAINTEST = exp(-(6.5**2))
"""Slopes nearer to 0 or 1 than this share of the way are taken for it: the tails of f are shorter than a rounding error there."""


def _polynomial(x: Array, coefficients: tuple[float, ...]) -> Array:
    """Sum of c_k x^k. Works in one buffer: fresh memory costs more than the arithmetic."""
    y = x * coefficients[-1]
    for c in coefficients[-2:0:-1]:
        y += c
        y *= x
    y += coefficients[0]
    return y


def _unit(x: Array) -> float:
    """Unit roundoff of an array's type."""
    return float(namespace(x).finfo(x.dtype).eps) / 2


@dataclass(frozen=True, eq=False)
class Dipping(Curve):
    """Concave, convex, concave; falls to one valley and rises after it."""

    convex = (False, True, False)
    valley: ClassVar[float]
    """Where f is least."""
    bends: ClassVar[tuple[float, float]]
    """Where f' is least and largest."""

    def interval(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        xp = namespace(lower)
        with np.errstate(all="ignore"):
            a, b = self.f(lower), self.f(upper)
            least = self.f(xp.minimum(_at_least(lower, self.valley), upper))
            low = xp.minimum(xp.minimum(a, b), least)
            return self._ends(low, xp.maximum(a, b), lower, upper)

    def slope_range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        xp = namespace(lower)
        with np.errstate(all="ignore"):
            a, b = self.derivative(lower), self.derivative(upper)
            left, right = (self.derivative(xp.minimum(_at_least(lower, p), upper)) for p in self.bends)
            return xp.minimum(xp.minimum(a, b), left), xp.maximum(xp.maximum(a, b), right)

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls(), ((2, 3),)


def _at_least(x: Array, low: float) -> Array:
    return np.maximum(x, low) if is_numpy(x) else x.clamp(min=low)


@dataclass(frozen=True, eq=False)
class Gated(Dipping):
    """f(x) = x gate(x), smooth.

    Between the bends x is a polynomial ``middle`` of asin(v), for f' at the share v in [-1, 1] between its extremes.
    Beyond a bend |x| is a polynomial (``left``, ``right``) of sqrt(log(1 / w)), for f' at the share w of its way from the limit.
    """

    slopes: ClassVar[tuple[float, float]]
    """The least and the largest f'."""
    middle: ClassVar[tuple[float, ...]]
    left: ClassVar[tuple[float, ...]]
    right: ClassVar[tuple[float, ...]]
    misplaced: ClassVar[float]
    """Above what these polynomials, and rounded parameters, cost an intercept: twice the most on a fine grid of slopes."""
    residual: ClassVar[float] = 1e-6
    """Above |f'(x) - slope| at their x, also in float32."""

    def turns(self, slope: Array) -> tuple[Array, ...]:
        xp = namespace(slope)
        low, high = self.slopes
        angle = xp.arcsin(between((slope - 0.5 * (low + high)) * (2 / (high - low)), -1.0, 1.0))
        falling, rising = self._tails(slope)
        # the left tail has f' < 0 and the right one f' > 1; for other slopes f(x) - slope x is largest at an end, at infinity
        huge = float(xp.finfo(slope.dtype).max)
        return (
            xp.minimum(-falling, slope * -huge * huge),
            self._middle(angle),
            xp.maximum(rising, (1 - slope) * huge * huge),
        )

    def _middle(self, angle: Array) -> Array:
        return _polynomial(angle, self.middle)

    def _tails(self, slope: Array) -> tuple[Array, Array]:
        """|x| where f' = slope beyond either bend."""
        return _tail(-slope, -self.slopes[0], self.left), _tail(slope - 1, self.slopes[1] - 1, self.right)

    def slack(self, lower: Array, upper: Array) -> Array | float:
        # between the point found and the right one f(x) - slope x is no steeper than the residual
        return _at_most((upper - lower) * self.residual, self.misplaced)


def _at_most(x: Array, high: float) -> Array:
    return np.minimum(x, high) if is_numpy(x) else x.clamp(max=high)


def _tail(excess: Array, top: float, coefficients: tuple[float, ...]) -> Array:
    xp = namespace(excess)
    return _polynomial(xp.sqrt(-xp.log(between(excess * (1 / top), _FAINTEST, 1.0))), coefficients)


@dataclass(frozen=True, eq=False)
class Balanced(Gated):
    """A gate with gate(x) + gate(-x) = 1: then f'(x) + f'(-x) = 1, so one tail serves both sides and ``middle`` is odd."""

    def _middle(self, angle: Array) -> Array:
        return angle * _polynomial(angle * angle, self.middle)

    def _tails(self, slope: Array) -> tuple[Array, Array]:
        found = _tail(namespace(slope).maximum(-slope, slope - 1), self.slopes[1] - 1, self.right)
        return found, found


@dataclass(frozen=True, eq=False)
class Gelu(Balanced):
    """x times the normal distribution function of x."""

    third = 0.7788
    bends = (-1.4142135623730951, 1.4142135623730951)
    valley = -0.75179152469356446
    slopes = (-0.12890414518515478, 1.1289041451851548)
    middle = (
        0.788214634835,
        0.0318585946973,
        0.00358959739949,
        0.000390467273367,
        0.000173410933865,
        -3.88036674392e-05,
        1.28322854277e-05,
    )
    right = (
        1.41421426133,
        0.788035586989,
        0.219958417614,
        -0.0453787020679,
        -0.00314700885695,
        0.00626540554141,
        -0.00230682504893,
        0.000441379589533,
        -4.42279871552e-05,
        1.81754097958e-06,
    )
    misplaced = 2e-13

    def f(self, x: Array) -> Array:
        # left of -40 it is 0 in any precision, and minus infinity would meet 0
        inner = _at_least(x, -40.0)
        return inner * _normal(inner)

    def derivative(self, x: Array) -> Array:
        inner = between(x, -40.0, 40.0)
        return _normal(inner) + inner * namespace(x).exp(-0.5 * inner * inner) / sqrt(2 * pi)

    def slack(self, lower: Array, upper: Array) -> Array | float:
        # the rounding of x / sqrt 2 moves f by at most 0.34 units roundoff beyond its own four last places, on the left alone
        unit = 0.5 * _unit(lower)
        return super().slack(lower, upper) + between(lower * -unit, 0.0, unit)


def _normal(x: Array) -> Array:
    """The normal distribution function, without cancellation on the left."""
    z = x * -sqrt(0.5)
    if not is_numpy(x):
        return z.erfc() * 0.5
    from scipy.special import erfc

    return np.asarray(erfc(z)) * 0.5


@dataclass(frozen=True, eq=False)
class TanhGelu(Balanced):
    """x sigmoid(2 k (x + cubic x^3)) with k = sqrt(2 / pi): the common approximation of `Gelu` by tanh.

    ``cubic`` is 0.044715, perhaps rounded; what is stated here of places and slopes holds within `near`.
    """

    third = 0.777
    cubic: float = 0.044715
    bends = (-1.4185040087908284, 1.4185040087908284)
    valley = -0.75246142207101626
    slopes = (-0.12899306865877177, 1.1289930686587718)
    middle = (
        0.788326077138,
        0.0327178066414,
        0.00369087233159,
        0.000390329247683,
        0.000168966644094,
        -3.71915616801e-05,
        1.24012131113e-05,
    )
    right = (
        1.41850513657,
        0.79360121072,
        0.222420396291,
        -0.050151755576,
        -0.000165131151859,
        -0.00214267025663,
        0.00256814558666,
        -0.000862911174166,
        0.000138831497402,
        -1.10732463327e-05,
        3.50891204597e-07,
    )
    misplaced = 4e-12

    def __post_init__(self) -> None:
        if not self.near(self.cubic):
            raise DataError(f"TanhGelu has the coefficient {self.cubic}. Use 0.044715, or its float32 rounding.")

    @staticmethod
    def near(cubic: float) -> bool:
        """Whether a coefficient is 0.044715 but for rounding: f' differs by less than 1e-7, which `residual` has room for."""
        return abs(cubic - 0.044715) <= 2e-8

    def _gate(self, x: Array) -> Array:
        return x * (sqrt(8 / pi) * (1 + self.cubic * (x * x)))

    def f(self, x: Array) -> Array:
        inner = _at_least(x, -40.0)
        return inner * _sigmoid(self._gate(inner))

    def derivative(self, x: Array) -> Array:
        inner = between(x, -40.0, 40.0)
        z = self._gate(inner)
        gate = _sigmoid(z)
        return gate * (1 + inner * _sigmoid(-z) * (sqrt(8 / pi) * (1 + 3 * self.cubic * inner * inner)))

    def slack(self, lower: Array, upper: Array) -> Array | float:
        # the argument of the gate errs by 5 units roundoff, which moves f by at most 2 beyond its own four last places, on the left
        unit = 2 * _unit(lower)
        return super().slack(lower, upper) + between(lower * -unit, 0.0, unit)


def _sigmoid(x: Array) -> Array:
    if not is_numpy(x):
        return x.sigmoid()
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-x)))


@dataclass(frozen=True, eq=False)
class Silu(Balanced):
    """x sigmoid(x), also called swish."""

    third = 0.3082
    bends = (-2.3993572805154677, 2.3993572805154677)
    valley = -1.2784645427610738
    slopes = (-0.09983932012886692, 1.099839320128867)
    middle = (
        1.19967846721,
        0.0878308867506,
        0.0110005540273,
        0.00189343648528,
        -3.54753104766e-05,
        0.000289937677303,
        -8.6935754552e-05,
        1.81171353258e-05,
    )
    right = (
        2.39935613374,
        1.47710375346,
        0.604839057576,
        0.0616032117961,
        -0.0107976586861,
        0.0327708322128,
        -0.0283338269925,
        0.0117456920529,
        -0.00277215628351,
        0.000382192853509,
        -2.87298112584e-05,
        9.10875953825e-07,
    )
    misplaced = 1e-13

    def f(self, x: Array) -> Array:
        inner = _at_least(x, -1000.0)
        return inner * _sigmoid(inner)

    def derivative(self, x: Array) -> Array:
        inner = between(x, -1000.0, 1000.0)
        return _sigmoid(inner) * (1 + inner * _sigmoid(-inner))


@dataclass(frozen=True, eq=False)
class Mish(Gated):
    """x tanh(log(1 + exp x))."""

    third = 0.5885
    bends = (-2.2563763763607931, 1.4905711794854285)
    valley = -1.1924312145154952
    slopes = (-0.11252612238946256, 1.0884981612517279)
    middle = (
        -0.174247185304,
        0.937919040587,
        -0.0620992982945,
        0.0694056856185,
        -0.006378460046,
        0.0087997382643,
        -0.000721268245718,
        0.000552383747602,
        -0.000114682563774,
        0.000813179479736,
        -3.01737323484e-06,
        -0.000235005620859,
        -5.49221524217e-06,
        5.76102315673e-05,
        2.77812019814e-09,
    )
    left = (
        2.25637602005,
        1.43855917612,
        0.627374715565,
        0.071913889229,
        -0.00626105912601,
        0.0108549668835,
        -0.0112432229363,
        0.00506261372686,
        -0.00125089003456,
        0.000177664384793,
        -1.36454112319e-05,
        4.39929730856e-07,
    )
    right = (
        1.49057179444,
        0.875882286866,
        0.312149796527,
        -0.000673871102046,
        0.00397177705758,
        0.00549897850862,
        -0.00317949800863,
        0.000705948987746,
        -7.39570900763e-05,
        3.0382875184e-06,
    )
    misplaced = 3.2e-13

    def f(self, x: Array) -> Array:
        # with e = exp x the gate is n / (n + 2), n = e (e + 2); right of 20 it is 1 in any precision
        e = namespace(x).exp(between(x, -1000.0, 20.0))
        n = e * (e + 2)
        return _at_least(x, -1000.0) * (n / (n + 2))

    def derivative(self, x: Array) -> Array:
        inner = between(x, -1000.0, 20.0)
        e = namespace(x).exp(inner)
        n = e * (e + 2)
        return n / (n + 2) + inner * (4 * e * (1 + e) / (n + 2) ** 2)


@dataclass(frozen=True, eq=False)
class Hardswish(Dipping):
    """x min(max(x + 3, 0), 6) / 6."""

    bends = (-3.0, 3.0)
    kinks = (-3.0, 3.0)
    valley = -1.5

    def f(self, x: Array) -> Array:
        return _at_least(x, -3.0) * (between(x + 3, 0.0, 6.0) / 6)

    def derivative(self, x: Array) -> Array:
        xp = namespace(x)
        return xp.where(abs(x) <= 3, x / 3 + 0.5, xp.where(x > 0, xp.ones_like(x), 0 * between(x, -1.0, 1.0)))

    def turns(self, slope: Array) -> tuple[Array, ...]:
        # f is straight outside the bends: f(x) - slope x is largest there at a bend or at an end
        huge = float(namespace(slope).finfo(slope.dtype).max)
        left, right = _at_most(slope * -huge * huge, -3.0), _at_least((1 - slope) * huge * huge, 3.0)
        return left, between(3 * slope - 1.5, -3.0, 3.0), right

    def curved(self, lower: Array, upper: Array) -> Array:
        return (lower < 3) & (upper > -3)


# Readers


@onnx("Gelu")
@aten("gelu.default", "gelu_.default")
def _gelu(call: Call) -> Ref:
    form = call.attributes.get("approximate", "none")
    if form not in ("none", "tanh"):
        raise unsupported(call, f"approximate={form!r}", "Use none or tanh.")
    return call.emit(TanhGelu() if form == "tanh" else Gelu(), variable(call))


@aten("silu.default", "silu_.default")
def _silu(call: Call) -> Ref:
    return call.emit(Silu(), variable(call))


@onnx("Swish")
def _swish(call: Call) -> Ref:
    x, alpha = variable(call), real(call, 1, "alpha", 1.0) or 0.0
    if alpha == 0.0:
        return scaled(call.emit, x, 0.5)
    # x sigmoid(a x) = silu(a x) / a
    return scaled(call.emit, call.emit(Silu(), scaled(call.emit, x, alpha)), 1.0 / alpha)


@onnx("Mish")
@aten("mish.default", "mish_.default")
def _mish(call: Call) -> Ref:
    return call.emit(Mish(), variable(call))


@onnx("HardSwish")
@aten("hardswish.default", "hardswish_.default")
def _hardswish(call: Call) -> Ref:
    return call.emit(Hardswish(), variable(call))
