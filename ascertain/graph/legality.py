"""The rules every graph obeys, as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from math import isnan, prod

import numpy as np

from ascertain.errors import DataError, ModelError, ShapeError
from ascertain.graph.graph import Constant, Graph, Input, Node

__all__ = ["RULES", "check"]

Rule = Callable[[Graph, int, Node], str | None]
_LARGEST = 2**31


def _order(graph: Graph, i: int, node: Node) -> str | None:
    return None if all(0 <= j < i for j in node.inputs) else f"uses values {node.inputs} that are not made before it"


def _arity(graph: Graph, i: int, node: Node) -> str | None:
    leaf = isinstance(node.operator, (Input, Constant))
    return None if leaf == (not node.inputs) else f"has {len(node.inputs)} inputs"


def _one_input(graph: Graph, i: int, node: Node) -> str | None:
    return None if isinstance(node.operator, Input) == (i == graph.input) else "is a second input, or the input is no Input"


def _dimensions(graph: Graph, i: int, node: Node) -> str | None:
    if not all(isinstance(n, int) and n > 0 for n in node.shape):
        return f"has the shape {node.shape}, whose sizes are not all positive integers"
    return None if prod(node.shape) <= _LARGEST else f"has the shape {node.shape}, more than {_LARGEST} numbers"


def _shape(graph: Graph, i: int, node: Node) -> str | None:
    if isinstance(node.operator, Input):
        return None
    try:
        inferred = tuple(node.operator.infer(*graph.shapes(node)))
    except ShapeError as error:
        return f"does not fit its inputs ({error})"
    return None if inferred == node.shape else f"is recorded with shape {node.shape}, its operator gives {inferred}"


def parameters(node: Node) -> Iterator[str]:
    """Complaints about the numbers that an operator holds."""
    for name, array in node.operator.arrays().items():
        if not isinstance(array, np.ndarray):
            yield f"holds {name} as {type(array).__name__}, not as a numpy array"
        elif array.dtype not in (np.float32, np.float64) and array.dtype.kind not in "iub":
            yield f"holds {name} as {array.dtype}, not as float32 or float64"
        elif array.dtype.kind == "f" and not np.isfinite(array).all():
            yield f"holds NaN or infinite numbers in {name}"
    for f in fields(node.operator):
        value = getattr(node.operator, f.name)
        if isinstance(value, float) and isnan(value):
            yield f"holds NaN in {f.name}"


def _parameters(graph: Graph, i: int, node: Node) -> str | None:
    return next(parameters(node), None)


RULES: tuple[tuple[Rule, type[ModelError] | type[DataError] | type[ShapeError]], ...] = (
    (_order, ModelError),
    (_arity, ModelError),
    (_one_input, ModelError),
    (_dimensions, ShapeError),
    (_shape, ShapeError),
    (_parameters, DataError),
)
"""Rules on single nodes, in the order in which they may rely on each other, with the error each raises."""


def check(graph: Graph) -> Graph:
    """Returns a legal graph unchanged; raises naming the first node that breaks a rule."""
    size = len(graph.nodes)
    if not (0 <= graph.input < size and 0 <= graph.output < size):
        raise ModelError(f"the graph has {size} nodes, its input {graph.input} and output {graph.output} are not among them.")
    for i, node in enumerate(graph.nodes):
        for rule, error in RULES:
            complaint = rule(graph, i, node)
            if complaint:
                raise error(f"node {node.name!r} ({node.operator.name}) {complaint}; the graph is not legal.")
    if graph.input not in reached(graph):
        raise ModelError(f"the output {graph.nodes[graph.output].name!r} does not depend on the input; there is nothing to verify.")
    return graph


def reached(graph: Graph) -> set[int]:
    """Positions of the nodes on which the output depends, itself included."""
    found, stack = {graph.output}, [graph.output]
    while stack:
        for j in graph.nodes[stack.pop()].inputs:
            if j not in found:
                found.add(j)
                stack.append(j)
    return found
