"""Properties that only compare outputs do not need operators that keep the order of the outputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ascertain.graph.graph import Graph
from ascertain.properties.property import Atoms, Case

__all__ = ["compares", "without_tail"]


def without_tail(graph: Graph) -> Graph:
    """The graph before the operators at its end that keep the order of all entries (softmax over all of them, reshaping).

    Let y be the flat output of the graph given, z of the one returned. Each operator dropped has the one before it as its only
    input and states (`Operator.preserves_order`) that its outputs compare as its inputs do, in real numbers; so for every input of
    the network, y_i <= y_j exactly where z_i <= z_j. An atom c y_i - c y_j <= 0 with c > 0 says y_i <= y_j. Hence y and z satisfy
    the same such atoms and the same conjunctions and disjunctions of them: a property made of these alone holds for one graph
    exactly where it holds for the other. Floats may tie where real numbers do not: a witness is replayed on the original.
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
