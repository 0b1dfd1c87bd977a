"""The batched torch engine on one case of a property: attack, root bounds, optimised slopes, search over neuron signs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ascertain.certify.bounds import Bounded, bound_nodes, refiner
from ascertain.certify.falsify import descend, stack_atoms, violation
from ascertain.certify.linear import Charges, Relaxations, backward, charges
from ascertain.certify.optimize import Multipliers, optimize
from ascertain.certify.plan import Plan
from ascertain.certify.reduce import reduce_plan
from ascertain.certify.region import Ball, Region
from ascertain.certify.result import Decision
from ascertain.certify.search.box_split import BoxSearch
from ascertain.certify.search.neuron_split import NeuronSearch
from ascertain.certify.strategy import FEW_INPUTS, Job
from ascertain.errors import DataError
from ascertain.graph import Graph, lower
from ascertain.operators.base import Univariate
from ascertain.properties.property import Atoms, Case
from ascertain.properties.sets import Box, InputSet, LpBall

__all__ = ["DeepEngine", "output_bounds", "region_of"]

METHODS = ("alpha", "crown", "interval", "zonotope")


def region_of(sets: InputSet, dtype: torch.dtype, device: torch.device) -> Region:
    """The engine's view of an input set: its bounding box, and the ball itself for p = 1 and 2; a polytope's rows are dropped."""
    box = sets.box()
    lower = torch.tensor(box.lower, dtype=dtype, device=device).unsqueeze(0)
    upper = torch.tensor(box.upper, dtype=dtype, device=device).unsqueeze(0)
    if isinstance(sets, LpBall) and sets.p != float("inf"):
        center = torch.tensor(sets.center(), dtype=dtype, device=device)
        return Region(lower, upper, Ball(center, float(sets.radius), float(sets.p)))
    return Region(lower, upper)


def undefined(plan: Plan, bounded: Bounded) -> list[int]:
    """Nonlinear steps below the output that may meet a number at which they are not defined: a pole, the logarithm of 0."""
    found = []
    for k in plan.nonlinear:
        step = plan.steps[k]
        if isinstance(step.nonlinear, Univariate) and k in plan.ancestors[plan.output]:
            lower, upper = (t.reshape(-1, *step.shape) for t in bounded.boxes[step.inputs[0]])
            known = step.nonlinear.defined(lower, upper)
            if known is not True and not bool(torch.as_tensor(known).all()):
                found.append(k)
    return found


@dataclass(eq=False)
class DeepEngine:
    """Compiled once for a network, then asked for one case after the other."""

    job: Job
    network: Graph
    exact: Plan = field(init=False)
    fast: Plan = field(init=False)

    def __post_init__(self) -> None:
        device = self.job.device
        self.exact = Plan.compile(self.network, torch.float64, device)
        self.fast = Plan.compile(self.network, torch.float32, device)

    def attack(self, index: int, case: Case, *, restarts: int, steps: int, deadline: float) -> bool:
        """Whether descent found a witness."""
        self._threads(self.fast.work * restarts * len(case.unsafe))
        return descend(
            self.fast,
            region_of(case.set, torch.float32, self.fast.device),
            case.unsafe,
            lambda points: self._confirm(index, points),
            restarts=restarts,
            steps=steps,
            deadline=deadline,
            seed=self.job.seed,
            stop=self.job.stop,
        )

    def _threads(self, work: float) -> None:
        """All threads for passes of many multiply-adds; one for small ones, where waiting for others costs more than it saves."""
        torch.set_num_threads(self.job.threads if work > 3e7 else 1)

    def root(self, region: Region) -> Bounded:
        """Proved bounds of all neurons over the region."""
        self._threads(64 * self.exact.work)
        return bound_nodes(self.exact, region, check=self.job.check)

    def solve(self, index: int, case: Case) -> Decision:
        """Decides one case."""
        self.job.tell("attack", 0.0, 1, 0, float("nan"))
        if self.attack(index, case, restarts=2, steps=20, deadline=min(self.job.deadline, time.monotonic() + 2.0)):
            return Decision("violated", "", "attack", 0, float("nan"))
        region = region_of(case.set, torch.float64, self.exact.device)
        bounded = self.root(region)
        rows, limits = stack_atoms(case.unsafe, torch.float64, self.exact.device)
        charge = charges(self.exact, region, bounded.boxes, bounded.lines, self.exact.output, bounded.charge)
        flat = rows.reshape(1, -1, rows.shape[-1])
        swept = backward(self.exact, region, bounded.lines, self.exact.output, flat, charge=charge)
        margin = swept.lower.reshape(limits.shape) - limits
        open_ = ~(margin.amax(1) > 0)  # a margin that overflowed is NaN and proves nothing
        if not bool(open_.any()):
            return Decision("holds", "", "bounds", len(rows), float(margin.amax(1).amin()))
        if self._confirm(index, region.minimiser(swept.rows)[0], case):
            return Decision("violated", "", "bounds", len(rows), float("nan"))
        left = Case(case.set, tuple(a for a, keep in zip(case.unsafe, open_.tolist(), strict=True) if keep))
        if self.attack(index, left, restarts=16, steps=60, deadline=min(self.job.deadline, time.monotonic() + 4.0)):
            return Decision("violated", "", "attack", len(rows), float("nan"))
        found = self._search(index, left, region, bounded)
        holes = undefined(self.exact, bounded)
        if found.status != "unknown" or not holes:
            return found
        names = ", ".join(f"{self.exact.steps[k].operator.name} at node {self.network.nodes[k].name!r}" for k in holes)
        return replace(
            found, reason=f"{found.reason}; {names}: not known to be defined on the whole set, no bounds where it is not"
        )

    def _search(self, index: int, case: Case, region: Region, bounded: Bounded) -> Decision:
        """Branch and bound on the network reduced to its undecided neurons; all of it where that is too large or has no input."""
        rows, limits = stack_atoms(case.unsafe, torch.float64, self.exact.device)
        count = rows.shape[0] * rows.shape[1]
        flat = rows.reshape(count, -1), limits.reshape(count)
        reduced = reduce_plan(self.exact, region, bounded, *flat, limit=int(self.job.memory / 32), check=self.job.check)
        if reduced is None or len(reduced.free) == 0:
            confirm = lambda points: self._confirm(index, points, case)  # noqa: E731
            if 0 < int((region.upper > region.lower).sum()) <= 2 * FEW_INPUTS:
                split = self._boxes(BoxSearch(self.exact, region, rows, limits, confirm, self.job.deadline))
                if split is not None:
                    return split
            self._threads(128 * self.exact.work)
            tight = self._refined(region, bounded)
            return self._neurons(NeuronSearch(self.exact, self.fast, region, tight, rows, limits, confirm))
        form = reduced.dense()
        groups = np.arange(count).reshape(rows.shape[:2])
        margins = tuple(Atoms(np.eye(count)[g], np.zeros(len(g))) for g in groups)
        box = Box(reduced.region.lower[0].cpu().numpy(), reduced.region.upper[0].cpu().numpy()) if len(reduced.free) else None
        single = lambda x: self._confirm(index, reduced.inputs(torch.as_tensor(x[None])))  # noqa: E731
        if form is not None and box is not None and len(reduced.free) <= 2 * FEW_INPUTS and region.ball is None:
            split = self.job.by_inputs(form, Case(box, margins), single, 1.0 if len(reduced.free) <= FEW_INPUTS else 0.5)
            if split.reason != "timeout" or time.monotonic() > self.job.deadline:
                return split
        eye = torch.eye(count, dtype=torch.float64, device=rows.device).reshape(*groups.shape, count)
        confirm = lambda points: self._confirm(index, reduced.inputs(points), case)  # noqa: E731
        zero = torch.zeros_like(limits)
        if form is None and len(reduced.free) <= 2 * FEW_INPUTS:
            split = self._boxes(BoxSearch(reduced.plan, reduced.region, eye, zero, confirm, self.job.deadline))
            if split is not None:
                return split
        self._threads(128 * reduced.work)
        better = refiner(reduced.plan, reduced.fast, reduced.region, 12, self.job.check)
        tight = bound_nodes(reduced.plan, reduced.region, refine=better, known=reduced.boxes, check=self.job.check)
        found = self._neurons(NeuronSearch(reduced.plan, reduced.fast, reduced.region, tight, eye, zero, confirm))
        if found.reason.startswith("exhausted") and form is not None and box is not None:
            return self.job.by_programs(form, Case(box, margins), single)
        return found

    def _boxes(self, search: BoxSearch) -> Decision | None:
        """Gets half the time left, all of it where most of the box is proved by then; None where others may still decide."""
        search.stop, search.progress, search.memory = self.job.stop, self.job.tell, self.job.memory
        self._threads(64 * search.plan.work)
        search.deadline = (time.monotonic() + self.job.deadline) / 2
        found = search.run()
        if found.reason == "timeout" and found.share > 0.5:
            search.deadline = self.job.deadline
            found = search.run()
        ended = time.monotonic() > self.job.deadline or self.job.stop()
        return found if found.status != "unknown" or ended else None

    def _refined(self, region: Region, bounded: Bounded) -> Bounded:
        """Bounds with slopes optimised for each neuron, from the first layer on, for a tenth of the time left."""
        now = time.monotonic()
        until = now + 0.1 * (self.job.deadline - now)
        better = refiner(self.exact, self.fast, region, 20, self.job.check)

        def refine(z: int, index: Tensor, lines: Relaxations, charge: Charges) -> tuple[Tensor, Tensor]:
            if time.monotonic() < until:
                return better(z, index, lines, charge)
            unknown = torch.full((len(region), len(index)), torch.inf, dtype=self.exact.dtype, device=self.exact.device)
            return -unknown, unknown  # what is known of the neurons stays

        return bound_nodes(self.exact, region, refine=refine, known=bounded.boxes, check=self.job.check)

    def _neurons(self, search: NeuronSearch) -> Decision:
        search.check, search.progress, search.memory = self.job.check, self.job.tell, self.job.memory
        return search.run()

    def _confirm(self, index: int, points: Tensor, case: Case | None = None) -> bool:
        """Replays points; with a case, only those that the compiled plan already finds unsafe."""
        if case is not None:
            rows, limits = stack_atoms(case.unsafe, self.fast.dtype, self.fast.device)
            every = violation(self.fast.forward(points.to(self.fast.dtype))[self.fast.output], rows, limits)
            points = points[(every <= 1e-5).any(1)][:16]
        return len(points) > 0 and self.job.confirm(index, points.double().cpu().numpy())


def output_bounds(
    network: Graph, sets: InputSet, method: str, steps: int, device: str, threads: int
) -> tuple[np.ndarray, np.ndarray]:
    """Proved bounds of every output over a set; see `ascertain.certify.verify.bound`."""
    if method not in METHODS:
        raise DataError(f"{method!r} is no bound method; choose one of {', '.join(METHODS)}.")
    torch.set_num_threads(threads)
    graph = lower(network)
    plan = Plan.compile(graph, torch.float64, device)
    region = region_of(sets, torch.float64, plan.device)
    back = method in ("crown", "alpha")
    zonotope = method == "zonotope" or (None if back else False)
    if method != "alpha":
        bounded = bound_nodes(plan, region, back=back, zonotope=zonotope)
        lines = bounded.lines
    else:
        fast = Plan.compile(graph, torch.float32, device)
        bounded = bound_nodes(plan, region, refine=refiner(plan, fast, region, 3 * steps // 5))
    low, high = (t[0] for t in bounded.every[plan.output])
    if back:
        charge = charges(plan, region, bounded.boxes, bounded.lines, plan.output, bounded.charge)
        eye = torch.eye(plan.steps[plan.output].size, dtype=plan.dtype, device=plan.device)
        rows = torch.cat([eye, -eye]).unsqueeze(0)
        if method == "alpha":
            single = {k: line.to(fast.dtype) for k, line in bounded.lines.items()}
            start = Multipliers.start(fast, single, plan.output, 1, rows.shape[1])
            _, best = optimize(fast, region.to(fast.dtype), single, plan.output, rows.to(fast.dtype), start, steps=steps, rate=0.2)
            lines = best.to(plan.dtype).applied(bounded.lines)
        swept = backward(plan, region, lines, plan.output, rows, charge=charge)
        below, above = swept.lower[0].split(len(eye))
        low, high = torch.maximum(low, below), torch.minimum(high, -above)
    if undefined(plan, bounded):  # a later function may hide that there is no value
        low, high = torch.full_like(low, -torch.inf), torch.full_like(high, torch.inf)
    # What overflowed, or is no number, bounds nothing.
    low, high = torch.where(low < torch.inf, low, -torch.inf), torch.where(high > -torch.inf, high, torch.inf)
    return low.cpu().numpy(), high.cpu().numpy()
