"""Which parts of an input an answer rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ascertain.analyze.base import Analyzer, Context, Example, Need
from ascertain.analyze.images import pictures
from ascertain.analyze.layers import words
from ascertain.analyze.result import Measured, Result
from ascertain.analyze.views import Kind, View
from ascertain.errors import InputError
from ascertain.evidence import Evidence
from ascertain.graph.graph import Builder
from ascertain.operators import Dense, Relu

__all__ = ["Relevance"]

_LISTED = 64


@dataclass(frozen=True)
class Relevance(Analyzer):
    """How much each part of an input speaks for the answer given to it: layer-wise relevance propagation, with what biases take."""

    count: int = 10
    """Inputs: the first of each label, then the first ones."""
    gamma: float = 0.25
    """How much more contributions weigh that agree with a unit's sign; 0 is gradient times input for rectifier networks."""

    title: ClassVar[str] = "Relevance"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.DATA})
    uses: ClassVar[frozenset[Need]] = frozenset({Need.LABELS})
    meaning: ClassVar[str] = (
        "Positive relevance speaks for the answer, negative against it; all of it sums up to the output, less what biases took. "
        "A large share of biases means that much of the answer does not depend on this input at all, and that the picture shows "
        "little of what decided. Attention, gates and the scales of norms are held fixed: they say how much passes, not what. "
        "Other rules give other pictures of the same network."
    )
    formula: ClassVar[str] = (
        "R_i = sum_j (x_i w_ji + gamma (x_i w_ji)+) / (z_j + gamma z_j+) R_j where z_j >= 0, and with the negative parts elsewhere"
    )
    evidence: ClassVar[str] = "BOUNDED: the rule is carried out in floats. That relevance explains the answer is an assumption."
    references: ClassVar[tuple[str, ...]] = (
        "Bach et al. 2015, On pixel-wise explanations for non-linear classifier decisions by layer-wise relevance propagation",
        "Montavon et al. 2019, Layer-wise relevance propagation: an overview",
        "Ali et al. 2022, XAI for transformers: better explanations through conservative propagation",
    )

    def measure(self, context: Context) -> Mapping[str, Measured]:
        """Relevance of the largest output, its balance, and pictures where inputs are images."""
        from ascertain.probes.relevance import Epsilon, Gamma, relevance

        if self.count < 1 or self.gamma < 0:
            raise InputError(f"count {self.count} and gamma {self.gamma} are no choice; give a positive count and gamma from 0.")
        picked = _picked(context, self.count)
        x = context.shaped[picked]
        found = relevance(context.model, x, rule=Gamma(self.gamma) if self.gamma else Epsilon())
        flat = found.inputs.reshape(len(x), -1)
        answers = context.model(x).reshape(len(x), -1).argmax(1)
        taken = np.abs(np.array([*found.biases.values(), np.zeros(len(x))])).sum(0)
        parts = np.abs(flat.sum(1)) + taken
        share = np.divide(taken, parts, out=np.zeros(len(x)), where=parts > 0)
        names = [f"input {i}" for i in picked]
        values = {
            "relevance": Measured(flat, Evidence.BOUNDED, "relevance of each number of the input"),
            "output": Measured(found.output, Evidence.BOUNDED, "the output explained"),
            "from_inputs": Measured(flat.sum(1), Evidence.BOUNDED, "relevance of all numbers of the input"),
            "from_biases": Measured(found.output - flat.sum(1) - found.lost, Evidence.BOUNDED, "what biases took"),
            "lost": Measured(found.lost, Evidence.BOUNDED, "what found no taker"),
            "bias_share": Measured(share, Evidence.BOUNDED, "biases' part of all relevance, by absolute values"),
            "answer": Measured(answers, Evidence.BOUNDED, "largest output"),
            "input": words(names, "position in the data"),
            "mean_bias_share": Measured(np.array(share.mean()), Evidence.BOUNDED, "mean share of biases over these inputs"),
        }
        shape = context.model.input_shape
        stacks = {"picture": (context.inputs[picked], "input"), "map": (_scaled(flat), "relevance, the largest of each input 1")}
        captions = [f"{name}: answer {a}, biases {s:.0%}" for name, a, s in zip(names, answers, share, strict=True)]
        return values | pictures(shape, stacks, captions)

    def views(self, result: Result) -> Sequence[View]:
        """One sentence, pictures or a map, the balance."""
        sentence = "Biases take {mean_bias_share:.0%} of the relevance; the rest rests on the inputs."
        views = [View(Kind.TEXT, "What answers rest on", text=sentence, finding=True)]
        if "picture" in result.values:
            channels = {"image": "picture", "relevance": "map", "title": "caption"}
            views.append(View(Kind.IMAGE, "Relevance of pixels", channels))
        elif result["relevance"].shape[1] <= _LISTED:
            views.append(View(Kind.HEATMAP, "Relevance", {"z": "relevance", "rows": "input"}, x="number of the input"))
        else:
            views.append(View(Kind.HISTOGRAM, "Relevance", {"relevance": "relevance"}))
        columns = {
            "input": "input",
            "answer": "answer",
            "output": "output",
            "from the input": "from_inputs",
            "biases": "from_biases",
        }
        return [*views, View(Kind.TABLE, "Balance", columns | {"lost": "lost", "share of biases": "bias_share"})]

    @classmethod
    def examples(cls) -> Iterator[Example]:
        """relu(2 x0 - x1 + 1) at (2, 1) is 4 from x0, -1 from x1 and 1 from the bias; with gamma 1 they weigh 8, -1, 2 of 9."""
        build = Builder()
        x = build.input((1, 2))
        graph = build.graph(x, build(Relu(), build(Dense(np.array([[2.0, -1.0], [0.0, 1.0]]), np.array([1.0, 0.0])), x)))
        context = Context(graph, np.array([[2.0, 1.0]]))
        yield Example(cls(gamma=0.0), context, {"relevance": [[4.0, -1.0]], "from_biases": [1.0], "bias_share": [0.25]}, 1e-7)
        yield Example(cls(gamma=1.0), context, {"relevance": [[32 / 9, -4 / 9]], "from_biases": [8 / 9], "output": [4.0]}, 1e-7)


def _picked(context: Context, count: int) -> np.ndarray:
    """Positions of the first input of each label, then of the first inputs, in order."""
    first = np.unique(context.labels, return_index=True)[1] if context.labels is not None else np.zeros(0, int)
    wanted = dict.fromkeys([*first.tolist(), *range(len(context.inputs))])
    return np.sort(np.array(list(wanted)[:count]))


def _scaled(rows: np.ndarray) -> np.ndarray:
    """Rows divided by their largest absolute entries."""
    size = np.abs(rows).max(1, keepdims=True)
    found: np.ndarray = np.divide(rows, size, out=np.zeros_like(rows), where=size > 0)
    return found
