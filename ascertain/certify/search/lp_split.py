"""Branch and bound over the signs of neurons with one linear program per domain: the search for networks with one hidden layer.

Every domain is first contracted by interval propagation through the layers and through the atoms of the conjunction, then its
triangle relaxation is solved and cut with single-neuron envelopes over the input box. It is closed only by a contraction to
nothing or by a certified bound above zero (PROVED). With all signs fixed the relaxation is exact, so the search ends. Branching:
reliability branching (Achterberg, Koch and Martin 2005).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ascertain.certify.dense import DenseForm
from ascertain.certify.linear_program import Dual, LinearProgram, Relaxed, certified_bound
from ascertain.certify.result import Status
from ascertain.certify.row_kernels import contract, lookahead, tighten
from ascertain.certify.rows import Rows, candidate_values, conjunction_rows
from ascertain.certify.search.reliability import Reliability
from ascertain.properties.property import Case

__all__ = ["Leaf", "Outcome", "Split", "lp_split"]


@dataclass(frozen=True)
class Split:
    """One side of a branching: variable ``index`` (a neuron's z, numbered as in `Rows`) at most or at least ``point``."""

    index: int
    above: bool
    point: float = 0.0


@dataclass(frozen=True, eq=False)
class Leaf:
    """Why one domain was closed: replay ``trail`` from the input box, contracting after every step.

    A `Split` cuts the domain, a `Dual` tightens it by reduced costs. Then the contraction is empty (``dual`` None) or the bound
    certified from ``dual`` is ``lower`` > 0.
    """

    conjunction: int
    trail: tuple[Split | Dual, ...]
    dual: Dual | None
    lower: float


@dataclass(frozen=True, eq=False)
class Outcome:
    """How a search ended."""

    status: Status
    reason: str
    """For ``unknown``: timeout, interrupted, or exhausted with words."""
    visited: int
    """Domains taken up."""
    worst: float
    """Smallest lower bound over the open domains; for ``holds`` that of the roots."""
    share: float
    """Part of the tree that is closed, each domain counting 2^-depth."""
    strategy: str = "linear program"


@dataclass(eq=False)
class _Domain:
    lower: np.ndarray
    upper: np.ndarray
    value: float
    depth: int
    dirty: np.ndarray
    trail: tuple[Split | Dual, ...] = ()
    split: tuple[int, int, float, float] | None = None
    """Branched neuron, side, its violation and the parent's number of unstable neurons, to learn from the outcome."""


def lp_split(
    form: DenseForm,
    case: Case,
    *,
    deadline: float,
    confirm: Callable[[np.ndarray], bool],
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[str, float, int, int, float], None] = lambda *_: None,
    leaves: Callable[[Leaf], None] | None = None,
    bounds: tuple[np.ndarray, np.ndarray] | None = None,
) -> Outcome:
    """Decides one case of a property; ``holds`` is PROVED, ``violated`` is said once ``confirm(x)`` has accepted a witness.

    ``deadline`` is on the clock of `time.monotonic`. ``bounds``: proved bounds of all pre-activations over the input set, flat in
    the order of the layers, where better ones than interval arithmetic are at hand. ``leaves`` receives every closed domain.
    Raises ShapeError where form and case disagree, DataError where numbers are not finite.
    """
    visited, worst, share = 0, np.inf, 0.0
    pending = ""
    for index, atoms in enumerate(case.unsafe):
        rows = conjunction_rows(form, case.set, atoms)
        search = _Search(rows, case, index, deadline, confirm, stop, leaves)
        search.report = partial(_report, progress, index, len(case.unsafe), visited)
        status = search.run(bounds)
        visited += search.visited
        share += search.share / len(case.unsafe)
        worst = min(worst, search.worst)
        if status == "violated":
            return Outcome(Status.VIOLATED, "", visited, worst, share)
        if status != "holds":
            pending = pending or status
        if status in ("timeout", "interrupted"):
            break
    return Outcome(Status.UNKNOWN if pending else Status.HOLDS, pending, visited, worst, share)


def _report(
    progress: Callable[[str, float, int, int, float], None],
    index: int,
    count: int,
    before: int,
    share: float,
    open_: int,
    visited: int,
    worst: float,
) -> None:
    """Progress of one conjunction's tree as progress of the case."""
    progress("linear program", (index + share) / count, open_, before + visited, worst)


