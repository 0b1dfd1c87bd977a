"""The contract of an analyzer: options, what it needs, how it measures, how its results are shown."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ascertain.analyze.result import Measured, Result, sha256
from ascertain.analyze.views import View
from ascertain.errors import DataError, InputError, ShapeError
from ascertain.graph.graph import Graph

if TYPE_CHECKING:
    from ascertain.properties import Property

__all__ = ["Analyzer", "Context", "Example", "Need", "digest_array", "digest_property"]


class Need(StrEnum):
    """What an analyzer has to be given; a model always."""

    OTHER = "other"
    """A second model, to compare with."""
    TRAJECTORY = "trajectory"
    """Checkpoints of one training run, in order."""
    DATA = "data"
    LABELS = "labels"
    PROPERTY = "property"
    MODULE = "module"
    """The torch module that the graph was made of."""


def digest_array(array: np.ndarray) -> str:
    """SHA-256 of type, shape and numbers."""
    head = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def digest_property(property: Property) -> str:
    """SHA-256 of the sets and conjunctions of a property; its name does not count."""
    return hashlib.sha256(repr(_plain(property.cases)).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Nested tuples with arrays by their digests, so that equal values have equal texts."""
    if isinstance(value, np.ndarray):
        return digest_array(value)
    if isinstance(value, (tuple, list)):
        return tuple(_plain(item) for item in value)
    if hasattr(value, "__dataclass_fields__"):
        return (type(value).__qualname__, *((f.name, _plain(getattr(value, f.name))) for f in fields(value)))
    return value


