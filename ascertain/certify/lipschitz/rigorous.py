"""Proof of a bound: storage matrices from the output back to the input, each stage verified.

A symmetric T is a storage matrix of a state when the output's difference dy obeys |dy|^2 <= (state difference)' T (state
difference). The output itself gives the last one. With multipliers lambda >= 0, (w - low z)(w - high z) <= 0 for every
nonlinearity makes S one of the state before a stage whenever

    y' S y + 2 sum_i lambda_i (w_i - low_i z_i)(w_i - high_i z_i) - (keep y + feed w)' T (keep y + feed w) >= 0  for all y, w,

for which the Schur complement is enclosed with all rounding. Multipliers may come from anywhere. Evidence: PROVED.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ascertain.certify.lipschitz.enclosure import ROOM, Enclosure, congruence, definite_margin, positive_definite
from ascertain.certify.lipschitz.plant import Plant, Stage
from ascertain.certify.lipschitz.program import Norms
from ascertain.certify.rounding import DOUBLE

__all__ = ["NotVerified", "Proof", "largest_eigenvalue", "prove", "root", "square", "storage"]


T = TypeVar("T")
ROOM_SUM = 1.0 + 1e-11
"""Covers the rounding of a sum of less than 50,000 positive numbers and of their reciprocals."""


class NotVerified(ArithmeticError):
    """The multipliers prove nothing: a stage failed its test."""


@dataclass(frozen=True, eq=False)
class Proof:
    """A proved constant and all that proves it again."""

    value: float
    factors: tuple[np.ndarray, ...]
    """Multipliers of each stage."""
    weights: np.ndarray
    """(n_out,) of the squared outputs."""
    storage: tuple[np.ndarray, ...]
    """Of all states, input first."""
    tau: np.ndarray
    """(n0,) above the first storage matrix, for an input in the maximum norm; else empty."""


def prove(plant: Plant, norms: Norms, factors: np.ndarray, tau: np.ndarray, mu: np.ndarray) -> Proof:
    """The constant that multipliers prove, for input norm 2 or inf and output norm 2 or 1; raises NotVerified.

    ``tau`` (n0,) is a guess of the weights of an input in the maximum norm, ``mu`` (n_out,) of an output in l1:
    |dy|_2^2 <= dx' T dx <= sum tau |dx|_inf^2 where diag(tau) >= T, and |dy|_1^2 <= (sum mu) (sum dy_i^2 / mu_i).
    """
    if not all(np.isfinite(v).all() for v in (factors, tau, mu)):
        raise NotVerified
    weights = 1.0 / mu if norms.output == 1 else np.ones(plant.output.shape[0])
    split = plant.split(factors)
    found = storage(plant, split, weights if norms.output == 1 else None)
    above = np.zeros(0) if norms.input == 2 else _dominated(found[0], tau)
    square = largest_eigenvalue(found[0]) if norms.input == 2 else float(above.sum()) * ROOM_SUM
    if norms.output == 1:
        square *= float((1.0 / weights).sum()) * ROOM_SUM
    return Proof(root(square), split, weights, tuple(found), above)


def _dominated(matrix: np.ndarray, tau: np.ndarray) -> np.ndarray:
    """A diagonal that is proved to be above an exact matrix, near the one guessed; raises NotVerified."""
    if not len(tau):
        tau = abs(matrix).sum(1)

    def attempt(exponent: float) -> np.ndarray | None:
        above = tau * (1 + 10.0**exponent) + 10.0**exponent * tau.mean() + DOUBLE.tiny
        return above if positive_definite(Enclosure(np.diag(above)) + Enclosure(-matrix)) else None

    return _least(attempt, -13, 1)


def storage(
    plant: Plant, multipliers: tuple[np.ndarray, ...], weights: np.ndarray | None = None, check: Callable[[], None] = lambda: None
) -> list[np.ndarray]:
    """Storage matrices of all states, input first, exact as stored: sum_i weights_i dy_i^2 <= dx' T_0 dx.

    ``weights`` (n_out,) >= 0 are exact, ones if None. Raises NotVerified.
    """
    found = [square(plant.output, weights)]
    for stage, factors in zip(reversed(plant.stages), reversed(multipliers), strict=True):
        check()
        found.append(_before(stage, np.maximum(factors, 0.0), found[-1]))
    return found[::-1]


def square(matrix: Enclosure, weights: np.ndarray | None = None) -> np.ndarray:
    """An exact symmetric matrix that is proved to be above A' diag(weights) A for every A enclosed."""
    return _above(matrix.T @ (matrix if weights is None else matrix.rows(weights)), 0.0)


def _symmetric(matrix: np.ndarray) -> np.ndarray:
    return np.asarray((matrix + matrix.T) / 2)


