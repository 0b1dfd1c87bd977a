"""What the weights are like as matrices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ascertain.analyze.base import Analyzer, Context, Example
from ascertain.analyze.layers import words
from ascertain.analyze.result import Measured, Result
from ascertain.analyze.views import Kind, View
from ascertain.evidence import Evidence
from ascertain.graph.graph import Builder
from ascertain.operators import Dense

if TYPE_CHECKING:
    from ascertain.probes.weights import WeightSpectrum

__all__ = ["Weights"]

_LINES = 8
_POINTS = 65


@dataclass(frozen=True)
class Weights(Analyzer):
    """Singular values of all weight matrices: norms, condition numbers, stable ranks, and what stands out of randomness."""

    title: ClassVar[str] = "Weights"
    meaning: ClassVar[str] = (
        "The norm is the most that a layer stretches; the condition number says how unequally it treats directions, infinite where "
        "it forgets some; the stable rank how many directions matter. Singular values beyond the random edge are what training "
        "has written into the matrix: independent Gaussian entries of the same size would reach them in one matrix of twenty."
    )
    formula: ClassVar[str] = (
        "W = U diag(s) V'; condition = s_1 / s_n; stable rank = sum s^2 / s_1^2; kernels (out, in, k) as out x (in k)"
    )
    evidence: ClassVar[str] = (
        "BOUNDED: singular values in floats, accurate to rounding. The random edge is an asymptotic quantile, so counts beyond it "
        "are ESTIMATED. Norms of convolutions are those of the reshaped kernel, not of the layer; the overview has those."
    )
    references: ClassVar[tuple[str, ...]] = (
        "Johnstone 2001, On the distribution of the largest eigenvalue in principal components analysis",
        "Martin, Mahoney 2021, Implicit self-regularization in deep neural networks",
    )

    def measure(self, context: Context) -> Mapping[str, Measured]:
        """Numbers for every matrix and the spectra of the first ones."""
        from ascertain.probes.weights import weight_spectra

        named = _distinct(weight_spectra(context.model))
        names, found = list(named), list(named.values())
        edges = np.array([f.edge for f in found])
        values = {
            "matrix": words(names, "weights"),
            "norm": Measured(np.array([f.norm for f in found]), Evidence.BOUNDED, "largest singular value"),
            "condition": Measured(np.array([f.condition for f in found]), Evidence.BOUNDED, "largest over smallest singular value"),
            "stable_rank": Measured(np.array([f.stable_rank for f in found]), Evidence.BOUNDED, "sum of squares over the largest"),
            "edge": Measured(edges, Evidence.ESTIMATED, "95 % quantile of the norm of random weights of this size"),
            "outliers": Measured(np.array([f.outliers for f in found]), Evidence.ESTIMATED, "singular values beyond the edge"),
            "depth": Measured(np.linspace(0, 1, _POINTS), Evidence.EXACT, "position in the spectrum, largest at 0"),
        }
        for i, spectrum in enumerate(found[:_LINES]):
            s = spectrum.singular_values
            values[f"spectrum_{i}"] = Measured(s, Evidence.BOUNDED, f"singular values of {names[i]}")
            drawn = np.interp(values["depth"].value, np.linspace(0, 1, len(s)), s)
            values[f"line_{i}"] = Measured(drawn, Evidence.BOUNDED, f"singular values of {names[i]}, interpolated")
        worst = int(np.argmax(values["condition"].value))
        return values | {
            "worst": words(names[worst], "matrix of the largest condition number", Evidence.BOUNDED),
            "worst_condition": Measured(values["condition"].value[worst], Evidence.BOUNDED, "largest condition number"),
            "standing_out": Measured(values["outliers"].value.sum(), Evidence.ESTIMATED, "singular values beyond the edges"),
        }

    def views(self, result: Result) -> Sequence[View]:
        """One sentence, spectra, table."""
        names = [str(n) for n in result["matrix"][:_LINES]]
        sentence = (
            "Singular values beyond what random weights would give: {standing_out}; {worst} has condition {worst_condition:.3g}."
        )
        columns = {"matrix": "matrix", "norm": "norm", "condition": "condition", "stable rank": "stable_rank"}
        lines = {name: f"line_{i}" for i, name in enumerate(names)}
        return [
            View(Kind.TEXT, "Spectra", text=sentence, finding=True),
            View(Kind.LINE, "Singular values", {"x": "depth"} | lines, x="position in the spectrum", y="singular value"),
            View(Kind.HISTOGRAM, "Distribution of singular values", {n: f"spectrum_{i}" for i, n in enumerate(names)}),
            View(Kind.TABLE, "Matrices", columns | {"random edge": "edge", "beyond it": "outliers"}),
        ]

    @classmethod
    def examples(cls) -> Iterator[Example]:
        """A matrix with singular values 3 and 1, and one that forgets a direction."""
        build = Builder()
        x = build.input((1, 2))
        turn = np.array([[0.6, -0.8], [0.8, 0.6]])
        hidden = build(Dense(turn @ np.diag([3.0, 1.0]) @ turn), x)
        graph = build.graph(x, build(Dense(np.ones((2, 2))), hidden))
        numbers = {"norm": [3.0, 2.0], "condition": [3.0, np.inf], "stable_rank": [10 / 9, 1.0]}
        yield Example(cls(), Context(graph), numbers | {"spectrum_0": [3.0, 1.0]})


def _distinct(spectra: Sequence[WeightSpectrum]) -> dict[str, WeightSpectrum]:
    """Spectra by name and shape; weights that are used at every step of a recurrence count once."""
    found: dict[str, WeightSpectrum] = {}
    for spectrum in spectra:
        head = f"{spectrum.name} ({' x '.join(map(str, spectrum.shape))})"
        alike = [name for name in found if name.startswith(head)]
        if any(np.array_equal(found[name].singular_values, spectrum.singular_values) for name in alike):
            continue
        found[f"{head} {len(alike) + 1}" if alike else head] = spectrum
    return found
