"""Canonical correlations and what is built on them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

import numpy as np

from ascertain.errors import DataError
from ascertain.probes.measure import Basis, Measure, basis

__all__ = ["CCA", "PWCCA", "SVCCA"]


def correlations(first: Basis, second: Basis) -> np.ndarray:
    """Canonical correlations, largest first: singular values of u_x' u_y."""
    found: np.ndarray = np.minimum(np.linalg.svd(first.u.T @ second.u, compute_uv=False), 1.0)
    return found


@dataclass(frozen=True)
class CCA(Measure):
    """Mean canonical correlation over min(rank x, rank y) directions (Hotelling, 1936). Invariant to invertible linear maps.

    ``chance`` is the root of the mean squared correlation over all re-pairings, max(rank)/(n - 1): at least the mean.
    """

    @property
    def name(self) -> str:
        return "CCA"

    @property
    def second_moments(self) -> bool:
        return True

    def prepare(self, rows: np.ndarray) -> Basis:
        return basis(rows)

    def compare(self, first: Basis, second: Basis) -> float:
        return float(correlations(first, second).mean())

    def reorder(self, state: Basis, order: np.ndarray) -> Basis:
        return Basis(state.u[order], state.s, state.v)

    def chance(self, first: Basis, second: Basis, count: int) -> float | None:
        return min(1.0, sqrt(max(len(first.s), len(second.s)) / (count - 1)))

    def caveat(self, first: Basis, second: Basis, count: int) -> str:
        p, q = len(first.s), len(second.s)
        if p + q <= count - 1:
            return ""
        return f"{p} and {q} directions in {count} rows: {p + q - count + 1} correlations are 1 whatever the data"


@dataclass(frozen=True)
class SVCCA(CCA):
    """CCA of the fewest principal directions that hold a share of the VARIANCE (squared singular values) (Raghu et al., 2017).

    Invariant to orthogonal maps and isotropic scaling.
    """

    threshold: float = 0.99

    def __post_init__(self) -> None:
        if not 0.0 < self.threshold <= 1.0:
            raise DataError(f"threshold={self.threshold} is no share of variance; give a number in (0, 1], such as 0.99.")

    @property
    def name(self) -> str:
        return f"SVCCA {self.threshold:g}"

    def prepare(self, rows: np.ndarray) -> Basis:
        return basis(rows, self.threshold)


def _ties(rho: np.ndarray) -> list[tuple[int, int]]:
    """Ranges of at least two equal values."""
    cuts = [0, *(np.flatnonzero(np.diff(rho) < -1e-9) + 1).tolist(), len(rho)]
    return [(a, b) for a, b in pairwise(cuts) if b - a > 1]


@dataclass(frozen=True)
class PWCCA(CCA):
    """CCA weighted by how much of the first rows each canonical variable accounts for (Morcos et al., 2018).

    With h_i the orthonormal canonical variables of x among the samples, the weights are sum_j |<h_i, x_j>|. Not symmetric: the
    weights come from the first argument. Variables of equal correlation (1 for shared directions) are only known up to a rotation,
    on which the weights depend: here they are the principal axes of x among them.
    """

    symmetric = False

    @property
    def name(self) -> str:
        return "PWCCA"

    def compare(self, first: Basis, second: Basis) -> float:
        left, rho, _ = np.linalg.svd(first.u.T @ second.u, full_matrices=False)
        loads = (left.T * first.s) @ first.v
        for start, stop in _ties(rho):
            _, _, axes = np.linalg.svd(loads[start:stop], full_matrices=False)
            loads[start:stop] = axes * np.linalg.norm(loads[start:stop] @ axes.T, axis=0)[:, None]
        weights = np.abs(loads).sum(1)
        return float(weights @ np.minimum(rho, 1.0) / weights.sum())

    def chance(self, first: Basis, second: Basis, count: int) -> float | None:
        return None
