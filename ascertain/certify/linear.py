"""Backward linear bounds (CROWN): a row on any node, pushed to the input through lines of every nonlinearity.

Invariant, for every input of the region: ``rows . value(start) >= sum_k A_k . value_k + d - error`` over the nodes k not yet passed
(Zhang et al. 2018, Theorem 3.2). ``error`` makes it hold in floating point: with M_k >= |value_k| on the region, one application of an affine map
y = L v + b to a float row A errs by at most gamma |A| (|L| M + |b|), so a fixed vector per node (`Rounding.charge`) times |A| accounts
for everything, and the sum over nodes is subtracted at the end. Evidence: PROVED in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ascertain.certify.plan import Plan, Step
from ascertain.certify.region import Region

__all__ = ["Boxes", "Lines", "Swept", "backward", "charges", "relax"]

Boxes = dict[int, tuple[Tensor, Tensor]]
"""Bounds (lower, upper), each ``(B, size)``, of nodes."""


@dataclass(frozen=True, eq=False)
class Lines:
    """lower_slope x + lower_intercept <= f(x) <= upper_slope x + upper_intercept, each ``(b, s, size)`` with b in {1, B}, s in {1, S}."""

    lower_slope: Tensor
    upper_slope: Tensor
    upper_intercept: Tensor
    lower_intercept: Tensor | None = None
    """None where it is zero."""


@dataclass(eq=False)
class Swept:
    """What one backward pass found."""

    lower: Tensor
    """``(B, S)`` lower bounds of the rows; rounding accounted for when charges were given."""
    rows: Tensor
    """``(b, S, input size)`` coefficients on the input."""
    constant: Tensor
    """``(B, S)`` constant of the linear lower bound ``rows . x + constant``."""
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
    l, u = lower.reshape(shape), upper.reshape(shape)
    width = u - l
    rise = operator.f(u) - operator.f(l)
    slope = torch.where(width > 0, rise / torch.where(width > 0, width, 1.0), 0.0)
    low, high = operator.intercepts(l, u, slope)
    room = 16 * unit * (slope.abs() * torch.maximum(l.abs(), u.abs()) + low.abs().maximum(high.abs())) + torch.finfo(l.dtype).tiny
    flat = lambda t: t.reshape(len(lower), 1, -1)  # noqa: E731
    return Lines(flat(slope), flat(slope), flat(high + room), flat(low - room))


def charges(plan: Plan, region: Region, boxes: Boxes, start: int) -> dict[int, Tensor]:
    """For each node below ``start`` the vector c_k such that one backward pass errs by at most sum_k |A_k| . c_k on the region.

    ``boxes`` holds bounds of the inputs of nonlinear nodes over (a superset of) the region. Relative errors counted: the affine map
    itself, the dot product with its offset, the sum over consumers, the scaling by slopes and the final sums.
    """
    found: dict[int, Tensor] = {}
    size: dict[int, Tensor] = {}
    steps = len(plan.steps)
    for s in reversed(plan.order(start)):
        if s.index == plan.input:
            reach = region.magnitude
        elif s.value is not None:
            reach = s.value.abs()
        elif s.magnitude is not None:
            args = [size[i].reshape(1, *shape) for i, shape in zip(s.inputs, s.shapes, strict=True)]
            reach = s.magnitude.forward(*args).reshape(-1) * (1 + 2 * s.gamma)
        else:
            before = s.inputs[0]
            operator = s.nonlinear
            if operator is None or before not in boxes:
                raise KeyError(f"no bounds for the input of node {s.index}")
            l, u = boxes[before]
            shape = (len(l), *s.shape)
            low, high = operator.interval(l.reshape(shape), u.reshape(shape))
            after = torch.maximum(low.abs(), high.abs()).reshape(len(l), -1).amax(0) * (1 + 8 * plan.rounding.unit)
            inside = torch.maximum(l.abs(), u.abs()).amax(0)
            line = relax(s, l, u, plan.rounding.unit)
            steep = torch.maximum(line.lower_slope.abs(), line.upper_slope.abs()).amax(0)[0].clamp_min(1.0)
            level = line.upper_intercept.abs().amax(0)[0]
            if line.lower_intercept is not None:
                level = torch.maximum(level, line.lower_intercept.abs().amax(0)[0])
            size[s.index] = after
            found[s.index] = plan.rounding.gamma(s.size + steps) * (level + after + steep * inside) + plan.rounding.tiny
            continue
        size[s.index] = reach
        found[s.index] = (s.gamma + plan.rounding.gamma(s.size + steps + plan.consumers[s.index])) * reach + plan.rounding.tiny
    return found


def backward(
    plan: Plan,
    region: Region,
    lines: dict[int, Lines],
    start: int,
    rows: Tensor,
    *,
    charge: dict[int, Tensor] | None = None,
    shift: dict[int, Tensor] | None = None,
    keep: bool = False,
) -> Swept:
    """Lower bounds of ``rows`` (b, S, size of start) over each set of the region.

    ``shift[k]`` (B, S or 1, size) is added to the coefficients at the input of nonlinear node k: the multipliers of split constraints.
    """
    count = rows.shape[1]
    pending: dict[int, Tensor] = {start: rows}
    constant = torch.zeros((1, count), dtype=rows.dtype, device=rows.device)
    error = torch.zeros((1, count), dtype=rows.dtype, device=rows.device)
    kept: dict[int, Tensor] = {}

    def add(node: int, a: Tensor) -> None:
        pending[node] = pending[node] + a if node in pending else a

    for s in plan.order(start):
        a = pending.pop(s.index, None)
        if a is None:
            continue
        if charge is not None:
            error = error + a.abs() @ charge[s.index]
        if s.index == plan.input:
            pending[plan.input] = a
        elif s.value is not None:
            constant = constant + a @ s.value
        elif s.affine is not None:
            if s.offset is not None:
                constant = constant + a @ s.offset
            flat = a.reshape(-1, *s.shape)
            for i, g in zip(s.inputs, s.affine.adjoint(flat, *s.shapes), strict=True):
                add(i, g.reshape(a.shape[0], count, -1))
        else:
            if keep:
                kept[s.index] = a
            line = lines[s.index]
            positive = a.clamp(min=0)
            negative = a - positive
            constant = constant + _contract(negative, line.upper_intercept)
            if line.lower_intercept is not None:
                constant = constant + _contract(positive, line.lower_intercept)
            out = positive * line.lower_slope + negative * line.upper_slope
            if shift is not None and s.index in shift:
                out = out + shift[s.index]
            add(s.inputs[0], out)
    rows_in = pending.get(plan.input)
    if rows_in is None:
        rows_in = torch.zeros((1, count, plan.steps[plan.input].size), dtype=rows.dtype, device=rows.device)
    lower = region.minimum(rows_in, plan.rounding.unit) + constant - error
    return Swept(lower, rows_in, constant.expand(lower.shape), kept)


def _contract(a: Tensor, b: Tensor) -> Tensor:
    """Sums of products over the last axis: (b, S, n) with (b', s', n), b, b' in {1, B}, s' in {1, S}."""
    if b.shape[1] == 1:
        if b.shape[0] == 1:
            return a @ b[0, 0]
        if a.shape[0] == 1:
            return b[:, 0] @ a[0].T
        return torch.bmm(a, b.transpose(1, 2)).squeeze(-1)
    return (a * b).sum(-1)
