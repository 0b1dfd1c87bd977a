"""How alike two networks represent the same data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ascertain.analyze.base import Analyzer, Context, Example, Need
from ascertain.analyze.intervals import share
from ascertain.analyze.layers import capture, drawn, layers, words
from ascertain.analyze.result import Measured, Result
from ascertain.analyze.similarity import EVIDENCE, FORMULA, REFERENCES, heatmaps, maps_of, two_layers
from ascertain.analyze.views import Kind, View
from ascertain.errors import InputError
from ascertain.evidence import Evidence

__all__ = ["Comparison"]


@dataclass(frozen=True)
class Comparison(Analyzer):
    """How alike two networks, or two checkpoints of one, represent the data: debiased CKA and SVCCA of all pairs of layers."""

    count: int = 500
    """Inputs, drawn under the seed."""
    most: int = 12
    """Layers of each network."""

    title: ClassVar[str] = "Comparison of two networks"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.DATA, Need.OTHER})
    meaning: ClassVar[str] = (
        "A dark diagonal means that layers at the same depth do the same work in both networks, up to rotation and scale. "
        "Networks may agree on nearly every answer and still reach it by different layers, or the other way round."
    )
    formula: ClassVar[str] = FORMULA
    evidence: ClassVar[str] = EVIDENCE
    references: ClassVar[tuple[str, ...]] = REFERENCES

    def measure(self, context: Context) -> Mapping[str, Measured]:
        """Maps of both measures, rows of the model and columns of the other, and how often the answers agree."""
        if context.other is None:
            raise InputError("comparison was given one network; give another beside it.")
        x = context.shaped[drawn(context, self.count)]
        other = context.other
        seen = x.reshape(-1, *other.input_shape)
        first = capture(context.model, layers(context.model, self.most), x)
        second = capture(other, layers(other, self.most), seen)
        values = maps_of(first, second, context.seed) | {
            "layer": words(tuple(first), "layer of the model"),
            "other_layer": words(tuple(second), "layer of the other network"),
            "samples": Measured(np.array(len(x)), Evidence.EXACT, "inputs"),
        }
        if context.model.output_size == other.output_size > 1:
            answers = [g(v).reshape(len(x), -1).argmax(1) for g, v in ((context.model, x), (other, seen))]
            about = "share of the inputs on which the largest output is the same"
            values["agreement"] = share(int((answers[0] == answers[1]).sum()), len(x), about)
        return values

    def views(self, result: Result) -> Sequence[View]:
        """One sentence and the maps."""
        views = heatmaps("layer", "other_layer")
        if "agreement" in result.values:
            sentence = "The two networks give the same answer to {agreement:.1%} of {samples} inputs."
            views.insert(0, View(Kind.TEXT, "Agreement", text=sentence, finding=True))
        return views

    @classmethod
    def examples(cls) -> Iterator[Example]:
        """A network beside itself, and beside one that holds back nothing but shows one of two directions at the end."""
        data = np.random.default_rng(0).normal(size=(64, 2))
        whole = Context(two_layers(), data, other=two_layers())
        yield Example(cls(), whole, {"cka": np.ones((2, 2)), "svcca": np.ones((2, 2)), "agreement": 1.0}, 1e-7)
        part = Context(two_layers(), data, other=two_layers(1))
        yield Example(cls(), part, {"svcca": np.ones((2, 2))}, 1e-7)
