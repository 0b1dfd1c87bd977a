"""Several networks side by side as one, for properties that compare them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ascertain.errors import PropertyError, ShapeError
from ascertain.graph.graph import Builder, Graph, Source
from ascertain.operators.base import Ref
from ascertain.properties.property import Property

__all__ = ["join", "product"]


def product(graphs: Sequence[Graph], reads: Sequence[np.ndarray], size: int) -> Graph:
    """The graph x -> (graphs[0](x[reads[0]]), graphs[1](x[reads[1]]), ...) of a flat x of ``size`` entries, outputs flat.

    A witness is replayed on the originals of all graphs if every one of them can be.
    """
    from ascertain.operators.movement import Reshape
    from ascertain.operators.selection import Concat, Gather

    for graph, indices in zip(graphs, reads, strict=True):
        if indices.shape != (graph.input_size,):
            raise ShapeError(f"a network of {graph.input_size} inputs is to read {indices.size} entries; give as many of both.")
    builder = Builder()
    x = builder.input((size,))
    outputs = []
    for k, (graph, indices) in enumerate(zip(graphs, reads, strict=True)):
        builder.scope = f"read_{k}"
        part = x if np.array_equal(indices, np.arange(size)) else builder(Gather(0, indices), x)
        y = _copy(builder, graph, builder(Reshape(graph.input_shape), part), f"{k}/")
        builder.scope = f"flat_{k}"
        outputs.append(builder(Reshape((graph.output_size,)), y))
    builder.scope = "outputs"
    return builder.graph(x, builder(Concat(0), *outputs) if len(outputs) > 1 else outputs[0], _source(graphs, reads))


def _copy(builder: Builder, graph: Graph, x: Ref, prefix: str) -> Ref:
    """Adds the nodes of a graph that takes x, and returns its output."""
    values: list[Ref] = []
    for i, node in enumerate(graph.nodes):
        builder.scope = prefix + node.name
        values.append(x if i == graph.input else builder(node.operator, *(values[j] for j in node.inputs)))
    return values[graph.output]


def _source(graphs: Sequence[Graph], reads: Sequence[np.ndarray]) -> Source:
    originals = [(graph.source.replay, indices, graph.input_shape) for graph, indices in zip(graphs, reads, strict=True)]

    def replay(x: np.ndarray) -> np.ndarray:
        flat = np.asarray(x).reshape(-1)
        parts = [run(flat[indices].reshape(shape)) for run, indices, shape in originals if run is not None]
        return np.concatenate([np.asarray(part).reshape(-1) for part in parts])

    return Source("built", None, replay if all(run is not None for run, _, _ in originals) else None)


def join(property: Property, graphs: Mapping[str, Graph]) -> Graph:
    """The one graph that a property over named networks is about; ``graphs`` may leave out copies (``equal_to``) of others.

    Raises PropertyError for a network that is missing, ShapeError where sizes differ from the declared ones.
    """
    used, reads = [], []
    for network in property.networks:
        graph = graphs.get(network.name, graphs.get(network.equal_to))
        if graph is None:
            raise PropertyError(f"property {property.name!r} is about network {network.name}; give a file for it.")
        sizes = (network.inputs[1] - network.inputs[0], network.outputs[1] - network.outputs[0])
        if (graph.input_size, graph.output_size) != sizes:
            raise ShapeError(
                f"network {network.name} is declared with {sizes[0]} inputs and {sizes[1]} outputs, its file has "
                f"{graph.input_size} and {graph.output_size}; check which file belongs to it."
            )
        used.append(graph)
        reads.append(np.arange(*network.inputs))
    if len(used) == 1:
        return used[0]
    return product(used, reads, property.n_inputs)
