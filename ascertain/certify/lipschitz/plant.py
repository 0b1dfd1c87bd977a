"""The one form of every architecture: scalar nonlinearities between linear maps, one stage after the other.

A stage has a state y (differences of live values), gates z = gate y + loop w, responses w_i = phi_i(z_i) whose incremental slope
lies in [low_i, high_i], and the next state keep y + feed w. The network's input is the first state; its output is linear in the
last. Maxima, MaxMin and GroupSort become comparators, residual connections are rows of ``keep``, equilibrium models have a
``loop``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ascertain.certify.dense import FEW, gamma
from ascertain.certify.lipschitz.enclosure import Enclosure
from ascertain.errors import DataError, UnsupportedError
from ascertain.graph.graph import Constant, Graph, Node
from ascertain.graph.passes import lower
from ascertain.operators.base import Affine, Univariate
from ascertain.operators.piecewise import PiecewiseLinear, Relu

__all__ = ["Plant", "Slopes", "Stage", "assemble", "plant", "slopes"]

Slopes = tuple[np.ndarray, np.ndarray]
"""(m,) smallest and largest incremental slopes, exact."""

_ROOM = 1e-12
"""Above the error, relative to 1 + its size, of a slope that is computed."""


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
    nodes: tuple[int, ...] = ()
    """The nodes of the lowered graph, in order."""

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

    @property
    def multipliers(self) -> np.ndarray:
        """Where the multipliers of each stage end in a vector of all."""
        return np.cumsum([s.size for s in self.stages])[:-1]

    def split(self, factors: np.ndarray) -> tuple[np.ndarray, ...]:
        """A vector of all multipliers, by stages."""
        return tuple(np.split(factors, self.multipliers)) if self.stages else ()

    def toward(self, directions: np.ndarray) -> Plant:
        """The plant whose outputs are exact combinations ``(k, n_out)`` of this one's."""
        return replace(self, output=Enclosure(np.atleast_2d(directions)) @ self.output)

    def along(self, *columns: int) -> Plant:
        """The plant of some input coordinates; the others stay as they are."""
        if not self.stages:
            return replace(self, inputs=len(columns), output=self.output.columns(list(columns)))
        first = self.stages[0]
        keep = None if first.keep is None else first.keep.columns(list(columns))
        first = replace(first, gate=first.gate.columns(list(columns)), keep=keep)
        return replace(self, inputs=len(columns), stages=(first, *self.stages[1:]))

    def rotated(self) -> Plant:
        """A plant with the same l2 bounds and fewer inputs, where the first stage sees fewer directions; in floats."""
        if not self.stages:
            return self
        first = self.stages[0]
        seen = first.gate.middle if first.keep is None else np.vstack([first.gate.middle, first.keep.middle])
        if len(seen) >= self.inputs or not len(seen):
            return self
        small = np.linalg.qr(seen.T)[1].T
        keep = None if first.keep is None else Enclosure(small[first.size :])
        first = replace(first, gate=Enclosure(small[: first.size]), keep=keep)
        return replace(self, inputs=len(seen), stages=(first, *self.stages[1:]))

    def reduced(self) -> Plant:
        """The equal plant without the nonlinearities that are linear: one possible slope, or an input that never moves."""
        stages, moving = [], np.ones(self.inputs, bool)
        for stage in self.stages:
            smaller, moving = _without_linear(stage, moving)
            stages.append(smaller)
        if not self.output.size()[:, moving].any():
            return Plant(self.inputs, (), Enclosure(np.zeros((self.output.shape[0], self.inputs))))
        return replace(self, stages=tuple(stages))


def plant(graph: Graph) -> Plant:
    """The stages of a network, by its operators' facts: slopes are those on the whole line. Raises what `assemble` raises."""
    return assemble(lower(graph, keep=(Univariate,)), {})


