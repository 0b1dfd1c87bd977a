"""What layers keep of the inputs and of the labels, in bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ascertain.analyze.base import Analyzer, Context, Example, Need
from ascertain.analyze.layers import capture, drawn, layers, words
from ascertain.analyze.result import Measured, Result
from ascertain.analyze.views import Kind, View
from ascertain.errors import InputError
from ascertain.evidence import Evidence
from ascertain.graph.graph import Builder
from ascertain.operators import Dense

if TYPE_CHECKING:
    from ascertain.probes.information import Information as Found

__all__ = ["Information"]


@dataclass(frozen=True)
class Information(Analyzer):
    """How many bits each layer, blurred by noise, holds about which input it was and about its label."""

    count: int = 300
    """Inputs, drawn under the seed."""
    most: int = 8
    """Layers."""
    noise: float = 1.0
    """Deviation of the noise on every activation, relative to the root mean square deviation of the layer's units."""

    title: ClassVar[str] = "Information plane"
    version: ClassVar[int] = 2
    needs: ClassVar[frozenset[Need]] = frozenset({Need.DATA, Need.LABELS})
    meaning: ClassVar[str] = (
        "Without noise a layer would hold everything: information says something only at a resolution, here a noise set for each "
        "layer by its own spread. Bits about inputs fall where inputs are merged; bits about labels can at most stay. With few "
        "inputs each is told apart by any layer, and both numbers sit at their ceilings, log2 of the count and the labels' entropy."
    )
    formula: ClassVar[str] = "I(X; T + N) and I(Y; T + N), N Gaussian, for X uniform on the inputs drawn"
    evidence: ClassVar[str] = (
        "BOUNDED between bounds on mixtures of Gaussians, which hold for the inputs drawn, not for others; the value between them "
        "is by Monte Carlo. The noise is not in the network: numbers belong to the resolution as much as to the layer."
    )
    references: ClassVar[tuple[str, ...]] = (
        "Goldfeld et al. 2019, Estimating information flow in deep neural networks",
        "Kolchinsky, Tracey 2017, Estimating mixture entropy with pairwise distances",
        "Saxe et al. 2018, On the information bottleneck theory of deep learning",
    )

    def measure(self, context: Context) -> Mapping[str, Measured]:
        """Bits about inputs and labels of every layer, with their bounds."""
        from ascertain.probes.information import Noisy, mutual_information

        if not self.noise > 0:
            raise InputError(f"noise of {self.noise} leaves information infinite; give a positive deviation.")
        picked = drawn(context, self.count)
        labels = context.classes[picked]
        rows = capture(context.model, layers(context.model, self.most), context.shaped[picked])
        inputs, about = [], []
        for values in rows.values():
            # Equal noise for every unit of a layer, whatever its units of measurement.
            method = Noisy(self.noise * float(np.sqrt(values.var(0, dtype=np.float64).mean())))
            inputs.append(mutual_information(values, method=method))
            about.append(mutual_information(values, labels, method=method, seed=context.seed))
        shares = np.unique(labels, return_counts=True)[1] / len(labels)
        return {
            "layer": words(tuple(rows), "layer"),
            "inputs": _measured(inputs, "bits about which input it was"),
            "labels": _measured(about, "bits about the label"),
            "most_inputs": Measured(np.array(np.log2(len(picked))), Evidence.BOUNDED, "bits in which input it was"),
            "most_labels": Measured(np.array(-(shares * np.log2(shares)).sum()), Evidence.BOUNDED, "bits in the labels"),
            "samples": Measured(np.array(len(picked)), Evidence.EXACT, "inputs"),
            "last": words(tuple(rows)[-1], "last layer"),
            "last_inputs": _one(inputs[-1], "bits that the last layer holds about which input it was"),
            "last_labels": _one(about[-1], "bits that the last layer holds about the label"),
        }

    def views(self, result: Result) -> Sequence[View]:
        """One sentence, bars of both, and the table."""
        kept = (
            "Under noise, {last} tells {last_labels:.2f} of the {most_labels:.2f} bits in the labels, "
            "and {last_inputs:.2f} of the {most_inputs:.2f} bits in which input it was."
        )
        ceiling = "From {samples} inputs; at most {most_inputs:.2f} bits about inputs and {most_labels:.2f} about labels."
        table = {"layer": "layer", "bits about inputs": "inputs", "bits about labels": "labels"}
        return [
            View(Kind.TEXT, "What is kept", text=kept, finding=True),
            View(Kind.BAR, "Information about inputs", {"label": "layer", "inputs": "inputs"}, ceiling, y="bits"),
            View(Kind.BAR, "Information about labels", {"label": "layer", "labels": "labels"}, ceiling, y="bits"),
            View(Kind.TABLE, "Information", table),
        ]

    @classmethod
    def examples(cls) -> Iterator[Example]:
        """Four points far apart with labels in pairs: 2 bits and 1 bit; the layer that merges the pairs keeps 1 and 1."""
        build = Builder()
        x = build.input((1, 2))
        build.scope = "first"
        graph = build.graph(x, build(Dense(np.array([[1.0, 0.0], [1.0, 0.0]])), x))
        corners = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        context = Context(graph, corners, np.array([0, 0, 1, 1]))
        known = {"inputs": [2.0, 1.0], "labels": [1.0, 1.0], "most_labels": 1.0, "last_inputs": 1.0, "last_labels": 1.0}
        yield Example(cls(noise=1e-3), context, known, 1e-6)


def _measured(found: Sequence[Found], about: str) -> Measured:
    value, low, high = (np.array([getattr(f, k) for f in found]) for k in ("value", "lower", "upper"))
    return Measured(value, Evidence.BOUNDED, about, np.minimum(low, value), np.maximum(high, value))


def _one(found: Found, about: str) -> Measured:
    value, low, high = (np.array(v) for v in (found.value, min(found.lower, found.value), max(found.upper, found.value)))
    return Measured(value, Evidence.BOUNDED, about, low, high)
