"""Branch and bound on boxes of inputs with the compiled kernels, for small piecewise-linear networks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np

from ascertain.certify.dense import DenseForm
from ascertain.certify.kernels.batch import Batch, batch, bound_boxes
from ascertain.certify.kernels.domain import Scratch, scratch
from ascertain.certify.kernels.pack import Packed, pack
from ascertain.certify.result import Progress, Status
from ascertain.certify.search.frontier import Frontier, halve
from ascertain.properties.property import Case

ROUND = 0.05
"""Seconds that a round aims at."""
CONFIRMED = 3
"""Points that a round sends to be confirmed, at most."""
ROOM = 1 << 27
"""Bytes for one thread's generators; what does not fit becomes interval radius."""

__all__ = ["BoxLeaf", "SplitHooks", "SplitOptions", "SplitResult", "input_split"]


@dataclass(frozen=True)
class SplitOptions:
    """Limits of an input-split search."""

    deadline: float = float("inf")
    """On the clock of `time.perf_counter`."""
    threads: int = 2
    memory: int = 2 << 30
    """Bytes for open boxes."""
    steps: int = 6
    """Evaluations of each open conjunction while its slopes and multipliers are optimised."""


@dataclass(frozen=True, eq=False)
class BoxLeaf:
    """Why one box was closed: for every conjunction the weights of its rows, and the lower slopes of the ReLUs."""

    lower: np.ndarray
    upper: np.ndarray
    weight: np.ndarray
    """(rows,): of all conjunctions of the case, in order."""
    slope: np.ndarray
    """(J, H)"""


@dataclass(frozen=True, eq=False)
class SplitHooks:
    """How a search talks to its caller."""

    confirm: Callable[[np.ndarray], bool] = lambda x: False
    """Whether a flat float64 point is a witness for the original model; the search ends at the first."""
    stop: Callable[[], bool] = lambda: False
    progress: Callable[[Progress], None] = lambda p: None
    leaf: Callable[[BoxLeaf], None] | None = None
    """Receives every closed box; boxes are then not clipped, so that the leaves cover the input set."""


@dataclass(frozen=True, eq=False)
class SplitResult:
    """How an input-split search ended."""

    status: Status
    reason: str
    """For ``unknown``: timeout, interrupted, memory, or exhausted (boxes that no float divides)."""
    visited: int
    worst: float
    """Smallest lower bound over the open boxes; for ``holds`` that of the root."""
    share: float
    """Part of the input volume that is verified."""
    witness: np.ndarray | None = None


@dataclass(eq=False)
class _State:
    frontier: Frontier
    began: float
    visited: int = 0
    share: float = 0.0
    stuck: float = float("inf")
    """Smallest bound of the boxes that no float divides."""
    root: float = float("nan")
    shown: float = 0.0
    witness: np.ndarray | None = None

    @property
    def worst(self) -> float:
        return min(self.frontier.worst, self.stuck)


def input_split(form: DenseForm, case: Case, options: SplitOptions, hooks: SplitHooks) -> SplitResult:
    """Proves or refutes that no input in the bounding box of a case has unsafe outputs (PROVED under float64 rounding).

    Every bound that closes a box is rigorous (see `kernels.backward`), and halves share their float middle, so ``holds`` needs no
    tolerance. Ends within about 0.2 s of the deadline.
    """
    box = case.set.box()
    net = pack(form, case.unsafe, box.lower, box.upper)
    neurons, groups = net.hidden[1] - net.hidden[0], len(net.groups) - 1
    state = _State(Frontier(form.input_size, neurons, groups), time.perf_counter())
    state.frontier.push(
        lower=box.lower[None],
        upper=box.upper[None],
        neuron_lower=np.full((1, neurons), -np.inf, np.float32),
        neuron_upper=np.full((1, neurons), np.inf, np.float32),
        open=np.ones((1, groups), np.bool_),
        worst=np.array([-np.inf]),
        share=np.array([1.0]),
    )
    with _Workers(net, options, hooks) as workers:
        reason = _search(state, workers, options, hooks)
    if state.witness is not None:
        return SplitResult(Status.VIOLATED, "", state.visited, state.worst, state.share, state.witness)
    if reason:
        return SplitResult(Status.UNKNOWN, reason, state.visited, state.worst, state.share)
    return SplitResult(Status.HOLDS, "", state.visited, state.root, 1.0)


