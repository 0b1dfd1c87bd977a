"""The batched torch engine on one case of a property: attack, root bounds, optimised slopes, search over neuron signs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ascertain.certify.bounds import Bounded, bound_nodes, refiner
from ascertain.certify.falsify import descend, stack_atoms, violation
from ascertain.certify.linear import backward, charges
from ascertain.certify.optimize import Multipliers, optimize
from ascertain.certify.plan import Plan
from ascertain.certify.region import Ball, Region
from ascertain.certify.search.neuron_split import NeuronSearch, Outcome
from ascertain.certify.strategy import Job
from ascertain.errors import DataError
from ascertain.graph import Graph, lower
from ascertain.properties.property import Case
from ascertain.properties.sets import InputSet, LpBall

__all__ = ["DeepEngine", "output_bounds", "region_of"]

METHODS = ("alpha", "crown", "interval", "zonotope")


def region_of(sets: InputSet, dtype: torch.dtype, device: torch.device) -> Region:
    """The engine's view of an input set: its bounding box, and the ball itself for p = 1 and 2. A polytope's extra rows are dropped (sound)."""
    box = sets.box()
    lower = torch.as_tensor(box.lower, dtype=dtype, device=device).unsqueeze(0)
    upper = torch.as_tensor(box.upper, dtype=dtype, device=device).unsqueeze(0)
    if isinstance(sets, LpBall) and sets.p != float("inf"):
        center = torch.as_tensor(sets.center(), dtype=dtype, device=device)
        return Region(lower, upper, Ball(center, float(sets.radius), float(sets.p)))
    return Region(lower, upper)


@dataclass(eq=False)
class DeepEngine:
    """Compiled once for a network, then asked for one case after the other."""

    job: Job
    lowered: Graph
    exact: Plan = field(init=False)
    fast: Plan = field(init=False)

    def __post_init__(self) -> None:
        torch.set_num_threads(self.job.threads)
        device = self.job.device
        self.exact = Plan.compile(self.lowered, torch.float64, device)
        self.fast = Plan.compile(self.lowered, torch.float32, device)

    def attack(self, index: int, case: Case, *, restarts: int, steps: int, deadline: float) -> bool:
        """Whether descent found a witness."""
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

    def root(self, region: Region, refine: int = 0) -> Bounded:
        """Proved bounds of all neurons over the region, with slopes optimised for ``refine`` steps."""
        widest = max(s.size for s in self.exact.steps)
        rows = max(16, min(4096, int(self.job.memory / (64.0 * widest))))
        better = refiner(self.exact, self.fast, region, refine) if refine else None
        return bound_nodes(self.exact, region, rows_at_once=rows, refine=better)

    def solve(self, index: int, case: Case, deadline: float) -> Outcome:
        """Decides one case."""
        self.job.tell("attack", 0.0, 1, 0, float("nan"))
        if self.attack(index, case, restarts=4, steps=30, deadline=min(deadline, time.monotonic() + 5.0)):
            return Outcome("violated", "", 0, float("nan"), 0.0, "attack")
        region = region_of(case.set, torch.float64, self.exact.device)
        import os
        bounded = self.root(region, int(os.environ.get("REFINE","0")))
        search = NeuronSearch(
            self.exact,
            self.fast,
            region,
            bounded,
            case.unsafe,
            lambda points: self._confirm(index, points, case),
            deadline,
            self.job.stop,
            self.job.tell,
        )
        return search.run()

    def _confirm(self, index: int, points: Tensor, case: Case | None = None) -> bool:
        """Replays points; with a case, only those that the compiled plan already finds unsafe."""
        if case is not None:
            rows, limits = stack_atoms(case.unsafe, self.fast.dtype, self.fast.device)
            every = violation(self.fast.forward(points.to(self.fast.dtype))[self.fast.output], rows, limits)
            points = points[(every <= 1e-5).any(1)]
        return len(points) > 0 and self.job.confirm(index, points.double().cpu().numpy())


def output_bounds(
    network: Graph, sets: InputSet, method: str, steps: int, device: str, threads: int
) -> tuple[np.ndarray, np.ndarray]:
    """Proved bounds of every output over a set; see `ascertain.certify.verify.bound`."""
    if method not in METHODS:
        raise DataError(f"{method!r} is no bound method; choose one of {', '.join(METHODS)}.")
    torch.set_num_threads(threads)
    plan = Plan.compile(lower(network), torch.float64, device)
    region = region_of(sets, torch.float64, plan.device)
    bounded = bound_nodes(plan, region, back=method in ("crown", "alpha"), zonotope=None if method == "crown" else method == "zonotope")
    low, high = (t[0] for t in bounded.every[plan.output])
    if method in ("crown", "alpha"):
        charge = charges(plan, region, bounded.boxes, plan.output, bounded.charge)
        eye = torch.eye(plan.steps[plan.output].size, dtype=plan.dtype, device=plan.device)
        rows = torch.cat([eye, -eye]).unsqueeze(0)
        lines = bounded.lines
        if method == "alpha":
            start = Multipliers.start(plan, lines, plan.output, 1, rows.shape[1])
            _, best = optimize(plan, region, lines, plan.output, rows, start, steps=steps)
            lines = best.applied(lines)
        swept = backward(plan, region, lines, plan.output, rows, charge=charge)
        below, above = swept.lower[0].split(len(eye))
        low, high = torch.maximum(low, below), torch.minimum(high, -above)
    return low.cpu().numpy(), high.cpu().numpy()
