"""How singular the loss is at the trained weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ascertain.analyze.base import Analyzer, Context, Example, Need
from ascertain.analyze.layers import drawn, words
from ascertain.analyze.result import Measured, Result
from ascertain.analyze.views import Kind, View
from ascertain.evidence import Evidence
from ascertain.graph.graph import Builder
from ascertain.operators import Dense

__all__ = ["Learning"]


@dataclass(frozen=True)
class Learning(Analyzer):
    """The local learning coefficient: how many parameters the network uses in effect at its trained weights, times one half."""

    count: int = 200
    """Inputs, drawn under the seed; the loss is the cross-entropy over them."""
    chains: int = 3
    draws: int = 400
    burn_in: int = 120
    batch: int = 64
    """Inputs of each step; all of them where steps are adjusted."""
    adjusted: bool = False
    """Whether steps are accepted or rejected (Metropolis), which removes the bias of the step size but may mix slowly."""
    localization: float = 100.0
    """How strongly chains are held near the trained weights."""
    inverse_temperature: float | None = None
    """How sharp the sampled distribution is; by default n / log n for n inputs."""

    title: ClassVar[str] = "Learning coefficient"
    heavy: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.DATA, Need.LABELS})
    meaning: ClassVar[str] = (
        "Around trained weights the loss is flat in many directions. The coefficient says how fast the volume of weights with "
        "nearly the same loss shrinks: half the number of parameters for a network in which every one matters, less where the "
        "loss is degenerate. Of two networks with equal loss the one with the smaller coefficient is the simpler one. Numbers "
        "compare only under equal options and data."
    )
    formula: ClassVar[str] = (
        "lambda = n beta (E[L(w)] - L(w*)), w sampled by Langevin steps from exp(-n beta L(w) - gamma / 2 |w - w*|^2)"
    )
    evidence: ClassVar[str] = (
        "ESTIMATED, with a 95 % interval from chains and autocorrelation. It covers the sampling error, not the bias of step size "
        "and localization; cautions say what speaks against the number."
    )
    references: ClassVar[tuple[str, ...]] = (
        "Lau et al. 2024, The local learning coefficient: a singularity-aware complexity measure",
        "Watanabe 2009, Algebraic geometry and statistical learning theory",
    )

    def measure(self, context: Context) -> Mapping[str, Measured]:
        """The coefficient, its interval, the chains, and cautions."""
        from torch.nn.functional import cross_entropy

        from ascertain.probes.graph_module import GraphModule
        from ascertain.probes.learning_coefficient import Sampler, learning_coefficient

        picked = drawn(context, self.count)
        sampler = Sampler(
            chains=self.chains,
            draws=self.draws,
            burn_in=self.burn_in,
            localization=self.localization,
            batch_size=None if self.adjusted else self.batch,
            adjusted=self.adjusted,
            n_beta=self.inverse_temperature,
        )
        found = learning_coefficient(
            GraphModule(context.model),
            lambda outputs, labels: cross_entropy(outputs.flatten(1), labels),
            context.shaped[picked],
            context.classes[picked],
            sampler=sampler,
            seed=context.seed,
        )
        paths = found.trace.cumsum(1) / np.arange(1, found.trace.shape[1] + 1)
        value = np.array(found.value)
        numbers = {
            "half_parameters": (found.parameters / 2, Evidence.EXACT, "the coefficient of a network without degeneracy"),
            "start_loss": (found.start_loss, Evidence.BOUNDED, "cross-entropy at the trained weights"),
            "r_hat": (found.r_hat, Evidence.ESTIMATED, "agreement of the chains, 1 at best"),
            "effective": (found.effective_samples, Evidence.ESTIMATED, "independent draws"),
            "acceptance": (found.acceptance, Evidence.ESTIMATED, "mean probability with which a Metropolis test would accept"),
            "draw": (np.arange(1, paths.shape[1] + 1), Evidence.EXACT, "draw"),
            "samples": (len(picked), Evidence.EXACT, "inputs"),
        }
        measured = {name: Measured(np.array(v), worth, about) for name, (v, worth, about) in numbers.items()}
        measured["coefficient"] = Measured(
            value, Evidence.ESTIMATED, "local learning coefficient", np.array(found.lower), np.array(found.upper)
        )
        measured["cautions"] = words("; ".join(found.cautions) or "none", "what speaks against the number", Evidence.ESTIMATED)
        for i, path in enumerate(paths):
            measured[f"chain_{i}"] = Measured(path, Evidence.ESTIMATED, "running mean of n beta (loss - loss at start)")
        return measured

    def views(self, result: Result) -> Sequence[View]:
        """One sentence with what speaks against it, running means of the chains."""
        sentence = "The local learning coefficient is {coefficient:.4g}; without degeneracy it would be {half_parameters:.4g}."
        if str(result["cautions"]) != "none":
            sentence += " Caution: {cautions}."
        chains = {f"chain {i + 1}": f"chain_{i}" for i in range(result.options["chains"])}
        caption = "They should meet and stay level; R-hat {r_hat:.3f}, {effective:.0f} independent draws."
        return [
            View(Kind.TEXT, "Effective parameters", text=sentence, finding=True),
            View(Kind.LINE, "Running means of the chains", {"x": "draw"} | chains, caption, x="draw", y="estimate so far"),
        ]

    @classmethod
    def examples(cls) -> Iterator[Example]:
        """Two scores of one input that is always 1: only their difference matters, with curvature 1/2 along it.

        The sampled distribution is nearly Gaussian with variance 1 / (n beta / 2 + localization), so that lambda is
        (n beta / 4) / (n beta / 2 + localization): 100 / 201 for n beta = 400.
        """
        build = Builder()
        x = build.input((1, 1))
        graph = build.graph(x, build(Dense(np.zeros((2, 1))), x))
        context = Context(graph, np.ones((20, 1)), np.arange(20) % 2)
        asked = cls(chains=16, draws=300, adjusted=True, localization=1.0, inverse_temperature=400.0)
        yield Example(asked, context, {"coefficient": 100 / 201, "half_parameters": 1.0}, 0.05)