def _search(state: _State, workers: _Workers, options: SplitOptions, hooks: SplitHooks) -> str:
    """Runs to the end; returns why the answer is unknown, empty when it is known."""
    size, capacity = 1, max(1024, options.memory // state.frontier.bytes_each)
    while state.frontier.size:
        if hooks.stop():
            return "interrupted"
        if time.perf_counter() > options.deadline:
            return "timeout"
        if state.frontier.size > capacity:
            return "memory"
        taken = state.frontier.pop(size, size // 2 if state.frontier.size < capacity // 2 else 0)
        began = time.perf_counter()
        found = workers.bound(taken)
        _account(state, found, taken, hooks)
        if state.witness is not None:
            return ""
        now = time.perf_counter()
        if now > state.shown + 0.1:
            state.shown = now
            hooks.progress(
                Progress(
                    "input split",
                    state.share,
                    state.frontier.size,
                    state.visited,
                    state.worst,
                    now - state.began,
                    options.deadline - state.began,
                )
            )
        size = int(np.clip(len(found.worst) * min(4.0, ROUND / max(now - began, 1e-4)), 2 * options.threads, 8192))
    return "exhausted: a box that no floating-point number divides stays open" if state.stuck < np.inf else ""


def _account(state: _State, found: Batch, taken: dict[str, np.ndarray], hooks: SplitHooks) -> None:
    """Takes the results of a round: witnesses, closed boxes, children, and boxes that the cancelled round did not reach."""
    _confirm(state, found, hooks)
    open_ = found.open.any(axis=1)
    share = taken["share"]
    state.visited += int(np.count_nonzero(found.done))
    if state.root != state.root:
        state.root = float(found.worst[0])
    state.share += float(share[~open_].sum())
    if hooks.leaf is not None:
        for k in np.flatnonzero(~open_):
            hooks.leaf(BoxLeaf(found.lower[k], found.upper[k], found.weight[k], found.slope[k]))
    rows = np.flatnonzero(open_ & found.done)
    children, undivided = halve(found, rows, share[rows])
    state.stuck = min(state.stuck, float(found.worst[rows[undivided]].min(initial=np.inf)))
    state.frontier.push(**children)
    rest = np.flatnonzero(open_ & ~found.done)
    state.frontier.push(**{name: array[rest] for name, array in taken.items()})


def _confirm(state: _State, found: Batch, hooks: SplitHooks) -> None:
    """Has the most violating points of a round confirmed."""
    for k in np.argsort(found.value)[:CONFIRMED]:
        if not found.value[k] <= 0.0:
            return
        if hooks.confirm(found.point[k]):
            state.witness = found.point[k].copy()
            return


class _Workers:
    """Threads that bound the boxes of a round; a round ends early at the deadline or when the caller stops."""

    def __init__(self, net: Packed, options: SplitOptions, hooks: SplitHooks) -> None:
        self._net, self._options, self._hooks = net, options, hooks
        neurons = net.hidden[1] - net.hidden[0]
        columns = int(min(neurons + net.start[1], max(64, ROOM // (8 * int(net.start[-1])))))
        self._scratch = [scratch(net, columns) for _ in range(options.threads)]
        self._pool = ThreadPoolExecutor(options.threads)
        self._cancel = np.zeros(1, np.bool_)

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *details: object) -> None:
        self._cancel[0] = True
        self._pool.shutdown()

    def bound(self, boxes: dict[str, np.ndarray]) -> Batch:
        found = batch(self._net, boxes, self._hooks.leaf is not None)
        count = len(found.worst)
        chunk = max(1, min(16, count // (4 * len(self._scratch))))
        turns = iter(range(0, count, chunk))
        lock = threading.Lock()

        def work(s: Scratch) -> None:
            while True:
                with lock:
                    first = next(turns, None)
                if first is None:
                    return
                bound_boxes(self._net, s, found, first, min(first + chunk, count), self._options.steps, self._cancel)

        pending: set[Future[None]] = {self._pool.submit(work, s) for s in self._scratch[: -(-count // chunk)]}
        while pending:
            finished, pending = wait(pending, timeout=0.05)
            for future in finished:
                future.result()
            if pending and (time.perf_counter() > self._options.deadline or self._hooks.stop()):
                self._cancel[0] = True
        return found
