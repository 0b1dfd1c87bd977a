"""What can be read off each layer by a linear classifier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ascertain.analyze.base import Analyzer, Context, Example, Need
from ascertain.analyze.layers import capture, drawn, layers, words
from ascertain.analyze.result import Measured, Result
from ascertain.analyze.views import Kind, View
from ascertain.errors import DataError
from ascertain.evidence import Evidence
from ascertain.graph.graph import Builder
from ascertain.operators import Dense, Relu

__all__ = ["Probing"]

_WIDEST = 512
"""Features of a layer; wider ones are projected at random."""


@dataclass(frozen=True)
class Probing(Analyzer):
    """How well a linear classifier reads the labels off each layer, beside a control task that can only be learned by heart."""

    count: int = 300
    """Inputs, drawn under the seed."""
    most: int = 8
    """Layers."""
    folds: int = 3

    title: ClassVar[str] = "Linear probes"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.DATA, Need.LABELS})
    meaning: ClassVar[str] = (
        "High accuracy means that the labels lie open in the layer, for a straight cut to find. The control gives every input a "
        "random label: what a probe reaches there on inputs that it has seen is what it can learn by heart, so high accuracy "
        "in a layer with high memory says little about the layer. Accuracy on inputs not seen is what counts."
    )
    formula: ClassVar[str] = (
        "cross-validated accuracy of logistic regression on standardised activations; selectivity = accuracy - control"
    )
    evidence: ClassVar[str] = "ESTIMATED on inputs held out in turn, with 95 % intervals over samples (Wilson)."
    references: ClassVar[tuple[str, ...]] = (
        "Alain, Bengio 2017, Understanding intermediate layers using linear classifier probes",
        "Hewitt, Liang 2019, Designing and interpreting probes with control tasks",
    )

    def measure(self, context: Context) -> Mapping[str, Measured]:
        """Accuracy, control and memory of every layer."""
        from ascertain.probes.linear_probes import linear_probe

        picked = drawn(context, self.count)
        labels = context.classes[picked]
        if len(np.unique(labels)) < 2:
            raise DataError(f"the {len(labels)} inputs all have label {labels[0]}, so nothing can be read; give several classes.")
        rows = capture(context.model, layers(context.model, self.most), context.shaped[picked])
        random = context.generator()
        found = [linear_probe(_narrow(r, random), labels, folds=self.folds, seed=context.seed) for r in rows.values()]
        accuracy, low, high = (np.array([getattr(f, k) for f in found]) for k in ("accuracy", "low", "high"))
        extra = {
            "control": ("held-out accuracy on random labels", [f.control for f in found]),
            "memorised": ("accuracy on random labels that the probe has seen", [f.memorised for f in found]),
            "selectivity": ("accuracy beyond the control's", [f.selectivity for f in found]),
        }
        names = tuple(rows)
        first = int(np.argmax(high >= accuracy.max()))
        return {
            "layer": words(names, "layer"),
            "accuracy": Measured(accuracy, Evidence.ESTIMATED, "held-out accuracy", low, high),
            **{k: Measured(np.array(v), Evidence.ESTIMATED, about) for k, (about, v) in extra.items()},
            "majority": Measured(np.array(found[0].majority), Evidence.EXACT, "share of the commonest label"),
            "samples": Measured(np.array(len(picked)), Evidence.EXACT, "inputs"),
            "best": Measured(np.array(accuracy.max()), Evidence.ESTIMATED, "best accuracy of any layer"),
            "enough": words(names[first], "first layer within the error of the best", Evidence.ESTIMATED),
        }

    def views(self, result: Result) -> Sequence[View]:
        """One sentence, bars, a table."""
        sentence = "From {enough} on, a linear probe reads the labels about as well as from any layer ({best:.1%})."
        rows = {"layer": "layer", "accuracy": "accuracy", "control": "control", "selectivity": "selectivity"}
        bars = {"label": "layer", "labels": "accuracy", "control": "control", "control, seen": "memorised"}
        caption = "From {samples} inputs; always saying the commonest label gives {majority:.1%}."
        return [
            View(Kind.TEXT, "Where labels can be read", text=sentence, finding=True),
            View(Kind.BAR, "Accuracy of linear probes", bars, caption, y="accuracy"),
            View(Kind.TABLE, "Linear probes", rows | {"control, seen": "memorised"}),
        ]

    @classmethod
    def examples(cls) -> Iterator[Example]:
        """Whether a number is far from 0 cannot be cut off on the line, but on what two rectifiers make of it it can."""
        build = Builder()
        x = build.input((1, 1))
        build.scope = "before"
        before = build(Dense(np.array([[1.0], [-1.0]])), x)
        build.scope = "after"
        graph = build.graph(x, build(Relu(), before))
        random = np.random.default_rng(0)
        size, sign = random.uniform(0, 1, (400, 1)), random.choice([-1.0, 1.0], (400, 1))
        far = (size[:, 0] > 0.5).astype(int)
        context = Context(graph, (size + 3 * far[:, None]) * sign, far)
        asked = cls(count=400)
        yield Example(asked, context, {"layer": np.array(["input", "before", "after"])}, below={"accuracy": [0.7, 0.7, 1.0]})
        yield Example(asked, context, {}, above={"accuracy": [0.0, 0.0, 1.0]}, below={"control": [0.6, 0.6, 0.6]})


def _narrow(rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Rows with at most as many features as a probe takes: wider ones by random directions, which keep distances about."""
    wide = rows.shape[1]
    return rows if wide <= _WIDEST else rows @ (random.normal(size=(wide, _WIDEST)) / np.sqrt(wide))
