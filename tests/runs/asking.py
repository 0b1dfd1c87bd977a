"""Analyzers that behave well, slowly or badly, importable by every process, and items that ask them."""

import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ascertain import fixtures
from ascertain.analyze import Analyzer, Measured, Need
from ascertain.evidence import Evidence
from ascertain.fixtures.tasks.digits import FILE
from ascertain.runs.items import DataSource, Item, ModelSource

MODEL = ModelSource("mlp", fixtures.path("digits_mlp"))
DATA = DataSource("digits", FILE, count=20)


class Asked(Analyzer):
    """An analyzer of the tests."""

    title = "Asked"
    needs = frozenset({Need.DATA})

    def views(self, result):
        return []

    @classmethod
    def examples(cls):
        return iter(())


@dataclass(frozen=True)
class Quick(Asked):
    """Sums in an order that depends on the number of threads, and random numbers."""

    pause: float = 0.0

    def measure(self, context):
        time.sleep(self.pause)
        noise = context.generator().normal(size=(64, 300))
        product = context.inputs @ noise
        return {
            "answer": Measured(context.model(context.shaped).reshape(len(context.inputs), -1), Evidence.BOUNDED),
            "sum": Measured(np.array((product @ product.T).sum()), Evidence.BOUNDED),
        }


@dataclass(frozen=True)
class Where(Asked):
    """Says where it computes; a process is told by its number, which the machine does not use again so soon."""

    on_device = True
    pause: float = 0.0

    def measure(self, context):
        time.sleep(self.pause)
        return {"device": Measured(np.array(context.device), Evidence.EXACT), "by": Measured(np.array(os.getpid()), Evidence.EXACT)}


@dataclass(frozen=True)
class Swallows(Asked):
    """Takes Ctrl-C for a wish to answer early, as searches do."""

    def measure(self, context):
        print("swallows", file=sys.stderr, flush=True)
        with suppress(KeyboardInterrupt):
            time.sleep(60)
        return {"value": Measured(np.array(1), Evidence.EXACT)}


@dataclass(frozen=True)
class Raises(Asked):
    """Raises."""

    def measure(self, context):
        raise ZeroDivisionError("nothing is divided by nothing")


@dataclass(frozen=True)
class Leaves(Asked):
    """Ends the program."""

    def measure(self, context):
        raise SystemExit("goodbye")


@dataclass(frozen=True)
class Undefined(Asked):
    """Measures NaN."""

    def measure(self, context):
        return {"value": Measured(np.array(np.nan), Evidence.BOUNDED)}


@dataclass(frozen=True)
class Dies(Asked):
    """Kills its process, or only the first one that asks where a flag file is given."""

    flag: str = ""

    def measure(self, context):
        if not self.flag or not Path(self.flag).exists():
            if self.flag:
                Path(self.flag).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"value": Measured(np.array(1), Evidence.EXACT)}


def item(analyzer, seed=0, model=MODEL, data=DATA):
    """An item with the hashes of its inputs."""
    bare = Item(analyzer, (model,), data, None, seed)
    return replace(bare, inputs=bare.context().hashes)


@dataclass(frozen=True)
class Pair(Asked):
    """Compares two models."""

    needs = frozenset({Need.OTHER})

    def measure(self, context):
        return {"same": Measured(np.array(context.model.hash == context.other.hash), Evidence.EXACT)}


@dataclass(frozen=True)
class Course(Asked):
    """Follows several models and a module."""

    needs = frozenset({Need.TRAJECTORY, Need.MODULE})

    def measure(self, context):
        weights = sum(p.numel() for p in context.module.parameters())
        return {
            "length": Measured(np.array(len(context.trajectory)), Evidence.EXACT),
            "weights": Measured(np.array(weights), Evidence.EXACT),
        }


def factory():
    """The module of the digits network."""
    return fixtures.build("digits_mlp")
