"""Linear relaxations of nonlinear steps: lines of functions of one variable, planes of products and of softmax-like groups.

A relaxation maps coefficients on a step's output to coefficients on its inputs and a constant, so that the bound stays one: through
what bounds the step from below where a coefficient is positive, from above where it is negative. Its parameters, all in [0, 1], are
free: every choice is sound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor

from ascertain.certify.plan import Step
from ascertain.certify.supports import supporting_slopes
from ascertain.operators.base import Bilinear, Planar, Shape, Univariate

__all__ = ["Lines", "McCormick", "Pair", "Planes", "Relaxation", "contract", "enclose", "relax"]

Pair = tuple[Tensor, Tensor]
"""Lower and upper bounds ``(B, size)``."""
STEEPEST = 1e12
"""Chords steeper than this are not used as lines."""


class Relaxation(Protocol):
    """What `linear.backward` and `optimize` need to know of a nonlinear step. Rows (b, S, size), b in {1, B}."""

    @property
    def pace(self) -> float:
        """How far parameters should move at a time, as a share of what suits the slope of a rectifier."""
        ...

    def pull(self, a: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Coefficients on the inputs, and the constant ``(B, S)``."""
        ...

    def value(self, a: Tensor | None, inputs: Sequence[Tensor]) -> Tensor:
        """The bounding map that `pull` selects for the coefficients (the upper one for None) at inputs (B, S, size_i)."""
        ...

    def level(self, reach: Sequence[Tensor], after: Tensor) -> Tensor:
        """What the error of a coefficient on the output is multiplied with at most, (size,), for values within reach."""
        ...

    def parameters(self) -> dict[str, Tensor]:
        """Free parameters in [0, 1], each ``(b, s, n)``."""
        ...

    def adjusted(self, parameters: dict[str, Tensor]) -> Self:
        """The same with other parameters."""
        ...

    def gradients(self, a: Tensor, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Derivative of the bound with respect to each parameter, at the values of the inputs in the minimising point."""
        ...

    def to(self, dtype: torch.dtype) -> Self:
        """The same in another precision."""
        ...


def contract(a: Tensor, b: Tensor) -> Tensor:
    """Sums of products over the last axis: (b, S, n) with (b', s', n), b, b' in {1, B}, s' in {1, S}."""
    if b.shape[1] == 1:
        if b.shape[0] == 1:
            return a @ b[0, 0]
        if a.shape[0] == 1:
            return b[:, 0] @ a[0].T
        return torch.bmm(a, b.transpose(1, 2)).squeeze(-1)
    return (a * b).sum(-1)


def relax(step: Step, boxes: Sequence[Pair], unit: float) -> Relaxation:
    """A sound relaxation of a nonlinear step on bounds of its inputs."""
    operator = step.nonlinear
    if isinstance(operator, Univariate):
        lower, upper = boxes[0]
        return _rectifier(lower, upper, unit) if operator.rectifier else _curve(operator, step.shape, lower, upper, unit)
    if isinstance(operator, Bilinear):
        return McCormick.on(operator, step, boxes, unit)
    if isinstance(operator, Planar):
        return Planes.on(operator, step, boxes[0], unit)
    raise TypeError("only nonlinear steps are relaxed")


def enclose(step: Step, boxes: Sequence[Pair], unit: float, tiny: float) -> Pair:
    """Bounds ``(B, size)`` of a nonlinear step on bounds of its inputs, rounded outward."""
    operator = step.nonlinear
    if isinstance(operator, Univariate):
        lower, upper = boxes[0]
        low, high = (t.flatten(1) for t in operator.interval(lower.reshape(-1, *step.shape), upper.reshape(-1, *step.shape)))
        if operator.rectifier:
            return low, high
        return low - (8 * unit * low.abs() + tiny), high + (8 * unit * high.abs() + tiny)  # 4 units in the last place
    if isinstance(operator, Bilinear):
        return _product_range(operator, step, boxes, unit, tiny)
    if isinstance(operator, Planar):
        lower, upper = (_grouped(t.unsqueeze(1), step.shapes[0], operator.axis)[:, 0] for t in boxes[0])
        room = (64 + 4 * lower.shape[-1]) * unit
        low, high = operator.grouped(lower, upper)
        low, high = low - (room * low.abs() + tiny), high + (room * high.abs() + tiny)
        return tuple(_flat(t.unsqueeze(1), step.shape, operator.axis)[:, 0] for t in (low, high))  # type: ignore[return-value]
    raise TypeError("only nonlinear steps are enclosed")


def _product_range(operator: Bilinear, step: Step, boxes: Sequence[Pair], unit: float, tiny: float) -> Pair:
    """Sums of the extreme products of every term."""
    mine, yours, out = operator.terms
    letters = out + "".join(c for c in mine if c not in out)
    x, y = ([_lift(t, own, letters, shape) for t in box] for box, own, shape in zip(boxes, (mine, yours), step.shapes, strict=True))
    corners = torch.stack([a * b for a in x for b in y])
    low, high = corners.amin(0), corners.amax(0)
    size = torch.maximum(low.abs(), high.abs())
    axes = tuple(range(2 + len(out), 2 + len(letters)))
    if axes:
        low, high, size = low.sum(axes), high.sum(axes), size.sum(axes)
    room = (2 * step.longest + 8) * unit * size + tiny
    low, high = (low - room).flatten(1), (high + room).flatten(1)
    if operator.known is None:
        return low, high
    first, last = (low.new_tensor(k) for k in operator.known)  # rounded to this precision
    return torch.fmax(low, first - 2 * unit * first.abs()), torch.fmin(high, last + 2 * unit * last.abs())


# Functions of one variable


@dataclass(frozen=True, eq=False)
class Curve:
    """A function of one variable on boxes ``(B, 1, size)``, with the range of slopes worth taking."""

    operator: Univariate
    shape: Shape
    lower: Tensor
    upper: Tensor
    flattest: Tensor
    span: Tensor
    """Width of the range of slopes that starts at ``flattest``."""
    unit: float

    def lines(self, below: Tensor, above: Tensor) -> Lines:
        """The tightest lines of two slopes, (b, s, size), given as shares of the range."""
        return self.sloped(self.flattest + below * self.span, self.flattest + above * self.span)

    def sloped(self, below: Tensor, above: Tensor) -> Lines:
        """The tightest lines of two slopes, rounded outward."""
        left, right = (self._shaped(t) for t in (self.lower, self.upper))
        low, low_at, first, _ = self.operator.support(left, right, self._shaped(below))
        last, _, high, high_at = self.operator.support(left, right, self._shaped(above))
        flat = [t.flatten(2) for t in (low, low_at, first, last, high, high_at)]
        low, low_at, first, last, high, high_at = flat
        furthest = torch.maximum(self.lower.abs(), self.upper.abs())
        tiny = torch.finfo(left.dtype).tiny
        low = low - (16 * self.unit * (below.abs() * furthest + low.abs().maximum(first.abs())) + tiny)
        high = high + (16 * self.unit * (above.abs() * furthest + high.abs().maximum(last.abs())) + tiny)
        if not self.finite:  # what is known of f on an infinite box is its range
            known, range_ = torch.isfinite(self.upper - self.lower), self.operator.interval(left, right)
            least, most = (t.flatten(2) for t in range_)
            low = torch.where(known, low, least - 8 * self.unit * least.abs())
            high = torch.where(known, high, most + 8 * self.unit * most.abs())
            below, above = torch.where(known, below, 0.0), torch.where(known, above, 0.0)
        return Lines(below, above, high, low, self, (low_at, high_at))

    @cached_property
    def finite(self) -> bool:
        """Whether all boxes are."""
        return bool(torch.isfinite(self.upper - self.lower).all())

    def _shaped(self, t: Tensor) -> Tensor:
        return t.reshape(*t.shape[:2], *self.shape)

    def to(self, dtype: torch.dtype) -> Curve:
        """The same in another precision, for optimisation only."""
        lower, upper, flattest, span = (t.to(dtype) for t in (self.lower, self.upper, self.flattest, self.span))
        operator = self.operator.convert(lambda t: t.to(dtype))
        return Curve(operator, self.shape, lower, upper, flattest, span, 2.0**-24 if dtype == torch.float32 else self.unit)


@dataclass(frozen=True, eq=False)
class Lines:
    """lower_slope x + lower_intercept <= f(x) <= upper_slope x + upper_intercept, ``(b, s, size)``, b in {1, B}, s in {1, S}."""

    lower_slope: Tensor
    upper_slope: Tensor
    upper_intercept: Tensor
    lower_intercept: Tensor | None = None
    """None where it is zero: the lines of max(x, 0)."""
    curve: Curve | None = None
    touching: Pair | None = None
    """Where the lower and the upper line touch a curve."""

    @property
    def pace(self) -> float:
        # the lines of a curve start near their best place
        return 1.0 if self.curve is None else 0.05

    def to(self, dtype: torch.dtype) -> Lines:
        if self.upper_slope.dtype == dtype:
            return self
        if self.curve is not None:
            return self.curve.to(dtype).sloped(self.lower_slope.to(dtype), self.upper_slope.to(dtype))
        return Lines(self.lower_slope.to(dtype), self.upper_slope.to(dtype), self.upper_intercept.to(dtype))

    @cached_property
    def live(self) -> Tensor | None:
        """Positions where some line of the batch is not zero, when they are so few that leaving the others out pays."""
        if self.lower_intercept is not None:
            return None
        index = torch.nonzero((self.upper_slope != 0).any(0)[0]).squeeze(1)
        return index if len(index) < 0.85 * self.upper_slope.shape[-1] else None

    @cached_property
    def bounded(self) -> bool:
        """Whether all intercepts are finite."""
        parts = (self.upper_intercept, self.lower_intercept)
        return all(t is None or bool(torch.isfinite(t).all()) for t in parts)

    def pull(self, a: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        positive = a.clamp(min=0)
        negative = a - positive
        if not self.bounded and self.lower_intercept is not None:
            constant = _masked(negative, self.upper_intercept) + _masked(positive, self.lower_intercept)
        else:
            constant = contract(negative, self.upper_intercept)
            if self.lower_intercept is not None:
                constant = constant + contract(positive, self.lower_intercept)
        return (positive * self.lower_slope + negative * self.upper_slope,), constant

    def value(self, a: Tensor | None, inputs: Sequence[Tensor]) -> Tensor:
        z = inputs[0]
        above = self.upper_slope * z + self.upper_intercept
        if a is None:
            return above
        below = self.lower_slope * z
        if self.lower_intercept is not None:
            below = below + self.lower_intercept
        return torch.where(a >= 0, below, above)

    def level(self, reach: Sequence[Tensor], after: Tensor) -> Tensor:
        if self.curve is None:
            return 3 * reach[0]
        steep = torch.maximum(self.curve.flattest.abs(), (self.curve.flattest + self.curve.span).abs()).amax(0)[0]
        return 2 * (after + steep.clamp_min(1.0) * reach[0])

    def parameters(self) -> dict[str, Tensor]:
        if self.curve is None:
            return {"below": self.lower_slope}
        flattest, span = self.curve.flattest, torch.where(self.curve.span > 0, self.curve.span, 1.0)
        pair = (("below", self.lower_slope), ("above", self.upper_slope))
        return {name: ((slope - flattest) / span).clamp(0.0, 1.0) for name, slope in pair}

    def adjusted(self, parameters: dict[str, Tensor]) -> Lines:
        if self.curve is None:
            return replace(self, lower_slope=parameters["below"])
        return self.curve.lines(parameters["below"], parameters["above"])

    def gradients(self, a: Tensor, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        z, positive = inputs[0], a.clamp(min=0)
        if self.curve is None or self.touching is None:
            return {"below": positive * z}
        low, high = self.touching
        return {"below": positive * (z - low) * self.curve.span, "above": (a - positive) * (z - high) * self.curve.span}


def _masked(a: Tensor, level: Tensor) -> Tensor:
    """Sums of a * level where 0 times infinity is 0."""
    return torch.where(a == 0, 0.0, a * level).sum(-1)


def _rectifier(lower: Tensor, upper: Tensor, unit: float) -> Lines:
    crossing = (lower < 0) & (upper > 0)
    # neither NaN nor a width that overflows gives a line
    on = torch.where(lower >= 0, 1.0, torch.where(upper <= 0, 0.0, torch.nan)).to(lower.dtype)
    width = torch.where(torch.isfinite(upper - lower), upper - lower, torch.nan)
    slope = torch.where(crossing, upper / torch.where(crossing, width, 1.0) * (1 + 8 * unit), on)
    intercept = torch.where(crossing, -lower * slope * (1 + 4 * unit), 0.0)
    below = torch.where(crossing, (upper > -lower).to(lower.dtype), on)
    return Lines(below.unsqueeze(1), slope.unsqueeze(1), intercept.unsqueeze(1))


def _curve(operator: Univariate, shape: Shape, lower: Tensor, upper: Tensor, unit: float) -> Lines:
    left, right = lower.reshape(len(lower), 1, *shape), upper.reshape(len(upper), 1, *shape)
    below, above = (t.flatten(2) for t in supporting_slopes(operator, left, right, left + (right - left) / 2))
    finite = torch.isfinite(upper - lower).unsqueeze(1)
    below, above = (torch.where(finite & (t.abs() <= STEEPEST), t, 0.0) for t in (below, above))
    flattest, steepest = (torch.where(finite, t.flatten(2), 0.0) for t in operator.slope_range(left, right))
    # where the derivative is not bounded, slopes much steeper than these help nobody
    some = 8 * torch.maximum(below.abs(), above.abs()) + 1
    flattest = torch.where(flattest > -STEEPEST, flattest, -some)
    steepest = torch.where(steepest < STEEPEST, steepest, some)
    curve = Curve(operator, shape, lower.unsqueeze(1), upper.unsqueeze(1), flattest, (steepest - flattest).clamp(min=0), unit)
    return curve.sloped(below, above)


# Products


def _lift(t: Tensor, own: str, letters: str, shape: Shape) -> Tensor:
    """(B, size) as (B, 1, *sizes of all letters), with size 1 for the letters that it lacks."""
    order = sorted(range(len(own)), key=lambda i: letters.index(own[i]))
    sizes = dict(zip(own, shape, strict=True))
    return t.reshape(len(t), *shape).permute(0, *(i + 1 for i in order)).reshape(len(t), 1, *(sizes.get(c, 1) for c in letters))


def _joined(t: Tensor) -> Tensor:
    """(b, s, ...) as (b, s, size), also for a single number."""
    return t.reshape(*t.shape[:2], -1)


@dataclass(frozen=True, eq=False)
class McCormick:
    """Planes of a sum of products. ``mix`` 0 to 1 leans each plane from one pair of corners of the box to the other.

    Coefficients are kept per product: axes (b, s, one for each letter), of size 1 along letters on which they do not depend.
    """

    operator: Bilinear
    letters: str
    shapes: tuple[Shape, Shape, Shape]
    x: Pair
    y: Pair
    mix: dict[str, Tensor]
    unit: float
    terms: int
    pace: ClassVar[float] = 0.5

    @classmethod
    def on(cls, operator: Bilinear, step: Step, boxes: Sequence[Pair], unit: float) -> McCormick:
        mine, yours, out = operator.terms
        letters = out + "".join(c for c in mine if c not in out)
        x, y = (
            (_lift(low, own, letters, shape), _lift(high, own, letters, shape))
            for (low, high), own, shape in zip(boxes, (mine, yours), step.shapes, strict=True)
        )
        (xl, xu), (yl, yu) = x, y
        wide, high = xu - xl, yu - yl
        # the plane that varies less over the box has the better least value; the other pair of corners where both are as good
        slack = 1e-9 * wide * high
        below = (yl.abs() - yu.abs()) * wide + (xl.abs() - xu.abs()) * high <= slack
        above = (yu.abs() - yl.abs()) * wide + (xl.abs() - xu.abs()) * high <= slack
        mix = {"below": below.to(xl.dtype), "above": above.to(xl.dtype)}
        if operator.second:  # between this place and a corner nothing varies; here the plane is level in x
            divisor = torch.where(high > 0, high, 1.0)
            level = {"below": yu / divisor, "above": -yl / divisor}
            mix = {name: torch.where(wide * high > 0, level[name].clamp(0.0, 1.0), r) for name, r in mix.items()}
        return cls(operator, letters, (step.shapes[0], step.shapes[1], step.shape), x, y, mix, unit, step.longest)

    @cached_property
    def planes(self) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
        """(coefficient on x, coefficient on y, constant (b, s, size)) below and above."""
        (xl, xu), (yl, yu) = self.x, self.y
        r, q = self.mix["below"], self.mix["above"]
        below = (yu + r * (yl - yu), xu + r * (xl - xu))
        above = (yl + q * (yu - yl), xu + q * (xl - xu))
        return (*below, self._constant(*below, 1.0)), (*above, self._constant(*above, -1.0))

    def _constant(self, a: Tensor, b: Tensor, side: float) -> Tensor:
        """Sums over the products of an output of the smallest (side 1) or largest x y - a x - b y over corners; rounded outward."""
        corners = [(x * y - a * x - b * y) * side for x in self.x for y in self.y]
        least = torch.minimum(torch.minimum(corners[0], corners[1]), torch.minimum(corners[2], corners[3]))
        x, y = (torch.maximum(t[0].abs(), t[1].abs()) for t in (self.x, self.y))
        room = 8 * self.unit * (x * y + a.abs() * x + b.abs() * y) + torch.finfo(x.dtype).tiny
        out = len(self.operator.terms[2])
        least, size = least - room, least.abs() + room
        if len(self.letters) > out:
            axes = tuple(range(2 + out, 2 + len(self.letters)))
            least, size = least.sum(axes), size.sum(axes)
        return _joined((least - 2 * (self.terms + 4) * self.unit * size) * side)

    def _sum(self, a: Tensor, coefficient: Tensor, into: str) -> Tensor:
        """Rows (b, S, *out) times coefficients, summed into the letters of an operand: ``(B, S, size)``."""
        out = self.operator.terms[2]
        if coefficient.shape[1] == 1:
            return _joined(torch.einsum(f"BS{out},B{self.letters}->BS{into}", a, coefficient.squeeze(1)))
        return _joined(torch.einsum(f"BS{out},BS{self.letters}->BS{into}", a, coefficient))

    def pull(self, a: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        mine, yours, _ = self.operator.terms
        below, above = self.planes
        positive = a.clamp(min=0)
        negative = a - positive
        plus, minus = (t.reshape(*t.shape[:2], *self.shapes[2]) for t in (positive, negative))
        on_x = self._sum(plus, below[0], mine) + self._sum(minus, above[0], mine)
        on_y = self._sum(plus, below[1], yours) + self._sum(minus, above[1], yours)
        return (on_x, on_y), contract(positive, below[2]) + contract(negative, above[2])

    def _at(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Inputs (B, S, size) lifted to the products."""
        lifted = []
        for t, own, shape in zip(inputs, self.operator.terms[:2], self.shapes[:2], strict=True):
            flat = _lift(t.reshape(-1, t.shape[-1]), own, self.letters, shape)
            lifted.append(flat.reshape(*t.shape[:2], *flat.shape[2:]))
        return lifted[0], lifted[1]

    def value(self, a: Tensor | None, inputs: Sequence[Tensor]) -> Tensor:
        x, y = self._at(inputs)
        axes = tuple(range(2 + len(self.shapes[2]), 2 + len(self.letters)))
        sides = []
        for on_x, on_y, constant in self.planes:
            each = on_x * x + on_y * y
            sides.append(_joined(each.sum(axes) if axes else each) + constant)
        return sides[1] if a is None else torch.where(a >= 0, sides[0], sides[1])

    def level(self, reach: Sequence[Tensor], after: Tensor) -> Tensor:
        sizes = [t.reshape(1, *shape) for t, shape in zip(reach, self.shapes[:2], strict=True)]
        products: Tensor = self.operator.forward(*sizes)
        return 6 * products.reshape(-1) + after

    def parameters(self) -> dict[str, Tensor]:
        full = [max(p, q) for p, q in zip(self.x[0].shape[2:], self.y[0].shape[2:], strict=True)]
        return {name: _joined(r.expand(*r.shape[:2], *full)) for name, r in self.mix.items()}

    def adjusted(self, parameters: dict[str, Tensor]) -> McCormick:
        full = [max(p, q) for p, q in zip(self.x[0].shape[2:], self.y[0].shape[2:], strict=True)]
        return replace(self, mix={name: r.reshape(*r.shape[:2], *full) for name, r in parameters.items()})

    def gradients(self, a: Tensor, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        x, y = self._at(inputs)
        (xl, xu), (yl, yu) = self.x, self.y
        positive = a.clamp(min=0)
        shape = (*a.shape[:2], *self.shapes[2], *[1] * (len(self.letters) - len(self.shapes[2])))
        plus, minus = positive.reshape(shape), (a - positive).reshape(shape)
        below = (yl - yu) * x + (xl - xu) * y + xu * yu - xl * yl
        above = (yu - yl) * x + (xl - xu) * y + xu * yl - xl * yu
        return {"below": _joined(plus * below), "above": _joined(minus * above)}

    def to(self, dtype: torch.dtype) -> McCormick:
        x, y = ((low.to(dtype), high.to(dtype)) for low, high in (self.x, self.y))
        mix = {name: r.to(dtype) for name, r in self.mix.items()}
        return replace(self, x=x, y=y, mix=mix)


# Softmax and its like


@dataclass(frozen=True, eq=False)
class Planes:
    """Affine bounds of every output of a group, leaned by ``mix`` from the constant (0) to the tangent plane (1)."""

    axis: int
    shapes: tuple[Shape, Shape]
    total: float | None
    below: Pair
    """Matrix (B, G, m, n) and offset (B, 1, G, m)."""
    above: Pair
    known: Pair
    """Range of each output, (B, 1, G, m)."""
    mix: dict[str, Tensor]
    pace: ClassVar[float] = 0.5

    @classmethod
    def on(cls, operator: Planar, step: Step, box: Pair, unit: float) -> Planes:
        axis, shapes = operator.axis, (step.shapes[0], step.shape)
        lower, upper = (_grouped(t.unsqueeze(1), shapes[0], axis)[:, 0] for t in box)
        low, high = operator.grouped(lower, upper)
        below, above = operator.planes(lower, upper, lower + (upper - lower) / 2)
        n = lower.shape[-1]
        furthest = torch.maximum(lower.abs(), upper.abs()).unsqueeze(-2)
        # 64 units for the functions themselves, n for the sums
        unsure = (64 + 4 * n) * unit
        room = [unsure * ((m.abs() * furthest).sum(-1) + t.abs() + 1) for m, t in (below, above)]
        below, above = (below[0], below[1] - room[0]), (above[0], above[1] + room[1])
        low, high = low - unsure * low.abs(), high + unsure * high.abs()
        parts = [t.unsqueeze(1) for t in (below[1], above[1], low, high)]
        one = torch.ones((1, 1, 1), dtype=low.dtype, device=low.device)
        mix = {"below": one, "above": one}
        return cls(axis, shapes, operator.total, (below[0], parts[0]), (above[0], parts[1]), (parts[2], parts[3]), mix)

    def _mixed(self, name: str) -> Tensor:
        r = self.mix[name]
        return r.unsqueeze(-1) if r.shape[-1] == 1 else _grouped(r, self.shapes[1], self.axis)

    def pull(self, a: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        rows = _grouped(a, self.shapes[1], self.axis)
        shift = self._shift(rows)
        constant: Tensor | float = 0.0
        if shift is not None and self.total is not None:
            rows, constant = rows - shift, shift.sum((-2, -1)) * self.total
        positive = rows.clamp(min=0)
        sides = (positive, "below", self.below, self.known[0]), (rows - positive, "above", self.above, self.known[1])
        out: Tensor | float = 0.0
        for part, name, (matrix, offset), limit in sides:
            leaned = part * self._mixed(name)
            out = out + torch.einsum("BSGm,BGmn->BSGn", leaned, matrix)
            constant = constant + (leaned * offset + (part - leaned) * limit).sum((-2, -1))
        return (_flat(out, self.shapes[0], self.axis),), constant  # type: ignore[arg-type, return-value]

    def _shift(self, rows: Tensor) -> Tensor | None:
        """What every coefficient of a group can lose, because the outputs have a known sum: an average, by how loose bounds are."""
        if self.total is None:
            return None
        return (rows * self._shares).sum(-1, keepdim=True)

    @cached_property
    def _shares(self) -> Tensor:
        loose = (self.known[1] - self.known[0]).clamp_min(1e-12)
        return loose / loose.sum(-1, keepdim=True)

    def _values(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The tangent planes below and above at inputs (B, S, size): ``(B, S, G, m)`` each."""
        x = _grouped(inputs[0], self.shapes[0], self.axis)
        return tuple(torch.einsum("BSGn,BGmn->BSGm", x, m) + t for m, t in (self.below, self.above))  # type: ignore[return-value]

    def value(self, a: Tensor | None, inputs: Sequence[Tensor]) -> Tensor:
        sides = []
        for name, plane, limit in zip(("below", "above"), self._values(inputs), self.known, strict=True):
            sides.append(limit + self._mixed(name) * (plane - limit))
        if a is None:
            return _flat(sides[1], self.shapes[1], self.axis)
        rows = _grouped(a, self.shapes[1], self.axis)
        shift = self._shift(rows)
        chosen = torch.where(rows >= (0.0 if shift is None else shift), sides[0], sides[1])
        if self.total is not None:  # the shift, too, depends on the coefficients
            chosen = chosen + self._shares * (self.total - chosen.sum(-1, keepdim=True))
        return _flat(chosen, self.shapes[1], self.axis)

    def level(self, reach: Sequence[Tensor], after: Tensor) -> Tensor:
        # no entry of a matrix is above 1, and offsets are what they leave of the value
        x = _grouped(reach[0].reshape(1, 1, -1), self.shapes[0], self.axis)[0, 0].sum(-1, keepdim=True)
        own = 2 * (x + _grouped(after.reshape(1, 1, -1), self.shapes[1], self.axis)[0, 0] + 1)
        if self.total is not None:  # the shift is an average of coefficients, and meets every entry of the group
            own = own + own.sum(-1, keepdim=True) + abs(self.total)
        return _flat(own[None, None], self.shapes[1], self.axis)[0, 0]

    def parameters(self) -> dict[str, Tensor]:
        size = self.known[0][0].numel()
        return {name: r.expand(*r.shape[:2], size) for name, r in self.mix.items()}

    def adjusted(self, parameters: dict[str, Tensor]) -> Planes:
        return replace(self, mix=dict(parameters))

    def gradients(self, a: Tensor, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        rows = _grouped(a, self.shapes[1], self.axis)
        shift = self._shift(rows)
        rows = rows if shift is None else rows - shift
        positive = rows.clamp(min=0)
        found = {}
        for name, part, plane, limit in zip(
            ("below", "above"), (positive, rows - positive), self._values(inputs), self.known, strict=True
        ):
            found[name] = _flat(part * (plane - limit), self.shapes[1], self.axis)
        return found

    def to(self, dtype: torch.dtype) -> Planes:
        below, above, known = ((low.to(dtype), high.to(dtype)) for low, high in (self.below, self.above, self.known))
        return replace(self, below=below, above=above, known=known, mix={name: r.to(dtype) for name, r in self.mix.items()})


def _grouped(t: Tensor, shape: Shape, axis: int) -> Tensor:
    """(b, S, size) as (b, S, G, n): entries that differ in their place on an axis come together."""
    moved = t.reshape(*t.shape[:2], *shape).movedim(2 + axis, -1)
    return moved.reshape(*t.shape[:2], -1, shape[axis])


def _flat(t: Tensor, shape: Shape, axis: int) -> Tensor:
    """Undoes `_grouped`."""
    rest = [n for i, n in enumerate(shape) if i != axis]
    return t.reshape(*t.shape[:2], *rest, shape[axis]).movedim(-1, 2 + axis).flatten(2)
