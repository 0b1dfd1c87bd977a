"""Backward linear bounds (CROWN): a row on any node, pushed to the input through lines of every nonlinearity.

Invariant, for every input of the region: ``rows . value(start) >= sum_k A_k . value_k + d - error`` over the nodes k not yet passed
(Zhang et al. 2018, Theorem 3.2). ``error`` makes it hold in floating point: with M_k >= |value_k| on the region, one application of
an affine map y = L v + b to a float row A errs by at most gamma |A| (|L| M + |b|), so a fixed vector per node (`charges`) times |A|
accounts for everything, and the sum over nodes is subtracted at the end. Evidence: PROVED in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ascertain.certify.fused import bend, concretise, weigh
from ascertain.certify.plan import Plan, Step
from ascertain.certify.region import Region

__all__ = ["Boxes", "Charges", "Lines", "Swept", "backward", "charges", "relax"]

Boxes = dict[int, tuple[Tensor, Tensor]]
"""Bounds (lower, upper), each ``(B, size)``, of nodes."""

STEEPEST = 1e12
"""Chords steeper than this are not used as lines."""


@dataclass(frozen=True, eq=False)
class Lines:
    """lower_slope x + lower_intercept <= f(x) <= upper_slope x + upper_intercept, ``(b, s, size)``, b in {1, B}, s in {1, S}."""

    lower_slope: Tensor
    upper_slope: Tensor
    upper_intercept: Tensor
    lower_intercept: Tensor | None = None
    """None where it is zero."""

    def to(self, dtype: torch.dtype) -> Lines:
        """The same in another precision."""
        if self.upper_slope.dtype == dtype:
            return self
        lower = None if self.lower_intercept is None else self.lower_intercept.to(dtype)
        return Lines(self.lower_slope.to(dtype), self.upper_slope.to(dtype), self.upper_intercept.to(dtype), lower)

    @cached_property
    def live(self) -> Tensor | None:
        """Positions where some line of the batch is not zero, when they are so few that leaving the others out pays."""
        if self.lower_intercept is not None:
            return None
        index = torch.nonzero((self.upper_slope != 0).any(0)[0]).squeeze(1)
        return index if len(index) < 0.85 * self.upper_slope.shape[-1] else None


@dataclass(eq=False)
class Charges:
    """Per node: ``weights`` (size,), the rounding charge of a coefficient, and ``reach`` (size,), a bound of |value| there."""

    weights: dict[int, Tensor] = field(default_factory=dict)
    reach: dict[int, Tensor] = field(default_factory=dict)


@dataclass(eq=False)
class Swept:
    """What one backward pass found."""

    lower: Tensor
    """``(B, S)`` lower bounds of the rows; rounding accounted for when charges were given."""
    rows: Tensor
    """``(b, S, input size)`` coefficients on the input."""
    constant: Tensor
    """``(B, S)`` constant of the linear lower bound ``rows . x + constant`` (rounding charges already subtracted)."""
    kept: dict[int, Tensor] = field(default_factory=dict)
    """Coefficients on the output of each nonlinear node, when asked for."""


def relax(step: Step, lower: Tensor, upper: Tensor, unit: float) -> Lines:
    """Sound float lines of a nonlinear step on [lower, upper], ``(B, size)``."""
    operator = step.nonlinear
    if operator is None:
        raise TypeError("only nonlinear steps have lines")
    if operator.rectifier:
        crossing = (lower < 0) & (upper > 0)
        on = (lower >= 0).to(lower.dtype)
        slope = torch.where(crossing, upper / torch.where(crossing, upper - lower, 1.0) * (1 + 8 * unit), on)
        intercept = torch.where(crossing, -lower * slope * (1 + 4 * unit), 0.0)
        below = torch.where(crossing, (upper > -lower).to(lower.dtype), on)
        return Lines(below.unsqueeze(1), slope.unsqueeze(1), intercept.unsqueeze(1))
    shape = (len(lower), *step.shape)
    left, right = lower.reshape(shape), upper.reshape(shape)
    width = right - left
    rise = operator.f(right) - operator.f(left)
    chord = rise / torch.where(width > 0, width, 1.0)
    # any slope is sound; across a jump in a box of almost no width the chord's overflows
    slope = torch.where(chord.abs() <= STEEPEST, chord, 0.0)
    low, high = operator.intercepts(left, right, slope)
    furthest = torch.maximum(left.abs(), right.abs())
    room = 16 * unit * (slope.abs() * furthest + low.abs().maximum(high.abs())) + torch.finfo(left.dtype).tiny
    slope, high, low = (t.reshape(len(lower), 1, -1) for t in (slope, high + room, low - room))
    return Lines(slope, slope, high, low)


def charges(plan: Plan, region: Region, boxes: Boxes, start: int, known: Charges | None = None) -> Charges:
    """For each node below ``start`` the vector c_k such that one backward pass errs by at most sum_k |A_k| . c_k on the region.

    ``boxes`` holds bounds of the inputs of nonlinear nodes over (a superset of) the region; ``known`` is extended. Relative errors
    counted: the affine map itself, the dot product with its offset, the sum over consumers, the scaling by slopes and the sums of
    constants, two per node at most.
    """
    out = Charges() if known is None else known
    sums, unit = 2 * len(plan.steps), plan.rounding.unit
    for s in reversed(plan.order(start)):
        if s.index in out.weights:
            continue
        if s.nonlinear is not None:
            out.reach[s.index], level = _bent_reach(s, *boxes[s.inputs[0]], unit)
            out.weights[s.index] = plan.rounding.gamma(s.size + sums) * level + plan.rounding.tiny
            continue
        if s.magnitude is not None:
            args = [out.reach[i].reshape(1, *shape) for i, shape in zip(s.inputs, s.shapes, strict=True)]
            reach = s.magnitude.forward(*args).reshape(-1) * (1 + 2 * s.gamma)
        else:
            reach = region.magnitude if s.value is None else s.value.abs()
        if s.error is not None:
            reach = reach + s.error
        out.reach[s.index] = reach
        weight = (s.gamma + plan.rounding.gamma(s.size + sums + plan.consumers[s.index])) * reach + plan.rounding.tiny
        out.weights[s.index] = weight if s.error is None else weight + s.error * (1 + 4 * unit)
    return out


def _bent_reach(step: Step, lower: Tensor, upper: Tensor, unit: float) -> tuple[Tensor, Tensor]:
    """Largest |f| over the batch, and what the error of a coefficient on f is multiplied with: intercepts, f, slope times input."""
    operator = step.operator
    inside = torch.maximum(lower.abs(), upper.abs()).amax(0)
    if operator.rectifier:  # type: ignore[attr-defined]
        after = upper.clamp(min=0).amax(0)
        return after, 3 * inside
    shape = (len(lower), *step.shape)
    low, high = operator.interval(lower.reshape(shape), upper.reshape(shape))  # type: ignore[attr-defined]
    after = torch.maximum(low.abs(), high.abs()).reshape(len(lower), -1).amax(0) * (1 + 8 * unit)
    line = relax(step, lower, upper, unit)
    parts = (line.lower_slope, line.upper_slope, line.upper_intercept, line.lower_intercept)
    low_slope, high_slope, high_level, low_level = (torch.zeros_like(inside) if t is None else t.abs().amax(0)[0] for t in parts)
    return after, torch.maximum(low_level, high_level) + after + torch.maximum(low_slope, high_slope).clamp_min(1.0) * inside


def backward(
    plan: Plan,
    region: Region,
    lines: dict[int, Lines],
    start: int,
    rows: Tensor,
    *,
    charge: Charges | None = None,
    shift: dict[int, Tensor] | None = None,
    keep: bool = False,
) -> Swept:
    """Lower bounds of ``rows`` (b, S, size of start) over each set of the region.

    ``shift[k]`` (B, S or 1, size) is added to the coefficients at the input of nonlinear node k: multipliers of splits.
    """
    count = rows.shape[1]
    pending: dict[int, Tensor] = {start: rows}
    weights = None if charge is None else charge.weights
    counted: set[int] = set()
    live: dict[int, Tensor] = {}
    constant = torch.zeros((1, count), dtype=rows.dtype, device=rows.device)
    kept: dict[int, Tensor] = {}
    on_cpu = rows.device.type == "cpu"

    def add(node: int, a: Tensor) -> None:
        pending[node] = pending[node] + a if node in pending else a

    for s in plan.order(start):
        a = pending.get(s.index)
        if a is None or s.index == plan.input:
            continue
        del pending[s.index]
        fused = s.nonlinear is not None and on_cpu and lines[s.index].lower_intercept is None
        if weights is not None and not fused and s.index not in counted:
            constant = constant - weigh(a, weights[s.index])
        if s.value is not None:
            constant = constant + a @ s.value
        elif s.affine is not None:
            level, parts = _pull(s, a, live.get(s.index))
            constant = constant if level is None else constant + level
            for i, g in zip(s.inputs, parts, strict=True):
                add(i, g.reshape(a.shape[0], count, -1))
        else:
            if keep:
                kept[s.index] = a
            z, line = s.inputs[0], lines[s.index]
            moved = None if shift is None else shift.get(s.index)
            if fused:
                alone = plan.consumers[z] == 1 and moved is None and z != plan.input
                if alone and weights is not None:
                    counted.add(z)
                if alone and line.live is not None:
                    live[z] = line.live
                pair = (None, None) if weights is None else (weights[s.index], weights[z] if alone else None)
                out, level, error = bend(a, line.lower_slope, line.upper_slope, line.upper_intercept, *pair)
                constant = constant + level - error
            else:
                out, level = _through(a, line)
                constant = constant + level
            add(z, out if moved is None else out + moved)
    rows_in = pending.get(plan.input)
    if rows_in is None:
        rows_in = torch.zeros((1, count, plan.steps[plan.input].size), dtype=rows.dtype, device=rows.device)
    lower = _minimum(plan, region, rows_in, None if weights is None else weights[plan.input]) + constant
    return Swept(lower, rows_in, constant.expand(lower.shape), kept)


def _pull(step: Step, a: Tensor, live: Tensor | None) -> tuple[Tensor | None, tuple[Tensor, ...]]:
    """Rows (b, S, size) through an affine map: their product with its offset, and the rows on its inputs.

    Neurons outside ``live`` are off. What they keep is a lower slope >= 0, which may fall to 0 with its share of the offset.
    """
    if step.affine is None:
        raise TypeError("only affine steps have a transpose")
    if live is not None and len(step.shapes) == 1 and a.shape[0] * a.shape[1] >= 32:
        rows = step.affine.restrict(live, *step.shapes)
        if rows is not None:
            some = a[:, :, live]
            return None if step.offset is None else some @ step.offset[live], ((some @ rows.flatten(1)).flatten(0, 1),)
    level = None if step.offset is None else a @ step.offset
    return level, step.affine.adjoint(a.reshape(-1, *step.shape), *step.shapes)


def _minimum(plan: Plan, region: Region, rows: Tensor, charge: Tensor | None) -> Tensor:
    if region.ball is None and rows.device.type == "cpu":
        return concretise(rows, region.lower, region.upper, charge)
    value = region.minimum(rows, plan.rounding.unit)
    return value if charge is None else value - weigh(rows, charge)


def _through(a: Tensor, line: Lines) -> tuple[Tensor, Tensor]:
    """Coefficients through lines: the lower line where they are positive, the upper one where negative; and the constant."""
    positive = a.clamp(min=0)
    negative = a - positive
    constant = _contract(negative, line.upper_intercept)
    if line.lower_intercept is not None:
        constant = constant + _contract(positive, line.lower_intercept)
    return positive * line.lower_slope + negative * line.upper_slope, constant


def _contract(a: Tensor, b: Tensor) -> Tensor:
    """Sums of products over the last axis: (b, S, n) with (b', s', n), b, b' in {1, B}, s' in {1, S}."""
    if b.shape[1] == 1:
        if b.shape[0] == 1:
            return a @ b[0, 0]
        if a.shape[0] == 1:
            return b[:, 0] @ a[0].T
        return torch.bmm(a, b.transpose(1, 2)).squeeze(-1)
    return (a * b).sum(-1)
