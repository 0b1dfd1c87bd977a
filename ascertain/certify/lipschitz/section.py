"""The part of a network between two of its nodes, as a network."""

from __future__ import annotations

from dataclasses import replace

from ascertain.errors import ModelError
from ascertain.graph.graph import Graph, Input
from ascertain.graph.legality import check, reached

__all__ = ["section"]


def section(graph: Graph, start: str | int, stop: str | int) -> Graph:
    """The function from the value of one node to that of a later one; nodes by name or position. Raises ModelError."""
    first, last = _node(graph, start), _node(graph, stop)
    node = graph.nodes[first]
    nodes = list(graph.nodes)
    nodes[first] = replace(node, operator=Input(), inputs=())
    cut = replace(graph, nodes=tuple(nodes), input=first, output=last)
    if first == last or first not in reached(replace(graph, output=last)):
        raise ModelError(f"node {graph.nodes[last].name!r} does not come after node {node.name!r}; give the earlier node first.")
    if first != graph.input and graph.input in reached(cut):
        raise ModelError(
            f"node {nodes[last].name!r} depends on the input also around node {node.name!r}; "
            "choose a first node that every path passes, such as the sum before a residual block."
        )
    return check(_trimmed(cut))


def _trimmed(graph: Graph) -> Graph:
    """The nodes on which the output depends, and no others."""
    kept = sorted(reached(graph))
    place = {old: new for new, old in enumerate(kept)}
    nodes = tuple(replace(graph.nodes[i], inputs=tuple(place[j] for j in graph.nodes[i].inputs)) for i in kept)
    return replace(graph, nodes=nodes, input=place[graph.input], output=place[graph.output])


def _node(graph: Graph, name: str | int) -> int:
    if isinstance(name, int) or (isinstance(name, str) and name.isdigit()):
        at = int(name)
        if 0 <= at < len(graph.nodes):
            return at
    found = [i for i, node in enumerate(graph.nodes) if node.name == name]
    if found:
        return found[-1]
    names = ", ".join(f"{i} {node.name!r}" for i, node in enumerate(graph.nodes[:40]))
    raise ModelError(f"the network has no node {name!r}; its nodes are {names}.")
