"""What a verification answers: plain frozen data that prints well and turns into JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from ascertain.evidence import Evidence

__all__ = ["Bounds", "Progress", "Status", "Verdict", "Witness"]


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


@dataclass(frozen=True, eq=False)
class Bounds:
    """Lower and upper bounds of the flat output over an input set."""

    lower: np.ndarray
    upper: np.ndarray
    method: str
    evidence: Evidence
    seconds: float


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
    statistics: dict[str, Any] = field(default_factory=dict)
