"""Lipschitz constants on an input set: a value attained below, bounds above, and search until the two meet."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from ascertain.certify.lipschitz.constant import directions_of, norm_of, plant_constant
from ascertain.certify.lipschitz.jacobian import graph_bounds, jacobian
from ascertain.certify.lipschitz.plant import assemble, slopes
from ascertain.certify.lipschitz.program import Norms
from ascertain.errors import DataError, ShapeError, UnsupportedError
from ascertain.evidence import Evidence
from ascertain.graph.graph import Graph
from ascertain.graph.passes import lower as lowered
from ascertain.operators.base import Univariate
from ascertain.properties.sets import InputSet

__all__ = ["LocalLipschitz", "jacobian_bounds", "local_lipschitz"]

METHODS = ("auto", "bounds", "program", "product", "search", "milp")
FEW = 16
"""Free inputs up to which boxes are split."""
MOST_WORK = 1e5
"""Multiply-adds of the Jacobian's graph up to which slopes are optimised."""
LARGEST_PROGRAM = 1000
"""Inputs and nonlinearities up to which the semidefinite program is tried unasked."""


@dataclass(frozen=True, eq=False)
class LocalLipschitz:
    """lower <= L <= upper for L = sup |J(x)| over the set: |f(x) - f(y)| <= L |x - y| for all x and y of a convex set."""

    lower: float
    """Attained: the norm of the Jacobian at ``witness``, PROVED."""
    upper: float
    norm: float
    evidence: Evidence
    """What the upper bound is worth."""
    method: str
    """What gave the upper bound."""
    root: dict[str, float]
    """The upper bound of each method before any search."""
    witness: np.ndarray
    visited: int
    """Boxes searched."""
    seconds: float
    undecided: int = 0
    """Nonlinearities whose slope is not fixed on the set."""

    @property
    def gap(self) -> float:
        """How far the two bounds are apart, relative."""
        return (self.upper - self.lower) / self.upper if self.upper > 0 else 0.0

    def __str__(self) -> str:
        searched = f", {self.visited} boxes" if self.visited else ""
        return (
            f"local Lipschitz constant (l{self.norm:g}) in [{self.lower:.9g}, {self.upper:.9g}], evidence {self.evidence}: "
            f"{self.method}{searched}, {self.seconds:.2f} s"
        )


@dataclass(eq=False)
class _Task:
    """One constant to find."""

    network: Graph
    sets: InputSet
    norm: float
    rows: np.ndarray
    free: np.ndarray
    """Input coordinates that vary."""
    tolerance: float
    deadline: float
    root: dict[str, float] = field(default_factory=dict)
    undecided: int = 0
    best: tuple[float, str, Evidence] = (np.inf, "none", Evidence.PROVED)

    def found(self, value: float, method: str, evidence: Evidence = Evidence.PROVED) -> None:
        """Notes an upper bound."""
        self.root[method] = value
        if value < self.best[0]:
            self.best = value, method, evidence


def local_lipschitz(
    network: Graph,
    sets: InputSet,
    norm: float = np.inf,
    *,
    pair: tuple[int, int] | None = None,
    directions: np.ndarray | None = None,
    method: str = "auto",
    tolerance: float = 1e-6,
    timeout: float = 60.0,
) -> LocalLipschitz:
    """Encloses the Lipschitz constant of a network on an input set, in one norm (1, 2 or inf) of inputs and outputs.

    ``pair`` (a, b): of output a minus output b; ``directions`` (k, n_out): of these combinations of outputs. Only inputs that vary
    in the set count. ``method``: ``bounds`` (linear bounds of the Jacobian), ``program`` (the semidefinite program with the slopes
    that are possible on the set), ``product`` (of layer norms with the values that are possible on the set), ``search`` (branch and
    bound over boxes of inputs), ``milp`` (ReLU networks, norm inf, evidence BOUNDED) or ``auto``: bounds, program or product, then
    search where few inputs vary. The search ends at a relative ``tolerance`` or after ``timeout`` seconds. Of a polytope the box
    around it counts for the upper bound. Raises UnsupportedError for operators without a derivative rule or with unbounded slopes
    on the set.
    """
    if method not in METHODS or not 0 < tolerance < 1 or not timeout > 0:
        raise DataError(
            f"method {method!r} with tolerance {tolerance} and {timeout} s is not possible; "
            f"give one of {', '.join(METHODS)}, a tolerance in (0, 1) and a positive time."
        )
    if sets.size != network.input_size:
        raise ShapeError(f"the set has {sets.size} coordinates, the network takes {network.input_size}; give one for each input.")
    from threadpoolctl import threadpool_limits

    started = time.monotonic()
    chosen = directions_of(network.output_size, pair, directions)
    rows = np.eye(network.output_size) if chosen is None else chosen
    box = sets.box()
    free = np.flatnonzero(box.upper > box.lower)
    if not len(free):
        point = sets.center()
        return LocalLipschitz(0.0, 0.0, norm_of(norm), Evidence.EXACT, "a single point", {}, point, 0, time.monotonic() - started)
    task = _Task(network, sets, norm_of(norm), rows, free, tolerance, started + timeout)
    with threadpool_limits(1):
        return _solve(task, method, started)


