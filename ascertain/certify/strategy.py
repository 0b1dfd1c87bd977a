"""One call from a network and a property to a verdict: which engine works on what, in which order, within time and memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ascertain.certify.dense import DenseForm
from ascertain.certify.result import Decision, Progress, Status, Verdict, Witness
from ascertain.certify.tail import compares, without_tail
from ascertain.errors import ResourceError, UnsupportedError
from ascertain.evidence import Evidence
from ascertain.graph.graph import Graph
from ascertain.properties.property import Atoms, Case, Property
from ascertain.properties.sets import LpBall, Polytope

if TYPE_CHECKING:
    from ascertain.certify.deep import DeepEngine

__all__ = ["Job"]

FEW_INPUTS = 8
"""Up to this many free inputs, splitting them beats splitting neurons on small dense networks."""


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
    found: list[Decision] = field(default_factory=list)
    engines: dict[str, DeepEngine] = field(default_factory=dict)
    forms: dict[str, DenseForm | None] = field(default_factory=dict)

    @cached_property
    def deadline(self) -> float:
        return self.started + self.timeout

    def tell(self, stage: str, share: float, open_: int, visited: int, worst: float) -> None:
        """Hands progress to the caller, at most ten times a second."""
        now = time.monotonic()
        if self.progress is not None and now - self.reported > 0.1:
            self.reported = now
            self.progress(Progress(stage, share, open_, visited, worst, now - self.started, self.timeout))

    def check(self) -> None:
        """Raises ResourceError when time is up or the caller asked to stop."""
        if time.monotonic() > self.deadline:
            raise ResourceError("timeout")
        if self.stop():
            raise ResourceError("interrupted")

    def run(self) -> Verdict:
        """Decides the property, case by case."""
        for i, case in enumerate(self.property.cases):
            self.found.append(self._case(i, case))
            if self.witness is not None:
                return self.verdict(Status.VIOLATED)
        left = next((d for d in self.found if d.status != "holds"), None)
        return self.verdict(Status.HOLDS) if left is None else self.verdict(Status.UNKNOWN, left.reason)

    def verdict(self, status: Status, reason: str = "") -> Verdict:
        """The answer with what the cases found so far."""
        evidence = {Status.HOLDS: Evidence.PROVED, Status.VIOLATED: Evidence.EXACT}.get(status, Evidence.ESTIMATED)
        return Verdict(
            status,
            evidence,
            time.monotonic() - self.started,
            self.witness,
            reason,
            " + ".join(dict.fromkeys(d.strategy for d in self.found if d.strategy)),
            sum(d.visited for d in self.found),
            min((d.worst for d in self.found if not np.isnan(d.worst)), default=float("nan")),
            sum(1.0 if d.status == "holds" else d.share for d in self.found) / len(self.property.cases),
        )

    def attack(self) -> Witness | None:
        """Only looks for a witness."""
        for i, case in enumerate(self.property.cases):
            if self._engine(self._network(case)).attack(i, case, restarts=16, steps=100, deadline=self.deadline):
                break
        return self.witness

    def _case(self, index: int, case: Case) -> Decision:
        """One case: compiled kernels for small networks with few inputs, programs for one hidden layer, the batched engine else."""
        try:
            self.check()
            return self._solve(index, case)
        except ResourceError as error:
            return Decision("unknown", str(error), "", 0, float("nan"))
        except UnsupportedError as error:
            names = ", ".join(f"{operator} at node {node}" for operator, node in error.operators)
            return Decision("unknown", f"unsupported: {names}; no bounds are known for it", "", 0, float("nan"))

    def _solve(self, index: int, case: Case) -> Decision:
        case = _boxed(case)
        joined, unsafe = any(a.input_matrix is not None for a in case.unsafe), case.unsafe
        network = self._with_inputs if joined else self._network(case)
        if joined or any(len(a.bound) == 0 for a in unsafe):
            unsafe = tuple(_plain(a, network) for a in unsafe)
        flat = Case(case.set, unsafe)
        if isinstance(case.set, LpBall) and case.set.p < np.inf:  # the engines for small networks know boxes alone
            return self._engine(network).solve(index, flat)
        form = self._dense(network)
        box = case.set.box()
        if form is not None and len(form.layers) == 2:
            return self.by_programs(form, flat, lambda x: self.confirm(index, x[None]))
        if form is not None and int((box.upper > box.lower).sum()) <= FEW_INPUTS:
            return self.by_inputs(form, flat, lambda x: self.confirm(index, x[None]))
        return self._engine(network).solve(index, flat)

    def by_programs(self, form: DenseForm, case: Case, confirm: Callable[[np.ndarray], bool]) -> Decision:
        """Splits neurons with a linear program at every node."""
        from ascertain.certify.search.lp_split import lp_split

        found = lp_split(form, case, deadline=self.deadline, confirm=confirm, stop=self.stop, progress=self.tell)
        return Decision(found.status, found.reason, "linear program", found.visited, found.worst, found.share)

    def by_inputs(self, form: DenseForm, case: Case, confirm: Callable[[np.ndarray], bool], share: float = 1.0) -> Decision:
        """Splits inputs on the compiled kernels, for a share of the time left."""
        from ascertain.certify.search.input_split import SplitHooks, SplitOptions, input_split

        left = share * (self.deadline - time.monotonic())
        options = SplitOptions(time.perf_counter() + left, self.threads, self.memory, self.seed)
        hooks = SplitHooks(confirm, self.stop, lambda p: self.tell(p.stage, p.share, p.open, p.visited, p.worst))
        found = input_split(form, case, options, hooks)
        return Decision(found.status, found.reason, "input split", found.visited, found.worst, found.share)

    def _network(self, case: Case) -> Graph:
        """The network to work on, for atoms that speak of outputs alone."""
        return self._compared if compares(case) else self._lowered

    @cached_property
    def _compared(self) -> Graph:
        """The network without what keeps the order of its outputs."""
        from ascertain.graph import lower

        shorter = without_tail(self.network)
        return self._lowered if shorter is self.network else lower(shorter)

    @cached_property
    def _lowered(self) -> Graph:
        """The network as affine maps and univariate functions."""
        from ascertain.graph import lower

        return lower(self.network)

    @cached_property
    def _with_inputs(self) -> Graph:
        """The network whose output is its own followed by its input, for atoms that speak of both."""
        from ascertain.graph import Builder, lower
        from ascertain.operators.base import Ref
        from ascertain.operators.movement import Reshape
        from ascertain.operators.selection import Concat

        builder, net = Builder(), self.network
        builder.nodes.extend(net.nodes)
        x = builder(Reshape((net.input_size,)), Ref(net.input, net.input_shape))
        y = builder(Reshape((net.output_size,)), Ref(net.output, net.output_shape))
        return lower(builder.graph(Ref(net.input, net.input_shape), builder(Concat(0), y, x)))

    def _dense(self, network: Graph) -> DenseForm | None:
        """Dense layers, when the network is piecewise linear and small."""
        if network.hash not in self.forms:
            from ascertain.certify.dense import dense_form

            try:
                self.forms[network.hash] = dense_form(network)
            except UnsupportedError:
                # other nonlinearities: the batched engine says which of them it does not know
                self.forms[network.hash] = None
        return self.forms[network.hash]

    def _engine(self, network: Graph) -> DeepEngine:
        if network.hash not in self.engines:
            # On shared machines a thread that spins while it waits costs whole time slices; torch reads this once, when it loads.
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
            from ascertain.certify.deep import DeepEngine

            self.engines[network.hash] = DeepEngine(self, network)
        return self.engines[network.hash]

    def confirm(self, case_index: int, points: np.ndarray) -> bool:
        """Replays candidate inputs (K, n) on the original model, in single precision, and keeps the first true witness."""
        for point in points:
            found = _single(point, self.property.cases[case_index])
            if found is None:
                continue
            x, exact = found
            replay, shaped = self.network.source.replay, x.reshape(self.network.input_shape)
            y = self.network(shaped[None]).reshape(-1) if replay is None else np.asarray(replay(shaped)).reshape(-1)
            if not np.isfinite(y).all():
                continue
            hit = self.property.violated_by(exact, y.astype(np.float64), case_index)
            if hit is not None:
                kinds = {"onnx": "onnxruntime", "module": "torch", "pt2": "torch"}
                self.witness = Witness(shaped, y, hit[0], hit[1], kinds.get(self.network.source.kind, "graph"))
                return True
        return False


def _single(point: np.ndarray, case: Case) -> tuple[np.ndarray, np.ndarray] | None:
    """The float32 input to run for a point, and the point of the set that it stands for; None when there is none.

    The float32 numbers are moved into the box one by one where rounding left it. Where the box holds no float32 (a fixed 0.1, say),
    the rounding of a point of the set is run, as any deployed model would.
    """
    box = case.set.box()
    near = np.clip(point, box.lower, box.upper)
    x = near.astype(np.float32)
    low, high = x.astype(np.float64) < box.lower, x.astype(np.float64) > box.upper
    x[low] = np.nextafter(x[low], np.float32(np.inf))
    x[high] = np.nextafter(x[high], np.float32(-np.inf))
    exact = x.astype(np.float64)
    outside = (exact < box.lower) | (exact > box.upper)
    exact[outside], x[outside] = near[outside], near[outside].astype(np.float32)
    if case.set.contains(exact):
        return x, exact
    inner = case.set.project(near)
    return (inner.astype(np.float32), inner) if case.set.contains(inner) else None


def _boxed(case: Case) -> Case:
    """The equal case on a box: the linear constraints of a polytope become atoms of every conjunction."""
    if not isinstance(case.set, Polytope):
        return case
    sides, limits = case.set.matrix, case.set.bound
    unsafe = []
    for a in case.unsafe:
        inputs = np.zeros((len(a.bound), case.set.size)) if a.input_matrix is None else a.input_matrix
        matrix = np.vstack([a.matrix, np.zeros((len(limits), a.n_outputs))])
        unsafe.append(Atoms(matrix, np.append(a.bound, limits), input_matrix=np.vstack([inputs, sides])))
    return Case(case.set.around, tuple(unsafe))


def _plain(atoms: Atoms, network: Graph) -> Atoms:
    """Atoms over the output of a network alone: input columns appended, an empty conjunction as 0 <= 0."""
    matrix = atoms.matrix
    if len(atoms.bound) == 0:
        return Atoms(np.zeros((1, network.output_size)), np.zeros(1))
    if matrix.shape[1] < network.output_size:
        extra = (
            atoms.input_matrix if atoms.input_matrix is not None else np.zeros((len(matrix), network.output_size - matrix.shape[1]))
        )
        matrix = np.hstack([matrix, extra])
    return Atoms(matrix, atoms.bound)
