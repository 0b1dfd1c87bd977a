"""Bounds of every operator against values, on random boxes: does the arithmetic of this machine keep what the proofs assume?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from torch import Tensor

from ascertain.certify.bounds import bound_nodes
from ascertain.certify.linear import backward, charges
from ascertain.certify.plan import Plan
from ascertain.certify.region import Region
from ascertain.graph import lower
from ascertain.graph.graph import Builder
from ascertain.operators import Reshape, Slice
from ascertain.operators.base import Bilinear, Operator, Planar, Shape, Univariate
from ascertain.operators.trial import reflected

__all__ = ["Findings", "every_operator", "examine", "own_bounds"]

BATCH = 250
POINTS = 48
MEASURED = 25
"""Boxes of a batch whose true range is searched for."""
SCALES = {torch.float64: sorted(range(-30, 7), key=abs), torch.float32: sorted(range(-6, 4), key=abs)}
"""Powers of ten of the boxes, in the order in which they are tried."""
Bounds = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Bounds (B, m) of the outputs from boxes (B, n)."""


@dataclass(frozen=True)
class Findings:
    """What one operator's bounds did on random boxes."""

    operator: str
    boxes: int
    violation: float
    """The largest amount by which a value passed a bound, as a share of the largest number in its computation; 0 where none did."""
    looseness: float | None
    """Share of the width of bounds that no value was found in, on average over boxes that are not narrow; None without any."""


def every_operator() -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
    """One example of each operator of the package that states one, by name."""
    found: dict[str, tuple[Operator, tuple[Shape, ...]]] = {}

    def collect(kind: type[Operator]) -> None:
        for one in kind.__subclasses__():
            own = "examples" in {name for k in one.__mro__ if k is not Operator for name in k.__dict__}
            if own and one.__module__.startswith("ascertain.operators") and _complete(one):
                found[one.__name__] = next(one.examples())
            collect(one)

    collect(Operator)
    yield from (found[name] for name in sorted(found))


def _complete(kind: type[Operator]) -> bool:
    """Whether a class computes something, rather than being the family of those that do."""
    return kind.forward is not Operator.forward and (not issubclass(kind, Univariate) or kind.f is not Univariate.f)


