"""When, in training, each layer takes its final form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ascertain.analyze.base import Analyzer, Context, Example, Need
from ascertain.analyze.layers import capture, drawn, layers, words
from ascertain.analyze.result import Measured, Result
from ascertain.analyze.similarity import FORMULA, REFERENCES, estimated, two_layers
from ascertain.analyze.views import Kind, View
from ascertain.errors import InputError
from ascertain.evidence import Evidence
from ascertain.graph.graph import Builder, Graph
from ascertain.operators import Dense

if TYPE_CHECKING:
    from ascertain.probes.activations import Activations

__all__ = ["Convergence"]

_LINES = 8


@dataclass(frozen=True)
class Convergence(Analyzer):
    """When each layer takes its final form in training: similarity of every checkpoint's layers to those of the last."""

    count: int = 300
    """Inputs, drawn under the seed."""
    most: int = 8
    """Layers."""
    cka_level: float = 0.98
    """Similarity from which on a layer counts as converged."""
    svcca_level: float = 0.95

    title: ClassVar[str] = "Convergence of layers"
    version: ClassVar[int] = 2
    needs: ClassVar[frozenset[Need]] = frozenset({Need.DATA, Need.TRAJECTORY})
    meaning: ClassVar[str] = (
        "Each line is a layer; it reaches 1 when the layer represents the data as it will at the end. The two measures may "
        "disagree about the order: CKA sees the directions of largest variance, SVCCA counts small ones alike."
    )
    formula: ClassVar[str] = f"similarity of layer l at step t to layer l at the last step; {FORMULA}"
    evidence: ClassVar[str] = (
        "ESTIMATED from samples, with 95 % intervals by the jackknife over five groups. The step of convergence is read off the "
        "estimates and bears no interval of its own."
    )
    references: ClassVar[tuple[str, ...]] = REFERENCES

    def measure(self, context: Context) -> Mapping[str, Measured]:
        """(steps, layers) maps of both measures, and the positions from which layers stay above the levels (0: never)."""
        from ascertain.probes.canonical import SVCCA
        from ascertain.probes.kernels import CKA
        from ascertain.probes.similarity import time_map

        graphs = context.trajectory
        names = layers(graphs[-1], self.most)
        known = {node.name for graph in graphs for node in graph.nodes}
        if any(not set(names) <= {node.name for node in graph.nodes} for graph in graphs):
            raise InputError(f"the checkpoints have different layers ({len(known)} in all); give checkpoints of one training.")
        x = context.shaped[drawn(context, self.count)]
        captures = [capture(graph, names, x.reshape(-1, *graph.input_shape)) for graph in graphs]
        common = [name for name in names if all(name in c for c in captures)]
        if not common:
            raise InputError("every layer is constant on these inputs at some checkpoint; leave out the first ones.")
        parts = [_only(c, common) for c in captures]
        steps = {f"{i + 1}": part for i, part in enumerate(parts)}
        cka, svcca = (time_map(steps, parts[-1], measure, groups=5) for measure in (CKA(), SVCCA()))
        first = _first(cka.values, self.cka_level, "CKA")
        values = {
            "cka": estimated(cka),
            "svcca": estimated(svcca),
            "cka_from": first,
            "svcca_from": _first(svcca.values, self.svcca_level, "SVCCA"),
            "step": words(tuple(steps), "checkpoint, from the first"),
            "layer": words(common, "layer"),
            "samples": Measured(np.array(len(x)), Evidence.EXACT, "inputs"),
            "steps": Measured(np.array(len(steps)), Evidence.EXACT, "checkpoints"),
        }
        given = graphs[-1].nodes[graphs[-1].input].name
        return values | _lines(cka.values, cka.low, cka.high) | _ends(common, first.value, given)

    def views(self, result: Result) -> Sequence[View]:
        """One sentence, lines of CKA, both maps, and the order."""
        names = [str(n) for n in result["layer"]]
        lines = {f"{name} layer" if name == "x" else name: f"cka_{i}" for i, name in enumerate(names[:_LINES])}
        sides = {"rows": "step", "columns": "layer"}
        order = {"layer": "layer", "from checkpoint (CKA)": "cka_from", "from checkpoint (SVCCA)": "svcca_from"}
        return [
            *_order(result),
            View(Kind.LINE, "Way to the final form", {"x": "number"} | lines, x="checkpoint", y="debiased CKA with the last"),
            View(Kind.HEATMAP, "Debiased CKA with the last checkpoint", {"z": "cka"} | sides, "From {samples} inputs."),
            View(Kind.HEATMAP, "SVCCA with the last checkpoint", {"z": "svcca"} | sides, "From {samples} inputs."),
            View(Kind.TABLE, "When layers converge", order, "The first checkpoint from which they stay above the level; 0: none."),
        ]

    @classmethod
    def examples(cls) -> Iterator[Example]:
        """The second layer shows another direction at first, then the final one; the input is always itself."""
        data = np.random.default_rng(0).normal(size=(64, 2))
        data[:, 1] -= data[:, 0] * (data[:, 0] @ data[:, 1]) / (data[:, 0] @ data[:, 0])
        data -= data.mean(0)
        data[:, 1] -= data[:, 0] * (data[:, 0] @ data[:, 1]) / (data[:, 0] @ data[:, 0])
        steps = (_shows(1), _shows(0), _shows(0))
        context = Context(steps[0], data, trajectory=steps)
        yield Example(
            cls(), context, {"svcca": [[1, 0], [1, 1], [1, 1]], "svcca_from": [1, 2], "cka_from": [1, 2], "latest_from": 2}, 1e-7
        )
        yield Example(cls(), Context(two_layers(), data, trajectory=(two_layers(),) * 2), {"cka": np.ones((2, 2))}, 1e-7)


