"""Analyzers that break one promise each."""

from dataclasses import dataclass

import numpy as np
import torch

from ascertain.analyze import Analyzer, Context, Example, Kind, Measured, View
from ascertain.evidence import Evidence
from ascertain.graph import Builder
from ascertain.operators import Dense


def graph():
    build = Builder()
    x = build.input((1, 2))
    return build.graph(x, build(Dense(np.eye(2)), x))


@dataclass(frozen=True)
class Good(Analyzer):
    """Measures the number one."""

    title = "One"
    meaning = "One is one."
    evidence = "exact"

    def measure(self, context):
        return {"one": Measured(np.array(1.0), Evidence.EXACT)}

    def views(self, result):
        return [View(Kind.TEXT, "One", text="It is {one:.0f}.")]

    @classmethod
    def examples(cls):
        yield Example(cls(), Context(graph(), np.ones((2, 2)), module=torch.nn.Linear(2, 2)), {"one": 1.0})


class Undocumented(Good):
    """Says not what it means."""

    meaning = ""


class Wrong(Good):
    """Measures two."""

    def measure(self, context):
        return {"one": Measured(np.array(2.0), Evidence.EXACT)}


class Unrepeatable(Good):
    """Draws from fresh randomness."""

    def measure(self, context):
        noise = np.random.default_rng().normal()
        return super().measure(context) | {"noise": Measured(np.array(noise), Evidence.ESTIMATED)}


class Random(Good):
    """Uses the random state of everybody."""

    def measure(self, context):
        np.random.normal()
        return super().measure(context)


class TorchRandom(Good):
    """Uses the random state of torch."""

    def measure(self, context):
        torch.rand(1)
        return super().measure(context)


class Training(Good):
    """Leaves the module in evaluation mode."""

    def measure(self, context):
        context.module.eval()
        return super().measure(context)


class Hooked(Good):
    """Leaves a hook."""

    def measure(self, context):
        context.module.register_forward_hook(lambda *_: None)
        return super().measure(context)


class Graded(Good):
    """Leaves gradients."""

    def measure(self, context):
        context.module(torch.ones(2)).sum().backward()
        return super().measure(context)


class Changed(Good):
    """Changes a weight of the graph."""

    def measure(self, context):
        context.model.nodes[1].operator.weight[0, 0] += 1
        return super().measure(context)


class Unseen(Good):
    """Shows nothing."""

    def views(self, result):
        return []


class Missing(Good):
    """Shows what it did not measure."""

    def views(self, result):
        return [View(Kind.TEXT, "Two", text="It is {two}.")]


class Misshapen(Good):
    """Shows a number as a heat map."""

    def views(self, result):
        return [View(Kind.HEATMAP, "Map", {"z": "one"})]


class Untested(Good):
    """Has no examples."""

    @classmethod
    def examples(cls):
        return iter(())
