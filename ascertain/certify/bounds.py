"""Bounds of every node over a batch of input sets: forward bounds first, back-substitution where they leave a neuron undecided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ascertain.certify.forward import Zonotope, interval_step, zonotope_input, zonotope_step
from ascertain.certify.linear import Boxes, Charges, Relaxations, backward, charges
from ascertain.certify.optimize import Multipliers, optimize
from ascertain.certify.plan import Plan, Step
from ascertain.certify.region import Region
from ascertain.certify.relaxations import relax
from ascertain.operators.base import Univariate

__all__ = ["Bounded", "bound_nodes", "refiner"]

CACHE = 1 << 20
"""Bytes of coefficients in one pass of rows, so that they stay near the processor (measured: twice as fast as 16 MB)."""
MOST_GENERATORS = 5_000_000
"""Entries of all generator matrices above which back-substitution is the cheaper way."""

Refine = Callable[[int, Tensor, Relaxations, Charges], tuple[Tensor, Tensor]]


@dataclass(eq=False)
class Bounded:
    """Bounds of the inputs of all nonlinear nodes, their lines, and the rounding charges of the region."""

    boxes: Boxes = field(default_factory=dict)
    lines: Relaxations = field(default_factory=dict)
    every: Boxes = field(default_factory=dict)
    """Forward bounds of every node."""
    charge: Charges = field(default_factory=Charges)


def bound_nodes(
    plan: Plan,
    region: Region,
    *,
    back: bool = True,
    zonotope: bool | None = None,
    refine: Refine | None = None,
    known: Boxes | None = None,
    check: Callable[[], None] = lambda: None,
) -> Bounded:
    """Bounds of every nonlinear node's input.

    ``back``: back-substitute the neurons that forward bounds leave curved. ``zonotope``: use zonotopes beside intervals (None: when
    the free inputs are fewer than the widest layer). ``refine(node, index, lines, charge)`` may replace the back-substitution of
    the neurons ``index`` by something tighter. ``known``: bounds of nodes that hold already.
    ``check`` is called often and may raise to end the work. Evidence: PROVED in float64.
    """
    out = Bounded()
    if zonotope is None:
        zonotope = _worthwhile(plan, region)
    zonotopes: dict[int, Zonotope] = {}
    total = 0
    moved, exact = {plan.input}, {plan.input}  # the input itself, and one affine map of it: intervals are exact there
    for s in plan.steps[: plan.output + 1]:
        if s.index == plan.input:
            out.every[s.index] = (region.lower, region.upper)
            if zonotope:
                zonotopes[s.index] = zonotope_input(region, plan.rounding.unit)
                total = zonotopes[s.index].generators.shape[1]
            continue
        if s.nonlinear is not None:
            for z in s.inputs:
                if z not in out.boxes:
                    known_well = z in exact and region.ball is None
                    out.boxes[z] = _input_box(plan, region, out, z, back and not known_well, refine, check)
                    out.every[z] = out.boxes[z]
            out.lines[s.index] = relax(s, [out.boxes[z] for z in s.inputs], plan.rounding.unit)
        elif len(s.inputs) == 1 and s.inputs[0] in moved:
            exact.add(s.index)
            if s.gamma == 0.0:
                moved.add(s.index)
        out.every[s.index] = interval_step(plan, s, [out.every[i] for i in s.inputs])
        if zonotope:
            boxes = [out.boxes[i] for i in s.inputs] if s.nonlinear is not None else []
            zonotopes[s.index] = zonotope_step(plan, s, [zonotopes[i] for i in s.inputs], boxes, out.lines.get(s.index), total)
            total = max(total, zonotopes[s.index].generators.shape[1])
            out.every[s.index] = _meet(out.every[s.index], zonotopes[s.index].bounds(plan.rounding.unit))
            if len(region) * total * sum(step.size for step in plan.steps) > MOST_GENERATORS:
                zonotope, zonotopes = False, {}
        if known is not None and s.index in known:
            out.every[s.index] = _meet(out.every[s.index], known[s.index])
    return out


def _worthwhile(plan: Plan, region: Region) -> bool:
    free = int((region.upper > region.lower).any(0).sum())
    widest = max((s.size for s in plan.steps if s.nonlinear is not None), default=0)
    return free <= widest and len(region) * free * sum(s.size for s in plan.steps) <= MOST_GENERATORS


def _meet(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.fmax(a[0], b[0]), torch.fmin(a[1], b[1])  # what is no number bounds nothing


def _input_box(
    plan: Plan,
    region: Region,
    out: Bounded,
    z: int,
    back: bool,
    refine: Refine | None,
    check: Callable[[], None],
) -> tuple[Tensor, Tensor]:
    """Bounds of the input of a nonlinear node: forward bounds, then rows for the neurons that are still curved."""
    inf = torch.inf  # what overflowed to NaN bounds nothing
    lower = torch.nan_to_num(out.every[z][0], nan=-inf, posinf=inf, neginf=-inf).expand(len(region), -1)
    upper = torch.nan_to_num(out.every[z][1], nan=inf, posinf=inf, neginf=-inf).expand(len(region), -1)
    if not back:
        return lower, upper
    curved = torch.zeros(lower.shape, dtype=torch.bool, device=lower.device)
    for s in plan.steps:
        if isinstance(s.nonlinear, Univariate) and s.inputs[0] == z:
            shape = (len(lower), *s.shape)
            curved |= s.nonlinear.curved(lower.reshape(shape), upper.reshape(shape)).reshape(lower.shape)
        elif s.nonlinear is not None and z in s.inputs:
            curved |= lower < upper
    index = torch.nonzero(curved.any(0)).squeeze(1)
    if len(index) == 0:
        return lower, upper
    lower, upper = lower.clone(), upper.clone()
    charge = charges(plan, region, out.boxes, out.lines, z, out.charge)
    room = CACHE if refine is None else 8 * CACHE
    chunk = max(64 // len(region), room // (8 * max(s.size for s in plan.steps) * len(region)), 1)
    for part in index.split(chunk):
        check()
        if refine is not None:
            low, high = refine(z, part, out.lines, charge)
        else:
            low, high = _rows(plan, region, out.lines, plan.steps[z], part, charge)
        lower[:, part] = torch.fmax(lower[:, part], low)
        upper[:, part] = torch.fmin(upper[:, part], high)
    return lower, torch.maximum(lower, upper)


def _start(step: Step, index: Tensor, plan: Plan) -> tuple[int, Tensor, Tensor | None]:
    """Rows +e_i and -e_i (1, 2k, size) for the neurons ``index`` of a node, moved through its affine map where that is free.

    Returns the node that the rows act on, the rows, and what an affine map that was passed adds to them, (2, k), or None.
    """
    rows = step.affine.restrict(index, *step.shapes) if step.affine is not None and len(step.inputs) == 1 else None
    if rows is not None:
        flat = rows.reshape(len(index), -1)
        level = torch.zeros(len(index), dtype=flat.dtype, device=flat.device) if step.offset is None else step.offset[index]
        return step.inputs[0], torch.cat([flat, -flat]).unsqueeze(0), torch.stack([level, -level])
    at = torch.arange(len(index), device=index.device)
    unit = torch.zeros((2, len(index), step.size), dtype=plan.dtype, device=plan.device)
    unit[0, at, index] = 1.0
    unit[1, at, index] = -1.0
    return step.index, unit.reshape(1, -1, step.size), None


def _rows(plan: Plan, region: Region, lines: Relaxations, step: Step, index: Tensor, charge: Charges) -> tuple[Tensor, Tensor]:
    """Back-substituted bounds of the neurons ``index`` of a node, each ``(B, len(index))``."""
    start, rows, passed = _start(step, index, plan)
    swept = backward(plan, region, lines, start, rows, charge=charge)
    low, high = swept.lower.split(len(index), dim=1)
    if passed is not None:
        room = charge.weights[step.index][index]
        low, high = low + passed[0] - room, high + passed[1] - room
    return low, -high


def refiner(plan: Plan, fast: Plan, region: Region, steps: int, check: Callable[[], None] = lambda: None) -> Refine:
    """Back-substitution with slopes optimised for each neuron: in the fast plan's precision, then proved in this plan's."""
    region_fast = region.to(fast.dtype)

    def refine(z: int, index: Tensor, lines: Relaxations, charge: Charges) -> tuple[Tensor, Tensor]:
        start, rows, _ = _start(fast.steps[z], index, fast)
        single = {k: line.to(fast.dtype) for k, line in lines.items()}
        first = Multipliers.start(fast, single, start, len(region), rows.shape[1])
        _, best = optimize(fast, region_fast, single, start, rows, first, steps=steps, rate=0.2, check=check)
        return _rows(plan, region, best.to(plan.dtype).applied(lines), plan.steps[z], index, charge)

    return refine
