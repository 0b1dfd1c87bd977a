"""Matrices known up to an error, and a proof that one is positive definite which trusts no factorisation.

Evidence: PROVED under IEEE binary64 and products with |fl(XY) - XY| <= gamma(k) |X| |Y| (any order of summation, no Strassen).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ascertain.certify.rounding import DOUBLE

__all__ = ["Enclosure", "congruence", "definite_margin", "positive_definite"]

_GRID = 2.0**-25
ROOM = 1.0 + 1e-9
"""Covers the rounding of error bounds themselves, which are sums of less than a million terms."""


@dataclass(frozen=True, eq=False)
class Enclosure:
    """All matrices A with |A - middle| <= radius elementwise; no radius means exact."""

    middle: np.ndarray
    radius: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.middle.shape
        return rows, columns

    @property
    def T(self) -> Enclosure:
        return Enclosure(self.middle.T, None if self.radius is None else self.radius.T)

    def columns(self, index: np.ndarray | list[int]) -> Enclosure:
        """Some of its columns."""
        return Enclosure(self.middle[:, index], None if self.radius is None else self.radius[:, index])

    def size(self) -> np.ndarray:
        """Largest absolute value of each entry, elementwise."""
        return abs(self.middle) if self.radius is None else abs(self.middle) + self.radius

    def rows(self, factor: np.ndarray) -> Enclosure:
        """diag(factor) A for an exact vector."""
        middle = factor[:, None] * self.middle
        radius = DOUBLE.unit * 2 * abs(middle) + DOUBLE.tiny
        if self.radius is not None:
            radius += abs(factor)[:, None] * self.radius * ROOM
        return Enclosure(middle, radius)

    def __add__(self, other: Enclosure) -> Enclosure:
        middle = self.middle + other.middle
        radius = 2 * DOUBLE.unit * abs(middle)
        for part in (self.radius, other.radius):
            if part is not None:
                radius = radius + part
        return Enclosure(middle, radius * ROOM)

    def __neg__(self) -> Enclosure:
        return Enclosure(-self.middle, self.radius)

    def __matmul__(self, other: Enclosure) -> Enclosure:
        left, right = abs(self.middle), abs(other.middle)
        doubt = DOUBLE.gamma(self.middle.shape[1]) * left
        if self.radius is not None:
            doubt += self.radius
        radius = doubt @ right
        if other.radius is not None:
            radius += self.size() @ other.radius
        underflow = DOUBLE.tiny if left.any() and right.any() else 0.0
        return Enclosure(self.middle @ other.middle, radius * ROOM + underflow)


def congruence(matrix: Enclosure, inner: Enclosure) -> Enclosure:
    """matrix' inner matrix."""
    return matrix.T @ (inner @ matrix)


def positive_definite(matrix: Enclosure) -> bool:
    """Whether every symmetric matrix of the enclosure is proved to be positive definite (False: not proved)."""
    return len(matrix.middle) == 0 or definite_margin(matrix) is not None


def definite_margin(matrix: Enclosure) -> tuple[float, np.ndarray] | None:
    """(m, d) with A >= m diag(d)^-2 proved, m > 0, for every symmetric A of the enclosure; None where nothing is proved.

    A scaled copy minus a shift is factorised by whatever means; the residual of the factorisation, bounded with every rounding,
    must stay below the shift (Rump 2006 verifies with a factorisation that it trusts; here it is only a guess).
    """
    n = len(matrix.middle)
    diagonal = matrix.middle.diagonal()
    if n == 0 or not np.isfinite(matrix.middle).all() or not (diagonal > 0).all():
        return None
    scale = 2.0 ** -np.round(np.log2(diagonal) / 2)
    if not np.isfinite(scale).all():
        return None
    middle = (matrix.middle + matrix.middle.T) / 2 * scale[:, None] * scale
    doubt = 4 * DOUBLE.unit * (abs(middle) @ np.ones(n)) + DOUBLE.tiny
    if matrix.radius is not None:
        doubt += scale * ((matrix.radius + matrix.radius.T) @ scale) / 2 * ROOM
    shift = float(doubt.max()) * 1.01 + 4e-17 * n + 1e-15
    for _ in range(4):
        error = _residual(middle, shift, doubt)
        if error < shift:
            return (shift - error) * (1 - 1e-9), scale
        if not np.isfinite(error):
            return None
        shift = 1.5 * error
    return None


def _residual(middle: np.ndarray, shift: float, doubt: np.ndarray) -> float:
    """A bound of the norm of (true matrix) - shift I - R R' for some R; infinite where no factor is found."""
    n = len(middle)
    shifted = middle.copy()
    shifted[np.arange(n), np.arange(n)] -= shift
    try:
        factor = np.linalg.cholesky(shifted)
    except np.linalg.LinAlgError:
        return np.inf
    # RR' = H H' + H L' + L R' for R = H + L, where the entries of H are whole multiples of a grid: H H' is exact in floats,
    # and what remains is so small that its rounding hardly counts.
    high = np.round(factor / _GRID) * _GRID
    low = factor - high
    if not float((high * high).sum(1).max()) * ROOM < 2.0**53 * _GRID**2:
        return np.inf
    rest, cross, small = shifted - high @ high.T, high @ low.T, low @ factor.T
    ones = np.ones(n)
    rounding = DOUBLE.gamma(n) * (abs(high) @ (abs(low).T @ ones) + abs(low) @ (abs(factor).T @ ones))
    rounding += 4 * DOUBLE.unit * ((abs(rest) + abs(cross) + abs(small)) @ ones)
    rounding += 2 * DOUBLE.unit * (abs(middle.diagonal()) + shift)
    total = float(((abs(rest - cross - small) @ ones + rounding + doubt) * ROOM).max()) + n * DOUBLE.tiny
    return total if np.isfinite(total) else np.inf
