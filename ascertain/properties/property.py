"""A property of a network: over a set of inputs, the outputs avoid an unsafe set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Atoms", "Box", "Case", "Property"]


@dataclass(frozen=True, eq=False)
class Box:
    """{x : lower <= x <= upper}, flat float64 arrays in the network's row-major input order."""

    lower: np.ndarray
    upper: np.ndarray


@dataclass(frozen=True, eq=False)
class Atoms:
    """One conjunction of linear atoms on the flat output y: {y : matrix @ y <= bound}, matrix (m, n_out), bound (m,)."""

    matrix: np.ndarray
    bound: np.ndarray


@dataclass(frozen=True, eq=False)
class Case:
    """An input set and the unsafe outputs on it, a disjunction of conjunctions."""

    set: Box
    unsafe: tuple[Atoms, ...]


@dataclass(frozen=True, eq=False)
class Property:
    """Holds when in no case an input of the set has an unsafe output. A counterexample (witness) is such an input."""

    cases: tuple[Case, ...]
    name: str = ""
