"""Upper and lower bounds of a Jacobian's norm over an input set, and branch and bound over boxes of inputs between them.

The largest norm of the generalised Jacobian on a set is the Lipschitz constant on it. A norm attained in a point, enclosed with its
rounding, is a lower bound; linear bounds of the Jacobian's graph are upper ones. On small boxes few rectifiers are undecided: there
every pattern of their slopes is tried. Evidence: PROVED on both sides.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from torch import Tensor

from ascertain.certify.bounds import Bounded, bound_nodes
from ascertain.certify.linear import Boxes, backward, charges
from ascertain.certify.lipschitz.enclosure import ROOM, Enclosure
from ascertain.certify.lipschitz.jacobian import Jacobian
from ascertain.certify.lipschitz.pointwise import matrix_norm
from ascertain.certify.plan import Plan
from ascertain.certify.region import Region
from ascertain.operators.derivatives import Slope
from ascertain.properties.sets import Box, InputSet

__all__ = ["LocalBounds", "LocalSearch"]

PATTERNS = 10
"""Undecided rectifiers on a box up to which all patterns of slopes are tried."""

NOTHING = 1e-250
"""Upper bounds of zero that rounding leaves behind are smaller."""


@dataclass(eq=False)
class LocalBounds:
    """Bounds of a norm (1, 2 or inf, of output and input differences alike) of the Jacobian over boxes."""

    jacobian: Jacobian
    norm: float
    plan: Plan
    single: bool
    """Whether the graph's output is the norm's parts themselves: sums of absolute values, or the squared length of one row."""

    def values(self, points: Tensor, surrogate: bool = False) -> Tensor:
        """Norms (B,) at flat inputs, in floats."""
        flat = self.plan.forward(points, surrogate=surrogate)[self.jacobian.matrix]
        j = flat.reshape(len(points), *self.jacobian.graph.nodes[self.jacobian.matrix].shape)
        if self.norm == 2:
            found: Tensor = torch.linalg.matrix_norm(j, ord=2)
            return found
        return j.abs().sum(2 if self.norm == np.inf else 1).amax(1)

    def enclosed(self, points: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Proved ends of the Jacobian, each (B, R, n), at points; where a kink is too near to tell, of all slopes there."""
        bounded = bound_nodes(self.plan, Region(points, points), back=False, zonotope=False)
        shape = self.jacobian.graph.nodes[self.jacobian.matrix].shape
        low, high = (t.expand(len(points), -1).reshape(-1, *shape).cpu().numpy() for t in bounded.every[self.jacobian.matrix])
        return low, high

    def attained(self, points: Tensor) -> np.ndarray:
        """Proved lower bounds (B,) of the norms at points."""
        low, high = self.enclosed(points)
        least = np.maximum(np.maximum(low, -high), 0.0)
        if self.norm != 2:
            found = least.sum(2 if self.norm == np.inf else 1).max(1)
        elif low.shape[1] == 1:
            found = np.sqrt((least**2).sum((1, 2)))
        else:
            middle = low / 2 + high / 2
            first = np.linalg.svd(np.nan_to_num(middle))[2][:, 0]
            first /= np.linalg.norm(first, axis=1, keepdims=True) * ROOM
            image = np.linalg.norm(np.einsum("bij,bj->bi", middle, first), axis=1)
            found = image - np.linalg.norm(high - low, axis=(1, 2))
        found = found * (2 - ROOM)
        return np.where(np.isfinite(found), np.maximum(found, 0.0), 0.0)

    def upper(self, region: Region, known: Boxes | None = None) -> tuple[np.ndarray, Tensor, Bounded]:
        """Proved upper bounds (B,), how much each free input matters (B, n_in), and the bounds of all nodes."""
        plan = self.plan
        bounded = bound_nodes(plan, region, known=known)
        charge = charges(plan, region, bounded.boxes, bounded.lines, plan.output, bounded.charge)
        size = plan.steps[plan.output].size
        eye = torch.eye(size, dtype=plan.dtype, device=plan.device)
        rows = torch.cat([-eye] if self.single else [-eye, eye]).unsqueeze(0)
        swept = backward(plan, region, bounded.lines, plan.output, rows, charge=charge)
        low, high = (t.expand(len(region), -1) for t in bounded.every[plan.output])
        high = torch.fmin(high, -swept.lower[:, :size])
        weights = (swept.rows.abs() * (region.upper - region.lower).unsqueeze(1)).expand(len(region), -1, -1)
        if self.single:
            matter = weights[torch.arange(len(region)), high.argmax(1)]
        else:
            low, matter = torch.fmax(low, swept.lower[:, size:]), weights.amax(1)
        return self.norms(low, high), matter, bounded

    def norms(self, lower: Tensor, upper: Tensor) -> np.ndarray:
        """Proved norms (B,) from bounds (B, size) of the graph's output."""
        low, high = lower.cpu().numpy(), upper.cpu().numpy()
        if self.single:
            worst = np.maximum(high.max(1), 0.0)
            worst = np.nextafter(np.sqrt(worst), np.inf) if self.norm == 2 else worst
            return np.where(np.isfinite(worst), worst, np.inf)
        shape = self.jacobian.graph.nodes[self.jacobian.matrix].shape
        found = np.full(len(low), np.inf)
        for i in np.flatnonzero(np.isfinite(low).all(1) & np.isfinite(high).all(1)):
            middle = low[i] / 2 + high[i] / 2
            radius = np.maximum(high[i] - middle, middle - low[i]) * ROOM
            found[i] = matrix_norm(Enclosure(middle.reshape(shape), radius.reshape(shape)))
        return found

    def undecided(self, bounded: Bounded, batch: int) -> dict[int, Tensor]:
        """For each node that holds slopes of rectifiers where they may be 0 or 1, (B, size)."""
        found = {}
        for s in self.plan.steps:
            if isinstance(s.nonlinear, Slope):
                low, high = bounded.boxes[s.inputs[0]]
                found[s.index] = ~((low > 0) | (high < 0)).expand(batch, -1)  # NaN is undecided
        return found

    def patterns(self, boxes: np.ndarray, undecided: dict[int, Tensor], bounded: Bounded) -> np.ndarray:
        """For some boxes of those bounded the largest upper bound over all patterns of their undecided slopes.

        Almost everywhere the slope of a rectifier is 0 or 1: each pattern leaves one Jacobian of a piecewise linear network.
        """
        open_ = {i: o[boxes] for i, o in undecided.items()}
        flat = torch.cat(list(open_.values()), 1)
        place = flat.cumsum(1) - 1
        sizes = flat.sum(1)
        box = torch.repeat_interleave(torch.arange(len(boxes)), 2**sizes)
        number = torch.arange(len(box)) - (torch.cumsum(2**sizes, 0) - 2**sizes)[box]
        signs = (number[:, None] >> place[box].clamp(min=0)) & 1
        known: Boxes = {}
        at = 0
        for i, o in open_.items():
            low = bounded.boxes[self.plan.steps[i].inputs[0]][0].expand(len(undecided[i]), -1)[boxes]
            fixed = torch.where(o[box], signs[:, at : at + o.shape[1]].to(low.dtype), (low > 0).to(low.dtype)[box])
            known[i] = (fixed, fixed)
            at += o.shape[1]
        lower, upper = bounded.every[self.plan.input]
        region = Region(lower[boxes][box], upper[boxes][box])
        for z, (low, high) in bounded.boxes.items():  # what is known of the boxes holds for every pattern
            full = (low.expand(len(lower), -1), high.expand(len(lower), -1))
            known.setdefault(z, (full[0][boxes][box], full[1][boxes][box]))
        every = bound_nodes(self.plan, region, back=False, zonotope=False, known=known).every[self.plan.output]
        worst = torch.from_numpy(self.norms(*(t.expand(len(region), -1) for t in every)))
        most = torch.full((len(boxes),), -torch.inf, dtype=torch.float64).scatter_reduce(0, box, worst, "amax")
        return most.numpy()


