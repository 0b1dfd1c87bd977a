"""How many dimensions each layer uses."""

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
from ascertain.graph.graph import Builder
from ascertain.operators import Dense

if TYPE_CHECKING:
    from ascertain.probes.dimension import Dimension as Found

__all__ = ["Dimension"]


@dataclass(frozen=True)
class Dimension(Analyzer):
    """How many dimensions the data fill in each layer: linear (participation ratio) and intrinsic (TwoNN)."""

    count: int = 500
    """Inputs, drawn under the seed."""
    most: int = 12
    """Layers."""

    title: ClassVar[str] = "Dimension"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.DATA})
    meaning: ClassVar[str] = (
        "The participation ratio counts the directions of space that share the variance; the intrinsic dimension counts the "
        "numbers needed to say where a point lies on the surface that the data form, which may be curved. Networks often spread "
        "data out first and then fold them into few dimensions, about one less than there are classes."
    )
    formula: ClassVar[str] = (
        "participation ratio = (sum l)^2 / sum l^2 over the eigenvalues l of the covariance; "
        "TwoNN: log(r2 / r1) of the two nearest neighbours is exponential with rate d"
    )
    evidence: ClassVar[str] = (
        "ESTIMATED from samples, with 95 % intervals by the jackknife. Intrinsic dimensions above about 10 come out too low. "
        "An interval without upper end means that the estimate hangs on single samples."
    )
    references: ClassVar[tuple[str, ...]] = (
        "Facco et al. 2017, Estimating the intrinsic dimension of datasets by a minimal neighborhood information",
        "Ansuini et al. 2019, Intrinsic dimension of data representations in deep neural networks",
    )

    def measure(self, context: Context) -> Mapping[str, Measured]:
        """Both dimensions of every layer; layers whose samples nearly all coincide have no intrinsic one and are left out."""
        from ascertain.errors import DataError
        from ascertain.probes.dimension import dimension

        x = context.shaped[drawn(context, self.count)]
        names = layers(context.model, self.most)
        linear: dict[str, Found] = {}
        intrinsic: dict[str, Found] = {}
        features = {}
        for name, rows in capture(context.model, names, x).items():
            linear[name] = dimension(rows, "participation ratio", seed=context.seed)
            features[name] = rows.shape[1]
            try:
                intrinsic[name] = dimension(rows, "twonn", seed=context.seed)
            except DataError:  # said in the docstring
                continue
        values = {
            "layer": words(tuple(linear), "layer"),
            "features": Measured(np.array(list(features.values())), Evidence.EXACT, "numbers in the layer"),
            "linear": _values(linear, "participation ratio"),
            "samples": Measured(np.array(len(x)), Evidence.EXACT, "inputs"),
        }
        if intrinsic:
            values |= {"folded": words(tuple(intrinsic), "layer"), "intrinsic": _values(intrinsic, "intrinsic dimension (TwoNN)")}
        least = min(linear, key=lambda name: linear[name].value)
        smallest = Measured(np.array(linear[least].value), Evidence.ESTIMATED, "smallest participation ratio")
        return values | {"narrowest": words(least, "layer", Evidence.ESTIMATED), "smallest": smallest}

    def views(self, result: Result) -> Sequence[View]:
        """One sentence, two bar charts, a table."""
        sentence = "The data fill the fewest directions in {narrowest}: about {smallest:.1f}."
        views = [
            View(Kind.TEXT, "Narrowest layer", text=sentence, finding=True),
            View(Kind.BAR, "Linear dimension", {"label": "layer", "participation ratio": "linear"}, "From {samples} inputs."),
        ]
        if "intrinsic" in result.values:
            channels = {"label": "folded", "TwoNN": "intrinsic"}
            views.append(View(Kind.BAR, "Intrinsic dimension", channels, "From {samples} inputs."))
        columns = {"layer": "layer", "features": "features", "participation ratio": "linear"}
        if "intrinsic" in result.values and result["intrinsic"].shape == result["linear"].shape:
            columns["TwoNN"] = "intrinsic"
        return [*views, View(Kind.TABLE, "Dimensions", columns)]

    @classmethod
    def examples(cls) -> Iterator[Example]:
        """Four equal directions have participation ratio 4, variances 4 and 1 have 25 / 17; a square has dimension about 2."""
        build = Builder()
        x = build.input((1, 4))
        graph = build.graph(x, build(Dense(np.array([[2.0, 0, 0, 0], [0, 1.0, 0, 0]])), x))
        corners = np.array(np.meshgrid(*[[-1.0, 1.0]] * 4)).reshape(4, -1).T
        yield Example(cls(), Context(graph, np.tile(corners, (4, 1))), {"linear": [4.0, 25 / 17]})
        build = Builder()
        x = build.input((1, 2))
        build.scope = "lifted"
        lifted = build.graph(x, build(Dense(np.random.default_rng(0).normal(size=(9, 2))), x))
        square = np.random.default_rng(1).uniform(size=(1000, 2))
        yield Example(cls(count=1000), Context(lifted, square), {"intrinsic": [2.0, 2.0]}, 0.1)


def _values(found: Mapping[str, Found], about: str) -> Measured:
    value, low, high = (np.array([getattr(f, k) for f in found.values()]) for k in ("value", "low", "high"))
    return Measured(value, Evidence.ESTIMATED, about, low, high)
