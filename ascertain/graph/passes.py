"""Rewritings of a graph into an equal one: same input, same output, in real arithmetic.

Every pass keeps the network's input and output as they are, so a point of one graph is a point of the other and witnesses,
objectives and bounds need no mapping. Constants are folded before, by the importers, in the file's own number types.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeGuard

import numpy as np

from ascertain.graph.graph import Builder, Graph, Input, Node, fingerprint
from ascertain.graph.legality import check, reached
from ascertain.graph.patterns import gates, norms
from ascertain.operators.base import Affine, Composite, Operator, Ref

__all__ = ["PASSES", "Pass", "dead_code", "expand", "fuse", "identities", "lower", "share"]

Pass = Callable[[Graph], Graph]
_LARGEST_PROBE = 2**24


def expand(graph: Graph, keep: tuple[type[Operator], ...] = ()) -> Graph:
    """Writes every composite out, and what it writes out again, until none is left but those of the classes to keep."""

    def splits(operator: Operator) -> TypeGuard[Composite]:
        return isinstance(operator, Composite) and not isinstance(operator, keep)

    if not any(splits(node.operator) for node in graph.nodes):
        return graph
    builder, refs = Builder(), list[Ref]()

    def emit(operator: Operator, *inputs: Ref) -> Ref:
        return operator.expand(emit, *inputs) if splits(operator) else builder(operator, *inputs)

    for node in graph.nodes:
        builder.scope = node.name
        if isinstance(node.operator, Input):
            refs.append(builder.input(node.shape, node.name))
        else:
            refs.append(emit(node.operator, *(refs[j] for j in node.inputs)))
    return builder.graph(refs[graph.input], refs[graph.output], graph.source)


def dead_code(graph: Graph) -> Graph:
    """Drops nodes on which the output does not depend."""
    return _keep(graph, sorted(reached(graph) | {graph.input}), {})


def share(graph: Graph) -> Graph:
    """Computes once what several nodes compute alike: the same operator on the same values."""
    first: dict[tuple[bytes, tuple[int, ...]], int] = {}
    same: dict[int, int] = {}
    for i, node in enumerate(graph.nodes):
        key = fingerprint(node.operator), tuple(same.get(j, j) for j in node.inputs)
        same[i] = i if i == graph.input else first.setdefault(key, i)
    return _keep(graph, [i for i in range(len(graph.nodes)) if same[i] == i], same)


def identities(graph: Graph) -> Graph:
    """Drops movements that move nothing."""
    same: dict[int, int] = {}
    for i, node in enumerate(graph.nodes):
        if len(node.inputs) == 1 and _moves_nothing(node, *graph.shapes(node)):
            same[i] = same.get(node.inputs[0], node.inputs[0])
    return _keep(graph, [i for i in range(len(graph.nodes)) if i not in same], same) if same else graph


def _moves_nothing(node: Node, *shapes: tuple[int, ...]) -> bool:
    operator, size = node.operator, int(np.prod(node.shape))
    if not isinstance(operator, Affine) or shapes[0] != node.shape or size > _LARGEST_PROBE or operator.terms(*shapes):
        return False
    # A movement puts 0 or one entry in each place: distinct entries show where each came from.
    x = np.arange(1.0, size + 1).reshape(1, *node.shape)
    return bool(np.array_equal(operator.forward(x), x))


def fuse(graph: Graph) -> Graph:
    """Merges an operator into the one before it, where nothing else uses that and the two state what they are together.

    `Operator.then` merges only where the error of the merged coefficients stays covered by its own ``terms``.
    """
    uses = Counter(j for node in graph.nodes for j in node.inputs)
    uses[graph.output] += 1
    nodes: list[Node] = []
    for node in graph.nodes:
        while len(node.inputs) == 1 and uses[node.inputs[0]] == 1:
            before = nodes[node.inputs[0]]
            merged = before.operator.then(node.operator, *(nodes[j].shape for j in before.inputs))
            if merged is None:
                break
            node = replace(node, operator=merged, inputs=before.inputs)
        nodes.append(node)
    return dead_code(replace(graph, nodes=tuple(nodes)))


def _keep(graph: Graph, kept: list[int], same: dict[int, int]) -> Graph:
    """The graph of some of its nodes only; ``same`` gives the kept node that stands for a dropped one."""
    if len(kept) == len(graph.nodes):
        return graph
    place = {old: new for new, old in enumerate(kept)}

    def moved(i: int) -> int:
        return place[same.get(i, i)]

    nodes = tuple(replace(graph.nodes[i], inputs=tuple(map(moved, graph.nodes[i].inputs))) for i in kept)
    return replace(graph, nodes=nodes, input=moved(graph.input), output=moved(graph.output))


PASSES: tuple[Pass, ...] = (share, gates, norms, expand, dead_code, identities, share, fuse, identities)
"""What `lower` runs, in order."""


def lower(graph: Graph, keep: tuple[type[Operator], ...] = ()) -> Graph:
    """The equal graph of operators that are no composites, without repeated, idle or unused nodes; every pass is checked.

    Composites of the classes ``keep`` stay as they are (univariate ones also expand: into rectifiers, unless kept).
    """
    passes = tuple(partial(expand, keep=keep) if p is expand else p for p in PASSES)
    for rewrite in passes:
        changed = rewrite(graph)
        graph = graph if changed is graph else check(changed)
    return graph
