"""Branch and bound over the values of neurons with optimised linear bounds (beta-CROWN, Wang et al. 2021; GenBaB, Shi et al. 2025).

A domain is the whole input set with the ranges of some neurons cut: sign (z - point) >= 0 for inputs z of nonlinear nodes; bounds
of all other neurons come from the root, contracted to what of the domain may still be unsafe. Parameters and multipliers are
optimised in single precision where that is faster; a domain is closed only by a double-precision pass with rounding charges, or
by bounds of a neuron that cross (PROVED).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ascertain.certify.bounds import Bounded
from ascertain.certify.linear import Relaxations, backward, charges, levels
from ascertain.certify.optimize import Multipliers, Splits, optimize
from ascertain.certify.plan import Plan
from ascertain.certify.region import Region
from ascertain.certify.result import Decision
from ascertain.certify.search.contraction import Contraction
from ascertain.certify.search.neurons import Neurons
from ascertain.errors import ResourceError

__all__ = ["Batch", "NeuronSearch"]

CUTS = range(1, 5)
"""Columns of a batch with one entry for each cut."""
ROUNDS = 4
"""Times that a domain is bounded before it is split."""
STEPS = 8
"""Steps of optimisation for each domain of a network of rectifiers."""
FEW_STEPS = 4
"""For other networks, whose lines start near their best place."""
BATCH = 128
"""Domains that are split together,"""
MOST_PARAMETERS = 1 << 22
"""fewer where they have more parameters than this."""
SHRUNK = 0.985
"""A domain is bounded again where its neurons' ranges shrink below this share, on average."""


@dataclass(eq=False)
class Batch:
    """Domains: conjunction (B,), cuts index, sign, point and their multipliers beta (B, D), parameters alpha (B, S, P), share (B,).

    An alpha of NaN stands for the value that suits the box best by itself. ``rounds`` (B,) says how often a domain was bounded;
    ``box`` are bounds (B, N) of all neurons, None for the root's, cut.
    """

    conjunction: Tensor
    index: Tensor
    sign: Tensor
    point: Tensor
    beta: Tensor
    alpha: Tensor
    share: Tensor
    rounds: Tensor
    box: tuple[Tensor, Tensor] | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.conjunction)

    def columns(self) -> tuple[Tensor, ...]:
        """All arrays that an open domain keeps."""
        return (
            self.conjunction,
            self.index,
            self.sign,
            self.point,
            self.beta,
            self.alpha,
            self.share,
            self.rounds,
        )

    def select(self, index: Tensor) -> Batch:
        """Some of the domains."""
        box = None if self.box is None else (self.box[0][index], self.box[1][index])
        return Batch(*(c[index] for c in self.columns()), box=box)


@dataclass(frozen=True, eq=False)
class _Domain:
    """One member of a batch, and its proved margin."""

    lower: float
    batch: Batch
    index: int


def _joined(domains: Sequence[_Domain]) -> Batch:
    """Domains as one batch; cuts are padded to the longest list."""
    depth = max(d.batch.index.shape[1] for d in domains)
    columns = []
    for k, column in enumerate(zip(*(d.batch.columns() for d in domains), strict=True)):
        rows = [c[d.index] for c, d in zip(column, domains, strict=True)]
        if k in CUTS:
            rows = [torch.nn.functional.pad(r, (0, depth - len(r))) for r in rows]
        columns.append(torch.stack(rows))
    boxes = [(d.batch.box[0][d.index], d.batch.box[1][d.index]) for d in domains if d.batch.box is not None]
    if len(boxes) < len(domains):
        return Batch(*columns)
    return Batch(*columns, box=(torch.stack([b[0] for b in boxes]).double(), torch.stack([b[1] for b in boxes]).double()))


def _together(a: Batch, b: Batch) -> Batch:
    """The domains of both."""
    depth = max(a.index.shape[1], b.index.shape[1])
    columns = []
    for k, pair in enumerate(zip(a.columns(), b.columns(), strict=True)):
        both = [torch.nn.functional.pad(c, (0, depth - c.shape[1])) for c in pair] if k in CUTS else pair
        columns.append(torch.cat(tuple(both)))
    if a.box is None or b.box is None:
        return Batch(*columns)
    return Batch(*columns, box=(torch.cat([a.box[0], b.box[0]]), torch.cat([a.box[1], b.box[1]])))


