"""Branch and bound on boxes of inputs with the compiled kernels, for small piecewise-linear networks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ascertain.certify.dense import DenseForm
from ascertain.certify.kernels.batch import Batch, Settings, attack_boxes, batch, bound_boxes
from ascertain.certify.kernels.pack import Packed, pack
from ascertain.certify.kernels.workers import Workers
from ascertain.certify.result import Progress, Status
from ascertain.certify.search.frontier import Frontier, halve
from ascertain.properties.property import Case
from ascertain.properties.sets import Box

__all__ = ["BoxLeaf", "SplitHooks", "SplitOptions", "SplitResult", "input_split"]

ROUND = 0.05
"""Seconds that a round aims at."""
CONFIRMED = 3
"""Points that a round sends to be confirmed, at most."""
DESCENT = 20
"""Gradient steps from each random point."""


@dataclass(frozen=True)
class SplitOptions:
    """Limits of an input-split search."""

    deadline: float = float("inf")
    """On the clock of `time.perf_counter`."""
    threads: int = 2
    memory: int = 2 << 30
    """Bytes for open boxes."""
    seed: int = 0
    steps: int = 6
    """Evaluations of each open conjunction while its slopes and multipliers are optimised."""


@dataclass(frozen=True, eq=False)
class BoxLeaf:
    """Why one conjunction is excluded on one box: the combination of its rows, and the lower slopes of the ReLUs."""

    lower: np.ndarray
    upper: np.ndarray
    conjunction: int
    weight: np.ndarray
    """Of the rows of the conjunction."""
    slope: np.ndarray
    """Of all ReLU inputs, layer after layer."""
    neuron_lower: np.ndarray
    """float32, outward: bounds of all ReLU inputs."""
    neuron_upper: np.ndarray


@dataclass(frozen=True, eq=False)
class SplitHooks:
    """How a search talks to its caller."""

    confirm: Callable[[np.ndarray], bool] = lambda x: False
    """Whether a flat float64 point is a witness for the original model; the search ends at the first."""
    stop: Callable[[], bool] = lambda: False
    progress: Callable[[Progress], None] = lambda p: None
    leaf: Callable[[BoxLeaf], None] | None = None
    """Receives every exclusion; boxes are then not clipped, so that the leaves of each conjunction cover the input set."""


@dataclass(frozen=True, eq=False)
class SplitResult:
    """How an input-split search ended."""

    status: Status
    reason: str
    """For ``unknown``: timeout, interrupted, memory, or exhausted (boxes that no float divides)."""
    visited: int
    worst: float
    """Lower bound of the largest row of each conjunction over the open boxes; for ``holds`` that of the root box, or 0."""
    share: float
    """Part of the input volume that is verified."""
    witness: np.ndarray | None = None


def input_split(form: DenseForm, case: Case, options: SplitOptions, hooks: SplitHooks) -> SplitResult:
    """Proves or refutes that no input in the bounding box of a case has unsafe outputs (PROVED under float64 rounding).

    Every bound that closes a box is rigorous (see `kernels.backward`), and halves share their float middle, so ``holds`` needs no
    tolerance. Ends within about 0.2 s of the deadline. Points nearest to a violation go to `SplitHooks.confirm`.
    """
    box = case.set.box()
    net = pack(form, case.unsafe, box.lower, box.upper)
    with Workers(net, options.threads, lambda: hooks.stop() or time.perf_counter() > options.deadline) as workers:
        search = _Search(net, box, workers, options, hooks)
        reason = search.run()
    status = Status.VIOLATED if search.witness is not None else Status.UNKNOWN if reason else Status.HOLDS
    worst = max(search.root, 0.0) if status == Status.HOLDS else search.worst
    return SplitResult(status, reason, search.visited, worst, search.share, search.witness)


class _Search:
    """One search: the frontier and what has been found so far."""

    def __init__(self, net: Packed, box: Box, workers: Workers, options: SplitOptions, hooks: SplitHooks) -> None:
        self.visited = 0
        self.share = 0.0
        self.root = float("nan")
        self.stuck = float("inf")
        """Smallest bound of the boxes that no float divides."""
        self.witness: np.ndarray | None = None
        self._net, self._workers, self._options, self._hooks = net, workers, options, hooks
        self._root = {
            "lower": box.lower[None],
            "upper": box.upper[None],
            "neuron_lower": np.full((1, net.hidden[1] - net.hidden[0]), -np.inf, np.float32),
            "neuron_upper": np.full((1, net.hidden[1] - net.hidden[0]), np.inf, np.float32),
            "open": np.ones((1, len(net.groups) - 1), np.bool_),
            "worst": np.array([-np.inf]),
            "value": np.array([np.inf]),
            "share": np.array([1.0]),
        }
        self._frontier = Frontier(self._root)
        self._rng = np.random.default_rng(options.seed)
        self._began = time.perf_counter()
        self._shown = self._began

    @property
    def worst(self) -> float:
        return min(self._frontier.worst, self.stuck)

    def run(self) -> str:
        """Searches to the end; returns why the answer is unknown, empty when it is known."""
        shots, count, capacity = 8, 1, max(1024, self._options.memory // self._frontier.bytes_each)
        while self._frontier.size:
            if self._hooks.stop():
                return "interrupted"
            if time.perf_counter() > self._options.deadline:
                return "timeout"
            if self._frontier.size > capacity:
                return "memory"
            began = time.perf_counter()
            self._attack(shots)
            attacked = time.perf_counter()
            if self.witness is None:
                taken = self._frontier.pop(count, self._frontier.size < capacity // 2)
                found = batch(self._net, taken, self._hooks.leaf is not None)
                self._workers.run(bound_boxes, found, Settings(self._options.steps, self._hooks.leaf is None))
                self._account(found, taken)
            if self.witness is not None:
                return ""
            now = time.perf_counter()
            self._report(now)
            # A fifth of the time goes to the attack.
            shots = int(np.clip(shots * min(4.0, 0.25 * (now - attacked) / max(attacked - began, 1e-5)), 4, 4096))
            count = int(np.clip(count * min(4.0, ROUND / max(now - began, 1e-4)), 2 * self._options.threads, 8192))
        return "exhausted: a box that no floating-point number divides stays open" if self.stuck < np.inf else ""

    def _attack(self, count: int) -> None:
        """Gradient steps in the whole input set from random points, whose coordinates often lie on its faces."""
        boxes = {name: np.repeat(array, count, axis=0) for name, array in self._root.items()}
        lower, upper = boxes["lower"], boxes["upper"]
        found = batch(self._net, boxes, False)
        place = self._rng.integers(0, 4, lower.shape)
        inside = lower + self._rng.random(lower.shape) * (upper - lower)
        found.point[:] = np.where(place == 0, lower, np.where(place == 1, upper, np.minimum(inside, upper)))
        self._workers.run(attack_boxes, found, Settings(DESCENT, True))
        self._confirm(found)

    def _confirm(self, found: Batch) -> None:
        """Has the most violating points of a round confirmed."""
        for k in np.argsort(found.value)[:CONFIRMED]:
            if found.value[k] <= 0.0 and self._hooks.confirm(found.point[k]):
                self.witness = found.point[k].copy()
                return

    def _account(self, found: Batch, taken: dict[str, np.ndarray]) -> None:
        """Takes the results of a round: witnesses, closed boxes, children, and boxes that a cancelled round did not reach."""
        self._confirm(found)
        if not self.visited and found.done[0]:
            self.root = float(found.worst[0])
        self.visited += int(np.count_nonzero(found.done))
        remain = found.open.any(axis=1)
        share = taken["share"]
        self.share += float(share[~remain].sum())
        if self._hooks.leaf is not None:
            self._record(found, self._hooks.leaf)
        rows = np.flatnonzero(remain & found.done)
        children, undivided = halve(found, rows, share[rows])
        self.stuck = min(self.stuck, float(found.worst[rows[undivided]].min(initial=np.inf)))
        self._frontier.push(children)
        rest = np.flatnonzero(~found.done)
        self._frontier.push({name: array[rest] for name, array in taken.items()})

    def _record(self, found: Batch, leaf: Callable[[BoxLeaf], None]) -> None:
        for k, j in np.argwhere(found.excluded):
            rows = slice(self._net.groups[j], self._net.groups[j + 1])
            box = found.lower[k].copy(), found.upper[k].copy()
            known = found.neuron_lower[k].copy(), found.neuron_upper[k].copy()
            leaf(BoxLeaf(*box, int(j), found.weight[k, rows].copy(), found.slope[k, j].copy(), *known))

    def _report(self, now: float) -> None:
        if now > self._shown + 0.1:
            self._shown = now
            seconds, limit = now - self._began, self._options.deadline - self._began
            share, opened = min(self.share, 1.0), self._frontier.size
            self._hooks.progress(Progress("input split", share, opened, self.visited, self.worst, seconds, limit))
