"""Which layers hold the same information in the same geometry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ascertain.analyze.base import Analyzer, Context, Example, Need
from ascertain.analyze.layers import capture, drawn, layers, words
from ascertain.analyze.result import Measured, Result
from ascertain.analyze.views import Kind, View
from ascertain.evidence import Evidence
from ascertain.graph.graph import Builder, Graph
from ascertain.operators import Dense

if TYPE_CHECKING:
    from ascertain.probes.activations import Activations
    from ascertain.probes.similarity import SimilarityMap

__all__ = ["EVIDENCE", "FORMULA", "REFERENCES", "Similarity", "estimated", "heatmaps", "maps_of", "two_layers"]

FORMULA = (
    "CKA(X, Y) = HSIC(X X', Y Y') / sqrt(HSIC(X X', X X') HSIC(Y Y', Y Y')), HSIC unbiased; "
    "SVCCA = mean canonical correlation of the principal directions that hold 99 % of the variance"
)
EVIDENCE = (
    "ESTIMATED from samples, with 95 % intervals by the jackknife over ten groups of them. Chance is what shuffled samples would "
    "give: 0 for debiased CKA; for SVCCA at least its mean. With too few samples for SVCCA its interval is all of [0, 1]."
)
REFERENCES = (
    "Raghu et al. 2017, SVCCA: singular vector canonical correlation analysis for deep learning dynamics and interpretability",
    "Kornblith et al. 2019, Similarity of neural network representations revisited",
    "Song et al. 2012, Feature selection via dependence maximization",
)


@dataclass(frozen=True)
class Similarity(Analyzer):
    """How alike the layers of a network represent the data: debiased CKA and SVCCA of all pairs, beside chance."""

    count: int = 500
    """Inputs, drawn under the seed."""
    most: int = 12
    """Layers."""

    title: ClassVar[str] = "Similarity of layers"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.DATA})
    meaning: ClassVar[str] = (
        "1 means that two layers hold the data in the same arrangement, up to rotation and scale; chance means that they have "
        "nothing in common. Dark blocks are stretches of layers that change little; light borders are where the work is done."
    )
    formula: ClassVar[str] = FORMULA
    evidence: ClassVar[str] = EVIDENCE
    references: ClassVar[tuple[str, ...]] = REFERENCES

    def measure(self, context: Context) -> Mapping[str, Measured]:
        """Maps of both measures with intervals and chance, and the pair of neighbours that differ most."""
        x = context.shaped[drawn(context, self.count)]
        names = layers(context.model, self.most)
        found = capture(context.model, names, x)
        values = maps_of(found, None, context.seed)
        kept = tuple(found)
        steps = np.diagonal(values["cka"].value, 1)
        least = int(np.argmin(steps)) if len(steps) else 0
        return values | {
            "layer": words(kept, "layer"),
            "samples": Measured(np.array(len(x)), Evidence.EXACT, "inputs"),
            "before": words(kept[least], "layer before the largest change", Evidence.ESTIMATED),
            "after": words(kept[min(least + 1, len(kept) - 1)], "layer after the largest change", Evidence.ESTIMATED),
        }

    def views(self, result: Result) -> Sequence[View]:
        """One sentence, two maps, two maps of chance."""
        sentence = "Between successive layers the representation changes most from {before} to {after}."
        return [View(Kind.TEXT, "Largest change", text=sentence, finding=True), *heatmaps("layer", "layer")]

    @classmethod
    def examples(cls) -> Iterator[Example]:
        """A rotation and scaling changes nothing; a layer that keeps one of two uncorrelated directions keeps part."""
        context = Context(two_layers(), _cross())
        both = np.ones((2, 2))
        yield Example(cls(), context, {"svcca": both, "cka": both, "layer": np.array(["input", "turn"])}, 1e-7)


def maps_of(first: Activations, second: Activations | None, seed: int) -> dict[str, Measured]:
    """``cka``, ``svcca`` and ``svcca_chance`` of all pairs of layers of one capture, or of two of the same inputs."""
    from ascertain.probes.canonical import SVCCA
    from ascertain.probes.kernels import CKA
    from ascertain.probes.similarity import similarity_map

    cka, svcca = (similarity_map(first, second, measure, seed=seed) for measure in (CKA(), SVCCA()))
    chance = Measured(svcca.null, Evidence.BOUNDED, "upper bound on the mean SVCCA of shuffled inputs")
    return {"cka": estimated(cka), "svcca": estimated(svcca), "svcca_chance": chance}


def estimated(found: SimilarityMap) -> Measured:
    """The numbers of a map with their intervals."""
    low, high = np.minimum(found.low, found.values), np.maximum(found.high, found.values)
    return Measured(found.values, Evidence.ESTIMATED, f"{found.measure}, rows by columns", low, high)


def two_layers(kept: int = 2) -> Graph:
    """A rotation by 0.6, 0.8 and scaling by 5 of two numbers, of which so many are kept."""
    build = Builder()
    x = build.input((1, 2))
    build.scope = "turn"
    return build.graph(x, build(Dense(5 * np.array([[0.6, -0.8], [0.8, 0.6]])[:kept]), x))


def _cross() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(64, 2))


def heatmaps(rows: str, columns: str) -> list[View]:
    """The maps of both measures and of chance; ``rows`` and ``columns`` are values with the names."""
    names = {"rows": rows, "columns": columns}
    caption = "From {samples} inputs."
    return [
        View(Kind.HEATMAP, "Debiased CKA", {"z": "cka"} | names, caption),
        View(Kind.HEATMAP, "SVCCA", {"z": "svcca"} | names, caption),
        View(Kind.HEATMAP, "SVCCA by chance", {"z": "svcca_chance"} | names, "What shuffled inputs would give; CKA gives 0."),
    ]
