"""Lines of functions of one variable, of any slope: `Lines`, whose slopes are free parameters in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ascertain.certify.supports import supporting_slopes
from ascertain.operators.base import Shape, Univariate, side

__all__ = ["Curve", "Lines", "Pair", "Sloped", "contract", "lines_of"]

Pair = tuple[Tensor, Tensor]
"""Lower and upper bounds ``(B, size)``."""
STEEPEST = 1e12
"""Chords steeper than this are not used as lines."""
PACE = 0.05
"""The lines of a curve start near their best place, so parameters move by so much less than a rectifier's."""


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

    def offset(self, slope: Tensor, above: Tensor | bool) -> tuple[Tensor, Tensor, Tensor]:
        """The tightest lines of slopes (b, s, size) on one side, rounded outward: slope, intercept, and where they touch.

        Infinite boxes get another slope.
        """
        left, right = self._shaped(self.lower), self._shaped(self.upper)
        sides = above if isinstance(above, bool) else self._shaped(above)
        level, at = (t.flatten(2) for t in self.operator.support(left, right, self._shaped(slope), sides))
        away = side(above, level)
        furthest = torch.maximum(self.lower.abs(), self.upper.abs())
        level = level - away * (16 * self.unit * (slope.abs() * furthest + level.abs()) + torch.finfo(level.dtype).tiny)
        if not self.finite:  # what is known of f on an infinite box is its range
            known, range_ = torch.isfinite(self.upper - self.lower), self.operator.interval(left, right)
            least, most = (t.flatten(2) for t in range_)
            end = (most if above else least) if isinstance(above, bool) else torch.where(above, most, least)
            level = torch.where(known, level, end - away * 8 * self.unit * end.abs())
            slope = torch.where(known, slope, 0.0)
        return slope, level, at

    def sloped(self, below: Tensor, above: Tensor) -> Lines:
        """The tightest lines of two slopes."""
        (below, low, low_at), (above, high, high_at) = self.offset(below, False), self.offset(above, True)
        return Lines(below, above, high, low, self, (low_at, high_at))

    def good(self, domain: Tensor, neuron: Tensor) -> Pair:
        """Shares (K,) of the range whose lines leave small areas, for neurons (K,) of domains (K,)."""
        lower, upper, flattest, span = (t[domain % len(t), 0, neuron] for t in (self.lower, self.upper, self.flattest, self.span))
        own = self.operator.convert(lambda p: p.expand(self.shape).reshape(-1)[neuron] if p.ndim else p)
        found = supporting_slopes(own, lower, upper, lower + (upper - lower) / 2)
        below, above = (torch.nan_to_num((t - flattest) / torch.where(span > 0, span, 1.0)).clamp(0.0, 1.0) for t in found)
        return below, above

    def level(self, reach: Sequence[Tensor], after: Tensor) -> Tensor:
        """See `Relaxation.level`: no slope of the range is steeper."""
        steep = torch.maximum(self.flattest.abs(), (self.flattest + self.span).abs()).amax(0)[0]
        return 2 * (after + steep.clamp_min(1.0) * reach[0])

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
        return 1.0 if self.curve is None else PACE

    def to(self, dtype: torch.dtype) -> Lines | Sloped:
        if self.upper_slope.dtype == dtype:
            return self
        if self.curve is not None:
            return Sloped(self.curve, **self.parameters()).to(dtype)
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
        above, below = self.upper_intercept, self.lower_intercept
        if not bool(torch.isfinite(above).all()):
            return False
        return below is None or below is above or bool(torch.isfinite(below).all())

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

    def value(self, a: Tensor, inputs: Sequence[Tensor]) -> Tensor:
        z = inputs[0]
        above = self.upper_slope * z + self.upper_intercept
        if self.lower_slope is self.upper_slope:
            return above
        below = self.lower_slope * z
        if self.lower_intercept is not None:
            below = below + self.lower_intercept
        return torch.where(a >= 0, below, above)

    def level(self, reach: Sequence[Tensor], after: Tensor) -> Tensor:
        return 3 * reach[0] if self.curve is None else self.curve.level(reach, after)

    def parameters(self) -> dict[str, Tensor]:
        if self.curve is None:
            return {"below": self.lower_slope}
        flattest, span = self.curve.flattest, torch.where(self.curve.span > 0, self.curve.span, 1.0)
        pair = (("below", self.lower_slope), ("above", self.upper_slope))
        return {name: ((slope - flattest) / span).clamp(0.0, 1.0) for name, slope in pair}

    def adjusted(self, parameters: dict[str, Tensor]) -> Lines | Sloped:
        if self.curve is None:
            return replace(self, lower_slope=parameters["below"])
        return Sloped(self.curve, parameters["below"], parameters["above"])

    def facing(self, a: Tensor) -> Lines:
        return self

    def gradients(self, a: Tensor, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        z, positive = inputs[0], a.clamp(min=0)
        if self.curve is None or self.touching is None:
            return {"below": positive * z}
        low, high = ((z - t) * self.curve.span for t in self.touching)
        return {"below": positive * low, "above": (a - positive) * high}


@dataclass(frozen=True, eq=False)
class Sloped:
    """Lines of a curve at shares (b, s, size) of its range of slopes; each is computed once it is known which side is asked for."""

    curve: Curve
    below: Tensor
    above: Tensor

    @property
    def pace(self) -> float:
        return PACE

    def facing(self, a: Tensor) -> Lines:
        above = a < 0
        shares = torch.where(above, self.above, self.below)
        slope, level, at = self.curve.offset(self.curve.flattest + shares * self.curve.span, above)
        return Lines(slope, slope, level, level, self.curve, (at, at))

    def pull(self, a: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        return self.facing(a).pull(a)

    def value(self, a: Tensor, inputs: Sequence[Tensor]) -> Tensor:
        return self.facing(a).value(a, inputs)

    def level(self, reach: Sequence[Tensor], after: Tensor) -> Tensor:
        return self.curve.level(reach, after)

    def parameters(self) -> dict[str, Tensor]:
        return {"below": self.below, "above": self.above}

    def adjusted(self, parameters: dict[str, Tensor]) -> Sloped:
        return Sloped(self.curve, parameters["below"], parameters["above"])

    def gradients(self, a: Tensor, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        return self.facing(a).gradients(a, inputs)

    def to(self, dtype: torch.dtype) -> Sloped:
        return self if self.below.dtype == dtype else Sloped(self.curve.to(dtype), self.below.to(dtype), self.above.to(dtype))


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