@dataclass(eq=False)
class LocalSearch:
    """Best-first branch and bound over boxes."""

    bounds: LocalBounds
    sets: InputSet
    region: Region
    tolerance: float
    deadline: float
    report: Callable[[float, float, int], None] = lambda *_: None

    def __post_init__(self) -> None:
        self.lower, self.witness, self.visited = 0.0, self.sets.center(), 0
        self.closed = 0.0  # the largest upper bound of a box that is no longer open

    @property
    def enough(self) -> float:
        """Upper bounds up to this need no more splitting."""
        return max(self.lower * (1 + self.tolerance), NOTHING)

    def climb(self, steps: int = 60, seed: int = 0) -> None:
        """Raises the lower bound from random points, by ascent along surrogates of the jumps and by small moves."""
        rng = np.random.default_rng(seed)
        samples = int(np.clip(1e8 / max(self.bounds.plan.work, 1.0), 32, 4000))
        points = torch.from_numpy(np.concatenate([self.sets.center()[None], self.sets.sample(rng, samples)]))
        self.raise_to(points)
        best = points[self.bounds.values(points).argsort(descending=True)[: min(64, samples)]]
        width = self.region.upper - self.region.lower
        for k in range(steps):
            if time.monotonic() > self.deadline:
                break
            at = best.clone().requires_grad_(True)
            values = self.bounds.values(at, surrogate=True)
            slope = torch.autograd.grad(values.sum(), at, allow_unused=True)[0] if values.requires_grad else None
            pace = 0.5 * 0.93**k
            moves = [share * pace * width * torch.from_numpy(rng.uniform(-1, 1, best.shape)) for share in (1.0, 0.3)]
            moves.append(pace * width * torch.from_numpy(rng.uniform(-1, 1, best.shape) * (rng.random(best.shape) < 0.2)))
            moves += [] if slope is None else [0.5 * pace * width * slope.nan_to_num().sign()]
            tried = torch.cat([best, *(self._projected(best + move) for move in moves)])
            best = tried[self.bounds.values(tried).nan_to_num(nan=-1.0).argsort(descending=True)[: len(best)]]
            self.raise_to(best)

    def _projected(self, points: Tensor) -> Tensor:
        if isinstance(self.sets, Box):
            return torch.minimum(torch.maximum(points, self.region.lower), self.region.upper)
        return torch.from_numpy(np.stack([self.sets.project(p) for p in points.numpy()]))

    def raise_to(self, points: Tensor | np.ndarray) -> None:
        """Raises the lower bound to what the best of some points (B, n_in) proves."""
        points = torch.as_tensor(points)
        if not len(points):
            return
        values = self.bounds.values(points).detach()
        some = values.nan_to_num(nan=0.0).argsort(descending=True)[:8]
        if float(values[some[0]]) <= self.lower:
            return
        proved = self.bounds.attained(points[some])
        if proved.max() > self.lower:
            self.lower, self.witness = float(proved.max()), points[some[int(proved.argmax())]].numpy().copy()

    def run(self, start: float = np.inf) -> float:
        """The upper bound that is left at the deadline, or when it is within the tolerance of the lower one."""
        number = count()
        value, matter = self._bound(self.region)
        heap = [(-min(float(value[0]), start), next(number), self.region.lower[0], self.region.upper[0], matter[0])]
        batch = 2
        while heap and -heap[0][0] > self.enough and time.monotonic() < self.deadline:
            taken = [heapq.heappop(heap) for _ in range(min(batch, len(heap)))]
            began = time.monotonic()
            limit, lower, upper = self._halves(taken)
            if not len(limit):
                continue
            values, matter = self._bound(Region(lower, upper, self.region.ball))
            values = np.minimum(values, limit)
            for v, low, high, m in zip(values, lower, upper, matter, strict=True):
                if v <= self.enough:
                    self.closed = max(self.closed, float(v))
                else:
                    heapq.heappush(heap, (-float(v), next(number), low, high, m))
            batch = int(np.clip(batch * (2 if time.monotonic() - began < 0.25 else 0.5), 1, 256))
            self.report(self.lower, -heap[0][0] if heap else self.closed, self.visited)
        return max(self.closed, self.lower, -heap[0][0] if heap else 0.0)

    def _halves(self, taken: list[tuple[float, int, Tensor, Tensor, Tensor]]) -> tuple[np.ndarray, Tensor, Tensor]:
        """Both halves of each box, cut where it matters most; those outside the ball are dropped."""
        whole = (self.region.upper - self.region.lower)[0].clamp(min=torch.finfo(torch.float64).tiny)
        limits, lowers, uppers = [], [], []
        for worst, _, lower, upper, matter in taken:
            share, wide = matter.nan_to_num(posinf=0.0), (upper - lower) / whole
            score = share / share.max().clamp(min=1e-300) + 0.5 * wide / wide.max().clamp(min=1e-300)
            middle = lower + (upper - lower) / 2
            score = torch.where((lower < middle) & (middle < upper), score, -1.0)
            axis = int(score.argmax())
            if score[axis] < 0:
                self.closed = max(self.closed, -worst)
                continue
            for side in (0, 1):
                low, high = lower.clone(), upper.clone()
                (high if side == 0 else low)[axis] = middle[axis]
                if self._meets(low, high):
                    limits.append(-worst)
                    lowers.append(low)
                    uppers.append(high)
        if not limits:
            return np.zeros(0), whole, whole
        return np.array(limits), torch.stack(lowers), torch.stack(uppers)

    def _meets(self, lower: Tensor, upper: Tensor) -> bool:
        ball = self.region.ball
        if ball is None:
            return True
        gap = torch.maximum(torch.maximum(lower - ball.center, ball.center - upper), torch.zeros_like(lower))
        return float(torch.linalg.vector_norm(gap, ord=ball.p)) <= ball.radius * (1 + 1e-9) + 1e-300

    def _bound(self, region: Region) -> tuple[np.ndarray, Tensor]:
        self.visited += len(region)
        centers = region.center
        if isinstance(self.sets, Box):
            self.raise_to(centers)
        else:
            inside = [self.sets.contains(c) for c in centers.numpy()]
            self.raise_to(centers[torch.tensor(inside)])
        values, matter, bounded = self.bounds.upper(region)
        undecided = self.bounds.undecided(bounded, len(region))
        if undecided:
            totals = torch.cat(list(undecided.values()), 1).sum(1).numpy()
            some = np.flatnonzero((values > self.enough) & (totals > 0) & (totals <= PATTERNS))
            for part in np.array_split(some, max(1, int((2 ** totals[some]).sum()) // 4096)):
                if len(part):
                    values[part] = np.minimum(values[part], self.bounds.patterns(part, undecided, bounded))
        return values, matter
