"""Branch and bound over the signs of neurons, with optimised linear bounds (beta-CROWN, Wang et al. 2021), batched in torch.

Every domain is the whole input set with the signs of some neurons fixed; bounds of intermediate neurons come from the root. Slopes
and multipliers are optimised in single precision where that is faster; a domain is closed only by a double-precision pass with
rounding charges (PROVED).
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

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


@dataclass(eq=False)
class _Batch:
    """Domains: conjunction (B,), signs (B, N), alpha (B, S, N), beta (B, N), share (B,)."""

    conjunction: Tensor
    signs: Tensor
    alpha: Tensor
    beta: Tensor
    share: Tensor

    def __len__(self) -> int:
        return len(self.signs)

    def columns(self) -> tuple[Tensor, ...]:
        """All arrays."""
        return (self.conjunction, self.signs, self.alpha, self.beta, self.share)

    def select(self, index: Tensor) -> _Batch:
        """Some of the domains."""
        return _Batch(*(c[index] for c in self.columns()))


@dataclass(frozen=True, eq=False)
class _Domain:
    """One member of a batch, and its proved margin."""

    lower: float
    batch: _Batch
    index: int


@dataclass(eq=False)
class NeuronSearch:
    """One search: each conjunction ``rows[c] . y <= limits[c]`` (rows (C, S, n_out), limits (C, S)) is to be excluded there.

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
    memory: int = 4 << 30
    """Bytes for open domains."""
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
        self.stuck = 0
        self.fixed = {k: line for k, line in self.bounded.lines.items() if k not in self.nodes}
        self.region_fast = self.region.to(self.fast.dtype)

    @property
    def _bytes(self) -> int:
        """Size of one open domain: signs, half-precision slopes for each row, multipliers."""
        return int(self.low.shape[1]) * (1 + 2 * self.count + 4) + 256

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

    def _crossing(self, batch: _Batch) -> Tensor:
        """Where a neuron's sign is still open, (B, N)."""
        return (self.low < 0) & (self.high > 0) & (batch.signs == 0)

    def _multipliers(self, batch: _Batch, dtype: torch.dtype) -> Multipliers:
        signs = batch.signs.to(dtype).unsqueeze(1)
        crossing = self._crossing(batch).unsqueeze(1)
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
            self.exact,
            self.region,
            m.applied(lines),
            self.exact.output,
            self.rows[batch.conjunction],
            charge=self.charge,
            shift=m.shift(),
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
        return replace(batch, alpha=alpha.to(torch.float16), beta=beta), points

    # -- the search ---------------------------------------------------------------------------------------------------------

    def run(self, root_steps: int = 40) -> Decision:
        """Searches until decided, out of time, stopped, or out of neurons to split."""
        count, device = len(self.rows), self.exact.device
        on = (self.high > -self.low).to(torch.float16)
        root = _Batch(
            torch.arange(count, device=device),
            torch.zeros((count, self.low.shape[1]), dtype=torch.int8, device=device),
            on.unsqueeze(1).expand(count, self.count, -1).clone(),
            torch.zeros((count, self.low.shape[1]), device=device),
            torch.full((count,), 1.0 / count, dtype=torch.float64, device=device),
        )
        self._settle(root, self._proved(root))
        if self.heap and self._improve(self._take(len(self.heap)), root_steps, 0.1):
            return self._outcome("violated", "")
        while self.heap:
            if time.monotonic() > self.deadline:
                return self._outcome("unknown", "timeout")
            if self.stop():
                return self._outcome("unknown", "interrupted")
            if len(self.heap) * self._bytes > self.memory:
                return self._outcome("unknown", "memory: too many open domains for the budget; allow more memory or a smaller set")
            children = self._branch(self._take(self.batch))
            if len(children) and self._improve(children, self.steps, 0.05):
                return self._outcome("violated", "")
            self.progress("neuron split", self.closed, len(self.heap), self.visited, self.heap[0][2].lower if self.heap else 0.0)
        return self._outcome("unknown", "exhausted: every neuron is split") if self.stuck else self._outcome("holds", "")

    def _improve(self, batch: _Batch, steps: int, rate: float) -> bool:
        """Optimises a batch, settles it, and says whether one of its points is a witness."""
        better, points = self._optimized(batch, steps, rate)
        if self.confirm(points):
            return True
        self._settle(better, self._proved(better))
        return False

    def _outcome(self, status: str, reason: str) -> Decision:
        worst = min((d.lower for _, _, d in self.heap), default=0.0)
        return Decision(status, reason, "neuron split", self.visited, worst, self.closed)

    def _settle(self, batch: _Batch, margins: Tensor) -> None:
        """Closes the proved domains and keeps the others."""
        self.visited += len(batch)
        done = margins > 0
        self.closed += float(batch.share[done].sum())
        if self.leaves is not None:
            for i in torch.nonzero(done).flatten().tolist():
                alpha, beta = batch.alpha[i].cpu().numpy(), batch.beta[i].cpu().numpy()
                self.leaves(Leaf(int(batch.conjunction[i]), batch.signs[i].cpu().numpy(), 0, alpha, beta, float(margins[i])))
        kept = batch.select(torch.nonzero(~done).flatten())
        for i, margin in enumerate(margins[~done].tolist()):
            self.tie += 1
            heapq.heappush(self.heap, (-margin, self.tie, _Domain(margin, kept, i)))

    def _take(self, count: int) -> _Batch:
        """The most promising open domains as one batch."""
        domains = [heapq.heappop(self.heap)[2] for _ in range(min(count, len(self.heap)))]
        columns = zip(*(d.batch.columns() for d in domains), strict=True)
        return _Batch(*(torch.stack([c[d.index] for c, d in zip(column, domains, strict=True)]) for column in columns))

    # -- branching ------------------------------------------------------------------------------------------------------------

    def _branch(self, batch: _Batch) -> _Batch:
        """Splits each domain on the neuron whose two children have the best worse bound, among a few with high scores."""
        some = self._crossing(batch).any(1)
        self.stuck += int((~some).sum())
        batch = batch.select(torch.nonzero(some).squeeze(1)) if not bool(some.all()) else batch
        if len(batch) == 0:
            return batch
        lines = self._lines(batch, self.fast)
        m = self._multipliers(batch, self.fast.dtype)
        swept = backward(
            self.fast,
            self.region_fast,
            m.applied(lines),
            self.fast.output,
            self.rows[batch.conjunction].to(self.fast.dtype),
            shift=m.shift(),
            keep=True,
        )
        row = (swept.lower - self.limits[batch.conjunction]).argmax(1)
        pick = torch.arange(len(batch), device=row.device)
        coefficient = torch.cat([swept.kept[k].expand(len(batch), -1, -1)[pick, row] for k in self.nodes], -1)
        alpha = torch.cat([m.alpha[k][pick, row] for k in self.nodes], -1)
        low, high = self.low.to(self.fast.dtype), self.high.to(self.fast.dtype)
        crossing = self._crossing(batch)
        height = torch.where(crossing, -low * high / (high - low).clamp_min(1e-30), 0.0)
        above = (-coefficient).clamp(min=0) * height
        below = coefficient.clamp(min=0) * torch.maximum((1 - alpha) * high, -alpha * low) * 0.5
        score = torch.where(crossing, above + torch.where(crossing, below, 0.0), -1.0)
        width = min(self.candidates, score.shape[1])
        best = score.topk(width, dim=1).indices
        valid = score.gather(1, best) >= 0
        choice = self._try(batch, best, valid) if width > 1 else torch.zeros_like(best[:, 0])
        neuron = best[pick, choice]
        return self._children(batch, neuron)

    def _children(self, batch: _Batch, neuron: Tensor) -> _Batch:
        """Both children of each domain; those of domain i are 2i (sign -1) and 2i + 1 (sign +1)."""
        index = torch.arange(len(batch), device=neuron.device).repeat_interleave(2)
        out = batch.select(index)
        sign = torch.tensor([-1, 1], dtype=torch.int8, device=neuron.device).repeat(len(batch))
        out.signs[torch.arange(len(out), device=neuron.device), neuron.repeat_interleave(2)] = sign
        return replace(out, share=out.share / 2)

    def _try(self, batch: _Batch, best: Tensor, valid: Tensor) -> Tensor:
        """One backward pass for both children of each candidate; returns the position of the best candidate (B,)."""
        width = best.shape[1]
        many = batch.select(torch.arange(len(batch), device=best.device).repeat_interleave(width))
        children = self._children(many, best.reshape(-1))
        lines = self._lines(children, self.fast)
        m = self._multipliers(children, self.fast.dtype)
        swept = backward(
            self.fast,
            self.region_fast,
            m.applied(lines),
            self.fast.output,
            self.rows[children.conjunction].to(self.fast.dtype),
            shift=m.shift(),
        )
        margin = (swept.lower - self.limits[children.conjunction]).amax(1).reshape(len(batch), width, 2).clamp(max=0)
        gain = torch.where(valid, margin.amin(2) + 0.2 * margin.amax(2), -torch.inf)
        return gain.argmax(1)
