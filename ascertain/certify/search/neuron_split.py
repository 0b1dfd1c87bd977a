"""Branch and bound over the signs of neurons, with optimised linear bounds (beta-CROWN, Wang et al. 2021), batched in torch.

Every domain is the whole input set with the signs of some neurons fixed; bounds of intermediate neurons come from the root. Slopes and multipliers
are optimised in single precision where that is faster; a domain is closed only by a double-precision pass with rounding charges (PROVED).
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ascertain.certify.bounds import Bounded
from ascertain.certify.linear import Lines, backward, charges, relax
from ascertain.certify.optimize import Multipliers, optimize
from ascertain.certify.plan import Plan
from ascertain.certify.region import Region
from ascertain.certify.result import Decision

__all__ = ["Leaf", "NeuronSearch"]


@dataclass(frozen=True, eq=False)
class Leaf:
    """Why one domain was closed: enough to check it again without searching."""

    conjunction: int
    signs: np.ndarray
    """int8 per neuron of all rectifiers, in the order of the plan: 0 where not split."""
    row: int
    alpha: np.ndarray
    beta: np.ndarray
    lower: float


@dataclass(frozen=True, eq=False)
class _Domain:
    lower: float
    conjunction: int
    signs: Tensor
    alpha: Tensor
    beta: Tensor
    share: float


@dataclass(eq=False)
class _Batch:
    """Domains stacked: conjunction (B,), signs (B, N), alpha (B, S, N), beta (B, N), share (B,)."""

    conjunction: Tensor
    signs: Tensor
    alpha: Tensor
    beta: Tensor
    share: Tensor

    def __len__(self) -> int:
        return len(self.signs)

    def select(self, index: Tensor) -> _Batch:
        return _Batch(self.conjunction[index], self.signs[index], self.alpha[index], self.beta[index], self.share[index])


@dataclass(eq=False)
class NeuronSearch:
    """One search: each conjunction ``rows[c] . y <= limits[c]`` (rows (C, S, n_out), limits (C, S)) is to be excluded on the region.

    ``confirm(points)`` gets candidate inputs (K, n) and returns True once a witness is confirmed.
    """

    exact: Plan
    fast: Plan
    region: Region
    bounded: Bounded
    rows: Tensor
    limits: Tensor
    confirm: Callable[[Tensor], bool]
    deadline: float
    stop: Callable[[], bool] = lambda: False
    progress: Callable[[str, float, int, int, float], None] = lambda *_: None
    leaves: Callable[[Leaf], None] | None = None
    batch: int = 64
    steps: int = 12
    candidates: int = 4

    def __post_init__(self) -> None:
        self.visited = 0
        self.closed = 0.0
        self.tie = 0
        self.heap: list[tuple[float, int, _Domain]] = []
        self.nodes = [k for k in self.exact.nonlinear if self._splittable(k)]
        self.sizes = [self.exact.steps[k].size for k in self.nodes]
        self.count = self.rows.shape[1]
        self.charge = charges(self.exact, self.region, self.bounded.boxes, self.exact.output, self.bounded.charge)
        self.low = torch.cat([self.bounded.boxes[self._input(k)][0] for k in self.nodes], 1) if self.nodes else torch.zeros((1, 0))
        self.high = torch.cat([self.bounded.boxes[self._input(k)][1] for k in self.nodes], 1) if self.nodes else torch.zeros((1, 0))
        self.fixed = {k: line for k, line in self.bounded.lines.items() if k not in self.nodes}
        self.region_fast = self.region.to(self.fast.dtype)

    def _splittable(self, k: int) -> bool:
        return bool(self.exact.steps[k].operator.rectifier) and k in self.exact.ancestors[self.exact.output]  # type: ignore[attr-defined]

    def _input(self, k: int) -> int:
        return self.exact.steps[k].inputs[0]

    # -- pieces of one domain -------------------------------------------------------------------------------------------------

    def _per_node(self, flat: Tensor) -> dict[int, Tensor]:
        """Cuts a flat (..., N) array into one array per nonlinear node."""
        return dict(zip(self.nodes, flat.split(self.sizes, dim=-1), strict=True)) if self.nodes else {}

    def _lines(self, batch: _Batch, plan: Plan) -> dict[int, Lines]:
        """Lines of every nonlinear node on the bounds of each domain: the root's, cut by the signs."""
        lower = torch.where(batch.signs > 0, self.low.clamp(min=0), self.low)
        upper = torch.where(batch.signs < 0, self.high.clamp(max=0), self.high)
        lows, highs = self._per_node(lower), self._per_node(upper)
        out = {k: line.to(plan.dtype) for k, line in self.fixed.items()}
        for k in self.nodes:
            out[k] = relax(self.exact.steps[k], lows[k], highs[k], self.exact.rounding.unit).to(plan.dtype)
        return out

    def _multipliers(self, batch: _Batch, dtype: torch.dtype) -> Multipliers:
        signs = batch.signs.to(dtype).unsqueeze(1)
        crossing = ((self.low < 0) & (self.high > 0) & (batch.signs == 0)).unsqueeze(1)
        on = ((self.low >= 0) | (batch.signs > 0)).to(dtype).unsqueeze(1)
        alpha = torch.where(crossing, batch.alpha.to(dtype), on)
        beta = batch.beta.to(dtype).unsqueeze(1).expand(-1, self.count, -1)
        return Multipliers(
            {k: v.clone() for k, v in self._per_node(alpha).items()},
            {k: v.clone() for k, v in self._per_node(beta).items()},
            self._per_node(signs),
        )

    def _proved(self, batch: _Batch) -> Tensor:
        """Rigorous margins (B,): the largest over rows of lower bound - limit, in double precision with rounding charges."""
        lines = self._lines(batch, self.exact)
        m = self._multipliers(batch, torch.float64)
        swept = backward(
            self.exact, self.region, m.applied(lines), self.exact.output, self.rows[batch.conjunction], charge=self.charge, shift=m.shift()
        )
        return (swept.lower - self.limits[batch.conjunction]).amax(1)

    def _optimized(self, batch: _Batch, steps: int, rate: float) -> tuple[_Batch, Tensor]:
        """Better multipliers for each domain and the points that minimise their rows; margins are then proved."""
        lines = self._lines(batch, self.fast)
        m = self._multipliers(batch, self.fast.dtype)
        limits = self.limits[batch.conjunction]
        slack = 1e-6 * (1 + limits.abs()) if self.fast.dtype == torch.float32 else torch.zeros_like(limits)
        swept, best = optimize(
            self.fast,
            self.region_fast,
            lines,
            self.fast.output,
            self.rows[batch.conjunction].to(self.fast.dtype),
            m,
            steps=steps,
            rate=rate,
            enough=(limits + slack).to(self.fast.dtype),
        )
        alpha = torch.cat([best.alpha[k] for k in self.nodes], -1) if self.nodes else batch.alpha
        beta = torch.cat([best.beta[k] for k in self.nodes], -1).amax(1) if self.nodes else batch.beta
        points = self.region_fast.minimiser(swept.rows).reshape(-1, swept.rows.shape[-1])
        return _Batch(batch.conjunction, batch.signs, alpha.to(torch.float16), beta, batch.share), points

    # -- the search ---------------------------------------------------------------------------------------------------------

    def run(self, root_steps: int = 40) -> Decision:
        """Searches until decided, out of time, stopped, or out of neurons to split."""
        total = int(self.low.shape[1])
        conjunction = torch.arange(len(self.rows), device=self.exact.device)
        on = (self.high > -self.low).to(torch.float16)
        root = _Batch(
            conjunction,
            torch.zeros((len(conjunction), total), dtype=torch.int8, device=self.exact.device),
            on.unsqueeze(1).expand(len(conjunction), self.count, -1).clone(),
            torch.zeros((len(conjunction), total), device=self.exact.device),
            torch.full((len(conjunction),), 1.0 / len(conjunction), dtype=torch.float64, device=self.exact.device),
        )
        self._settle(root, self._proved(root))
        open_ = self._drain()
        if open_ is not None:
            better, points = self._optimized(open_, root_steps, 0.1)
            if self.confirm(points):
                return self._outcome("violated", "")
            self._settle(better, self._proved(better))
        while self.heap:
            if time.monotonic() > self.deadline:
                return self._outcome("unknown", "timeout")
            if self.stop():
                return self._outcome("unknown", "interrupted")
            children = self._branch(self._take())
            if children is None:
                return self._outcome("unknown", "every neuron is split and the linear bound is still open")
            better, points = self._optimized(children, self.steps, 0.05)
            if self.confirm(points):
                return self._outcome("violated", "")
            self._settle(better, self._proved(better))
            self.progress("neuron split", self.closed, len(self.heap), self.visited, self.heap[0][2].lower if self.heap else 0.0)
        return self._outcome("holds", "")

    def _outcome(self, status: str, reason: str) -> Decision:
        worst = min((d.lower for _, _, d in self.heap), default=0.0)
        return Decision(status, reason, "neuron split", self.visited, worst)

    def _settle(self, batch: _Batch, margins: Tensor) -> None:
        """Closes the proved domains and keeps the others."""
        self.visited += len(batch)
        for i, margin in enumerate(margins.tolist()):
            if margin > 0:
                self.closed += float(batch.share[i])
                if self.leaves is not None:
                    alpha, beta = batch.alpha[i].cpu().numpy(), batch.beta[i].cpu().numpy()
                    self.leaves(Leaf(int(batch.conjunction[i]), batch.signs[i].cpu().numpy(), 0, alpha, beta, margin))
                continue
            self.tie += 1
            one = batch.select(torch.tensor([i], device=self.exact.device))
            domain = _Domain(margin, int(one.conjunction), one.signs, one.alpha, one.beta, float(one.share))
            heapq.heappush(self.heap, (-margin, self.tie, domain))

    def _drain(self) -> _Batch | None:
        """All open domains as one batch."""
        return self._stack([heapq.heappop(self.heap)[2] for _ in range(len(self.heap))]) if self.heap else None

    def _take(self) -> _Batch:
        return self._stack([heapq.heappop(self.heap)[2] for _ in range(min(self.batch, len(self.heap)))])

    def _stack(self, domains: list[_Domain]) -> _Batch:
        device = self.exact.device
        return _Batch(
            torch.tensor([d.conjunction for d in domains], device=device),
            torch.cat([d.signs for d in domains]),
            torch.cat([d.alpha for d in domains]),
            torch.cat([d.beta for d in domains]),
            torch.tensor([d.share for d in domains], dtype=torch.float64, device=device),
        )

    # -- branching ------------------------------------------------------------------------------------------------------------

    def _branch(self, batch: _Batch) -> _Batch | None:
        """Splits each domain on the neuron whose two children have the best worse bound, among a few with high scores."""
        lines = self._lines(batch, self.fast)
        m = self._multipliers(batch, self.fast.dtype)
        swept = backward(
            self.fast, self.region_fast, m.applied(lines), self.fast.output, self.rows[batch.conjunction].to(self.fast.dtype), shift=m.shift(), keep=True
        )
        row = (swept.lower - self.limits[batch.conjunction]).argmax(1)
        pick = torch.arange(len(batch), device=row.device)
        coefficient = torch.cat([swept.kept[k].expand(len(batch), -1, -1)[pick, row] for k in self.nodes], -1)
        alpha = torch.cat([m.alpha[k][pick, row] for k in self.nodes], -1)
        low, high = self.low.to(self.fast.dtype), self.high.to(self.fast.dtype)
        crossing = (low < 0) & (high > 0) & (batch.signs == 0)
        if not bool(crossing.any(1).all()):
            return None
        height = torch.where(crossing, -low * high / (high - low).clamp_min(1e-30), 0.0)
        above = (-coefficient).clamp(min=0) * height
        below = coefficient.clamp(min=0) * torch.maximum((1 - alpha) * high, -alpha * low) * 0.5
        score = torch.where(crossing, above + torch.where(crossing, below, 0.0), -1.0)
        width = min(self.candidates, score.shape[1])
        best = score.topk(width, dim=1).indices
        valid = score.gather(1, best) >= 0
        if width > 1:
            choice = self._try(batch, best, valid)
        else:
            choice = torch.zeros(len(batch), dtype=torch.long, device=best.device)
        neuron = best[pick, choice]
        return self._children(batch, neuron)

    def _children(self, batch: _Batch, neuron: Tensor) -> _Batch:
        """Both children of each domain; those of domain i are 2i (sign -1) and 2i + 1 (sign +1)."""
        index = torch.arange(len(batch), device=neuron.device).repeat_interleave(2)
        out = batch.select(index)
        sign = torch.tensor([-1, 1], dtype=torch.int8, device=neuron.device).repeat(len(batch))
        out.signs[torch.arange(len(out), device=neuron.device), neuron.repeat_interleave(2)] = sign
        out.share = out.share / 2
        return out

    def _try(self, batch: _Batch, best: Tensor, valid: Tensor) -> Tensor:
        """One backward pass for both children of each candidate; returns the position of the best candidate (B,)."""
        width = best.shape[1]
        many = batch.select(torch.arange(len(batch), device=best.device).repeat_interleave(width))
        children = self._children(many, best.reshape(-1))
        lines = self._lines(children, self.fast)
        m = self._multipliers(children, self.fast.dtype)
        swept = backward(
            self.fast, self.region_fast, m.applied(lines), self.fast.output, self.rows[children.conjunction].to(self.fast.dtype), shift=m.shift()
        )
        margin = (swept.lower - self.limits[children.conjunction]).amax(1).reshape(len(batch), width, 2).clamp(max=0)
        gain = torch.where(valid, margin.amin(2) + 0.2 * margin.amax(2), -torch.inf)
        return gain.argmax(1)