def _shows(axis: int) -> Graph:
    build = Builder()
    x = build.input((1, 2))
    build.scope = "shown"
    return build.graph(x, build(Dense(np.eye(2)[axis : axis + 1]), x))


def _only(found: Activations, names: list[str]) -> Activations:
    return replace(found, rows={n: found.rows[n] for n in names}, places={n: found.places[n] for n in names})


def _first(values: np.ndarray, level: float, measure: str) -> Measured:
    """The checkpoint, from 1, from which each layer stays above the level; 0 for none."""
    below = values < level
    last = len(values) - below[::-1].argmax(0)  # how many checkpoints there are up to the last one below
    first = np.where(below.any(0), np.where(last == len(values), 0, last + 1), 1)
    return Measured(first, Evidence.ESTIMATED, f"first checkpoint from which {measure} stays above {level:g}; 0 for none")


def _lines(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, Measured]:
    """A line of CKA for each layer, of the first ones."""
    found = {"number": Measured(np.arange(1, len(values) + 1), Evidence.EXACT, "checkpoint")}
    for i in range(min(_LINES, values.shape[1])):
        ends = np.minimum(low[:, i], values[:, i]), np.maximum(high[:, i], values[:, i])
        found[f"cka_{i}"] = Measured(values[:, i], Evidence.ESTIMATED, "debiased CKA with the last checkpoint", *ends)
    return found


def _ends(names: list[str], first: np.ndarray, given: str) -> dict[str, Measured]:
    """The layers that converge first and last, where all do; the input, which is itself at every step, does not count."""
    ways = {name: int(at) for name, at in zip(names, first, strict=True) if name != given}
    if not all(ways.values()) or not ways:
        return {}
    found = {}
    for word, name in (("earliest", min(ways, key=ways.__getitem__)), ("latest", max(ways, key=ways.__getitem__))):
        found[word] = words(name, f"layer that converges {word}", Evidence.ESTIMATED)
        about = f"first checkpoint of the {word} layer's final form"
        found[f"{word}_from"] = Measured(np.array(ways[name]), Evidence.ESTIMATED, about)
    return found


def _order(result: Result) -> list[View]:
    """The sentence about which layer converges first and which last."""
    if "latest" not in result.values:
        return []
    level = f"CKA with the last of at least {result.options['cka_level']:g}"
    late, early = int(result["latest_from"]), int(result["earliest_from"])
    if late == early:
        sentence = f"All layers have their final form ({level}) from checkpoint {{latest_from}} of {{steps}} on."
    else:
        sentence = f"{{earliest}} has its final form from checkpoint {{earliest_from}} of {{steps}} on ({level}), "
        sentence += "{latest} not before the last." if late == result["steps"] else "{latest} only from {latest_from} on."
    return [View(Kind.TEXT, "Order of convergence", text=sentence, finding=True)]