def examine(
    operator: Operator,
    shapes: tuple[Shape, ...],
    boxes: int,
    dtype: torch.dtype,
    device: str = "cpu",
    *,
    bounds: Callable[[Plan], Bounds] | None = None,
    seed: int = 0,
) -> Findings:
    """Bounds of an operator on random boxes of many scales against its values there; ``bounds`` replaces this package's own."""
    rng = np.random.default_rng(seed)
    plan, exact = _plans(operator, shapes, dtype, device)
    ask = own_bounds(plan) if bounds is None else bounds(plan)
    domain = operator.domain if isinstance(operator, Univariate) else (-np.inf, np.inf)
    shares: list[float] = []
    worst, tried = 0.0, 0
    while tried < boxes:
        count = min(BATCH, boxes - tried)
        scale = 10.0 ** SCALES[dtype][tried // BATCH % len(SCALES[dtype])]
        ends = _boxes(rng, (count, plan.steps[plan.input].size), scale, domain)
        low, high = (torch.tensor(t, dtype=dtype, device=device) for t in ends)
        least, most = (t.double() for t in ask(low, high))
        least, most = least.nan_to_num(-torch.inf, torch.inf, -torch.inf), most.nan_to_num(torch.inf, torch.inf, -torch.inf)
        x = _points(rng, low.double(), high.double())
        values = exact.forward(x.flatten(0, 1))
        y = values[exact.output].reshape(count, POINTS, -1)
        size = _size(exact, values).reshape(count, POINTS, 1)
        room = 64 * 2.0**-53 * size + 1e-290  # of the values themselves
        outside = torch.maximum(least.unsqueeze(1) - y, y - most.unsqueeze(1))
        share = torch.where(outside > room, outside / size.clamp_min(1e-290), 0.0)
        worst = max(worst, float(torch.nan_to_num(share, nan=torch.inf).amax()))
        some = slice(MEASURED)
        pairs = ((low[some].double(), high[some].double()), (least[some], most[some]))
        shares += _loose(exact, *pairs, x[some], y[some], rng, alone=isinstance(operator, Univariate))
        tried += count
    return Findings(operator.name, tried, worst, float(np.mean(shares)) if shares else None)


def _plans(operator: Operator, shapes: tuple[Shape, ...], dtype: torch.dtype, device: str) -> tuple[Plan, Plan]:
    """The operator on slices of one flat input, compiled; and the same numbers in double precision."""
    build = Builder()
    sizes = [prod(s) for s in shapes]
    x = build.input((sum(sizes),))
    inputs, start = [], 0
    for shape, n in zip(shapes, sizes, strict=True):
        inputs.append(build(Reshape(shape), build(Slice(((start, start + n, 1),)), x)))
        start += n
    plan = Plan.compile(lower(build.graph(x, build(operator, *inputs))), dtype, device)

    def double(t: Tensor) -> Tensor:
        return t.double() if t.dtype.is_floating_point else t

    steps = [
        replace(
            s,
            magnitude=None if s.magnitude is None else s.magnitude.convert(double),
            affine=None if s.affine is None else s.affine.convert(double),
            nonlinear=None if s.nonlinear is None else s.nonlinear.convert(double),
            value=None if s.value is None else double(s.value),
        )
        for s in plan.steps
    ]
    return plan, replace(plan, steps=tuple(steps), dtype=torch.float64)


def _size(plan: Plan, values: list[Tensor]) -> Tensor:
    """The largest number that is rounded on the way, for each point."""
    largest = torch.zeros(len(values[plan.input]), dtype=torch.float64, device=plan.device)
    for s in plan.steps:
        if s.index == plan.input or s.value is not None or (s.affine is not None and s.gamma == 0):
            continue
        args = [values[i].abs().reshape(-1, *shape) for i, shape in zip(s.inputs, s.shapes, strict=True)]
        found = values[s.index].abs().amax(1)
        if s.magnitude is not None:
            found = s.magnitude.forward(*args).flatten(1).amax(1)
        elif isinstance(s.nonlinear, Bilinear):
            found = s.nonlinear.forward(*args).flatten(1).amax(1)
        elif isinstance(s.nonlinear, Planar):
            found = found + args[0].flatten(1).amax(1)
        largest = torch.fmax(largest, found)
    return torch.nan_to_num(largest)


def own_bounds(plan: Plan) -> Bounds:
    """What `bound` does with method crown."""

    def ask(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        region = Region(low, high)
        bounded = bound_nodes(plan, region)
        least, most = bounded.every[plan.output]
        charge = charges(plan, region, bounded.boxes, bounded.lines, plan.output, bounded.charge)
        eye = torch.eye(plan.steps[plan.output].size, dtype=plan.dtype, device=plan.device)
        rows = torch.cat([eye, -eye]).unsqueeze(0)
        below, above = backward(plan, region, bounded.lines, plan.output, rows, charge=charge).lower.split(len(eye), 1)
        return torch.fmax(least, below), torch.fmin(most, -above)

    return ask


def _boxes(
    rng: np.random.Generator, shape: tuple[int, int], scale: float, domain: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of one scale (rounding is charged by the largest number of a batch): points, narrow ones, wide ones, some at zero."""
    center = rng.normal(size=shape) * scale * (rng.random((shape[0], 1)) < 0.9)
    width = rng.exponential(size=shape) * scale * 10.0 ** rng.choice([-12, -6, -3, -1, 0, 0, 0, 1], size=(shape[0], 1))
    width[rng.random(size=shape) < 0.05] = 0.0
    ends = np.stack([reflected(center, domain), reflected(center + width, domain)])
    return ends.min(0), ends.max(0)


def _points(rng: np.random.Generator, low: Tensor, high: Tensor) -> Tensor:
    """Points (B, POINTS, n): corners, a grid along the diagonal, and others."""
    share = rng.random((len(low), POINTS, low.shape[1]))
    share[:, : POINTS // 3] = np.round(share[:, : POINTS // 3])
    grid = np.linspace(0, 1, POINTS // 3)
    share[:, -len(grid) :] = grid[None, :, None]
    s = torch.tensor(share, device=low.device)
    a, b = low.unsqueeze(1), high.unsqueeze(1)
    return torch.minimum(torch.maximum(a * (1 - s) + b * s, a), b)


def _loose(
    exact: Plan,
    box: tuple[Tensor, Tensor],
    bounds: tuple[Tensor, Tensor],
    x: Tensor,
    y: Tensor,
    rng: np.random.Generator,
    *,
    alone: bool,
) -> list[float]:
    """For each box the share of a width that lies outside of the true range, which coordinate search approaches from within.

    ``alone``: every output depends on one input, so that the points serve all of them. Otherwise one output is searched.
    """
    least, most = bounds
    if alone:
        low, high = y.amin(1), y.amax(1)
    else:
        pick = torch.tensor(rng.integers(y.shape[2], size=(len(y), 1)), device=y.device)
        y = y.gather(2, pick.unsqueeze(1).expand(-1, y.shape[1], 1))[..., 0]
        least, most = least.gather(1, pick), most.gather(1, pick)
        high = _climb(exact, box, pick, x, y, 1.0).unsqueeze(1)
        low = -_climb(exact, box, pick, x, y, -1.0).unsqueeze(1)
    wide = (high - low > 1e-3 * torch.maximum(high.abs(), low.abs())) & torch.isfinite(high - low)
    share = 1 - (high - low) / (most - least)
    return [float(v) for v in share[wide]]


def _climb(exact: Plan, box: tuple[Tensor, Tensor], pick: Tensor, x: Tensor, y: Tensor, sign: float) -> Tensor:
    """The largest sign * output found by moving one coordinate at a time to an end or the middle of its range, twice each."""
    low, high = box
    best, at = (sign * y).max(1)
    now = x[torch.arange(len(x)), at]
    for i in [*range(x.shape[2])] * 2:
        for value in (low[:, i], (low[:, i] + high[:, i]) / 2, high[:, i]):
            trial = now.clone()
            trial[:, i] = value
            found = sign * exact.forward(trial)[exact.output].gather(1, pick)[:, 0]
            better = found > best
            best, now = torch.where(better, found, best), torch.where(better.unsqueeze(1), trial, now)
    return best
