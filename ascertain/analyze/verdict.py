"""Whether a network has a property."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ascertain.analyze.base import Analyzer, Context, Example, Need
from ascertain.analyze.result import Measured, Result
from ascertain.analyze.views import Kind, View
from ascertain.errors import InputError
from ascertain.evidence import Evidence
from ascertain.graph.graph import Builder
from ascertain.operators import Dense

__all__ = ["Verify"]


@dataclass(frozen=True)
class Verify(Analyzer):
    """Whether every input of the property's set has a safe output: holds, violated with a witness, or unknown with the reason."""

    timeout: float = 60.0
    """Seconds."""

    title: ClassVar[str] = "Property"
    on_device: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.PROPERTY})
    meaning: ClassVar[str] = "A property that holds has no exception at all; one that is violated comes with an exception to try."
    formula: ClassVar[str] = "for all x in the set: f(x) is safe"
    evidence: ClassVar[str] = "holds is PROVED under rounding; violated is EXACT, replayed on the original model."
    references: ClassVar[tuple[str, ...]] = (
        "Katz et al. 2017, Reluplex: an efficient SMT solver for verifying deep neural networks",
    )

    def measure(self, context: Context) -> Mapping[str, Measured]:
        """The answer; the witness where there is one."""
        from ascertain.certify.verify import verify

        if context.property is None:
            raise InputError("verify was given no property; give one.")
        verdict = verify(
            context.model,
            context.property,
            timeout=self.timeout,
            threads=context.threads,
            device=context.device,
            memory=context.memory,
            seed=context.seed,
        )
        values = {
            "status": Measured(np.array(str(verdict.status)), verdict.evidence, "answer"),
            "reason": Measured(np.array(verdict.reason), Evidence.EXACT, "why there is no answer"),
        }
        if verdict.witness is not None:
            witness = verdict.witness
            values["witness_input"] = Measured(witness.input, Evidence.EXACT, "input of the set with an unsafe output")
            values["witness_output"] = Measured(witness.output, Evidence.EXACT, f"its output, replayed in {witness.replayed}")
        return values

    def views(self, result: Result) -> Sequence[View]:
        """One sentence."""
        name = result.names.get("property", "The property").replace("{", "{{").replace("}", "}}")
        reason = " ({reason})" if str(result["reason"]) else ""
        return [View(Kind.TEXT, "Answer", text=f"{name}: {{status}}{reason}.", finding=True)]

    @classmethod
    def examples(cls) -> Iterator[Example]:
        """y = x0 - x1 on the unit square reaches 1, and no more."""
        from ascertain.properties import Box, output_range

        build = Builder()
        x = build.input((1, 2))
        graph = build.graph(x, build(Dense(np.array([[1.0, -1.0]])), x))
        for most, status in ((1.5, "holds"), (0.5, "violated")):
            question = output_range(Box(np.zeros(2), np.ones(2)), upper=[most])
            yield Example(cls(timeout=600.0), Context(graph, property=question), {"status": np.array(status)})
