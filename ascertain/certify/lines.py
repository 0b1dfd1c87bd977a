"""Lines of functions of one variable, of any slope: `Lines`, whose slopes are free parameters in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ascertain.certify.supports import supporting_slopes
from ascertain.operators.base import Shape, Univariate

__all__ = ["Curve", "Lines", "Pair", "contract", "lines_of"]

Pair = tuple[Tensor, Tensor]
"""Lower and upper bounds ``(B, size)``."""
STEEPEST = 1e12
"""Chords steeper than this are not used as lines."""


def contract(a: Tensor, b: Tensor) -> Tensor:
    """Sums of products over the last axis: (b, S, n) with (b', s', n), b, b' in {1, B}, s' in {1, S}."""
    if b.shape[1] == 1:
        if b.shape[0] == 1:
            return a @ b[0, 0]
        if a.shape[0] == 1:
            return b[:, 0] @ a[0].T
        return torch.bmm(a, b.transpose(1, 2)).squeeze(-1)
    return (a * b).sum(-1)


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


def lines_of(operator: Univariate, shape: Shape, lower: Tensor, upper: Tensor, unit: float) -> Lines:
    """Sound lines of a function of one variable on bounds ``(B, size)``."""
    return _rectifier(lower, upper, unit) if operator.rectifier else _curve(operator, shape, lower, upper, unit)


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
