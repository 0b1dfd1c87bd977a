"""One call from a network and a property to a verdict: which engine works on what, in which order, within time and memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ascertain.certify.dense import DenseForm
from ascertain.certify.result import Progress, Status, Verdict, Witness
from ascertain.evidence import Evidence
from ascertain.graph.graph import Graph
from ascertain.properties.property import Case, Property

if TYPE_CHECKING:
    from ascertain.certify.deep import DeepEngine

__all__ = ["Decision", "Job"]

FEW_INPUTS = 12
"""Up to this many free inputs, splitting them beats splitting neurons on small dense networks."""


@dataclass(frozen=True)
class Decision:
    """How the search of one case ended."""

    status: str
    reason: str
    strategy: str
    visited: int
    worst: float


@dataclass(eq=False)
class Job:
    """One verification under way: the clock, the memory, and the witness once there is one."""

    network: Graph
    property: Property
    timeout: float
    memory: int
    threads: int
    device: str
    seed: int
    progress: Callable[[Progress], None] | None
    stop: Callable[[], bool]
    started: float = field(default_factory=time.monotonic)
    witness: Witness | None = None
    reported: float = 0.0
    engine: DeepEngine | None = None

    @property
    def deadline(self) -> float:
        return self.started + self.timeout

    def tell(self, stage: str, share: float, open_: int, visited: int, worst: float) -> None:
        """Hands progress to the caller, at most ten times a second."""
        now = time.monotonic()
        if self.progress is not None and now - self.reported > 0.1:
            self.reported = now
            self.progress(Progress(stage, share, open_, visited, worst, now - self.started, self.timeout))

    def run(self) -> Verdict:
        """Decides the property, case by case."""
        found = [self._case(i, case) for i, case in self._undecided()]
        strategies = " + ".join(dict.fromkeys(o.strategy for o in found if o.strategy))
        visited = sum(o.visited for o in found)
        worst = min((o.worst for o in found if not np.isnan(o.worst)), default=float("nan"))
        if self.witness is not None:
            return self.verdict(Status.VIOLATED, strategies, visited, worst)
        left = next((o for o in found if o.status != "holds"), None)
        if left is not None:
            return self.verdict(Status.UNKNOWN, strategies, visited, worst, left.reason)
        return self.verdict(Status.HOLDS, strategies, visited, worst)

    def verdict(
        self, status: Status, strategy: str = "", visited: int = 0, worst: float = float("nan"), reason: str = ""
    ) -> Verdict:
        """The answer now."""
        evidence = {Status.HOLDS: Evidence.PROVED, Status.VIOLATED: Evidence.EXACT}.get(status, Evidence.ESTIMATED)
        seconds = time.monotonic() - self.started
        return Verdict(status, evidence, seconds, self.witness, reason, strategy, visited, worst)

    def attack(self) -> Witness | None:
        """Only looks for a witness."""
        engine = self._engine()
        for i, case in enumerate(self.property.cases):
            if engine.attack(i, case, restarts=16, steps=100, deadline=self.deadline):
                break
        return self.witness

    def _undecided(self) -> Iterator[tuple[int, Case]]:
        """The cases, until one is violated or time is up for all that follow."""
        for i, case in enumerate(self.property.cases):
            yield i, case
            if self.witness is not None:
                return

    def _case(self, index: int, case: Case) -> Decision:
        """One case: the compiled kernels for small networks with few inputs or one hidden layer, the batched engine for all others."""
        if time.monotonic() > self.deadline:
            return Decision("unknown", "timeout", "", 0, float("nan"))
        if self.stop():
            return Decision("unknown", "interrupted", "", 0, float("nan"))
        box = case.set.box()
        free = int((box.upper > box.lower).sum())
        form = self.dense
        if form is not None and len(form.layers) == 2:
            from ascertain.certify.search.lp_split import lp_split

            return self._small("linear program", lp_split, index, case)
        if form is not None and free <= FEW_INPUTS:
            from ascertain.certify.search.input_split import input_split

            return self._small("input split", input_split, index, case)
        outcome = self._engine().solve(index, case, self.deadline)
        return Decision(outcome.status, outcome.reason, outcome.strategy, outcome.visited, outcome.worst)

    def _small(self, name: str, search: Callable[..., Any], index: int, case: Case) -> Decision:
        outcome = search(
            self.dense,
            case,
            deadline=self.deadline,
            threads=self.threads,
            memory=self.memory,
            seed=self.seed,
            stop=self.stop,
            progress=self.tell,
            confirm=lambda x: self.confirm(index, np.atleast_2d(x)),
        )
        return Decision(outcome.status, outcome.reason, name, outcome.visited, outcome.worst)

    @cached_property
    def lowered(self) -> Graph:
        """The network as affine maps and univariate functions."""
        from ascertain.graph import lower

        return lower(self.network)

    @cached_property
    def dense(self) -> DenseForm | None:
        """Dense layers, when the network is piecewise linear and small."""
        from ascertain.certify.dense import dense_form

        return dense_form(self.lowered)

    def _engine(self) -> DeepEngine:
        if self.engine is None:
            from ascertain.certify.deep import DeepEngine

            self.engine = DeepEngine(self, self.lowered)
        return self.engine

    def confirm(self, case_index: int, points: np.ndarray) -> bool:
        """Replays candidate inputs (K, n) on the original model, in single precision, and keeps the first true witness."""
        case = self.property.cases[case_index]
        for point in points:
            x = _single(point, case)
            if not case.set.contains(x.astype(np.float64)):
                continue
            replay = self.network.source.replay
            shaped = x.reshape(self.network.input_shape)
            if replay is not None:
                y = np.asarray(replay(shaped)).reshape(-1)
                where = "torch" if self.network.source.kind in ("module", "pt2") else "onnxruntime"
            else:
                y, where = self.network(shaped[None]).reshape(-1), "graph"
            hit = self.property.violated_by(x.astype(np.float64), y.astype(np.float64), case_index)
            if hit is not None:
                self.witness = Witness(shaped, y, hit[0], hit[1], where)
                return True
        return False


def _single(point: np.ndarray, case: Case) -> np.ndarray:
    """The nearest float32 point, moved into the box coordinate by coordinate where rounding left it."""
    box = case.set.box()
    x = np.clip(point, box.lower, box.upper).astype(np.float32)
    low = x.astype(np.float64) < box.lower
    x[low] = np.nextafter(x[low], np.float32(np.inf))
    high = x.astype(np.float64) > box.upper
    x[high] = np.nextafter(x[high], np.float32(-np.inf))
    return x
