"""How far each input can be moved before the answer changes: proved from below, shown from above."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from ascertain.analyze.base import Analyzer, Context, Example, Need
from ascertain.analyze.images import pictures
from ascertain.analyze.result import Measured, Result
from ascertain.analyze.views import Kind, View
from ascertain.errors import InputError
from ascertain.evidence import Evidence
from ascertain.graph.graph import Builder
from ascertain.operators import Dense

if TYPE_CHECKING:
    from ascertain.certify.result import Witness

__all__ = ["Robustness"]

_SHOWN = 8
_STEPS = 41
_HALVINGS = 8


class _Found(NamedTuple):
    lower: float
    upper: float
    witness: np.ndarray | None
    answer: int
    """Output that the witness is taken for; -1 without one."""
    right: bool = True
    """Whether the input itself is answered by its label."""


@dataclass(frozen=True)
class Robustness(Analyzer):
    """The largest ball around each input in which the label cannot change, between a proof and a counterexample."""

    norm: str = "inf"
    limit: float = 0.5
    """Largest radius asked for."""
    count: int = 20
    """Only the first so many inputs."""
    tolerance: float = 0.02
    timeout: float = 1.5
    """Seconds for each input, half of them at most for the attack."""

    title: ClassVar[str] = "Robustness"
    heavy: ClassVar[bool] = True
    on_device: ClassVar[bool] = True
    version: ClassVar[int] = 2
    needs: ClassVar[frozenset[Need]] = frozenset({Need.DATA, Need.LABELS})
    meaning: ClassVar[str] = (
        "Below the certified radius no change of the input, however clever, changes the answer. At the attack radius one such "
        "change is known. The truth lies between."
    )
    formula: ClassVar[str] = "r(x) = sup { r : argmax f(z) = label for all |z - x| <= r }, by bisection on proofs"
    evidence: ClassVar[str] = "Certified radii are PROVED under rounding; attack radii EXACT, replayed on the original model."
    references: ClassVar[tuple[str, ...]] = (
        "Szegedy et al. 2014, Intriguing properties of neural networks",
        "Xu et al. 2021, Fast and complete: enabling complete neural network verification",
    )

    def measure(self, context: Context) -> Mapping[str, Measured]:
        """Radii of every input, and the share that is robust at each radius."""
        if self.count < 1:
            raise InputError(f"robustness of {self.count} inputs was asked for; give a positive count.")
        if self.norm not in ("inf", "2", "1") or not self.limit > 0 or not 0 < self.tolerance < 1 or not self.timeout > 0:
            asked = f"norm {self.norm}, limit {self.limit:g}, tolerance {self.tolerance:g}, timeout {self.timeout:g}"
            raise InputError(f"{asked}: give norm inf, 2 or 1, a positive limit and timeout, and a tolerance between 0 and 1.")
        x, labels = context.inputs[: self.count], context.classes[: self.count]
        # What the first question loads (the engine, its kernels) shall not be taken from the time of the first input.
        self._attack(context, x[0], int(labels[0]), 0.0)
        found = [self._radius(context, point, int(label)) for point, label in zip(x, labels, strict=True)]
        lower, upper = np.array([f.lower for f in found]), np.array([f.upper for f in found])
        wide = (lower < self.limit) & (upper - lower > 2 * self.tolerance * self.limit)
        known = upper[np.isfinite(upper)]
        # The curves end where the last counterexample is known, or at the limit.
        end = self.limit if len(known) < len(upper) else min(self.limit, 1.1 * float(known.max()) or self.limit)
        radii = np.linspace(0, end, _STEPS)
        # No proof at all is none at radius 0 either.
        proved = ((lower >= radii[:, None]) & (lower > 0)).mean(1)
        attacked = (upper > radii[:, None]).mean(1)
        values = {
            "label": (labels, Evidence.EXACT, "label"),
            "answer": (np.array([f.answer for f in found]), Evidence.EXACT, "output that the counterexample is taken for, or -1"),
            "lower": (lower, Evidence.PROVED, "certified radius"),
            "upper": (upper, Evidence.EXACT, "distance of a replayed counterexample, infinite where none is known"),
            "radius": (radii, Evidence.EXACT, "radius"),
            "certified": (proved, Evidence.PROVED, "share of these inputs that is proved robust"),
            "not_broken": (attacked, Evidence.EXACT, "share of these inputs without a known counterexample"),
            "median": (np.median(lower), Evidence.PROVED, "median certified radius"),
            "gap": (int(wide.sum()), Evidence.EXACT, "inputs whose radii stayed apart, below the limit"),
            "inputs": (len(x), Evidence.EXACT, "number of inputs"),
            "input": (np.arange(len(x)), Evidence.EXACT, "position of the input in the data"),
            "mistaken": (sum(not f.right for f in found), Evidence.EXACT, "inputs that are not answered by their label"),
        }
        right = np.array([f.right for f in found])
        if np.isfinite(upper[right]).any():
            values["least"] = (lower[right].min(), Evidence.PROVED, "smallest certified radius of an input answered by its label")
            values["nearest"] = (upper[right].min(), Evidence.EXACT, "distance of the nearest counterexample to such an input")
        measured = {name: Measured(np.array(value), worth, about) for name, (value, worth, about) in values.items()}
        return measured | _pictures(context.model.input_shape, x, found)

    def _radius(self, context: Context, x: np.ndarray, label: int) -> _Found:
        """Attack first, then proofs below it."""
        from ascertain.certify.verify import radius

        single = x.astype(np.float32)
        replay = context.model.source.replay
        y = replay(single) if replay else context.model(single.reshape(1, *context.model.input_shape))
        answer = int(np.argmax(y))
        if answer != label:
            return _Found(0.0, self._distance(single, x), single, answer, False)
        started = time.monotonic()
        witness = self._attack(context, x, label, started + self.timeout / 2)
        far = np.inf if witness is None else self._distance(witness.input, x)
        found = radius(
            context.model,
            x,
            label,
            norm=self.norm,
            limit=min(self.limit, far),
            tolerance=self.tolerance,
            timeout=self.timeout - min(time.monotonic() - started, self.timeout / 2),
            threads=context.threads,
            device=context.device,
            memory=context.memory,
            seed=context.seed,
        )
        if found.witness is not None and self._distance(found.witness.input, x) < far:
            witness, far = found.witness, self._distance(found.witness.input, x)
        if witness is None:
            return _Found(found.lower, np.inf, None, -1)
        # At a tie the label is among the largest outputs, and not the answer meant.
        others = np.where(np.arange(witness.output.size) == label, -np.inf, witness.output.reshape(-1))
        return _Found(found.lower, far, witness.input, int(np.argmax(others)))

    def _attack(self, context: Context, x: np.ndarray, label: int, until: float) -> Witness | None:
        """The nearest counterexample that descent finds, by bisection on the radius as long as there is time."""
        from ascertain.certify.verify import falsify
        from ascertain.properties import robust

        best, low, high, tried = None, 0.0, self.limit, self.limit
        for _ in range(_HALVINGS):
            question = robust(x, tried, float(self.norm), label=label, classes=context.model.output_size)
            found = falsify(context.model, question, device=context.device, seed=context.seed)
            if found is None and best is None:
                return None
            if found is None:
                low = tried
            else:
                best, high = found, min(tried, self._distance(found.input, x))
            if high - low <= self.tolerance * high or time.monotonic() > until:
                break
            tried = (low + high) / 2
        return best

    def _distance(self, witness: np.ndarray, x: np.ndarray) -> float:
        return float(np.linalg.norm(witness.reshape(-1).astype(np.float64) - x, float(self.norm)))

    def views(self, result: Result) -> Sequence[View]:
        """Two sentences, curve, radii side by side, table, and counterexamples as pictures where inputs are images."""
        norm = result.options["norm"]
        moved = "when every number of them changes by up to {}" if norm == "inf" else f"when they move by up to {{}} (norm {norm})"
        half = f"Half of the {{inputs}} inputs tried keep their answer {moved.format('{median:.3g}')}."
        views = [View(Kind.TEXT, "Certified radius", text=half, finding=True)]
        if "nearest" in result.values:
            weakest = "The nearest counterexample lies at {nearest:.3g}"
            weakest += "; within {least:.3g} no input answered rightly has one." if result["least"] else "."
            views.append(View(Kind.TEXT, "Weakest input", text=weakest, finding=True))
        if result["mistaken"]:
            wrong = "{mistaken} of the {inputs} inputs are not answered by their label to begin with."
            views.insert(0, View(Kind.TEXT, "Mistakes", text=wrong, finding=True))
        curve = {"x": "radius", "proved robust": "certified", "not broken": "not_broken"}
        rows = {"input": "input", "label": "label", "certified radius": "lower", "attack radius": "upper", "taken for": "answer"}
        caption = "The truth lies between the curves."
        views += [
            View(Kind.LINE, "Robust share by radius", curve, caption, x=f"radius (norm {norm})", y="share of inputs"),
            View(Kind.HISTOGRAM, "Certified radii", {"certified radius": "lower"}, x=f"radius (norm {norm})"),
        ]
        if "picture" in result.values:
            channels = {"image": "picture", "counterexample": "broken", "difference": "difference", "title": "caption"}
            views.append(View(Kind.IMAGE, "Counterexamples", channels, "Each is replayed on the original model."))
        return [*views, View(Kind.TABLE, "Every input", rows)]

    @classmethod
    def examples(cls) -> Iterator[Example]:
        """y = (2 x0, x0 + x1): at (x0, x1) the margin x0 - x1 vanishes at distance (x0 - x1) / 2 in the maximum norm."""
        build = Builder()
        x = build.input((1, 2))
        graph = build.graph(x, build(Dense(np.array([[2.0, 0.0], [1.0, 1.0]])), x))
        data, labels = np.array([[0.5, 0.25], [0.25, 0.125], [0.0, 0.75]]), np.array([0, 0, 0])
        truth = [0.125, 0.0625, 0.0]
        found = {"label": [0, 0, 0], "answer": [1, 1, 1], "inputs": 3}
        # Patience, because an answer that depends on the clock would not repeat.
        asked, context = cls(limit=0.5, timeout=600.0), Context(graph, data, labels)
        yield Example(asked, context, found | {"gap": 0}, 1e-12, above={"upper": truth}, below={"lower": truth})
        # The bisection stops within its tolerance of the truth.
        yield Example(asked, context, {"lower": truth, "upper": truth}, 0.01)


def _pictures(shape: tuple[int, ...], x: np.ndarray, found: Sequence[_Found]) -> dict[str, Measured]:
    """Inputs, counterexamples and differences of the first that have one, where inputs can be seen as images."""
    picked = [i for i, f in enumerate(found) if f.witness is not None][:_SHOWN]
    if not picked:
        return {}
    broken = np.array([np.asarray(found[i].witness, np.float64).reshape(-1) for i in picked])
    stacks = {
        "picture": (x[picked], "input"),
        "broken": (broken, "counterexample"),
        "difference": (broken - x[picked], "difference"),
    }
    captions = [f"input {i}: taken for {found[i].answer} at {found[i].upper:.3g}" for i in picked]
    return pictures(shape, stacks, captions, Evidence.EXACT)
