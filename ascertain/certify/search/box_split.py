"""Branch and bound over boxes of inputs with batched linear bounds, for any network with few free inputs.

Every box gets its own bounds of all nodes and one rigorous backward pass for the rows of the conjunctions that are open on it. What
unsafe inputs must satisfy then cuts the box (see `clipping`), and the rest is halved where that tightens relaxations most.
Evidence: PROVED.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ascertain.certify.bounds import Bounded, bound_nodes
from ascertain.certify.linear import backward, charges, levels
from ascertain.certify.plan import Plan
from ascertain.certify.region import Region
from ascertain.certify.result import Decision
from ascertain.certify.search.clipping import clip
from ascertain.certify.search.frontier import Frontier
from ascertain.certify.search.looseness import gains
from ascertain.errors import ResourceError

__all__ = ["BoxSearch"]

FEWEST, MOST = 64, 4096
"""Boxes in one round."""
LONGEST = 0.5
"""Seconds of a round beyond which it takes no more boxes."""
EXPLORE = 16
"""Rounds after which another size is tried."""


@dataclass(eq=False)
class _Pace:
    """Chooses how many boxes a round takes: as many as have cost the least time each. Caches and allocators decide that."""

    seconds: dict[int, float] = field(default_factory=dict)
    """For each size tried, time per box."""
    rounds: int = 0

    def record(self, count: int, spent: float) -> None:
        """A round of ``count`` boxes took so long; only full rounds count."""
        if count in self.seconds:
            self.seconds[count] = (self.seconds[count] + spent / count) / 2
        elif count >= FEWEST and count & (count - 1) == 0:
            self.seconds[count] = spent / count

    def size(self) -> int:
        """Boxes for the next round."""
        self.rounds += 1
        if not self.seconds:
            return FEWEST
        best = min(self.seconds, key=self.seconds.__getitem__)
        more = best < MOST and best * self.seconds[best] < LONGEST
        if more and (2 * best not in self.seconds or self.rounds % (2 * EXPLORE) == EXPLORE):
            return 2 * best
        return best // 2 if best > FEWEST and self.rounds % (2 * EXPLORE) == 0 else best


@dataclass(frozen=True, eq=False)
class _Left:
    """What one round leaves open: boxes lower, upper (K, n), the number of each in the round, and the open conjunctions (K, C)."""

    lower: Tensor
    upper: Tensor
    box: Tensor
    open: Tensor
    worst: Tensor
    """Smallest margin of an open conjunction, (K,)."""
    conjunction: Tensor
    """Which one that is."""
    row: Tensor
    """Its linear lower bound on the input, (K, n)."""


@dataclass(eq=False)
class BoxSearch:
    """One search: each conjunction ``rows[c] . y <= limits[c]`` (rows (C, S, n_out), limits (C, S)) is to be excluded there.

    ``confirm(points)`` gets candidate inputs (K, n) and returns True once a witness is confirmed. A search that ran out of time
    goes on where it stopped when `run` is called again with a later deadline.
    """

    plan: Plan
    region: Region
    rows: Tensor
    limits: Tensor
    confirm: Callable[[Tensor], bool]
    deadline: float
    stop: Callable[[], bool] = lambda: False
    progress: Callable[[str, float, int, int, float], None] = lambda *_: None
    memory: int = 4 << 30
    """Bytes for open boxes."""

    def __post_init__(self) -> None:
        self.visited = 0
        self.share = 0.0
        self.stuck = np.inf
        """Smallest margin of the boxes that no float divides."""
        flat = torch.cat([self.rows, self.limits.unsqueeze(-1)], 2).flatten(0, 1)
        distinct, which = torch.unique(flat, dim=0, return_inverse=True)
        self.distinct, self.bound, self.which = distinct[:, :-1], distinct[:, -1], which.reshape(self.limits.shape)
        self.pace = _Pace()
        self.frontier = Frontier(
            {
                "lower": self.region.lower.cpu().numpy(),
                "upper": self.region.upper.cpu().numpy(),
                "open": np.ones((1, len(self.rows)), np.bool_),
                "worst": np.array([-np.inf]),
                "value": np.array([np.inf]),
                "share": np.array([1.0]),
            }
        )

    def run(self) -> Decision:
        """Searches until decided, out of time or memory, or stopped."""
        capacity = max(1024, self.memory // self.frontier.bytes_each)
        while self.frontier.size:
            if self.frontier.size > capacity:
                return self._outcome("unknown", "memory: too many open boxes for the budget; allow more memory or a smaller set")
            taken = self.frontier.pop(self.pace.size(), self.frontier.size < capacity // 2)
            began = time.monotonic()
            try:
                found = self._round(taken)
            except ResourceError as error:
                self.frontier.push(taken)
                return self._outcome("unknown", str(error))
            if found:
                return self._outcome("violated", "")
            self.pace.record(len(taken["lower"]), time.monotonic() - began)
            self.progress("input split", min(self.share, 1.0), self.frontier.size, self.visited, self._worst)
        exhausted = "exhausted: a box that no floating-point number divides stays open"
        return self._outcome("unknown", exhausted) if self.stuck < np.inf else self._outcome("holds", "")

    @property
    def _worst(self) -> float:
        worst = min(self.frontier.worst, self.stuck)
        return worst if worst < np.inf else 0.0

    def _outcome(self, status: str, reason: str) -> Decision:
        return Decision(status, reason, "input split", self.visited, self._worst, min(self.share, 1.0))

    def _check(self) -> None:
        if time.monotonic() > self.deadline:
            raise ResourceError("timeout")
        if self.stop():
            raise ResourceError("interrupted")

    def _round(self, taken: dict[str, np.ndarray]) -> bool:
        """Bounds boxes, closes, cuts and halves them; says whether a witness was found."""
        self._check()
        lower, upper = (torch.from_numpy(taken[name]).to(self.plan.device) for name in ("lower", "upper"))
        region = Region(lower, upper, self.region.ball)
        bounded = bound_nodes(self.plan, region, zonotope=False, check=self._check)
        left, rows = self._exclude(region, bounded, torch.from_numpy(taken["open"]))
        self.visited += len(lower)
        share = torch.from_numpy(taken["share"])
        self.share += float(share.sum()) - float(share[left.box].sum())
        if len(left.box) == 0:
            return False
        points = torch.where(left.row >= 0, left.lower, left.upper).to(self.plan.device)
        value = self._violation(points).cpu()
        near = torch.nonzero(value <= 0).squeeze(1)
        if len(near) and self.confirm(points[near[value[near].argsort()[:16]].to(points.device)]):
            return True
        score = gains(self.plan, bounded, rows, left.box.to(self.plan.device), left.lower.to(points), left.upper.to(points)).cpu()
        self._halve(left, score, {"open": left.open, "worst": left.worst, "value": value, "share": share[left.box]})
        return False

    def _violation(self, points: Tensor) -> Tensor:
        """By how much each point misses the conjunction that it misses least, (K,)."""
        gap = self.plan.forward(points)[self.plan.output] @ self.distinct.T - self.bound
        return torch.nan_to_num(gap[:, self.which].amax(2).amin(1), nan=torch.inf)

    def _exclude(self, region: Region, bounded: Bounded, opened: Tensor) -> tuple[_Left, dict[int, Tensor]]:
        """What is left of boxes with open conjunctions (B, C), and the coefficients of their worst rows on nonlinear nodes."""
        plan = self.plan
        charge = charges(plan, region, bounded.boxes, bounded.lines, plan.output, bounded.charge)
        some = torch.nonzero(opened.any(0)).squeeze(1)
        needed, place = torch.unique(self.which[some.to(self.which.device)], return_inverse=True)
        swept = backward(plan, region, bounded.lines, plan.output, self.distinct[needed].unsqueeze(0), charge=charge, keep=True)
        margin = (swept.lower - self.bound[needed]).cpu()
        place = place.cpu()
        # a margin that overflowed is NaN and proves nothing
        pairs = torch.nonzero(opened[:, some] & ~(margin[:, place] > 0).any(2))
        rows, unit = swept.rows.expand(len(region), -1, -1), plan.rounding.unit
        start = levels(plan, region, rows, swept.constant, charge)
        level = start - self.bound[needed] - 4 * unit * (start.abs() + self.bound[needed].abs())
        arrays = (rows.contiguous(), level.contiguous(), place.contiguous(), pairs, region.lower, region.upper)
        found, cut = clip(*(t.cpu().numpy() for t in arrays))
        kept = ~(found > 0)
        (box, at), kept_cut = pairs[torch.from_numpy(kept)].T, torch.from_numpy(cut[:, kept])
        left = _gathered(box, some[at], opened.shape[1], torch.from_numpy(found[kept]), *kept_cut)
        position = torch.zeros(opened.shape[1], dtype=torch.int64).scatter(0, some, torch.arange(len(some)))
        choices = place[position[left.conjunction]]
        pick = choices.gather(1, margin[left.box.unsqueeze(1), choices].argmax(1, keepdim=True)).squeeze(1)
        index = left.box.to(plan.device), pick.to(plan.device)
        return left, {k: a.expand(len(region), -1, -1)[index] for k, a in swept.kept.items()}

    def _halve(self, left: _Left, score: Tensor, fields: dict[str, Tensor]) -> None:
        """Halves every box along the coordinate of the largest score; several times while there are few.

        Both halves contain the same float middle, so that they cover the box exactly.
        """
        lower, upper = left.lower, left.upper
        score = torch.nan_to_num(score, nan=0.0, posinf=1e100).clamp(min=0)
        times = 1
        while self.frontier.size + (len(lower) << times) < FEWEST:
            times += 1
        for _ in range(times):
            width = upper - lower
            middle = lower + width / 2
            # where no score tells, the widest coordinate is split
            spread = score + 1e-9 * width * (1 + score.amax(1, keepdim=True))
            top, axis = torch.where((lower < middle) & (middle < upper), spread, -1.0).max(1, keepdim=True)
            able = top.squeeze(1) >= 0
            self.stuck = min(self.stuck, float(fields["worst"][~able].min()) if not bool(able.all()) else np.inf)
            lower, upper, score, axis, at = (t[able] for t in (lower, upper, score, axis, middle.gather(1, axis)))
            lower, upper = torch.cat([lower, lower.scatter(1, axis, at)]), torch.cat([upper.scatter(1, axis, at), upper])
            score = score.scatter(1, axis, score.gather(1, axis) / 4).repeat(2, 1)
            fields = {name: torch.cat([v[able], v[able]]) for name, v in fields.items()}
            fields["share"] = fields["share"] / 2
        self.frontier.push({name: v.numpy() for name, v in {**fields, "lower": lower, "upper": upper}.items()})


def _gathered(box: Tensor, conjunction: Tensor, count: int, margin: Tensor, row: Tensor, low: Tensor, high: Tensor) -> _Left:
    """Joins what is left of pairs of a box and a conjunction, in the order of boxes: the hull of every box."""
    boxes, own = torch.unique_consecutive(box, return_inverse=True)
    opened = torch.zeros((len(boxes), count), dtype=torch.bool)
    opened[own, conjunction] = True
    start = margin.new_full((len(boxes),), torch.inf)
    worst = start.scatter_reduce(0, own, margin, "amin")
    least = torch.nonzero(margin <= worst[own]).squeeze(1)
    at = torch.zeros_like(boxes).scatter(0, own[least], least)
    wide = own.unsqueeze(1).expand_as(low)
    start = start.unsqueeze(1).expand(-1, low.shape[1])
    lower, upper = start.scatter_reduce(0, wide, low, "amin"), (-start).scatter_reduce(0, wide, high, "amax")
    return _Left(lower, upper, boxes, opened, worst, conjunction[at], row[at])