def _rounded(box: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Bounds in single precision, rounded outward."""
    lower, upper = (t.float() for t in box)
    infinity = torch.full_like(lower, torch.inf)
    return (
        torch.where(lower.double() > box[0], torch.nextafter(lower, -infinity), lower),
        torch.where(upper.double() < box[1], torch.nextafter(upper, infinity), upper),
    )


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
    check: Callable[[], None] = lambda: None
    """Called often; raises ResourceError, which says why, to end the search."""
    progress: Callable[[str, float, int, int, float], None] = lambda *_: None
    memory: int = 4 << 30
    """Bytes for open domains."""
    candidates: int = 2

    def __post_init__(self) -> None:
        self.visited = 0
        self.closed = 0.0
        self.tie = 0
        self.heap: list[tuple[float, int, _Domain]] = []
        self.waiting: tuple[Batch, Tensor] | None = None
        self.count = self.rows.shape[1]
        b = self.bounded
        self.charge = charges(self.exact, self.region, b.boxes, b.lines, self.exact.output, b.charge)
        self.neurons = Neurons(self.exact, self.bounded)
        rectifiers = all(s.rectifier for s in self.neurons.steps)
        self.steps = STEPS if rectifiers else FEW_STEPS
        self.batch = max(16, min(BATCH, MOST_PARAMETERS // max(1, self.neurons.parameters * self.count)))
        self.contraction = Contraction.of(self.exact, self.region, self.bounded, self.neurons.nodes)
        self.stuck = 0
        self.region_fast = self.region.to(self.fast.dtype)

    @property
    def _bytes(self) -> int:
        """Size of one open domain: half-precision parameters for each row, its box, and its cuts."""
        box = 0 if self.contraction is None else 8 * sum(self.neurons.sizes)
        return 2 * self.neurons.parameters * self.count + box + 1024

    # -- pieces of one domain -------------------------------------------------------------------------------------------------

    def _splits(self, batch: Batch, dtype: torch.dtype) -> Splits:
        n = self.neurons
        return Splits(n.nodes, n.sizes, batch.index, batch.sign.to(dtype), batch.point.to(dtype))

    def _bounds(self, batch: Batch) -> tuple[Tensor, Tensor]:
        if batch.box is None:
            return self.neurons.cut(batch.index, batch.sign, batch.point)
        return torch.maximum(batch.box[0], self.neurons.lower), torch.minimum(batch.box[1], self.neurons.upper)

    def _prepared(self, batch: Batch, plan: Plan) -> tuple[Relaxations, Multipliers]:
        """Relaxations of every nonlinear node on each domain's bounds, and the parameters to use them with."""
        lower, upper = self._bounds(batch)
        lines = self.neurons.relaxations(lower, upper, plan.dtype)
        alpha = self.neurons.filled(batch.alpha.to(plan.dtype), lines, lower, upper)
        beta = batch.beta.to(plan.dtype).unsqueeze(1).expand(-1, self.count, -1).clone()
        return lines, Multipliers(alpha, beta, self._splits(batch, plan.dtype))

    def _proved(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Rigorous margins (B,), the largest over rows of lower bound - limit, in double precision with rounding charges.

        With them the constraints that say so: unsafe inputs have row . x + level <= 0, (B, n) and (B,).
        """
        lines, m = self._prepared(batch, self.exact)
        rows, limits = self.rows[batch.conjunction], self.limits[batch.conjunction]
        swept = backward(self.exact, self.region, m.applied(lines), self.exact.output, rows, charge=self.charge, shift=m.shift())
        # multipliers of one neuron are summed, and meet both the points and any value that it can take
        depth, far = batch.index.shape[1], self.neurons.furthest[batch.index] + batch.point.abs()
        reach = torch.where(batch.beta > 0, batch.beta.double() * far, 0.0).sum(1, keepdim=True)
        room = self.exact.rounding.gamma(depth + 4) * reach
        margins, best = (swept.lower + m.level() - room - limits).max(1)
        pick = torch.arange(len(batch), device=best.device)
        start = levels(self.exact, self.region, swept.rows, swept.constant, self.charge)
        level = start + m.level() - room - limits
        level = level - 8 * self.exact.rounding.unit * (start.abs() + reach + limits.abs())
        row = swept.rows.expand(len(batch), -1, -1)[pick, best]
        return margins, row, level[pick, best]

    def _optimized(self, batch: Batch, steps: int, rate: float) -> tuple[Batch, Tensor]:
        """Better multipliers for each domain and the points that minimise their rows; margins are then proved."""
        lines, m = self._prepared(batch, self.fast)
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
            check=self.check,
        )
        points = self.region_fast.minimiser(swept.rows).reshape(-1, swept.rows.shape[-1])
        beta = batch.beta if best.beta is None else best.beta.amax(1)
        return replace(batch, alpha=self.neurons.joined(best.alpha, batch.alpha).to(torch.float16), beta=beta), points

    # -- the search ---------------------------------------------------------------------------------------------------------

    def run(self, root_steps: int = 40) -> Decision:
        """Searches until decided, out of time, stopped, or out of neurons to split."""
        count, device = len(self.rows), self.exact.device
        none = torch.zeros((count, 0), device=device)
        root = Batch(
            torch.arange(count, device=device),
            none.long(),
            none.to(torch.int8),
            none.double(),
            none,
            torch.full((count, self.count, self.neurons.parameters), torch.nan, dtype=torch.float16, device=device),
            torch.full((count,), 1.0 / count, dtype=torch.float64, device=device),
            torch.zeros(count, dtype=torch.int8, device=device),
        )
        self._settle(root, self._proved(root)[0])
        taken = self._pop(len(self.heap))
        try:
            if taken and self._improve(_joined(taken), root_steps, 0.1):
                return self._outcome("violated", "")
            while self.heap or self.waiting is not None:
                taken = []
                self.check()
                if len(self.heap) * self._bytes > self.memory:
                    return self._outcome(
                        "unknown", "memory: too many open domains for the budget; allow more memory or a smaller set"
                    )
                taken = self._pop(self.batch)
                batch = self._branch(_joined(taken)) if taken else None
                if self.waiting is not None:
                    batch = self.waiting[0] if batch is None else _together(batch, self.waiting[0])
                if batch is not None and len(batch) and self._improve(batch, self.steps, 0.05):
                    return self._outcome("violated", "")
                self.progress("neuron split", self.closed, len(self.heap), self.visited, self._worst)
        except ResourceError as error:  # a round that is cut short leaves the domains that it took
            self._push(taken)
            if self.waiting is not None:
                self._settle(*self.waiting)
            return self._outcome("unknown", str(error))
        return self._outcome("unknown", "exhausted: every neuron is split") if self.stuck else self._outcome("holds", "")

    def _improve(self, batch: Batch, steps: int, rate: float) -> bool:
        """Optimises a batch, settles it, and says whether one of its points is a witness.

        Domains whose neurons are contracted enough to hope for more wait to be bounded again, beside the next ones.
        """
        batch, points = self._optimized(batch, steps, rate)
        if self.confirm(points):
            return True
        margins, row, level = self._proved(batch)
        hopeful = torch.zeros_like(margins, dtype=torch.bool)
        if self.contraction is not None:
            old = self._bounds(batch)
            some = torch.nonzero(~(margins > 0)).flatten()
            box = (old[0].clone(), old[1].clone())
            box[0][some], box[1][some] = self.contraction(old[0][some], old[1][some], row[some], level[some])
            margins = torch.where((box[0] > box[1]).any(1), 1.0, margins)  # nothing unsafe is there
            shrunk = (box[1] - box[0]).sum(1) < SHRUNK * (old[1] - old[0]).sum(1)
            batch = replace(batch, box=box, rounds=batch.rounds + 1)
            hopeful = shrunk & ~(margins > 0) & (batch.rounds < ROUNDS)
        left, done = (torch.nonzero(t).flatten() for t in (hopeful, ~hopeful))
        self.waiting = (batch.select(left), margins[left]) if len(left) else None
        self._settle(batch.select(done), margins[done])
        return False

    def _outcome(self, status: str, reason: str) -> Decision:
        return Decision(status, reason, "neuron split", self.visited, self._worst, self.closed)

    @property
    def _worst(self) -> float:
        return min((d.lower for _, _, d in self.heap), default=0.0)

    def _settle(self, batch: Batch, margins: Tensor) -> None:
        """Closes the proved domains and keeps the others."""
        self.visited += len(batch)
        done = (margins > 0) & (margins < torch.inf)
        self.closed += float(batch.share[done].sum())
        kept = batch.select(torch.nonzero(~done).flatten())
        kept.box = None if kept.box is None or self.contraction is None else _rounded(kept.box)
        self._push([_Domain(m, kept, i) for i, m in enumerate(torch.nan_to_num(margins[~done], nan=-torch.inf).tolist())])

    def _push(self, domains: Sequence[_Domain]) -> None:
        for d in domains:
            self.tie += 1
            heapq.heappush(self.heap, (-d.lower, self.tie, d))

    def _pop(self, count: int) -> list[_Domain]:
        """The most promising open domains."""
        return [heapq.heappop(self.heap)[2] for _ in range(min(count, len(self.heap)))]

    # -- branching ------------------------------------------------------------------------------------------------------------

    def _branch(self, batch: Batch) -> Batch:
        """Splits each domain on the neuron whose two children have the best worse bound, among a few with high scores."""
        lower, upper = self._bounds(batch)
        some = self.neurons.open(lower, upper).any(1)
        self.stuck += int((~some).sum())
        if not bool(some.all()):
            kept = torch.nonzero(some).squeeze(1)
            batch, lower, upper = batch.select(kept), lower[kept], upper[kept]
        if len(batch) == 0:
            return batch
        lines, m = self._prepared(batch, self.fast)
        applied = m.applied(lines)
        rows = self.rows[batch.conjunction].to(self.fast.dtype)
        swept = backward(self.fast, self.region_fast, applied, self.fast.output, rows, shift=m.shift(), keep=True)
        row = (swept.lower + m.level() - self.limits[batch.conjunction]).argmax(1)
        pick = torch.arange(len(batch), device=row.device)
        kept_rows = {k: a.expand(len(batch), -1, -1)[pick, row] for k, a in swept.kept.items()}
        slopes = {k: v[pick, row] for (k, name), v in m.alpha.items() if name == "below"}
        score, point = self.neurons.scores(lower, upper, batch.index, batch.sign, kept_rows, slopes)
        width = min(self.candidates, score.shape[1])
        best = score.topk(width, dim=1).indices
        valid = score.gather(1, best) >= 0
        at = point.gather(1, best)
        choice = self._try(batch, best, at, valid) if width > 1 else torch.zeros_like(best[:, 0])
        return self._children(batch, best[pick, choice], at[pick, choice])

    def _children(self, batch: Batch, neuron: Tensor, point: Tensor) -> Batch:
        """Both children of each domain; those of domain i are 2i (below the point) and 2i + 1 (above)."""
        out = batch.select(torch.arange(len(batch), device=neuron.device).repeat_interleave(2))
        neuron, point = neuron.repeat_interleave(2), point.repeat_interleave(2)
        sign = torch.tensor([-1, 1], dtype=torch.int8, device=neuron.device).repeat(len(batch))

        def grown(old: Tensor, new: Tensor) -> Tensor:
            return torch.cat([old, new.unsqueeze(1).to(old.dtype)], 1)

        return Batch(
            out.conjunction,
            grown(out.index, neuron),
            grown(out.sign, sign),
            grown(out.point, point),
            grown(out.beta, torch.zeros_like(point)),
            self.neurons.forget(out.alpha, neuron),
            out.share / 2,
            torch.zeros_like(out.rounds),
            box=self._halved(out, neuron, point),
        )

    def _halved(self, batch: Batch, neuron: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of children, from their parents' twice."""
        lower, upper = (t.clone() for t in self._bounds(batch))
        below, above = torch.arange(0, len(batch), 2), torch.arange(1, len(batch), 2)
        upper[below, neuron[below]] = point[below]
        lower[above, neuron[above]] = point[above]
        return lower, upper

    def _try(self, batch: Batch, best: Tensor, at: Tensor, valid: Tensor) -> Tensor:
        """One backward pass for both children of each candidate; returns the position of the best candidate (B,)."""
        width = best.shape[1]
        many = batch.select(torch.arange(len(batch), device=best.device).repeat_interleave(width))
        children = self._children(many, best.reshape(-1), at.reshape(-1))
        lines, m = self._prepared(children, self.fast)
        rows = self.rows[children.conjunction].to(self.fast.dtype)
        swept = backward(self.fast, self.region_fast, m.applied(lines), self.fast.output, rows, shift=m.shift())
        found = swept.lower + m.level() - self.limits[children.conjunction]
        margin = torch.nan_to_num(found.amax(1), nan=-torch.inf).reshape(len(batch), width, 2).clamp(max=0)
        gain = torch.where(valid, margin.amin(2) + 0.2 * margin.amax(2), -torch.inf)
        return gain.argmax(1)