def _solve(task: _Task, method: str, started: float) -> LocalLipschitz:
    import torch

    from ascertain.certify.deep import output_bounds, region_of
    from ascertain.certify.lipschitz.local_search import LocalBounds, LocalSearch
    from ascertain.certify.plan import Plan

    single = task.norm != 2 or len(task.rows) == 1
    head = {1.0: "columns", 2.0: "squares" if single else "matrix"}.get(task.norm, "rows")
    found = jacobian(task.network, task.rows, columns=task.free, head=head)
    plan = Plan.compile(found.graph)
    region = region_of(task.sets, plan.dtype, plan.device)
    bounds = LocalBounds(found, task.norm, plan, single)
    search = LocalSearch(bounds, task.sets, region, task.tolerance, task.deadline)
    search.climb()
    if method not in ("milp", "product"):
        values, _, bounded = bounds.upper(region)
        task.undecided = int(sum(int(t.sum()) for t in bounds.undecided(bounded, 1).values()))
        task.found(float(values[0]), "bounds")
        if (
            method in ("auto", "bounds")
            and task.best[0] > search.enough
            and plan.work <= MOST_WORK
            and time.monotonic() < task.deadline
        ):
            ends = output_bounds(found.graph, task.sets, "alpha", 20, "cpu", 1)
            values = bounds.norms(*(torch.from_numpy(end)[None] for end in ends))
            task.found(float(values[0]), "optimised bounds")
    size = len(task.free) + task.undecided
    if method in ("program", "product") or (method == "auto" and task.best[0] > search.enough):
        _structured(task, method, size)
    if method == "milp":
        from ascertain.certify.lipschitz.local_milp import largest_norm

        value, point = largest_norm(task.network, task.sets, task.norm, task.rows, task.free, task.deadline)
        task.found(value, "mixed-integer program", Evidence.BOUNDED)
        search.raise_to(point[None])
    visited = 0
    if method == "search" or (method == "auto" and task.best[0] > search.enough and len(task.free) <= FEW):
        value = search.run(task.best[0])
        visited = search.visited
        if value < task.best[0]:
            task.best = value, "search", Evidence.PROVED
    upper, name, evidence = task.best
    if not np.isfinite(upper):
        raise UnsupportedError(
            "The Jacobian is not bounded on this set: some operator's slope is infinite or overflows there. Use a smaller set."
        )
    seconds = time.monotonic() - started
    return LocalLipschitz(
        search.lower,
        max(upper, search.lower),
        task.norm,
        evidence,
        name,
        task.root,
        search.witness,
        visited,
        seconds,
        task.undecided,
    )


def _structured(task: _Task, method: str, size: int) -> None:
    """Bounds by the network's structure, with the slopes and values that are possible on the set.

    The semidefinite program, or where that does not know an operator or is too large the product of norms.
    """
    from ascertain.certify.bounds import bound_nodes
    from ascertain.certify.deep import region_of
    from ascertain.certify.lipschitz.spectral import local_product
    from ascertain.certify.plan import Plan

    graph = lowered(task.network, keep=(Univariate,))
    plan = Plan.compile(graph)
    bounded = bound_nodes(plan, region_of(task.sets, plan.dtype, plan.device))
    boxes = {i: (low[0].numpy(), high[0].numpy()) for i, (low, high) in (bounded.every | bounded.boxes).items()}
    if method == "program" or (method == "auto" and size <= LARGEST_PROGRAM):
        ranges = {}
        for i, node in enumerate(graph.nodes):
            if isinstance(node.operator, Univariate):
                low, high = (e.reshape(1, *node.shape) for e in boxes[node.inputs[0]])
                ranges[i] = slopes(node, (low, high))
        try:
            form = assemble(graph, ranges).toward(task.rows).along(*task.free)
            left = max(task.deadline - time.monotonic(), 1.0)
            task.found(plant_constant(form, Norms(task.norm, task.norm), timeout=left).value, "program")
            return
        except UnsupportedError:
            if method == "program":
                raise
    task.found(local_product(graph, task.norm, task.rows, boxes), "product of norms")


def jacobian_bounds(network: Graph, sets: InputSet, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Bounds (R, n_in) of every entry of the Jacobian of ``rows @ output`` (of all outputs if None) on a set. Evidence: PROVED."""
    low, high = graph_bounds(jacobian(network, np.eye(network.output_size) if rows is None else rows), sets)
    return low.reshape(-1, network.input_size), high.reshape(-1, network.input_size)
