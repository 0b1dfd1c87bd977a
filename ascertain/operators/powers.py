"""Powers with a constant exponent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, isfinite

import numpy as np

from ascertain.errors import DataError
from ascertain.operators.arguments import constant, unsupported, variable
from ascertain.operators.base import Array, Emit, Operator, Ref, Shape, Univariate, is_numpy, namespace
from ascertain.operators.reading import Call, aten, onnx
from ascertain.operators.smooth import Reciprocal, Rsqrt, Sqrt, Square, fixed, quiet

__all__ = ["Power", "RealPower"]


@dataclass(frozen=True, eq=False)
class Power(Univariate):
    """x^n for a whole n other than 0 and 1; negative powers are defined on boxes without 0."""

    exponent: float

    def __post_init__(self) -> None:
        n = self.exponent
        # nearer to 1 the place where the derivative has a given value is lost to rounding
        if not isfinite(n) or n == 0 or abs(n - 1) < 1e-3 or (type(self) is Power and n != round(n)):
            raise DataError(f"{type(self).__name__} cannot take the exponent {n}. Use another operator for it.")

    @quiet
    def f(self, x: Array) -> Array:
        return x**self.exponent

    @quiet
    def derivative(self, x: Array) -> Array:
        return self.exponent * x ** (self.exponent - 1)

    @quiet
    def stationary(self, slope: Array, lower: Array, upper: Array) -> tuple[Array, ...]:
        xp, root = namespace(slope), 1 / (self.exponent - 1)
        slope = fixed(slope)
        x = abs(slope) ** root * abs(self.exponent) ** -root
        # the derivative of an even power is odd, and the other way round
        return (xp.copysign(x, slope * self.exponent),) if self.exponent % 2 == 0 else (-x, x)

    def defined(self, lower: Array, upper: Array) -> Array | bool:
        return True if self.exponent > 0 else (lower > 0) | (upper < 0)

    @quiet
    def slope_range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        xp = namespace(lower)
        first, last, known = self.derivative(lower), self.derivative(upper), self.defined(lower, upper)
        low, high = xp.minimum(first, last), xp.maximum(first, last)
        if self.exponent > 0:
            # 0 for odd powers, and between the ends for even ones
            low = xp.where((lower < 0) & (upper > 0), low.clip(max=0), low)
        return (low, high) if known is True else (xp.where(known, low, -inf), xp.where(known, high, inf))

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        for n in (2.0, 3.0, 4.0, 7.0, -1.0, -2.0, -3.0):
            yield cls(n), ((2, 3),)


@dataclass(frozen=True, eq=False)
class RealPower(Power):
    """x^p for a real p; defined for x >= 0, or x > 0 where p is negative."""

    domain = (0.0, inf)

    @quiet
    def f(self, x: Array) -> Array:
        return self._raised(x, self.exponent)

    @quiet
    def derivative(self, x: Array) -> Array:
        return self.exponent * self._raised(x, self.exponent - 1)

    def _raised(self, x: Array, exponent: float) -> Array:
        if float(np.float32(exponent)) == exponent:
            return x**exponent
        # the exponent rounded to float32 would be another function
        return (x.astype(np.float64) ** exponent).astype(x.dtype) if is_numpy(x) else (x.double() ** exponent).to(x.dtype)

    def defined(self, lower: Array, upper: Array) -> Array:
        return lower >= 0 if self.exponent > 0 else lower > 0

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        for p in (0.5, 1.5, 0.3, 2.7, -0.5, -1.3):
            yield cls(p), ((2, 3),)


def power(emit: Emit, x: Ref, exponent: float) -> Ref:
    """x^exponent, for an exponent other than 0."""
    if exponent == 1:
        return x
    known: dict[float, Operator] = {2.0: Square(), 0.5: Sqrt(), -0.5: Rsqrt(), -1.0: Reciprocal()}
    if exponent in known:
        return emit(known[exponent], x)
    return emit(Power(exponent) if exponent == round(exponent) else RealPower(exponent), x)


@onnx("Pow")
@aten("pow.Tensor_Scalar", "pow_.Scalar", "pow.Tensor_Tensor")
def _pow(call: Call) -> Ref:
    x, exponents = variable(call), constant(call, 1, "exponent")
    if exponents is None or not exponents.size or not (exponents == exponents.reshape(-1)[0]).all():
        raise unsupported(call, "exponents that differ", "Give one exponent for all entries.")
    exponent = float(exponents.reshape(-1)[0])
    if not isfinite(exponent) or exponent == 0 or 0 < abs(exponent - 1) < 1e-3:
        raise unsupported(call, f"exponent {exponent:g}", "Replace it by a constant or by another exponent.")
    return power(call.emit, x, exponent)
