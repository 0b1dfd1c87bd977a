"""Derivatives as operators: whatever bounds a network bounds its Jacobian too.

`pullback` writes how a gradient passes through an operator, in operators: transposes of affine maps, derivatives of functions of
one variable times the gradient, the product rule. Gradients have a leading axis of size R, one entry for each row of the Jacobian.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from string import ascii_lowercase
from typing import ClassVar, Self

import numpy as np

from ascertain.errors import ShapeError
from ascertain.operators.affine import Dense, Sum
from ascertain.operators.base import Affine, Array, Bilinear, Emit, Operator, Planar, Ref, Shape, Univariate, namespace, side
from ascertain.operators.bilinear import Product
from ascertain.operators.movement import Reshape, Transpose
from ascertain.operators.periodic import Sin
from ascertain.operators.sigmoidal import Tanh
from ascertain.operators.smooth import quiet
from ascertain.operators.softmax import LogSumExp, Softmax
from ascertain.operators.steps import Heaviside

__all__ = ["Adjoint", "Derivative", "Slope", "pullback"]


@dataclass(frozen=True, eq=False)
class Adjoint(Affine):
    """The transpose of an affine map with respect to one of its inputs, on ``(R, *output shape)``."""

    operator: Affine
    shapes: tuple[Shape, ...]
    place: int

    def infer(self, *shapes: Shape) -> Shape:
        out = self.operator.infer(*self.shapes)
        if tuple(shapes[0][1:]) != tuple(out):
            raise ShapeError(f"the transpose of {self.operator.name} takes (R, *{out}), got {shapes[0]}. Reshape the gradient.")
        return (shapes[0][0], *self.shapes[self.place])

    def linear(self, *inputs: Array) -> Array:
        (g,) = inputs
        flat = g.reshape(-1, *g.shape[2:])
        return self.operator.adjoint(flat, *self.shapes)[self.place].reshape(*g.shape[:2], *self.shapes[self.place])

    def forward(self, *inputs: Array) -> Array:
        return self.linear(*inputs)

    def adjoint(self, gradient: Array, *shapes: Shape) -> tuple[Array, ...]:
        flat = gradient.reshape(-1, *self.shapes[self.place])
        still = [namespace(flat).zeros((len(flat), *s), dtype=flat.dtype, **_device(flat)) for s in self.shapes]
        still[self.place] = flat
        y = self.operator.linear(*still)
        return (y.reshape(*gradient.shape[:2], *y.shape[1:]),)

    def magnitude(self) -> Affine:
        return replace(self, operator=self.operator.magnitude())

    def terms(self, *shapes: Shape) -> int:
        return self.operator.terms(*self.shapes)

    def arrays(self) -> dict[str, Array]:
        return self.operator.arrays()

    def convert(self, function: Callable[[Array], Array]) -> Self:
        return replace(self, operator=self.operator.convert(function))

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        r = np.random.default_rng(0)
        yield cls(Dense(r.normal(size=(4, 7)), r.normal(size=4)), ((7,),), 0), ((3, 4),)
        yield cls(Sum((1.0, -2.5)), ((4, 1), (3,)), 1), ((2, 4, 3),)
        yield cls(Transpose((1, 0)), ((2, 3),), 0), ((1, 3, 2),)


def _device(x: Array) -> dict[str, object]:
    return {} if namespace(x) is np else {"device": x.device}


@dataclass(frozen=True, eq=False)
class Slope(Heaviside):
    """The slopes of max(x, 0): 0 left of 0, 1 right of it; at 0 bounds count everything between."""

    at_zero: float = field(default=0.5, init=False)

    def curved(self, lower: Array, upper: Array) -> Array:
        return (lower <= 0) & (upper >= 0)

    def candidates(self, lower: Array, upper: Array, slope: Array) -> Iterator[tuple[Array, Array]]:
        yield from super().candidates(lower, upper, slope)
        xp = namespace(lower)
        zero, touched = xp.zeros_like(lower), self.curved(lower, upper)
        for end in (0.0, 1.0):
            yield xp.where(touched, zero, lower), xp.where(touched, zero + end, self.f(lower))

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls(), ((2, 3),)


@dataclass(frozen=True, eq=False)
class Derivative(Univariate):
    """f'(x) of a function of one variable; where f has a kink, bounds count both sides and everything between.

    The range of f' on a box is what f states as its slopes. Lines come from a grid: between neighbours f'(x) - slope x is off the
    larger (or smaller) of the two by at most sup |f'''| h^2 / 8, or, where that is not known, within the slopes of f on the cell.
    """

    operator: Univariate
    cells: ClassVar[int] = 16

    @property
    def domain(self) -> tuple[float, float]:  # type: ignore[override]
        return self.operator.domain

    def kink_points(self) -> tuple[Array, ...]:
        return self.operator.kink_points()

    def infer(self, *shapes: Shape) -> Shape:
        return self.operator.infer(*shapes)

    def arrays(self) -> dict[str, Array]:
        return self.operator.arrays()

    def convert(self, function: Callable[[Array], Array]) -> Self:
        return replace(self, operator=self.operator.convert(function))

    def f(self, x: Array) -> Array:
        return namespace(x).where(x == x, self.operator.derivative(x), x)

    @quiet
    def derivative(self, x: Array) -> Array:
        step = namespace(x).maximum(abs(x), x * 0 + 1) * 1e-5
        return (self.operator.derivative(x + step) - self.operator.derivative(x - step)) / (2 * step)

    def slope_range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        xp = namespace(lower)
        return xp.full_like(lower, -np.inf), xp.full_like(lower, np.inf)

    def defined(self, lower: Array, upper: Array) -> Array | bool:
        return self.operator.defined(lower, upper)

    @quiet
    def interval(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        known, (low, high) = self.defined(lower, upper), self._range(lower, upper)
        return _finite_end(low, known), -_finite_end(-high, known)

    def _range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """The slopes of f, rounded outward; infinite where an end is no number."""
        low, high = self.operator.slope_range(lower, upper)
        unsure = 1e-12 if namespace(lower).finfo(lower.dtype).eps < 1e-10 else 1e-5
        spoiled = (lower + upper) * 0
        return low - unsure * (1 + abs(low)) + spoiled, high + unsure * (1 + abs(high)) + spoiled

    @quiet
    def support(self, lower: Array, upper: Array, slope: Array, above: Array | bool) -> tuple[Array, Array]:
        xp, sign = namespace(lower), side(above, lower)
        at, least, known = lower, None, None
        before, h = lower, (upper - lower) * (1.0 / self.cells)
        smooth = np.isfinite(self.operator.third)
        for k in range(self.cells + 1):
            p = upper if k == self.cells else xp.minimum(lower + k * h, upper)
            rest = sign * (self.f(p) - slope * p)
            if least is None:
                least = rest
            at, least = xp.where(rest < least, p, at), xp.where(rest < least, rest, least)
            if k and not smooth:
                cell = self._least(before, p, slope, above)
                known = cell if known is None else xp.minimum(known, cell)
            before = p
        if smooth:
            unsure = 1e-12 if xp.finfo(lower.dtype).eps < 1e-10 else 1e-5
            room = self.operator.third * (0.126 * h * h) + unsure * (1 + abs(slope) * xp.maximum(abs(lower), abs(upper)))
            known = least - room
        best = xp.maximum(self._least(lower, upper, slope, above), known)
        return sign * _finite_end(best, self.defined(lower, upper)), at

    def _least(self, lower: Array, upper: Array, slope: Array, above: Array | bool) -> Array:
        """What f'(x) - slope x, or its negative for lines ``above``, is at least by the slopes of f."""
        xp = namespace(lower)
        low, high = self._range(lower, upper)
        a, b = slope * lower, slope * upper
        if isinstance(above, bool):
            return xp.minimum(a, b) - high if above else low - xp.maximum(a, b)
        return xp.where(above, xp.minimum(a, b) - high, low - xp.maximum(a, b))

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls(Tanh()), ((2, 3),)
        yield cls(Sin()), ((2, 3),)


def _finite_end(low: Array, known: Array | bool) -> Array:
    """A number below something, or minus infinity."""
    return namespace(low).where(known & (low < np.inf), low, -np.inf)


def pullback(emit: Emit, operator: Operator, gradient: Ref, inputs: tuple[Ref, ...], output: Ref) -> tuple[Ref, ...] | None:
    """Gradients (R, *shape_i) on the inputs of an operator from one (R, *shape) on its output; None where no rule is known."""
    if isinstance(operator, Affine):
        return tuple(_transposed(emit, operator, gradient, inputs, i) for i in range(len(inputs)))
    if isinstance(operator, Univariate):
        derivative = emit(Slope() if operator.rectifier else Derivative(operator), inputs[0])
        return (_times(emit, derivative, gradient),)
    if isinstance(operator, Bilinear):
        x, y, out = operator.terms
        row = next(c for c in ascii_lowercase if c not in x + y)
        rules = ((f"{y},{row}{out}->{row}{x}", inputs[1]), (f"{x},{row}{out}->{row}{y}", inputs[0]))
        return tuple(emit(Product(rule, second=True), factor, gradient) for rule, factor in rules)
    if isinstance(operator, Planar):
        return _grouped(emit, operator, gradient, inputs[0], output)
    return None


def _transposed(emit: Emit, operator: Affine, gradient: Ref, inputs: tuple[Ref, ...], place: int) -> Ref:
    if isinstance(operator, Dense) and operator.margin is None:
        return emit(Dense(np.ascontiguousarray(operator.weight.T)), gradient)
    if isinstance(operator, Sum) and operator.coefficients[place] == 1.0 and inputs[place].shape == gradient.shape[1:]:
        return gradient
    return emit(Adjoint(operator, tuple(r.shape for r in inputs), place), gradient)


def _times(emit: Emit, factor: Ref, gradient: Ref) -> Ref:
    """A value times every row of a gradient."""
    letters = ascii_lowercase[1 : 1 + len(factor.shape)]
    return emit(Product(f"{letters},a{letters}->a{letters}", second=True), factor, gradient)


def _grouped(emit: Emit, operator: Planar, gradient: Ref, x: Ref, output: Ref) -> tuple[Ref, ...] | None:
    """For p = softmax(x): p (g - sum p g); for its logarithm's normaliser: p g."""
    letters = ascii_lowercase[1 : 1 + len(x.shape)]
    rest = letters[: operator.axis] + letters[operator.axis + 1 :]
    kept = tuple(n for i, n in enumerate(x.shape) if i != operator.axis)
    rows = gradient.shape[0]
    if isinstance(operator, Softmax):
        mean = emit(Product(f"{letters},a{letters}->a{rest}"), output, gradient)
        mean = emit(Reshape((rows, *(1 if i == operator.axis else n for i, n in enumerate(x.shape)))), mean)
        return (_times(emit, output, emit(Sum((1.0, -1.0)), gradient, mean)),)
    if isinstance(operator, LogSumExp):
        flat = emit(Reshape((rows, *kept)), gradient)
        return (emit(Product(f"{letters},a{rest}->a{letters}"), emit(Softmax(operator.axis), x), flat),)
    return None
