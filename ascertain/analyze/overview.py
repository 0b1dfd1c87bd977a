"""What a network is made of, and what its layers do with data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ascertain.analyze.base import Analyzer, Context, Example, Need
from ascertain.analyze.intervals import mean_interval, share
from ascertain.analyze.result import Measured, Result
from ascertain.analyze.views import Kind, View
from ascertain.evidence import Evidence
from ascertain.graph.graph import Builder, Graph, Node
from ascertain.operators import Dense, Relu
from ascertain.operators.base import Affine

__all__ = ["Overview"]

_DENSE = 2**22
"""Maps with at most so many matrix entries are written out as matrices for their singular values."""
_NUMBERS = 2**23
"""Activations held at a time."""


@dataclass(frozen=True)
class Overview(Analyzer):
    """The network as a diagram: nodes, parameters, spectral norms of affine layers, statistics of activations on data."""

    title: ClassVar[str] = "Overview"
    version: ClassVar[int] = 2
    uses: ClassVar[frozenset[Need]] = frozenset({Need.DATA, Need.LABELS})
    meaning: ClassVar[str] = (
        "The diagram shows how values flow. A spectral norm is the most that a layer can stretch a difference of inputs. "
        "A unit that gives one value for all data is idle there."
    )
    formula: ClassVar[str] = "spectral norm = largest singular value; idle share = units with max over data = min over data"
    evidence: ClassVar[str] = (
        "Counts are exact. Spectral norms are BOUNDED where the matrix is decomposed; for larger maps ESTIMATED by Lanczos "
        "iteration, between an attained stretch and sqrt(largest row sum x largest column sum) of absolute entries. Means of "
        "activations and accuracy are ESTIMATED with 95 % intervals over the samples."
    )
    references: ClassVar[tuple[str, ...]] = ("Wilson 1927, Probable inference, the law of succession, and statistical inference",)

    def measure(self, context: Context) -> Mapping[str, Measured]:
        """Structure always; activations with data; accuracy with labels."""
        found = _structure(context.model) | _norms(context.model)
        if context.data is not None:
            found |= _activations(context)
        if context.labels is not None:
            answers = [context.model(x).reshape(len(x), -1).argmax(1) for x in _chunks(context)]
            right = int((np.concatenate(answers) == context.labels).sum())
            found["accuracy"] = share(right, len(context.labels), "share of the data whose label has the largest output")
        return found

    def views(self, result: Result) -> Sequence[View]:
        """Diagram, table, spectral norms, activations."""
        nodes = {"node": "node", "operator": "operator", "shape": "shape", "parameters": "node_parameters"}
        views = [
            View(Kind.TEXT, "Size", text="{nodes} nodes, {parameters} parameters, {depth} layers deep.", finding=True),
            View(Kind.GRAPH, "Circuit", {"node": "node", "edge": "edge", "group": "operator", "detail": "shape"}),
            View(Kind.TABLE, "Nodes", nodes),
        ]
        if "accuracy" in result.values:
            views.insert(1, View(Kind.TEXT, "Accuracy", text="It is right on {accuracy:.1%} of the data.", finding=True))
        if "spectral_norm" in result.values:
            channels = {"label": "affine", "spectral norm": "spectral_norm"}
            views.append(View(Kind.BAR, "Spectral norms", channels, y="largest singular value"))
        if "activation_mean" in result.values:
            spread = {"mean": "activation_mean", "standard deviation": "activation_deviation"}
            views.append(View(Kind.BAR, "Activations", {"label": "node"} | spread))
            if result["idle"].any():
                never = "Share of units that never change."
                views.append(View(Kind.BAR, "Idle units", {"label": "node", "idle share": "idle"}, never))
        return views

    @classmethod
    def examples(cls) -> Iterator[Example]:
        """y = relu(A x) with singular values 3 and 1 of A, and one unit that no data reach."""
        turn = np.array([[0.6, -0.8], [0.8, 0.6]])
        build = Builder()
        x = build.input((1, 2))
        graph = build.graph(x, build(Relu(), build(Dense(turn @ np.diag([3.0, 1.0])), x)))
        context = Context(graph, np.array([[1.0, 0.0], [2.0, 0.0]]), np.array([1, 0]))
        means = [0.75, 3.15, 3.15]  # of (1, 0, 2, 0); of (1.8, 2.4) and (3.6, 4.8); all positive
        expected = {"nodes": 3, "parameters": 4, "depth": 2, "spectral_norm": [3.0], "activation_mean": means, "accuracy": 0.5}
        yield Example(cls(), context, expected | {"idle": [0.5, 0.0, 0.0], "edge": [[0, 1], [1, 2]]})


def _structure(graph: Graph) -> dict[str, Measured]:
    numbers = [sum(int(a.size) for a in node.operator.arrays().values()) for node in graph.nodes]
    depth = [0] * len(graph.nodes)
    for i, node in enumerate(graph.nodes):
        depth[i] = max((depth[j] + 1 for j in node.inputs), default=0)
    edges = [(j, i) for i, node in enumerate(graph.nodes) for j in node.inputs]
    values = {
        "node": (np.array([node.name for node in graph.nodes], str), "name of the node"),
        "operator": (np.array([node.operator.name for node in graph.nodes], str), "operator"),
        "shape": (np.array(["×".join(map(str, node.shape)) for node in graph.nodes], str), "shape of its value"),
        "node_parameters": (np.array(numbers, np.int64), "numbers stored in the node"),
        "edge": (np.array(edges, np.int64).reshape(-1, 2), "positions of source and target"),
        "nodes": (len(graph.nodes), "number of nodes"),
        "parameters": (sum(numbers), "numbers stored in the network"),
        "depth": (depth[graph.output], "nodes on the longest path from input to output"),
    }
    return {name: Measured(np.array(value), Evidence.EXACT, about) for name, (value, about) in values.items()}


def _norms(graph: Graph) -> dict[str, Measured]:
    """Spectral norms of the affine nodes with one input and parameters that mix coordinates."""
    picked = [n for n in graph.nodes if n.operator.arrays() and len(n.inputs) == 1 and _mixes(graph, n)]
    if not picked:
        return {}
    found = [_norm(graph, node) for node in picked]
    value, low, high = (np.array([f[k] for f in found]) for k in range(3))
    about = "largest singular value of the layer as a map of flat vectors"
    if (low == high).all():
        measured = Measured(value, Evidence.BOUNDED, about)
    else:
        measured = Measured(value, Evidence.ESTIMATED, about, low, high)
    return {"affine": Measured(np.array([n.name for n in picked], str), Evidence.EXACT, "affine layer"), "spectral_norm": measured}


def _mixes(graph: Graph, node: Node) -> bool:
    """Whether it is a matrix that is not diagonal, as shifts and scales are."""
    (before,) = graph.shapes(node)
    if not isinstance(node.operator, Affine) or before != node.shape or np.prod(before) == 1:
        return isinstance(node.operator, Affine)
    point = np.random.default_rng(0).normal(size=(1, *before))
    return not np.array_equal(node.operator.linear(point), node.operator.linear(np.ones_like(point)) * point)


def _norm(graph: Graph, node: Node) -> tuple[float, float, float]:
    """(value, low, high); all equal where the matrix was decomposed."""
    import scipy.linalg
    from scipy.sparse.linalg import LinearOperator, svds

    operator: Affine = graph.like(np.empty(0, np.float64)).nodes[graph.nodes.index(node)].operator  # type: ignore[assignment]
    (before,), after = graph.shapes(node), node.shape
    n, m = int(np.prod(before)), int(np.prod(after))
    if n * m <= _DENSE:
        matrix = operator.linear(np.eye(n).reshape(n, *before)).reshape(n, m)
        # The largest eigenvalue of the smaller product is all that is needed, and far quicker than all singular values.
        product = matrix @ matrix.T if n < m else matrix.T @ matrix
        last = len(product) - 1
        top = float(np.sqrt(max(0.0, scipy.linalg.eigvalsh(product, subset_by_index=[last, last])[0])))
        return top, top, top
    forward = LinearOperator(
        (m, n),
        matvec=lambda v: operator.linear(v.reshape(1, *before)).reshape(-1),
        rmatvec=lambda v: operator.adjoint(v.reshape(1, *after), before)[0].reshape(-1),
        dtype=np.float64,
    )
    _, _, right = svds(forward, k=1, v0=np.ones(min(n, m)), return_singular_vectors=True)
    low = float(np.linalg.norm(forward.matvec(right[0])) / np.linalg.norm(right[0]))
    size = operator.magnitude()
    rows = size.linear(np.ones((1, *before))).max()
    columns = size.adjoint(np.ones((1, *after)), before)[0].max()
    return low, low, max(low, float(np.sqrt(rows * columns)))


def _chunks(context: Context) -> Iterator[np.ndarray]:
    """The data in pieces whose activations fit the memory set aside."""
    numbers = sum(int(np.prod(node.shape)) for node in context.model.nodes)
    step = max(1, _NUMBERS // max(1, numbers))
    for start in range(0, len(context.inputs), step):
        yield context.shaped[start : start + step]


def _activations(context: Context) -> dict[str, Measured]:
    """Mean, deviation and idle units of every node."""
    graph = context.model.like(np.empty(0, np.float64))
    means: list[list[np.ndarray]] = [[] for _ in graph.nodes]
    squares = [0.0] * len(graph.nodes)
    ends: list[tuple[np.ndarray, np.ndarray] | None] = [None] * len(graph.nodes)
    for x in _chunks(context):
        for i, value in enumerate(graph.values(x)):
            flat = np.asarray(value, np.float64).reshape(len(x), -1)
            means[i].append(flat.mean(1))
            squares[i] += float((flat**2).mean(1).sum())
            low, high = flat.min(0), flat.max(0)
            known = ends[i]
            ends[i] = (low, high) if known is None else (np.minimum(known[0], low), np.maximum(known[1], high))
    rows = np.array([np.concatenate(m) for m in means])
    deviation = np.sqrt(np.maximum(np.array(squares) / rows.shape[1] - rows.mean(1) ** 2, 0))
    idle = [float((pair[0] == pair[1]).mean()) for pair in ends if pair is not None]
    return {
        "activation_mean": mean_interval(rows, "mean activation over units and samples"),
        "activation_deviation": Measured(deviation, Evidence.BOUNDED, "standard deviation over units and the given samples"),
        "idle": Measured(np.array(idle), Evidence.BOUNDED, "share of units with one value for all given samples"),
    }