class _Search:
    """The tree of one conjunction."""

    def __init__(
        self,
        rows: Rows,
        case: Case,
        conjunction: int,
        deadline: float,
        confirm: Callable[[np.ndarray], bool],
        stop: Callable[[], bool],
        leaves: Callable[[Leaf], None] | None,
    ) -> None:
        self.rows, self.case, self.conjunction = rows, case, conjunction
        self.deadline, self.confirm, self.stop, self.leaves = deadline, confirm, stop, leaves
        self.report: Callable[[float, int, int, float], None] = lambda *_: None
        self.visited, self.share, self.worst = 0, 0.0, -np.inf
        self.near_misses = 0
        self.unresolved = False
        self.open: list[_Domain] = []

    def run(self, bounds: tuple[np.ndarray, np.ndarray] | None) -> str:
        """``holds``, ``violated``, or the reason why neither."""
        rows, box = self.rows, self.case.set.box()
        lower, upper = rows.box(box.lower, box.upper)
        if bounds is not None:
            n = rows.inputs
            lower[n:], upper[n:] = np.maximum(lower[n:], bounds[0]), np.minimum(upper[n:], bounds[1])
        self.program = LinearProgram(rows, lower, upper)
        self.branching = Reliability(rows.neurons)
        self.box = box.lower, box.upper
        auto = np.full(rows.neurons, np.nan)
        self.single = [Dual(auto, unit) for unit in np.eye(rows.atoms)]
        root = _Domain(lower, upper, -np.inf, 0, np.ones(len(rows.matrix.bias), dtype=bool))
        self.open = [root]
        while self.open:
            if time.monotonic() > self.deadline:
                return self._give_up("timeout")
            if self.stop():
                return self._give_up("interrupted")
            domain = self._next()
            if self._process(domain):
                return "violated"
            if self.visited == 1:
                self.worst = domain.value
            self.report(self.share, len(self.open), self.visited, min((d.value for d in self.open), default=0.0))
        return "exhausted: a domain with all signs fixed is too close to call in float64" if self.unresolved else "holds"

    def _give_up(self, reason: str) -> str:
        self.worst = min((d.value for d in self.open), default=self.worst)
        return reason

    def _next(self) -> _Domain:
        """Depth first; every sixteenth time the domain with the worst bound, where witnesses are likeliest."""
        if self.visited % 16 == 15:
            worst = min(range(len(self.open)), key=lambda i: self.open[i].value)
            return self.open.pop(worst)
        return self.open.pop()

    def _process(self, domain: _Domain) -> bool:
        """Closes or branches one domain; True when a witness was confirmed."""
        self.visited += 1
        for _ in range(4):
            if self._contract(domain):
                self._learn(domain, np.inf)
                return False
            relaxed = self.program.solve(domain.lower, domain.upper)
            if relaxed.x is not None and self._witness(domain, relaxed.x):
                return True
            relaxed = self._cut(domain, relaxed)
            closed = self._closed_by(domain, relaxed.dual, relaxed.value)
            if not closed and relaxed.value > 0:  # stopped at the cutoff with multipliers that do not prove it
                relaxed = self._afresh(domain)
                closed = self._closed_by(domain, relaxed.dual, relaxed.value)
            if closed:
                self._learn(domain, np.inf)
                return False
            if relaxed.dual is None or not self._tighten(domain, relaxed.dual):
                break
        self._learn(domain, relaxed.value)
        domain.value = max(domain.value, relaxed.value) if np.isfinite(relaxed.value) else domain.value
        return self._branch(domain, relaxed)

    def _afresh(self, domain: _Domain) -> Relaxed:
        """The relaxation to its optimum, from no basis."""
        self.program.model.clearSolver()
        return self.program.solve(domain.lower, domain.upper, cutoff=np.inf)

    def _cut(self, domain: _Domain, relaxed: Relaxed) -> Relaxed:
        """Rounds of cuts while they raise the bound."""
        for _ in range(20 if domain.depth == 0 else 6):
            before = relaxed.value
            if not before < 0 or not self.program.cut(domain.lower, domain.upper, relaxed):
                break
            relaxed = self.program.solve(domain.lower, domain.upper)
            if relaxed.value - before < -0.02 * before:
                break
        return relaxed

    def _contract(self, domain: _Domain) -> bool:
        """Propagates rows and back-substituted atoms until little changes; True when the domain is closed by that."""
        for _ in range(5):
            if not self._propagate(domain):
                self._close(domain, None, np.inf)
                return True
            moved = False
            for dual in self.single:
                if self._closed_by(domain, dual, np.inf):
                    return True
                moved = self._tighten(domain, dual) or moved
            if not moved:
                break
        return False

    def _propagate(self, domain: _Domain) -> bool:
        """Interval propagation; False when nothing is left."""
        limit = 20 * len(domain.dirty)
        return contract(self.rows.matrix, self.rows.inputs, domain.lower, domain.upper, domain.dirty, limit) >= 0

    def _closed_by(self, domain: _Domain, dual: Dual | None, value: float) -> bool:
        """Whether the certified bound of multipliers that are worth ``value`` closes the domain."""
        if dual is None or not value > 0:
            return False
        bound = certified_bound(self.rows, domain.lower, domain.upper, dual).lower
        if not bound > 0:
            return False
        self._close(domain, dual, bound)
        return True

    def _close(self, domain: _Domain, dual: Dual | None, lower: float) -> None:
        self.share += 2.0**-domain.depth
        if self.leaves is not None:
            self.leaves(Leaf(self.conjunction, domain.trail, dual, lower))

    def _tighten(self, domain: _Domain, dual: Dual) -> bool:
        """Reduced-cost tightening; True where it moved something much."""
        bound = certified_bound(self.rows, domain.lower, domain.upper, dual)
        if not np.isfinite(bound.lower) or bound.lower > 0:
            return False
        parts = self.rows.matrix, self.rows.inputs, domain.lower, domain.upper
        moved = tighten(*parts, bound.lower, bound.coefficient, bound.radius, domain.dirty)
        if self.leaves is not None:
            domain.trail = (*domain.trail, dual)
        return moved > 0

    def _learn(self, domain: _Domain, value: float) -> None:
        if domain.split is not None:
            index, side, violation, before = domain.split
            gain = 1.0 if not value < 0 else (value - domain.value) / max(-domain.value, 1e-9)
            self.branching.learn(index, side, gain, violation, 1.0 - self._unstable(domain).sum() / max(before, 1.0))
            domain.split = None

    def _unstable(self, domain: _Domain) -> np.ndarray:
        n = self.rows.inputs
        return (domain.lower[n:] < 0) & (domain.upper[n:] > 0)

    def _witness(self, domain: _Domain, x: np.ndarray) -> bool:
        """Tries the solution, its corner of the input box and points below it along gradients."""
        low, high = self.box
        x = np.clip(x, low, high)
        corner = np.where(x - low > high - x, high, low)
        points = np.stack([x, corner])
        if self.visited <= 16 or self.visited % 16 == 0:
            points = np.concatenate([points, descend(self.rows, points, low, high)])
        values = candidate_values(self.rows, points)
        for i in np.argsort(values, kind="stable"):
            if not values[i] <= 1e-6 or (values[i] > -1e-6 and self.near_misses > 1000):
                break
            self.near_misses += 1
            if self.confirm(points[i]):
                return True
        return False

    def _branch(self, domain: _Domain, relaxed: Relaxed) -> bool:
        unstable = self._unstable(domain)
        if not unstable.any():
            return self._settle(domain)
        gap = np.zeros(self.rows.neurons) if relaxed.gap is None else relaxed.gap
        basis = self.program.model.getBasis()
        violation = gap * self._influence(domain, relaxed.dual)
        if relaxed.dual is None or not self._chords(domain, relaxed.dual).max() > 1e-9:
            index = self._by_propagation(domain, unstable)
        else:
            index = self.branching.choose(violation, unstable, lambda j: self._look(domain, basis, j, violation))
        sides = [self._child(domain, index, above) for above in (False, True)]
        before = float(unstable.sum())
        for side, child in enumerate(sides):
            child.split = (index, side, float(violation[index]), before)
        # The side that the solution leans to is where a witness would be: it comes off the stack first.
        if self.branching.expected(index, 0, violation[index]) > self.branching.expected(index, 1, violation[index]):
            sides.reverse()
        self.open += reversed(sides)
        return False

    def _influence(self, domain: _Domain, dual: Dual | None) -> np.ndarray:
        """Weight of every neuron's chord in the bound, with a floor so that ties among idle chords go by the gap."""
        weight = np.zeros(self.rows.neurons) if dual is None else self._chords(domain, dual)
        return weight + 1e-3 * max(float(weight.max(initial=0.0)), 1.0)

    def _chords(self, domain: _Domain, dual: Dual) -> np.ndarray:
        """The multiplier of every neuron's chord: how much the bound would gain per unit of its gap."""
        low, high = domain.lower[self.rows.inputs :], domain.upper[self.rows.inputs :]
        with np.errstate(divide="ignore", invalid="ignore"):
            weight = np.where((low < 0) & (high > 0), np.maximum(-dual.neurons, 0.0) * (high - low) / high, 0.0)
        return np.nan_to_num(weight) + (dual.cuts if len(dual.cuts) else 0.0)

    def _by_propagation(self, domain: _Domain, unstable: np.ndarray) -> int:
        """Where no chord matters to the bound: the neuron whose signs tighten the other rows most, on both sides."""
        found = np.flatnonzero(unstable)
        limit = 20 * len(domain.dirty)
        gain = lookahead(self.rows.matrix, self.rows.inputs, domain.lower, domain.upper, found, limit)
        gain = np.minimum(gain, 1e6) + 1e-9
        return int(found[np.argmax(gain[0] * gain[1])])

    def _child(self, domain: _Domain, neuron: int, above: bool) -> _Domain:
        i = self.rows.inputs + neuron
        lower, upper = domain.lower.copy(), domain.upper.copy()
        if above:
            lower[i] = max(lower[i], 0.0)
        else:
            upper[i] = min(upper[i], 0.0)
        dirty = np.zeros(len(domain.dirty), dtype=bool)
        m = self.rows.matrix
        dirty[neuron] = True
        dirty[m.use_row[m.use_start[i] : m.use_start[i + 1]]] = True
        return _Domain(lower, upper, domain.value, domain.depth + 1, dirty, (*domain.trail, Split(i, above)))

    def _look(self, domain: _Domain, basis: Any, neuron: int, violation: np.ndarray) -> None:
        """Tries both sides of a neuron for the branching rule: contraction, then a few dual simplex steps."""
        before = max(float(self._unstable(domain).sum()), 1.0)
        for side, above in enumerate((False, True)):
            child = self._child(domain, neuron, above)
            if not self._propagate(child):
                gain, fixed = 1.0, 1.0
            else:
                value = self.program.solve(child.lower, child.upper, basis=basis, limit=50).value
                gain = 1.0 if not value < 0 else max(value - domain.value, 0.0) / max(-domain.value, 1e-9)
                fixed = 1.0 - self._unstable(child).sum() / before
            self.branching.learn(neuron, side, gain, float(violation[neuron]), fixed)

    def _settle(self, domain: _Domain) -> bool:
        """A domain with all signs fixed, where the relaxation is exact: solve it once more, afresh, else leave it open."""
        relaxed = self._afresh(domain)
        if self._closed_by(domain, relaxed.dual, relaxed.value):
            return False
        if relaxed.x is not None and self._witness(domain, relaxed.x):
            return True
        self.unresolved = True
        return False


def descend(rows: Rows, points: np.ndarray, lower: np.ndarray, upper: np.ndarray, steps: int = 10) -> np.ndarray:
    """Signed gradient steps, ever smaller, on the largest left-hand side at each point (B, n), inside the box."""
    n = rows.inputs
    x = points
    best, values = points, candidate_values(rows, points)
    for step in range(steps):
        z, atoms = rows.evaluate(x)
        slopes = np.zeros((len(x), n + rows.neurons))
        _, _, last = rows.blocks[-1]
        slopes += last[atoms.argmax(axis=1)].toarray()
        for a, b, block in reversed(rows.blocks[:-1]):
            slopes += ((slopes[:, n + a : n + b] * (z[:, a:b] > 0)) @ block).reshape(slopes.shape)
        x = np.clip(x - np.sign(slopes[:, :n]) * (upper - lower) * 0.5**step, lower, upper)
        now = candidate_values(rows, x)
        best = np.where((now < values)[:, None], x, best)
        values = np.minimum(now, values)
    return best