@dataclass(frozen=True, eq=False)
class Context:
    """What is analysed. Arrays are read-only; sizes fit the model by construction."""

    model: Graph
    data: np.ndarray | None = None
    """float64 (N, model.input_size); `shaped` gives it the model's input shape."""
    labels: np.ndarray | None = None
    """int64 (N,), each the position of an output."""
    property: Property | None = None
    other: Graph | None = None
    trajectory: tuple[Graph, ...] = ()
    module: Any = None
    seed: int = 0
    threads: int = 1
    """One, where results must be the same bit for bit wherever they are computed."""
    memory: float = 0.5
    """Share of the machine's memory that may be used."""
    device: str = "cpu"
    """Where analyzers that say `Analyzer.on_device` compute."""
    names: Mapping[str, str] = field(default_factory=dict)
    """What people call the inputs, by role."""

    def __post_init__(self) -> None:
        if self.data is not None:
            object.__setattr__(self, "data", _checked(self.data, self.model.input_size, self._called("data")))
        if self.labels is not None:
            object.__setattr__(self, "labels", self._checked_labels(self.labels))
        graphs = [g for g in (self.other, *self.trajectory) if g is not None]
        if any(g.input_size != self.model.input_size for g in graphs):
            sizes = [g.input_size for g in graphs]
            raise ShapeError(f"{self._called('model')} takes {self.model.input_size} inputs, the others {sizes}; give equal sizes.")

    def _called(self, role: str) -> str:
        return self.names.get(role, f"the {role}")

    def _checked_labels(self, given: np.ndarray) -> np.ndarray:
        if self.data is None or np.shape(given) != (len(self.data),):
            count = "no" if self.data is None else len(self.data)
            raise ShapeError(f"labels have shape {np.shape(given)} for {count} inputs; give one label for each input.")
        labels = np.array(given)
        top = self.model.output_size
        if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= top:
            raise DataError(f"labels must be whole numbers from 0 to {top - 1} for {self._called('model')}; mend them.")
        labels = labels.astype(np.int64)
        labels.setflags(write=False)
        return labels

    @cached_property
    def shaped(self) -> np.ndarray:
        """The data as the model takes it, (N, *input_shape)."""
        return self.inputs.reshape(-1, *self.model.input_shape)

    @cached_property
    def inputs(self) -> np.ndarray:
        """The data; raises InputError where there is none."""
        if self.data is None:
            raise InputError(f"{self._called('model')} is analysed without data, which this analyzer needs; give data.")
        return self.data

    @cached_property
    def classes(self) -> np.ndarray:
        """The labels; raises InputError where there are none."""
        if self.labels is None:
            raise InputError(f"{self._called('model')} is analysed without labels, which this analyzer needs; give labels.")
        return self.labels

    def generator(self) -> np.random.Generator:
        """Random numbers under the seed, from the start at every call."""
        return np.random.default_rng(self.seed)

    def has(self, need: Need) -> bool:
        """Whether a need is met."""
        given = getattr(self, str(need))
        return bool(given) if need is Need.TRAJECTORY else given is not None

    @cached_property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of everything that is analysed, by role."""
        found = {"model": self.model.hash}
        if self.other is not None:
            found["other"] = self.other.hash
        if self.trajectory:
            found["trajectory"] = sha256(*(g.hash for g in self.trajectory))
        if self.data is not None:
            found["data"] = digest_array(self.data)
        if self.labels is not None:
            found["labels"] = digest_array(self.labels)
        if self.property is not None:
            found["property"] = digest_property(self.property)
        return found


def _checked(given: np.ndarray, size: int, name: str) -> np.ndarray:
    data = np.array(given)
    if not data.ndim or not len(data):
        raise DataError(f"{name} holds no inputs; give at least one.")
    if data.dtype.kind not in "biuf":
        raise DataError(f"{name} holds inputs of type {data.dtype}; give numbers.")
    data = data.reshape(len(data), -1).astype(np.float64)
    if data.shape[1] != size:
        raise ShapeError(f"{name} has inputs of {data.shape[1]} numbers, the network takes {size}; give data that fit it.")
    bad = ~np.isfinite(data).all(axis=1)
    if bad.any():
        raise DataError(f"{name}: input {int(np.argmax(bad))} has entries that are not finite; remove or mend it.")
    data.setflags(write=False)
    return data


@dataclass(frozen=True, eq=False)
class Example:
    """A case with a known answer: scalars or arrays by name, and how far a measurement may be off."""

    analyzer: Analyzer
    context: Context
    expected: Mapping[str, Any]
    tolerance: float = 1e-9
    """Relative to 1 + |expected|."""
    above: Mapping[str, Any] = field(default_factory=dict)
    """Values that must not be less than these (upper bounds of a known truth, say); the tolerance applies."""
    below: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Analyzer(ABC):
    """A question asked of a network. Fields of subclasses are options with defaults: plain numbers, words, truth values, tuples.

    The class docstring says in its first sentence what is measured. Analyzers are found by their file: every class in the
    ``__all__`` of a module of `ascertain.analyze` is one; its name is the class name in lower case.
    """

    title: ClassVar[str]
    """Heading of its section in a report."""
    needs: ClassVar[frozenset[Need]] = frozenset()
    uses: ClassVar[frozenset[Need]] = frozenset()
    """What it can use beyond its needs, where it is given."""
    formula: ClassVar[str] = ""
    """What is computed, in one or a few lines."""
    meaning: ClassVar[str] = ""
    """How to read it, for people who do not know the measure."""
    evidence: ClassVar[str] = ""
    """What its numbers are worth and why."""
    references: ClassVar[tuple[str, ...]] = ()
    """Authors, year, title."""
    heavy: ClassVar[bool] = False
    """Whether it searches for seconds; such questions are handed out first."""
    on_device: ClassVar[bool] = False
    """Whether it computes on the device of the context, which its record then names; all others compute on the CPU.

    The device is no part of the key of a result: it may take part in how far a search comes in its time, as a fast processor does,
    and in last bits, but not in what a number means. Estimates stay on the CPU, for devices draw other random numbers.
    """
    version: ClassVar[int] = 1
    """Counts up when the numbers change, so that stored results of the older kind are not mistaken for new ones."""

    @classmethod
    def called(cls) -> str:
        """The name by which it is asked for; of those written elsewhere with their module."""
        here = cls.__module__.startswith(f"{__package__}.")
        return cls.__name__.lower() if here else f"{cls.__module__}:{cls.__qualname__}"

    @abstractmethod
    def measure(self, context: Context) -> Mapping[str, Measured]:
        """Values by name (identifiers). Repeatable under the seed; the model, its modes and random states stay as they were."""

    @abstractmethod
    def views(self, result: Result) -> Sequence[View]:
        """How a stored result is shown. Reads the result only: options are those in ``result.options``."""

    @classmethod
    @abstractmethod
    def examples(cls) -> Iterator[Example]:
        """Small cases with known answers on which `check_analyzer` runs."""
