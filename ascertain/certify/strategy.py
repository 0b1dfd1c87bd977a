"""One call from a network and a property to a verdict: which engine works on what, in which order, within time and memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ascertain.certify.result import Bounds, Progress, Status, Verdict, Witness
from ascertain.errors import ShapeError
from ascertain.evidence import Evidence
from ascertain.graph.graph import Graph
from ascertain.properties.property import Case, Property

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Job"]


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

    @property
    def deadline(self) -> float:
        return self.started + self.timeout

    def tell(self, stage: str, share: float, open_: int, visited: int, worst: float) -> None:
        """Hands progress to the caller, at most ten times a second."""
        now = time.monotonic()
        if self.progress is not None and now - self.reported > 0.1:
            self.reported = now
            self.progress(Progress(stage, share, open_, visited, worst, now - self.started, self.timeout))

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