def assemble(graph: Graph, ranges: Mapping[int, Slopes], limit: int = 30_000_000) -> Plant:
    """The stages of a lowered graph; ``ranges`` gives smaller ranges of slopes, which hold on an input set, by node.

    Raises UnsupportedError naming every operator that is neither affine nor of one variable with bounded slope, or where a matrix
    would have more than ``limit`` entries; DataError for weights that are not finite.
    """
    bent = {i: node for i, node in enumerate(graph.nodes) if isinstance(node.operator, Univariate)}
    found = {i: ranges[i] if i in ranges else slopes(node) for i, node in bent.items()}
    bends = _groups(graph, _bends(graph, found))
    cuts = _cuts(graph, bends)
    stages: list[Stage] = []
    state: tuple[int, ...] = (graph.input,)
    start = graph.input
    for nodes, cut in zip(bends, cuts, strict=True):
        low, high = (np.concatenate([found[i][k] for i in nodes]) for k in (0, 1))
        stages.append(_stage(graph, state, nodes, cut, start, limit, (low, high)))
        state, start = cut[1], cut[0]
    walk = _Walk(graph, state, (), limit)
    walk.run(start + 1, graph.output)
    return Plant(graph.input_size, tuple(stages), walk.rows((graph.output,), 0, walk.total))


def _moving(graph: Graph) -> set[int]:
    """The nodes that depend on the input."""
    found = {graph.input}
    for i, node in enumerate(graph.nodes):
        if any(j in found for j in node.inputs):
            found.add(i)
    return found


def _bends(graph: Graph, ranges: Mapping[int, Slopes]) -> list[int]:
    """The nonlinear nodes; raises UnsupportedError for those without a bounded slope."""
    moving = _moving(graph)
    found, unknown = [], []
    for i, node in enumerate(graph.nodes):
        if i not in moving or i == graph.input or isinstance(node.operator, Affine):
            continue
        if i in ranges and all(np.isfinite(s).all() for s in ranges[i]):
            found.append(i)
        else:
            unknown.append((node.operator.name, node.name))
    if unknown:
        names = ", ".join(f"{op} at {name!r}" for op, name in unknown)
        raise UnsupportedError(
            f"No global Lipschitz constant through {names}: the slope is unbounded or unknown. "
            "Bound it on an input set, or only the layers before it.",
            tuple(unknown),
        )
    return found


def slopes(node: Node, box: tuple[np.ndarray, np.ndarray] | None = None) -> Slopes:
    """Smallest and largest incremental slope of each entry on a ``box`` of its inputs, (1, *shape) each, or on the whole line.

    Flat, rounded outward where the operator's slopes are not its parameters. Raises DataError for parameters that are no numbers.
    """
    everywhere = np.full((1, *node.shape), np.inf)
    exact = isinstance(node.operator, (Relu, PiecewiseLinear))
    low, high = _stated(node, -everywhere, everywhere)
    if not (low <= high).all():
        raise DataError(f"node {node.name!r} ({node.operator.name}) states slopes that are no numbers; repair its parameters.")
    low, high = (low, high) if exact else (_outward(low, -1.0), _outward(high, 1.0))
    if box is None:
        return low, high
    first, last = _stated(node, *box)
    room = 0.0 if exact else _ROOM
    return np.fmax(first - room * (1 + abs(first)), low), np.fmin(last + room * (1 + abs(last)), high)


def _stated(node: Node, lower: np.ndarray, upper: np.ndarray) -> Slopes:
    with np.errstate(all="ignore"):
        found = node.operator.slope_range(lower, upper)  # type: ignore[attr-defined]
    low, high = (np.broadcast_to(np.asarray(s, np.float64), lower.shape).reshape(-1) for s in found)
    return low, high


def _outward(x: np.ndarray, way: float) -> np.ndarray:
    """Limits of few bits stay; others may have been rounded, also several times."""
    return np.where((x * 64 == np.round(x * 64)) & (abs(x) <= 64), x, x + way * _ROOM * (1 + abs(x)))


def _groups(graph: Graph, bends: list[int]) -> list[tuple[int, ...]]:
    """Nonlinear nodes one after the other of which none depends on another: the comparators of one round, say."""
    behind: list[frozenset[int]] = []
    for i, node in enumerate(graph.nodes):
        own: frozenset[int] = frozenset((i,) if i in bends else ())
        behind.append(own.union(*(behind[j] for j in node.inputs)))
    groups: list[tuple[int, ...]] = []
    for i in bends:
        if groups and not behind[i] & set(groups[-1]):
            groups[-1] = (*groups[-1], i)
        else:
            groups.append((i,))
    return groups


