"""The one form of every architecture: scalar nonlinearities between linear maps, one stage after the other.

A stage has a state y (differences of live values), gates z = gate y + loop w, responses w_i = phi_i(z_i) whose incremental slope
lies in [low_i, high_i], and the next state keep y + feed w. The network's input is the first state; its output is linear in the
last. Maxima, MaxMin and GroupSort become comparators, residual connections are rows of ``keep``, equilibrium models have a ``loop``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ascertain.certify.dense import FEW, gamma
from ascertain.certify.lipschitz.enclosure import Enclosure
from ascertain.errors import DataError, UnsupportedError
from ascertain.graph.graph import Constant, Graph, Node
from ascertain.graph.passes import lower
from ascertain.operators.base import Affine, Univariate

__all__ = ["Plant", "Stage", "plant"]


@dataclass(frozen=True, eq=False)
class Stage:
    """m scalar nonlinearities between a state of size s and one of size t."""

    gate: Enclosure
    """(m, s): their inputs from the state."""
    keep: Enclosure | None
    """(t, s): the part of the next state that is linear in this one; None where there is none."""
    feed: Enclosure | None
    """(t, m): the part that is linear in their outputs; None for the identity."""
    low: np.ndarray
    """(m,) smallest and largest incremental slope, exact."""
    high: np.ndarray
    loop: Enclosure | None = None
    """(m, m): their inputs from their own outputs, in equilibrium models."""
    node: int = -1
    """The node of the lowered graph."""

    @property
    def size(self) -> int:
        return len(self.low)


@dataclass(frozen=True, eq=False)
class Plant:
    """Stages in order; the output's difference is ``output`` (n_out, last state)."""

    inputs: int
    stages: tuple[Stage, ...]
    output: Enclosure

    @property
    def size(self) -> int:
        """Scalar nonlinearities."""
        return sum(s.size for s in self.stages)

    def toward(self, directions: np.ndarray) -> Plant:
        """The plant whose outputs are exact combinations ``(k, n_out)`` of this one's."""
        return replace(self, output=Enclosure(np.atleast_2d(directions)) @ self.output)


def plant(graph: Graph, limit: int = 100_000_000) -> Plant:
    """The stages of a network, by its operators' facts.

    Raises UnsupportedError naming every operator that is neither affine nor of one variable with bounded slope, or where a matrix
    would have more than ``limit`` entries; DataError for weights that are not finite.
    """
    graph = lower(graph, keep=(Univariate,))
    bends = _bends(graph)
    cuts = _cuts(graph, bends)
    stages: list[Stage] = []
    state: tuple[int, ...] = (graph.input,)
    start = graph.input
    for node, cut in zip(bends, cuts, strict=True):
        stages.append(_stage(graph, state, node, cut, start, limit))
        state, start = cut[1], cut[0]
    walk = _Walk(graph, state, None, limit)
    walk.run(start + 1, graph.output)
    return Plant(graph.input_size, tuple(stages), walk.rows((graph.output,), 0, walk.total))


def _moving(graph: Graph) -> set[int]:
    """The nodes that depend on the input."""
    found = {graph.input}
    for i, node in enumerate(graph.nodes):
        if any(j in found for j in node.inputs):
            found.add(i)
    return found


def _bends(graph: Graph) -> list[int]:
    """The nonlinear nodes; raises UnsupportedError for those without a bounded slope."""
    moving = _moving(graph)
    found, unknown = [], []
    for i, node in enumerate(graph.nodes):
        if i not in moving or i == graph.input or isinstance(node.operator, Affine):
            continue
        if isinstance(node.operator, Univariate) and all(np.isfinite(s).all() for s in slopes(node)):
            found.append(i)
        else:
            unknown.append((node.operator.name, node.name))
    if unknown:
        names = ", ".join(f"{op} at {name!r}" for op, name in unknown)
        raise UnsupportedError(
            f"No global Lipschitz constant through {names}: the slope is unbounded or unknown. Bound it on an input set instead.",
            tuple(unknown),
        )
    return found


