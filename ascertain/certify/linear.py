"""Backward linear bounds (CROWN): a row on any node, pushed to the input through lines of every nonlinearity.

Invariant, for every input of the region: ``rows . value(start) >= sum_k A_k . value_k + d - error`` over the nodes k not yet passed
(Zhang et al. 2018, Theorem 3.2). ``error`` makes it hold in floating point: with M_k >= |value_k| on the region, one application of
an affine map y = L v + b to a float row A errs by at most gamma |A| (|L| M + |b|), so a fixed vector per node (`charges`) times |A|
accounts for everything, and the sum over nodes is subtracted at the end. Evidence: PROVED in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ascertain.certify.fused import bend, concretise, weigh
from ascertain.certify.lines import Lines
from ascertain.certify.plan import Plan, Step
from ascertain.certify.region import Region
from ascertain.certify.relaxations import Relaxation, enclose

__all__ = ["Boxes", "Charges", "Relaxations", "Swept", "backward", "charges", "levels"]

Boxes = dict[int, tuple[Tensor, Tensor]]
"""Bounds (lower, upper), each ``(B, size)``, of nodes."""
Relaxations = dict[int, Relaxation]
"""Relaxations of nonlinear nodes."""


@dataclass(eq=False)
class Charges:
    """Per node: ``weights`` (size,), the rounding charge of a coefficient, and ``reach`` (size,), a bound of |value| there.

    Both leave out the sets of a batch that are ``lost``, ``(B,)``: those on which some value has no finite bounds, where nothing is
    proved. Otherwise one such set would leave the whole batch without bounds.
    """

    weights: dict[int, Tensor] = field(default_factory=dict)
    reach: dict[int, Tensor] = field(default_factory=dict)
    lost: Tensor | None = None


@dataclass(eq=False)
class Swept:
    """What one backward pass found."""

    lower: Tensor
    """``(B, S)`` lower bounds of the rows; rounding accounted for when charges were given. Never plus infinity."""
    rows: Tensor
    """``(b, S, input size)`` coefficients on the input."""
    constant: Tensor
    """``(B, S)`` constant of the linear lower bound ``rows . x + constant`` (rounding charges already subtracted)."""
    kept: dict[int, Tensor] = field(default_factory=dict)
    """Coefficients on the output of each nonlinear node, when asked for,"""
    lines: Relaxations = field(default_factory=dict)
    """and the relaxations that they met."""


def charges(plan: Plan, region: Region, boxes: Boxes, lines: Relaxations, start: int, known: Charges | None = None) -> Charges:
    """For each node below ``start`` the vector c_k such that one backward pass errs by at most sum_k |A_k| . c_k on the region.

    ``boxes`` holds bounds of the inputs of nonlinear nodes over (a superset of) the region, ``lines`` their relaxations; ``known``
    is extended. Relative errors counted: the affine map itself, the dot product with its offset, the sum over consumers, the
    scaling by slopes and the sums of constants, two per node at most.
    """
    out = Charges() if known is None else known
    sums, unit = 2 * len(plan.steps), plan.rounding.unit
    for s in reversed(plan.order(start)):
        if s.index in out.weights:
            continue
        if s.nonlinear is not None:
            pairs = [boxes[i] for i in s.inputs]
            sizes = [torch.maximum(low.abs(), high.abs()) for low, high in (*pairs, enclose(s, pairs, unit, plan.rounding.tiny))]
            *inside, out.reach[s.index] = _furthest(out, sizes)
            level = lines[s.index].level(inside, out.reach[s.index])
            out.weights[s.index] = plan.rounding.gamma(s.size + sums + s.longest) * level + plan.rounding.tiny
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


def _furthest(out: Charges, sizes: list[Tensor]) -> list[Tensor]:
    """The largest of each array (B, n) over the sets that are not lost, with which those are noted on which one is infinite."""
    fresh = [~torch.isfinite(t).all(1) for t in sizes]
    lost = torch.stack(torch.broadcast_tensors(*fresh, *(() if out.lost is None else (out.lost,)))).any(0)
    out.lost = lost
    some = bool(lost.any()) and not bool(lost.all())
    return [(t[~lost] if some and len(t) > 1 else t).amax(0) for t in sizes]


def backward(
    plan: Plan,
    region: Region,
    lines: Relaxations,
    start: int,
    rows: Tensor,
    *,
    charge: Charges | None = None,
    shift: dict[int, Tensor] | None = None,
    keep: bool = False,
) -> Swept:
    """Lower bounds of ``rows`` (b, S, size of start) over each set of the region.

    ``shift[z]`` (B, S or 1, size) is added to the coefficients at node z, the input of a nonlinear one: multipliers of splits.
    """
    count = rows.shape[1]
    pending: dict[int, Tensor] = {start: rows}
    weights = None if charge is None else charge.weights
    shift = {} if shift is None else shift
    counted: set[int] = set()  # nodes whose charges, and whose offsets, went into the pass before
    added: set[int] = set()
    live: dict[int, Tensor] = {}
    constant = torch.zeros((1, count), dtype=rows.dtype, device=rows.device)
    kept: dict[int, Tensor] = {}
    met: Relaxations = {}
    on_cpu = rows.device.type == "cpu"

    def add(node: int, a: Tensor) -> None:
        pending[node] = pending[node] + a if node in pending else a

    for s in plan.order(start):
        if s.index in shift:
            add(s.index, shift[s.index])
        a = pending.get(s.index)
        if a is None or s.index == plan.input:
            continue
        del pending[s.index]
        line = lines[s.index].facing(a) if s.nonlinear is not None else None
        fused = on_cpu and isinstance(line, Lines) and line.bounded
        if weights is not None and not fused and s.index not in counted:
            constant = constant - weigh(a, weights[s.index])
        if s.value is not None:
            constant = constant + a @ s.value
        elif line is None:
            level, parts = _pull(s, a, live.get(s.index), s.index not in added)
            constant = constant if level is None else constant + level
            for i, g in zip(s.inputs, parts, strict=True):
                add(i, g.reshape(a.shape[0], count, -1))
        else:
            if keep:
                kept[s.index], met[s.index] = a, line
            if fused and isinstance(line, Lines):
                z = s.inputs[0]
                alone = plan.consumers[z] == 1 and z not in shift and z != plan.input
                if alone and weights is not None:
                    counted.add(z)
                offset = None
                if alone and line.live is not None:
                    live[z] = line.live
                elif alone:
                    offset = plan.steps[z].offset
                    added.add(z)
                pair = (None, None) if weights is None else (weights[s.index], weights[z] if alone else None)
                out, level, error = bend(a, line, pair[0], pair[1], offset)
                constant = constant + level - error
                add(z, out)
            else:
                parts, level = line.pull(a)
                constant = constant + level
                for i, g in zip(s.inputs, parts, strict=True):
                    add(i, g)
    rows_in = pending.get(plan.input)
    if rows_in is None:
        rows_in = torch.zeros((1, count, plan.steps[plan.input].size), dtype=rows.dtype, device=rows.device)
    lower = _minimum(plan, region, rows_in, None if weights is None else weights.get(plan.input)) + constant
    nothing = lower == torch.inf  # an overflow says nothing about the sum
    if charge is not None and charge.lost is not None:
        nothing = nothing | charge.lost.unsqueeze(1)
    lower, constant = lower.masked_fill(nothing, torch.nan), constant.expand(lower.shape).masked_fill(nothing, torch.nan)
    return Swept(lower, rows_in, constant, kept, met)


def levels(plan: Plan, region: Region, rows: Tensor, constant: Tensor, charge: Charges) -> Tensor:
    """Constants (B, S) with which ``rows . x + constant`` of a backward pass is a lower bound on the whole region."""
    charged = rows.abs() @ charge.weights[plan.input]
    return constant - charged - 4 * plan.rounding.unit * (constant.abs() + (len(region.lower[0]) + 1) * charged)


def _pull(step: Step, a: Tensor, live: Tensor | None, offset: bool) -> tuple[Tensor | None, tuple[Tensor, ...]]:
    """Rows (b, S, size) through an affine map: their product with its offset, where asked for, and the rows on its inputs.

    Neurons outside ``live`` are off. What they keep is a lower slope >= 0, which may fall to 0 with its share of the offset.
    """
    if step.affine is None:
        raise TypeError("only affine steps have a transpose")
    if live is not None and len(step.shapes) == 1 and a.shape[0] * a.shape[1] >= 32:
        rows = step.affine.restrict(live, *step.shapes)
        if rows is not None:
            some = a[:, :, live]
            return None if step.offset is None else some @ step.offset[live], ((some @ rows.flatten(1)).flatten(0, 1),)
    level = a @ step.offset if offset and step.offset is not None else None
    return level, step.affine.adjoint(a.reshape(-1, *step.shape), *step.shapes)


def _minimum(plan: Plan, region: Region, rows: Tensor, charge: Tensor | None) -> Tensor:
    if region.ball is None and rows.device.type == "cpu":
        return concretise(rows, region.lower, region.upper, charge)
    value = region.minimum(rows, plan.rounding.unit)
    return value if charge is None else value - weigh(rows, charge)
