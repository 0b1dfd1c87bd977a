"""Which directions of a layer act on which of the next, and whether they form modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ascertain.analyze.base import Analyzer, Context, Example, Need
from ascertain.analyze.layers import cuts, drawn, words
from ascertain.analyze.result import Measured, Result
from ascertain.analyze.views import Kind, View
from ascertain.errors import InputError
from ascertain.evidence import Evidence
from ascertain.graph.graph import Builder, Graph
from ascertain.operators import Dense, Relu

if TYPE_CHECKING:
    from ascertain.probes.interaction import Interactions
    from ascertain.probes.modularity import Modules

__all__ = ["Interaction"]


@dataclass(frozen=True)
class Interaction(Analyzer):
    """The network as a circuit: directions in which layers act on each other as sparsely as they can, and their modules."""

    count: int = 200
    """Inputs, drawn under the seed."""
    most: int = 5
    """Layers."""
    widest: int = 256
    """Wider layers are left out."""
    shown: int = 10
    """Directions of each layer in the diagram, the most important ones."""

    title: ClassVar[str] = "Interaction graph"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.DATA})
    meaning: ClassVar[str] = (
        "Neurons are an arbitrary choice of axes. Here every layer is turned to the directions that matter for the next layer; an "
        "edge says how much one direction moves another on the data. Colours are modules: groups that mostly act on each other. "
        "Modularity is evidence of structure only where it exceeds what shuffled strengths give."
    )
    formula: ClassVar[str] = (
        "basis: whitened activations, turned to the eigenvectors of E[J' J] for the Jacobian J to the next basis; "
        "edge = E[(integrated gradient of direction i along direction j)^2]"
    )
    evidence: ClassVar[str] = (
        "ESTIMATED: means over the inputs drawn. Modules are the best of several searches; "
        "nothing proves that there are no better ones."
    )
    references: ClassVar[tuple[str, ...]] = (
        "Bushnaq et al. 2024, The local interaction basis: identifying computationally-relevant and sparsely interacting features",
        "Traag, Waltman, van Eck 2019, From Louvain to Leiden: guaranteeing well-connected communities",
    )

    def measure(self, context: Context) -> Mapping[str, Measured]:
        """Edges between successive layers, modules, and the part that is drawn."""
        from ascertain.probes.graph_module import GraphModule
        from ascertain.probes.interaction import interaction_basis, interactions
        from ascertain.probes.modularity import modules

        path = cuts(context.model, self.widest, self.most)
        if len(path) < 2:
            raise InputError(
                f"the network has {len(path)} layers of at most {self.widest} numbers that carry all that comes after them, and an "
                "interaction graph needs two; raise widest."
            )
        x = context.shaped[drawn(context, self.count)]
        module = GraphModule(context.model)
        names = ["input" if i == context.model.input else str(i) for i in path]
        bases = interaction_basis(module, names, x, batch_size=256)
        found = interactions(module, bases, x, points=4)
        groups = modules(found.edges, seed=context.seed)
        layers = [context.model.nodes[i].name for i in path]
        counts = {
            "layer": words(layers, "layer"),
            "directions": Measured(np.array([len(b.importance) for b in bases]), Evidence.ESTIMATED, "directions that matter"),
            "rank": Measured(np.array([b.rank for b in bases]), Evidence.ESTIMATED, "dimension that the activations span"),
            "pair": words([f"{a} to {b}" for a, b in pairwise(layers)], "pair of layers"),
            "effective": Measured(found.effective_edges, Evidence.ESTIMATED, "edges that are worth as much as all together"),
            "density": Measured(found.density, Evidence.ESTIMATED, "effective edges over all"),
            "crossing": Measured(groups.cross_mass, Evidence.ESTIMATED, "share of strength between modules"),
            "modules": Measured(np.array(_large(groups)), Evidence.ESTIMATED, "modules of more than one direction"),
            "modularity": Measured(np.array(groups.modularity), Evidence.ESTIMATED, "modularity of the best partition found"),
            "chance": Measured(np.array(groups.null.max()), Evidence.ESTIMATED, "largest modularity of shuffled strengths"),
            "samples": Measured(np.array(found.samples), Evidence.EXACT, "inputs"),
        }
        return counts | _diagram(found, groups, layers, self.shown)

    def views(self, result: Result) -> Sequence[View]:
        """One sentence, the diagram, strengths of the first pair, tables."""
        if result["modularity"] > result["chance"]:
            sentence = "Strengths between layers fall into {modules} modules: modularity {modularity:.2f}, by chance {chance:.2f}."
        else:
            sentence = "No modules: strengths between layers have modularity {modularity:.2f}, shuffled ones up to {chance:.2f}."
        diagram = {"node": "node", "edge": "edge", "weight": "weight", "group": "group", "detail": "detail"}
        pairs = {"pair": "pair", "effective edges": "effective", "density": "density", "between modules": "crossing"}
        caption = "The most important directions of each layer and their strongest effects, from {samples} inputs."
        return [
            View(Kind.TEXT, "Modules", text=sentence, finding=True),
            View(Kind.GRAPH, "Circuit of directions", diagram, caption),
            View(Kind.BAR, "Directions", {"label": "layer", "that matter": "directions", "that data span": "rank"}),
            View(Kind.TABLE, "Pairs of layers", pairs),
        ]

    @classmethod
    def examples(cls) -> Iterator[Example]:
        """Two rectifier units with inputs and answers of their own: two modules, next to no edge between."""
        random = np.random.default_rng(0)
        context = Context(_planted(), random.normal(size=(400, 2)) * [1.0, 2.0])
        known = {"modules": 2, "directions": [2, 2, 2], "layer": np.array(["input", "units", "answer"])}
        yield Example(cls(count=400), context, known, below={"crossing": [0.1, 0.1]})


def _planted() -> Graph:
    build = Builder()
    x = build.input((1, 2))
    # A weak connection, so that the layer reads both inputs.
    hidden = build(Dense(np.array([[1.0, 1e-3], [0.0, 1.0]]), np.array([0.3, -0.2])), x)
    build.scope = "units"
    units = build(Relu(), hidden)
    build.scope = "answer"
    return build.graph(x, build(Dense(np.diag([1.0, 3.0])), units))


def _large(groups: Modules) -> int:
    _, sizes = np.unique(np.concatenate(groups.labels), return_counts=True)
    return int((sizes > 1).sum())


def _diagram(found: Interactions, groups: Modules, layers: Sequence[str], shown: int) -> dict[str, Measured]:
    """Nodes, edges and colours of the most important directions."""
    kept = [min(shown, len(basis.importance)) for basis in found.bases]
    start = np.cumsum([0, *kept])
    node = [f"{layer} {j + 1}" for layer, k in zip(layers, kept, strict=True) for j in range(k)]
    labels = [int(label) for part, k in zip(groups.labels, kept, strict=True) for label in part[:k]]
    detail = [f"importance {v:.3g}" for basis, k in zip(found.bases, kept, strict=True) for v in basis.importance[:k]]
    edges: list[tuple[int, int]] = []
    weights: list[Any] = []
    for i, matrix in enumerate(found.edges):
        part = matrix[: kept[i + 1], : kept[i]]
        strongest = np.argsort(-part, axis=None, kind="stable")[: 3 * max(part.shape)]
        for k, j in zip(*np.unravel_index(strongest, part.shape), strict=True):
            if part[k, j] > 0:
                edges.append((int(start[i] + j), int(start[i + 1] + k)))
                weights.append(part[k, j] / part.max())
    return {
        "node": words(node, "layer and rank of the direction"),
        "group": words([f"module {label + 1}" for label in labels], "module", Evidence.ESTIMATED),
        "detail": words(detail, "importance for the next layer", Evidence.ESTIMATED),
        "edge": Measured(np.array(edges, np.int64).reshape(-1, 2), Evidence.ESTIMATED, "positions of source and target"),
        "weight": Measured(np.array(weights, float), Evidence.ESTIMATED, "strength, the largest of its pair of layers 1"),
    }
