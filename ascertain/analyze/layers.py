"""Which layers and which data analyzers look at, where all would be too many."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from ascertain.analyze.base import Context
from ascertain.analyze.result import Measured
from ascertain.errors import DataError, InputError
from ascertain.evidence import Evidence
from ascertain.graph.graph import Graph, Node
from ascertain.operators.base import Affine

if TYPE_CHECKING:
    from ascertain.probes.activations import Activations

__all__ = ["capture", "cuts", "drawn", "layers", "words"]


def words(names: Sequence[str] | str, about: str, evidence: Evidence = Evidence.EXACT) -> Measured:
    """Names, or one, as a measured value."""
    return Measured(np.array(names, str), evidence, about)


def drawn(context: Context, count: int) -> np.ndarray:
    """Positions of at most ``count`` inputs, drawn under the seed, in order."""
    if count < 1:
        raise InputError(f"{count} inputs were asked for; give a positive count.")
    n = len(context.inputs)
    return np.sort(context.generator().choice(n, min(count, n), replace=False))


def layers(graph: Graph, most: int) -> tuple[str, ...]:
    """Names of the input, the output and what lies between, at most so many, evenly spaced.

    Where at least two nodes in between carry all that comes after them, only such: successive ones then follow each other, which
    branches do not. Nodes that only move numbers are left out.
    """
    if most < 2:
        raise InputError(f"{most} layers show nothing of what lies between input and output; ask for at least 2.")
    last = {node.name: i for i, node in enumerate(graph.nodes)}
    works = {node.name for node in graph.nodes if node.inputs and not _moves(graph, node)}
    ends = {graph.nodes[graph.input].name, graph.nodes[graph.output].name}
    positions = sorted(last[name] for name in works | ends)
    narrow = [i for i in positions if i in _carriers(graph)]
    return tuple(graph.nodes[i].name for i in _spread(narrow if len(narrow) >= 4 else positions, most))


def cuts(graph: Graph, widest: int, most: int) -> tuple[int, ...]:
    """Positions of nodes that carry all that comes after them: the input, what each layer reads that mixes by weights, the output.

    Those of more than ``widest`` numbers are left out.
    """
    found = []
    for i in sorted(_carriers(graph)):
        arrays = [a for n in graph.nodes if i in n.inputs and isinstance(n.operator, Affine) for a in n.operator.arrays().values()]
        mixed = any(sum(size > 1 for size in a.shape) > 1 for a in arrays)
        if np.prod(graph.nodes[i].shape) <= widest and (mixed or i in (graph.input, graph.output)):
            found.append(i)
    return tuple(_spread(found, most))


def _moves(graph: Graph, node: Node) -> bool:
    return isinstance(node.operator, Affine) and node.operator.terms(*graph.shapes(node)) == 0


def _carriers(graph: Graph) -> set[int]:
    """Nodes from the input to the output that nothing passes by, constants apart."""
    reach = list(range(len(graph.nodes)))
    for k, node in enumerate(graph.nodes):
        for i in node.inputs:
            reach[i] = k
    found, passing = set(), graph.input
    for i, node in enumerate(graph.nodes):
        if i != graph.input and not node.inputs:
            continue
        if passing <= i and graph.input <= i <= graph.output:
            found.add(i)
        passing = max(passing, reach[i])
    return found


def _spread(found: list[int], most: int) -> list[int]:
    return [found[i] for i in np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int))] if found else []


def capture(
    graph: Graph, names: tuple[str, ...], x: np.ndarray, maps: Literal["positions", "flattened", "resized"] = "flattened"
) -> Activations:
    """Activations of layers on inputs (n, *shape), without the layers that are constant there."""
    from ascertain.probes.activations import Activations, FewSamplesWarning, activations

    with warnings.catch_warnings():
        # Which measures suffer from few samples is known to those who choose them here.
        warnings.simplefilter("ignore", FewSamplesWarning)
        found = activations(graph, list(names), x, maps=maps)
    kept = [name for name in found if np.ptp(found[name], axis=0).any()]
    if not kept:
        raise DataError(f"all layers are constant on these {len(x)} inputs; give inputs that differ.")
    return Activations({n: found[n] for n in kept}, {n: found.places[n] for n in kept}, found.digests, found.maps)
