"""How many directions of weight space change nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ascertain.analyze.base import Analyzer, Context, Example, Need
from ascertain.analyze.layers import drawn, words
from ascertain.analyze.result import Measured, Result
from ascertain.analyze.views import Kind, View
from ascertain.errors import UnsupportedError
from ascertain.evidence import Evidence
from ascertain.graph.graph import Builder
from ascertain.operators import Dense, Relu

if TYPE_CHECKING:
    from ascertain.probes.degeneracy import Coupling, LayerDegeneracy
    from ascertain.probes.degeneracy import Degeneracy as Counted
    from ascertain.probes.graph_module import GraphModule

__all__ = ["Degeneracy"]

_MEANINGS = {
    "activations": "inputs of the layer that are always 0 together",
    "gradients": "outputs of the layer that nothing reads",
    "joint": "inputs and outputs that never meet on one sample",
    "rescaling": "a unit up, what reads it down",
    "synchronised": "units that always fire together act as one linear map",
    "other parameters": "outside dense layers",
    "unexplained": "counted by the Jacobian, of no known cause",
}


@dataclass(frozen=True)
class Degeneracy(Analyzer):
    """How many directions of weight space leave all answers as they are to first order, counted by cause."""

    count: int = 300
    """Inputs, drawn under the seed."""
    columns: int = 1000
    """Networks of more parameters are counted by cause alone, without the Jacobian of all of them."""

    title: ClassVar[str] = "Degeneracy"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.DATA})
    meaning: ClassVar[str] = (
        "Along a free direction weights change and answers do not: so many fewer parameters does the network have in effect. Free "
        "directions come from inputs that do not vary, from units that nothing reads, from scaling a rectifier up and its readers "
        "down, and from units that always fire together. Many free directions go with simpler functions."
    )
    formula: ClassVar[str] = "free = parameters - rank of the Jacobian of all outputs on the data with respect to the parameters"
    evidence: ClassVar[str] = (
        "BOUNDED where the singular values of the Jacobian leave a clear gap at the rank; ESTIMATED otherwise, and where only "
        "causes are counted. More data can only make directions less free."
    )
    references: ClassVar[tuple[str, ...]] = (
        "Bushnaq et al. 2024, Using degeneracy in the loss landscape for mechanistic interpretability",
    )

    def measure(self, context: Context) -> Mapping[str, Measured]:
        """Free directions by cause, ranks of dense layers, and, for small networks, the rank of the whole Jacobian."""
        from ascertain.probes.degeneracy import causes, degeneracy
        from ascertain.probes.graph_module import GraphModule

        x = context.shaped[drawn(context, self.count)]
        module = GraphModule(context.model)
        size = sum(p.numel() for p in module.parameters())
        whole = degeneracy(module, x) if 0 < size <= self.columns else None
        layers, couplings = (whole.layers, whole.couplings) if whole else causes(module, x)
        worth = whole.evidence if whole else Evidence.ESTIMATED
        counted = size if whole else sum(layer.parameters for layer in layers)
        kinds = whole.kinds if whole else _kinds(layers, couplings)
        found = {
            "parameters": Measured(np.array(size), Evidence.EXACT, "parameters"),
            "counted": Measured(np.array(counted), Evidence.EXACT, "parameters among which free directions were looked for"),
            "samples": Measured(np.array(len(x)), Evidence.EXACT, "inputs"),
            "cause": words(tuple(kinds), "cause"),
            "cause_meaning": words([_MEANINGS[kind] for kind in kinds], "what it means"),
            "directions": Measured(np.array(list(kinds.values()), np.int64), worth, "free directions of this cause"),
            "free": Measured(np.array(sum(kinds.values())), worth, "free directions that were recognised"),
        }
        return found | self._layers(context, module, layers, worth) | (_whole(whole) if whole else {})

    def _layers(
        self, context: Context, module: GraphModule, layers: Sequence[LayerDegeneracy], worth: Evidence
    ) -> dict[str, Measured]:
        dense = [layer for layer in layers if layer.inputs]
        if not dense and sum(p.numel() for p in module.parameters()) > self.columns:
            raise UnsupportedError("the network has no dense layers whose free directions could be told apart; raise columns.")
        if not dense:
            return {}
        columns = {
            "layer_parameters": ("parameters of the layer", [layer.parameters for layer in dense]),
            "inputs": ("inputs, with the bias as one that is always 1", [layer.inputs for layer in dense]),
            "activation_rank": ("dimension of the inputs met", [layer.activation_rank for layer in dense]),
            "outputs": ("outputs", [layer.outputs for layer in dense]),
            "gradient_rank": ("dimension of the outputs read", [layer.gradient_rank for layer in dense]),
            "layer_free": ("directions free while all other layers are fixed", [layer.free for layer in dense]),
        }
        names = [context.model.nodes[int(layer.name)].name for layer in dense]
        ranks = {k: Measured(np.array(v, np.int64), worth, about) for k, (about, v) in columns.items()}
        return {"layer": words(names, "dense layer")} | ranks

    def views(self, result: Result) -> Sequence[View]:
        """One sentence, bars by cause, a table of layers, the spectrum."""
        whole = "spectrum" in result.values
        sentence = "{free} of {parameters} directions of weight space change no answer on the data."
        if not whole:
            sentence = "{free} of {counted} directions in weights of dense layers change no answer on the data, of known causes."
        bars = {"label": "cause", "free directions": "directions"}
        views = [
            View(Kind.TEXT, "Free directions", text=sentence, finding=True),
            View(Kind.BAR, "Causes", bars, "On {samples} inputs."),
            View(Kind.TABLE, "What the causes mean", {"cause": "cause", "meaning": "cause_meaning", "directions": "directions"}),
        ]
        if "layer" in result.values:
            table = {"layer": "layer", "parameters": "layer_parameters", "inputs": "inputs", "activation rank": "activation_rank"}
            table |= {"outputs": "outputs", "gradient rank": "gradient_rank", "free": "layer_free"}
            views.append(View(Kind.TABLE, "Dense layers", table))
        if whole:
            caption = "Columns have unit length. The rank is {rank}."
            views.append(View(Kind.LINE, "Spectrum of the Jacobian", {"singular value": "spectrum"}, caption, x="number"))
        return views

    @classmethod
    def examples(cls) -> Iterator[Example]:
        """Three rectifiers, one with a weight of 0 after it, on data in which one of three inputs is always 0."""
        random = np.random.default_rng(0)
        build = Builder()
        x = build.input((1, 3))
        first, second = random.normal(size=(3, 3)), random.normal(size=(2, 3))
        second[:, 2] = 0
        graph = build.graph(x, build(Dense(second), build(Relu(), build(Dense(first), x))))
        context = Context(graph, random.normal(size=(200, 3)) * [1.0, 1.0, 0.0])
        # 3 weights of the idle input, 2 of the unread unit; each unit that is read can be rescaled.
        causes = {"activations": 3, "gradients": 2, "rescaling": 2}
        full = [causes.get(kind, 0) for kind in ("activations", "gradients", "joint", "other parameters", "rescaling")]
        known = {"activation_rank": [2, 3], "gradient_rank": [2, 2], "free": 7}
        yield Example(cls(), context, known | {"directions": [*full, 0, 0], "rank": 15 - 7})
        yield Example(cls(columns=1), context, known | {"directions": [3, 2, 2, 0]})


def _kinds(layers: Sequence[LayerDegeneracy], couplings: Sequence[Coupling]) -> dict[str, int]:
    return {
        "activations": sum(layer.from_activations for layer in layers),
        "gradients": sum(layer.from_gradients for layer in layers),
        "rescaling": sum(c.rescaling for c in couplings),
        "synchronised": sum(c.synchronised for c in couplings),
    }


def _whole(found: Counted) -> dict[str, Measured]:
    gap = Measured(np.array(found.gap), found.evidence, "smallest singular value that counts over the largest that does not")
    return {
        "rank": Measured(np.array(found.rank), found.evidence, "rank of the Jacobian"),
        "spectrum": Measured(found.singular_values, Evidence.BOUNDED, "singular values of the Jacobian, columns of unit length"),
        "gap": gap,
    }
