"""One question of a suite as data that travels to any process, and its answer there."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache
from pathlib import Path
from threading import Lock

import numpy as np

from ascertain.analyze.base import Analyzer, Context, Need
from ascertain.analyze.datasets import read_data
from ascertain.analyze.measuring import attempt, provenance
from ascertain.analyze.registry import options_of
from ascertain.analyze.result import Cost, Failure, Result, question_key
from ascertain.errors import DataError, InputError
from ascertain.graph import Graph, load
from ascertain.properties import Box, Property, read_property

__all__ = ["MEMORY", "DataSource", "Item", "ModelSource", "PropertySource", "run_item"]


MEMORY = 0.5
"""Share of the machine's memory for all processes together."""


@dataclass(frozen=True)
class ModelSource:
    """Where a model is."""

    name: str
    file: Path
    factory: str | None = None
    input_shape: tuple[int, ...] | None = None

    def read(self) -> Graph:
        """The graph; kept, so that the items of one model read it once in each process."""
        return _graph(self)


@dataclass(frozen=True)
class DataSource:
    """Where data are, and how they are read."""

    name: str
    file: Path
    count: int | None = None
    label: str = "first"
    divide: float = 1.0

    def read(self, size: int, classes: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Inputs (N, size), and labels unless ``label`` is none."""
        return _data(self, size, classes)


@dataclass(frozen=True)
class PropertySource:
    """Where a property is."""

    name: str
    file: Path
    part: tuple[int, ...] = ()
    """A part of it: the case, then for each halving of its box twice the coordinate, plus one for the upper half."""

    def read(self) -> Property:
        """The property, or its part; files about several networks are refused."""
        return _property(self)


@lru_cache(8)
def _graph(source: ModelSource) -> Graph:
    return load(source.file, factory=source.factory, input_shape=source.input_shape)


@lru_cache(8)
def _data(source: DataSource, size: int, classes: int) -> tuple[np.ndarray, np.ndarray | None]:
    if source.count is not None and source.count < 1:
        raise DataError(f"data {source.name} is cut to {source.count} inputs; give a positive count.")
    x, y = read_data(str(source.file), size, classes, source.label, source.divide)
    return x[: source.count], None if y is None else y[: source.count]


@lru_cache(64)
def _property(source: PropertySource) -> Property:
    found = read_property(source.file)
    if len(found.networks) > 1:
        raise InputError(f"{source.file} is about {len(found.networks)} networks; a suite asks about one network at a time.")
    if not source.part:
        return found
    case = found.cases[source.part[0]]
    for cut in source.part[1:]:
        case = replace(case, set=_half(case.set.box(), *divmod(cut, 2)))
    return Property((case,), found.name)


def _half(box: Box, dim: int, upper: int) -> Box:
    """One of the two halves of a box, which share the face between them."""
    ends = [box.lower.copy(), box.upper.copy()]
    ends[1 - upper][dim] = box.lower[dim] + (box.upper[dim] - box.lower[dim]) / 2
    return Box(*ends)


@dataclass(frozen=True)
class Item:
    """An analyzer with its options and where its inputs are; their hashes were taken when the suite was read."""

    analyzer: Analyzer
    models: tuple[ModelSource, ...]
    """The model, then the other one or the rest of the trajectory, as the analyzer needs."""
    data: DataSource | None = None
    property: PropertySource | None = None
    seed: int = 0
    inputs: Mapping[str, str] = field(default_factory=dict, compare=False)
    halvings: int = 0
    """How often the box of a property may be halved where time runs out (`ascertain.runs.division`)."""

    @cached_property
    def key(self) -> str:
        """The key of its result."""
        return question_key(self.analyzer.called(), self.analyzer.version, options_of(self.analyzer), self.inputs, self.seed)

    @cached_property
    def names(self) -> dict[str, str]:
        """What people call its inputs."""
        found = {"model": self.models[0].name}
        if Need.OTHER in self.analyzer.needs:
            found["other"] = self.models[1].name
        elif len(self.models) > 1:
            found["trajectory"] = ", ".join(m.name for m in self.models)
        if self.data is not None:
            found["data"] = self.data.name
        if self.property is not None:
            part = ".".join(map(str, self.property.part))
            found["property"] = f"{self.property.name}{f' part {part}' if part else ''}"
        return found

    def __str__(self) -> str:
        return f"{self.analyzer.called()} of {', '.join(self.names.values())}" + (f" (seed {self.seed})" if self.seed else "")

    def context(self, memory: float = MEMORY, device: str = "cpu") -> Context:
        """What is analysed, read from its files; ``memory`` is the share of the machine's that may be used."""
        graphs = [m.read() for m in self.models]
        wanted = self.analyzer.needs | self.analyzer.uses
        x, y = (None, None) if self.data is None else self.data.read(graphs[0].input_size, graphs[0].output_size)
        return Context(
            graphs[0],
            x if Need.DATA in wanted else None,
            y if Need.LABELS in wanted else None,
            None if self.property is None else self.property.read(),
            graphs[1] if Need.OTHER in self.analyzer.needs else None,
            tuple(graphs) if Need.TRAJECTORY in self.analyzer.needs else (),
            getattr(graphs[0].source.replay, "module", None) if Need.MODULE in wanted else None,
            self.seed,
            memory=memory,
            device=device,
            names=self.names,
        )

    def failure(self, error: str, message: str) -> Failure:
        """The record of an item that could not be measured."""
        head = provenance(self.analyzer, self.inputs, self.names, self.seed)
        return Failure(**head, cost=Cost(0.0, 0.0, 0), error=error, message=message)


def run_item(item: Item, memory: float = MEMORY, device: str = "cpu") -> Result | Failure:
    """Measures in this process on one thread, so that the answer is the same bit for bit on whatever CPU it is computed."""
    with _lock(), one_thread():
        try:
            context = item.context(memory, device)
        except InputError as error:
            return item.failure(type(error).__name__, str(error))
        if context.hashes != item.inputs:
            return item.failure("InputError", f"the files of {item} have changed since the suite was read; run it again.")
        return attempt(item.analyzer, context)


@cache
def _lock() -> Lock:
    """One item at a time in a process: random states and thread counts belong to all of it."""
    return Lock()


@contextmanager
def one_thread() -> Iterator[None]:
    """Numerical libraries on one thread while the block runs; sums over several threads differ in their last bits."""
    from threadpoolctl import threadpool_limits

    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else 1
    with threadpool_limits(1):
        if torch is not None:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            if torch is not None:
                torch.set_num_threads(before)
