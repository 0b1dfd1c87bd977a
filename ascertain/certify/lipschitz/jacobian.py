"""The Jacobian of a network as a graph of operators, so that bounds and search made for networks serve for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ascertain.errors import DataError, ShapeError, UnsupportedError
from ascertain.graph.graph import Builder, Graph
from ascertain.graph.legality import reached
from ascertain.graph.passes import lower
from ascertain.operators.affine import Sum
from ascertain.operators.base import Ref
from ascertain.operators.derivatives import pullback
from ascertain.operators.movement import Reshape
from ascertain.operators.piecewise import Abs
from ascertain.operators.reduction import Reduce
from ascertain.operators.selection import Gather
from ascertain.operators.smooth import Square
from ascertain.properties.sets import InputSet

__all__ = ["Jacobian", "graph_bounds", "jacobian"]


@dataclass(frozen=True, eq=False)
class Jacobian:
    """``graph`` computes, from the network's input, what was asked of J = rows d(output)/d(input), of Clarke at kinks."""

    graph: Graph
    network: Graph
    """The lowered network; its nodes are the first of ``graph``, under the same numbers."""
    matrix: int
    """The node of ``graph`` that holds J, ``(R, n_in)``."""
    gradients: Mapping[int, int]
    """For each node of the network on the way the node of ``graph`` with the gradient with respect to its value, (R, *shape)."""


def jacobian(network: Graph, rows: np.ndarray, *, columns: np.ndarray | None = None, head: str = "matrix") -> Jacobian:
    """The Jacobian of ``rows @ output`` for rows (R, n_out), as a graph of operators, in the chosen input ``columns``.

    ``head`` says what the graph's output is: the ``matrix`` (R, n); ``rows`` (R,) or ``columns`` (n,), the sums of absolute values;
    ``absolute`` values (R, n); or ``squares`` (R,), the squared lengths of rows. At kinks the graph encloses the generalised
    Jacobian of the chain rule, which holds Clarke's. Raises UnsupportedError listing operators without a derivative rule.
    """
    graph = lower(network)
    weights = np.atleast_2d(np.asarray(rows, np.float64))
    if weights.ndim != 2 or weights.shape[1] != graph.output_size or not len(weights):
        raise ShapeError(f"rows have shape {weights.shape}, the network {graph.output_size} outputs; give one column for each.")
    if not np.isfinite(weights).all():
        raise DataError("rows hold NaN or infinite numbers; give finite ones.")
    builder = Builder()
    builder.nodes.extend(graph.nodes)
    seed = builder.constant(weights.reshape(len(weights), *graph.output_shape))
    gradients = _backward(builder, graph, seed)
    flat = builder(Reshape((len(weights), graph.input_size)), gradients[graph.input])
    if columns is not None and len(columns) < graph.input_size:
        flat = builder(Gather(1, np.asarray(columns, np.int64)), flat)
    found = {i: ref.index for i, ref in gradients.items()}
    made = builder.graph(Ref(graph.input, graph.input_shape), _head(builder, flat, head), graph.source)
    return Jacobian(made, graph, flat.index, found)


def _backward(builder: Builder, graph: Graph, seed: Ref) -> dict[int, Ref]:
    """The gradient on each node that lies between input and output."""
    moving = {graph.input}
    for i, node in enumerate(graph.nodes):
        if any(j in moving for j in node.inputs):
            moving.add(i)
    parts: dict[int, list[Ref]] = {graph.output: [seed]}
    gradients: dict[int, Ref] = {}
    unknown = []
    for i in range(graph.output, -1, -1):
        given = parts.get(i, [])
        if not given or i not in moving:
            continue
        gradients[i] = given[0] if len(given) == 1 else builder(Sum((1.0,) * len(given)), *given)
        node = graph.nodes[i]
        if i == graph.input:
            break
        inputs = tuple(Ref(j, graph.nodes[j].shape) for j in node.inputs)
        builder.scope = f"{node.name} gradient"
        pulled = pullback(builder, node.operator, gradients[i], inputs, Ref(i, node.shape))
        if pulled is None:
            unknown.append((node.operator.name, node.name))
            pulled = tuple(builder.constant(np.zeros((seed.shape[0], *r.shape))) for r in inputs)
        for j, part in zip(node.inputs, pulled, strict=True):
            if j in moving:
                parts.setdefault(j, []).append(part)
    if unknown:
        names = ", ".join(f"{op} at {name!r}" for op, name in unknown)
        raise UnsupportedError(f"No derivative rule for {names}. Rewrite these with supported operators.", tuple(unknown))
    builder.scope = "Jacobian"
    return gradients


def _head(builder: Builder, matrix: Ref, head: str) -> Ref:
    if head == "matrix":
        return matrix
    sizes = builder(Square() if head == "squares" else Abs(), matrix)
    if head == "absolute":
        return sizes
    return builder(Reduce((0,) if head == "columns" else (1,), False), sizes)


def graph_bounds(found: Jacobian, sets: InputSet) -> tuple[np.ndarray, np.ndarray]:
    """Proved bounds of the flat output of a Jacobian's graph over a set, also where it does not depend on the input."""
    from ascertain.certify.bounds import bound_nodes
    from ascertain.certify.deep import output_bounds, region_of
    from ascertain.certify.plan import Plan

    if found.graph.input in reached(found.graph):
        return output_bounds(found.graph, sets, "crown", 0, "cpu", 1)
    plan = Plan.compile(found.graph)
    low, high = bound_nodes(plan, region_of(sets, plan.dtype, plan.device), back=False, zonotope=False).every[plan.output]
    return low[0].numpy(), high[0].numpy()