def slopes(node: Node) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest incremental slope of each entry on the whole line, flat, rounded outward unless whole."""
    everywhere = np.full((1, *node.shape), np.inf)
    low, high = node.operator.slope_range(-everywhere, everywhere)  # type: ignore[attr-defined]
    low, high = (np.broadcast_to(np.asarray(s, np.float64), everywhere.shape).reshape(-1) for s in (low, high))
    if not (low <= high).all():
        raise DataError(f"node {node.name!r} ({node.operator.name}) states slopes that are no numbers; repair its parameters.")
    return _outward(low, -np.inf), _outward(high, np.inf)


def _outward(x: np.ndarray, way: float) -> np.ndarray:
    return np.where(x == np.round(x), x, np.nextafter(np.nextafter(x, way), way))


def _cuts(graph: Graph, bends: list[int]) -> list[tuple[int, tuple[int, ...]]]:
    """For each nonlinear node the place after it (before the next) where the least is live, and the nodes that are."""
    moving = _moving(graph)
    last = {j: i for i, node in enumerate(graph.nodes) for j in node.inputs}
    last[graph.output] = len(graph.nodes)
    cuts = []
    for k, node in enumerate(bends):
        best: tuple[int, int, tuple[int, ...]] | None = None
        for place in range(node, bends[k + 1] if k + 1 < len(bends) else max(node, graph.output) + 1):
            live = tuple(i for i in range(place + 1) if i in moving and last.get(i, -1) > place)
            size = sum(int(np.prod(graph.nodes[i].shape, dtype=np.int64)) for i in live)
            if best is None or size < best[0]:
                best = size, place, live
        if best is not None:
            cuts.append(best[1:])
    return cuts


def _stage(graph: Graph, state: tuple[int, ...], node: int, cut: tuple[int, tuple[int, ...]], start: int, limit: int) -> Stage:
    place, live = cut
    walk = _Walk(graph, state, node, limit)
    walk.run(start + 1, place)
    split = walk.total - walk.size(node)
    keep, feed = walk.rows(live, 0, split), walk.rows(live, split, walk.total)
    low, high = slopes(graph.nodes[node])
    identity = feed.radius is None and feed.middle.shape == (len(low),) * 2 and np.array_equal(feed.middle, np.eye(len(low)))
    still = not keep.middle.any() and (keep.radius is None or not keep.radius.any())
    gate = walk.rows(graph.nodes[node].inputs, 0, split)
    return Stage(gate, None if still else keep, None if identity else feed, low, high, node=node)


class _Walk:
    """Images of the unit vectors of a state, and of one nonlinear node's outputs, under the affine nodes that follow."""

    def __init__(self, graph: Graph, state: tuple[int, ...], bend: int | None, limit: int) -> None:
        self.graph, self.bend, self.limit = graph, bend, limit
        sources = [*state, *([] if bend is None else [bend])]
        self.total = sum(self.size(i) for i in sources)
        self.columns: dict[int, np.ndarray] = {}
        self.errors: dict[int, np.ndarray | None] = {}
        self.moves: dict[int, bool] = {}
        at = 0
        for i in sources:
            n = self.size(i)
            unit = np.zeros((self._fit(i), n))
            unit[np.arange(at, at + n), np.arange(n)] = 1.0
            self._put(i, unit, None, True)
            at += n

    def size(self, i: int) -> int:
        return int(np.prod(self.graph.nodes[i].shape, dtype=np.int64))

    def _fit(self, i: int) -> int:
        """Rows of a node's columns; raises where they would take too much."""
        if self.total * self.size(i) > self.limit:
            node = self.graph.nodes[i]
            raise UnsupportedError(
                f"node {node.name!r} has {self.size(i)} values in {self.total} variables, too many for one dense matrix. "
                "Use the product of layer norms.",
                ((node.operator.name, node.name),),
            )
        return self.total

    def _put(self, i: int, columns: np.ndarray, error: np.ndarray | None, moves: bool) -> None:
        shape = (self.total, *self.graph.nodes[i].shape)
        self.columns[i], self.errors[i], self.moves[i] = columns.reshape(shape), error, moves

    def run(self, first: int, final: int) -> None:
        """Goes through the affine nodes first..final."""
        for i in range(first, final + 1):
            node = self.graph.nodes[i]
            if i == self.bend or isinstance(node.operator, Constant) or not any(j in self.columns for j in node.inputs):
                continue
            if isinstance(node.operator, Affine):
                self._apply(i, node)

    def _apply(self, i: int, node: Node) -> None:
        shapes = self.graph.shapes(node)
        self._fit(i)
        operator = node.operator.convert(lambda a: a.astype(np.float64) if a.dtype.kind == "f" else a)
        if not isinstance(operator, Affine):
            raise TypeError("converting an operator keeps its class")
        magnitude, rounded = operator.magnitude(), operator.terms(*shapes)
        zeros = [np.zeros((self.total, *shape)) for shape in shapes]
        parts = [self.columns.get(j, z) for j, z in zip(node.inputs, zeros, strict=True)]
        moves = [self.moves.get(j, True) for j in node.inputs]
        columns = operator.linear(*parts)
        single = all(moves) and sum(j in self.columns for j in node.inputs) == 1
        charge = gamma(min(rounded, FEW) if single else rounded) if rounded else 0.0
        doubts = []
        for j, part, z in zip(node.inputs, parts, zeros, strict=True):
            error = self.errors.get(j)
            fresh = charge * abs(part) if charge else z
            doubts.append(fresh if error is None else fresh + error * (1.0 + charge))
        exact = not charge and all(self.errors.get(j) is None for j in node.inputs)
        error = None if exact else magnitude.linear(*doubts) * (1.0 + 1e-9)
        self._put(i, columns, error, single and _moves(columns))
        if not np.isfinite(columns).all() or (error is not None and not np.isfinite(error).all()):
            raise DataError(f"the weights before node {node.name!r} are not finite or overflow when composed; repair the network.")

    def rows(self, nodes: tuple[int, ...], first: int, last: int) -> Enclosure:
        """The matrix from sources first..last to the concatenated values of nodes."""
        middle = np.concatenate([self._flat(self.columns.get(i), i) for i in nodes], 1)[first:last].T
        if all(self.errors.get(i) is None for i in nodes):
            return Enclosure(np.ascontiguousarray(middle))
        radius = np.concatenate([self._flat(self.errors.get(i), i) for i in nodes], 1)[first:last].T
        return Enclosure(np.ascontiguousarray(middle), np.ascontiguousarray(radius))

    def _flat(self, array: np.ndarray | None, i: int) -> np.ndarray:
        return np.zeros((self.total, self.size(i))) if array is None else array.reshape(self.total, -1)


def _moves(columns: np.ndarray) -> bool:
    """Whether every source is in at most one place, with coefficient 1."""
    flat = columns.reshape(len(columns), -1)
    return bool(np.all((flat == 0.0) | (flat == 1.0)) and np.all(np.count_nonzero(flat, axis=1) <= 1))
