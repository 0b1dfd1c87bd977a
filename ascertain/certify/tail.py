"""Properties that only compare outputs do not need operators that keep the order of the outputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ascertain.graph.graph import Graph
from ascertain.properties.property import Atoms, Case

__all__ = ["compares", "without_tail"]


def without_tail(graph: Graph) -> Graph:
    """The graph before the operators at its end that keep the order of all entries (softmax over all of them, reshaping).

    Let z be the flat output of the graph returned, of the size of y, the flat output of the graph given. By `Operator.preserves_order`,
    y_i <= y_j exactly where z_i <= z_j, for real numbers and every input: every step at the end has the one before it as its only
    input, and equivalences chain. An atom c y_i - c y_j <= 0 with c > 0 says y_i <= y_j, so y and z satisfy the same such atoms, their
    conjunctions and disjunctions: a property made of them holds for one graph exactly where it holds for the other. In floating
    point y may tie or overflow where z does not: witnesses are replayed on the original.
    """
    end = graph.nodes[graph.output]
    last = graph.output
    while len(end.inputs) == 1 and end.operator.preserves_order(*graph.shapes(end)):
        last = end.inputs[0]
        end = graph.nodes[last]
    return graph if last == graph.output else replace(graph, output=last)


def compares(case: Case) -> bool:
    """Whether every atom on outputs and inputs only compares two outputs."""
    return all(_compares(atoms) for atoms in case.unsafe)


def _compares(atoms: Atoms) -> bool:
    matrix = atoms.matrix
    pairs = ((matrix > 0).sum(1) == 1) & ((matrix < 0).sum(1) == 1) & (matrix.max(1, initial=0) == -matrix.min(1, initial=0))
    inputs = atoms.input_matrix
    return bool(np.all(pairs & (atoms.bound == 0))) and (inputs is None or not inputs.any())