def _cuts(graph: Graph, bends: list[tuple[int, ...]]) -> list[tuple[int, tuple[int, ...]]]:
    """For each group of nonlinear nodes the place after it (before the next) where the least is live, and the nodes that are."""
    moving = _moving(graph)
    last = {j: i for i, node in enumerate(graph.nodes) for j in node.inputs}
    last[graph.output] = len(graph.nodes)
    cuts = []
    for k, nodes in enumerate(bends):
        best: tuple[int, int, tuple[int, ...]] | None = None
        for place in range(nodes[-1], bends[k + 1][0] if k + 1 < len(bends) else max(nodes[-1], graph.output) + 1):
            live = tuple(i for i in range(place + 1) if i in moving and last.get(i, -1) > place)
            size = sum(int(np.prod(graph.nodes[i].shape, dtype=np.int64)) for i in live)
            if best is None or size < best[0]:
                best = size, place, live
        if best is not None:
            cuts.append(best[1:])
    return cuts


def _stage(
    graph: Graph,
    state: tuple[int, ...],
    nodes: tuple[int, ...],
    cut: tuple[int, tuple[int, ...]],
    start: int,
    limit: int,
    slopes: Slopes,
) -> Stage:
    place, live = cut
    walk = _Walk(graph, state, nodes, limit)
    walk.run(start + 1, place)
    split = walk.total - sum(walk.size(i) for i in nodes)
    keep, feed = walk.rows(live, 0, split), walk.rows(live, split, walk.total)
    low, high = slopes
    identity = feed.radius is None and feed.middle.shape == (len(low),) * 2 and np.array_equal(feed.middle, np.eye(len(low)))
    still = not keep.middle.any() and (keep.radius is None or not keep.radius.any())
    gate = walk.rows(tuple(graph.nodes[i].inputs[0] for i in nodes), 0, split)
    return Stage(gate, None if still else keep, None if identity else feed, low, high, nodes=nodes)


class _Walk:
    """Images of the unit vectors of a state, and of the outputs of nonlinear nodes, under the affine nodes that follow."""

    def __init__(self, graph: Graph, state: tuple[int, ...], bends: tuple[int, ...], limit: int) -> None:
        self.graph, self.bends, self.limit = graph, bends, limit
        sources = [*state, *bends]
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
            if i in self.bends or isinstance(node.operator, Constant) or not any(j in self.columns for j in node.inputs):
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


def _without_linear(stage: Stage, moving: np.ndarray) -> tuple[Stage, np.ndarray]:
    """The stage with w_i = slope z_i put in where that is what it says, and which entries of the next state can move.

    ``moving`` (s,) says so of the state before.
    """
    still = ~np.asarray(stage.gate.size()[:, moving].any(1))
    if stage.loop is not None:
        still &= ~stage.loop.size().any(1)
    feed = Enclosure(np.eye(stage.size)) if stage.feed is None else stage.feed
    after = np.asarray(feed.size()[:, ~still & ((stage.low != 0) | (stage.high != 0))].any(1))
    if stage.keep is not None:
        after |= stage.keep.size()[:, moving].any(1)
    fixed = np.flatnonzero(still | (stage.low == stage.high))
    if not len(fixed) or (stage.loop is not None and not still[fixed].all()):
        return stage, after
    free = np.setdiff1d(np.arange(stage.size), fixed)
    slope = np.where(still, 0.0, stage.low)[fixed]
    keep = stage.keep
    if slope.any():
        through = feed.columns(fixed) @ stage.gate.T.columns(fixed).T.rows(slope)
        keep = through if keep is None else keep + through
    loop = None if stage.loop is None else stage.loop.T.columns(free).T.columns(free)
    gate = stage.gate.T.columns(free).T
    low, high = stage.low[free], stage.high[free]
    return replace(stage, gate=gate, keep=keep, feed=feed.columns(free), low=low, high=high, loop=loop), after