def _before(stage: Stage, factors: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The storage matrix before a stage: the Schur complement B A^-1 B' - C of the quadratic form [[C, B], [B', A]], from above.

    For any X, B A^-1 B' = X'(B' + R) + R' A^-1 R with R = B' - A X: a float solution X leaves a tiny second term, which a proved
    lower bound of A bounds; everything else is enclosed.
    """
    corner, off, last = quadratic(stage, factors, after)
    if not stage.size:
        return _above(-corner, 0.0)
    margin = definite_margin(last)
    if margin is None:
        raise NotVerified
    least, scale = margin
    solution = Enclosure(_solved(last.middle, off.middle.T))
    rest = off.T + -(last @ solution)
    second = float((np.square(scale[:, None] * rest.size())).sum()) / least * ROOM**2
    return _above(solution.T @ (off.T + rest) + -corner, second)


def _above(matrix: Enclosure, extra: float) -> np.ndarray:
    """An exact symmetric matrix above every symmetric A + B of the enclosure and of |B| <= extra."""
    middle = _symmetric(matrix.middle)
    room = 8 * DOUBLE.unit * abs(middle).sum(1) + extra + 1e-150
    if matrix.radius is not None:
        room += (matrix.radius.sum(0) + matrix.radius.sum(1)) / 2 * ROOM
    above = middle + np.diag(2 * room)  # room for adding it, too
    if not np.isfinite(above).all():
        raise NotVerified
    return np.asarray(above)


def _solved(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    from scipy.linalg import cho_factor, cho_solve

    try:
        factor = cho_factor(_symmetric(matrix), lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        raise NotVerified from None
    found = cho_solve(factor, right, check_finite=False)
    return np.asarray(found + cho_solve(factor, right - matrix @ found, check_finite=False))


def _least(attempt: Callable[[float], T | None], first: int, end: int) -> T:
    """What succeeds at the smallest exponent, found in whole steps and refined by thirds; raises NotVerified."""
    for exponent in range(first, end):
        found = attempt(exponent)
        if found is None:
            continue
        if exponent > first:
            for finer in (exponent - 2 / 3, exponent - 1 / 3):
                closer = attempt(finer)
                if closer is not None:
                    return closer
        return found
    raise NotVerified


def quadratic(stage: Stage, factors: np.ndarray, after: np.ndarray) -> tuple[Enclosure, Enclosure, Enclosure]:
    """2 sum lambda (w - low z)(w - high z) - (next state)' T (next state) as blocks: state, state x responses, responses."""
    diagonal = Enclosure(np.diag(2 * factors))
    middle, product = _coefficients(stage, factors)
    inner = Enclosure(after)
    fed = inner if stage.feed is None else congruence(stage.feed, inner)
    last = diagonal + (-fed)
    off = _scaled(stage.gate, middle).T
    corner = Enclosure(np.zeros((stage.gate.shape[1],) * 2))
    squared = _scaled(stage.gate, product) if product.middle.any() else None
    if squared is not None:
        corner = corner + stage.gate.T @ squared
    if stage.keep is not None:
        onto = inner @ stage.keep
        corner = corner + (-(stage.keep.T @ onto))
        off = off + (-(onto.T if stage.feed is None else onto.T @ stage.feed))
    if stage.loop is not None:
        crossed = _scaled(stage.loop, middle)
        last = last + crossed + crossed.T
        if squared is not None:
            off = off + squared.T @ stage.loop
            last = last + stage.loop.T @ _scaled(stage.loop, product)
    return corner, off, last


def _coefficients(stage: Stage, factors: np.ndarray) -> tuple[Enclosure, Enclosure]:
    """-lambda (low + high) and 2 lambda low high, as columns."""
    low, high, twice = (Enclosure(v[:, None]) for v in (stage.low, stage.high, 2 * factors))
    return -(low + high).rows(factors), low.rows(stage.high).rows(twice.middle[:, 0])


def _scaled(matrix: Enclosure, factor: Enclosure) -> Enclosure:
    """diag(factor) matrix for a factor that is itself enclosed."""
    middle = factor.middle * matrix.middle
    radius = 2 * DOUBLE.unit * abs(middle) + DOUBLE.tiny
    if factor.radius is not None:
        radius = radius + factor.radius * matrix.size() * ROOM
    if matrix.radius is not None:
        radius = radius + abs(factor.middle) * matrix.radius * ROOM
    return Enclosure(middle, radius)


def largest_eigenvalue(matrix: np.ndarray) -> float:
    """A proved upper bound, tight to about 1e-13, of the largest eigenvalue of an exact symmetric matrix; raises NotVerified."""
    n = len(matrix)
    if not np.isfinite(matrix).all():
        raise NotVerified
    top = float(np.linalg.eigvalsh(matrix)[-1]) if n else 0.0
    size = float(abs(matrix).sum(1).max()) if n else 0.0
    top = max(top, 1e-13 * size)

    def attempt(exponent: float) -> float | None:
        bound = top * (1 + 10.0**exponent) + DOUBLE.tiny
        return bound if positive_definite(Enclosure(bound * np.eye(n)) + Enclosure(-matrix)) else None

    return _least(attempt, -13, 1)


def root(square: float) -> float:
    """The square root, rounded up."""
    return float(np.nextafter(np.sqrt(square) * (1 + 4 * DOUBLE.unit), np.inf)) if square > 0 else 0.0
