"""What a verification answers: plain frozen data that prints well and turns into JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum, StrEnum
from math import isfinite
from typing import Any

import numpy as np

from ascertain.evidence import Evidence

__all__ = ["Bounds", "Decision", "Progress", "Status", "Verdict", "Witness", "to_json"]


def to_json(value: Any) -> Any:
    """A result as plain JSON values: arrays as nested lists, evidence by name, numbers that are not finite as null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Enum):
        return str(value)
    if isinstance(value, (np.ndarray, np.generic)):
        return to_json(value.tolist())
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _numbers(values: np.ndarray, most: int = 10) -> str:
    """The first entries of an array on one line."""
    flat = values.reshape(-1)
    return ", ".join(f"{v:.6g}" for v in flat[:most]) + (f", ... ({flat.size} in all)" if flat.size > most else "")


class Status(StrEnum):
    """The three answers."""

    HOLDS = "holds"
    VIOLATED = "violated"
    UNKNOWN = "unknown"


@dataclass(frozen=True, eq=False)
class Witness:
    """An input of the set with an unsafe output, replayed on the original model."""

    input: np.ndarray
    """float32, shape of the network's input."""
    output: np.ndarray
    """float32, flat: what the original model answered."""
    case: int
    """Index of the property's case, and of the conjunction in it, that is violated."""
    conjunction: int
    replayed: str
    """Where it was replayed: ``onnxruntime``, ``torch``, or ``graph`` when there is no original."""

    def __str__(self) -> str:
        return f"input {_numbers(self.input)} -> output {_numbers(self.output)}, replayed in {self.replayed}"


@dataclass(frozen=True, eq=False)
class Bounds:
    """Lower and upper bounds of the flat output over an input set."""

    lower: np.ndarray
    upper: np.ndarray
    method: str
    evidence: Evidence
    seconds: float

    def __str__(self) -> str:
        rows = [f"  {i:>4}  [{low:.6g}, {high:.6g}]" for i, (low, high) in enumerate(zip(self.lower, self.upper, strict=True))]
        return "\n".join([f"{self.method} bounds, evidence {self.evidence}, {self.seconds:.3f} s", *rows])


@dataclass(frozen=True)
class Progress:
    """A snapshot of a running search, handed to the caller's progress function about ten times a second."""

    stage: str
    share: float
    """Share of the work that is already verified, 0 to 1 (volume of the input set or fraction of the split tree)."""
    open: int
    """Open domains."""
    visited: int
    worst: float
    """Smallest lower bound over the open domains (>= 0 would mean verified)."""
    seconds: float
    timeout: float


@dataclass(frozen=True)
class Decision:
    """How the search of one case ended."""

    status: str
    reason: str
    strategy: str
    visited: int
    worst: float
    share: float = 0.0
    """Part of the case that is verified."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """The answer to one property."""

    status: Status
    evidence: Evidence
    seconds: float
    witness: Witness | None = None
    reason: str = ""
    """For ``unknown``: timeout, memory, interrupted, unsupported, or exhausted (float precision reached); with words."""
    strategy: str = ""
    """What decided: attack, bounds, input split, neuron split, linear program."""
    visited: int = 0
    """Domains bounded."""
    worst: float = float("nan")
    """Smallest lower bound left open (for ``holds``: the root's margin)."""
    share: float = 0.0
    """Part of the property that is verified, 0 to 1."""

    def __str__(self) -> str:
        words = [f"evidence {self.evidence}", f"{self.seconds:.2f} s"]
        words += [self.strategy] if self.strategy else []
        words += [f"{self.visited} domain{'s' * (self.visited != 1)}"] if self.visited else []
        words += [f"worst bound {self.worst:.4g}"] if isfinite(self.worst) else []
        first = f"{self.status}{f' ({self.reason})' if self.reason else ''}: {', '.join(words)}"
        return f"{first}\nwitness: {self.witness}" if self.witness is not None else first
