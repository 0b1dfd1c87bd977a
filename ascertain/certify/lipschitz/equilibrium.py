"""Equilibrium models w = phi(A w + B x + b), y = C w + D x, as plants. A proof of a constant is one of well-posedness too:

the quadratic form of the multipliers is positive definite in w alone, so that two solutions w for one x cannot differ, and every
generalised Jacobian I - diag(slopes) A is nonsingular: w - phi(A w + c) is a homeomorphism, and a solution exists.
"""

from __future__ import annotations

import numpy as np

from ascertain.certify.lipschitz.enclosure import ROOM, Enclosure
from ascertain.certify.lipschitz.plant import Plant, Stage
from ascertain.errors import DataError, ShapeError

__all__ = ["equilibrium", "maxmin_equilibrium"]


def equilibrium(
    A: np.ndarray, B: np.ndarray, C: np.ndarray, D: np.ndarray | None = None, *, low: float = 0.0, high: float = 1.0
) -> Plant:
    """The plant of w = phi(A w + B x + b), y = C w + D x, for a scalar phi with slopes in [low, high] (ReLU if not given)."""
    A, B, C, D = _checked(A, B, C, D)
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise DataError(f"slopes from {low} to {high} are no range; give finite numbers, the smaller first.")
    n, inputs = B.shape
    keep, feed, output = _through(np.eye(n), inputs, C, D)
    loop = Enclosure(A)
    stage = Stage(Enclosure(B), keep, feed, np.full(n, float(low)), np.full(n, float(high)), loop)
    return Plant(inputs, (stage,), output)


def maxmin_equilibrium(A: np.ndarray, B: np.ndarray, C: np.ndarray, D: np.ndarray | None = None) -> Plant:
    """The plant of w = maxmin(A w + B x + b), y = C w + D x: pairs (z1, z2) become (max, min).

    The sums of pairs are preserved: they are linear, and solved for; what remains are absolute values of half differences.
    Raises DataError where the linear part is not proved to be invertible.
    """
    A, B, C, D = _checked(A, B, C, D)
    n, inputs = B.shape
    if n % 2:
        raise ShapeError(f"A has {n} rows, MaxMin takes pairs; use an even number.")
    first, second = np.arange(0, n, 2), np.arange(1, n, 2)
    mean, half, spread = np.zeros((n, n)), np.zeros((n // 2, n)), np.zeros((n, n // 2))
    for pair, (i, j) in enumerate(zip(first, second, strict=True)):
        mean[np.ix_([i, j], [i, j])] = 0.5
        half[pair, [i, j]] = 0.5, -0.5
        spread[[i, j], pair] = 1.0, -1.0
    # w = mean z + spread u, u = |half z|, z = A w + B x: solve (I - mean A) w = mean B x + spread u.
    inside = Enclosure(np.eye(n)) + -(Enclosure(mean) @ Enclosure(A))
    images = _solved(inside, [Enclosure(mean) @ Enclosure(B), Enclosure(spread)])
    keep_x, from_u = images
    rows = Enclosure(half)
    gate = rows @ (Enclosure(A) @ keep_x + Enclosure(B))
    loop = rows @ (Enclosure(A) @ from_u)
    output = Enclosure(np.hstack([C, D]))
    keep = _stacked(keep_x, Enclosure(np.eye(inputs)))
    feed = _stacked(from_u, Enclosure(np.zeros((inputs, n // 2))))
    ones = np.ones(n // 2)
    return Plant(inputs, (Stage(gate, keep, feed, -ones, ones, loop),), output)


def _through(unit: np.ndarray, inputs: int, C: np.ndarray, D: np.ndarray) -> tuple[Enclosure | None, Enclosure | None, Enclosure]:
    """How the state (w, x), or w alone, comes from x and w, and the output from it."""
    if not D.any():
        return None, None, Enclosure(C)
    n = len(unit)
    keep = np.vstack([np.zeros((n, inputs)), np.eye(inputs)])
    return Enclosure(keep), Enclosure(np.vstack([unit, np.zeros((inputs, n))])), Enclosure(np.hstack([C, D]))


def _stacked(above: Enclosure, below: Enclosure) -> Enclosure:
    radii = [np.zeros(e.shape) if e.radius is None else e.radius for e in (above, below)]
    return Enclosure(np.vstack([above.middle, below.middle]), np.vstack(radii))


def _solved(matrix: Enclosure, sides: list[Enclosure]) -> list[Enclosure]:
    """matrix^-1 side, enclosed: |solution - X| <= |R (side - matrix X)| / (1 - |I - R matrix|) for any guesses X and R."""
    n = len(matrix.middle)
    try:
        inverse = np.linalg.inv(matrix.middle)
    except np.linalg.LinAlgError:
        inverse = np.full((n, n), np.nan)
    gap = Enclosure(np.eye(n)) + -(Enclosure(inverse) @ matrix)
    norm = float(gap.size().sum(1).max()) * ROOM
    if not norm < 0.5:
        raise DataError("the equilibrium model's linear part is not proved to be invertible; use a smaller A.")
    found = []
    for side in sides:
        guess = inverse @ side.middle
        rest = Enclosure(inverse) @ (side + -(matrix @ Enclosure(guess)))
        error = rest.size().max(0) / (1 - norm) * ROOM
        found.append(Enclosure(guess, np.broadcast_to(error, guess.shape).copy()))
    return found


def _checked(A: np.ndarray, B: np.ndarray, C: np.ndarray, D: np.ndarray | None) -> tuple[np.ndarray, ...]:
    A, B, C = (np.atleast_2d(np.asarray(m, np.float64)) for m in (A, B, C))
    D = np.zeros((len(C), B.shape[1])) if D is None else np.atleast_2d(np.asarray(D, np.float64))
    n = len(A)
    if A.shape != (n, n) or len(B) != n or C.shape[1] != n or D.shape != (len(C), B.shape[1]):
        raise ShapeError(f"A {A.shape}, B {B.shape}, C {C.shape} and D {D.shape} do not fit w = phi(A w + B x), y = C w + D x.")
    if not all(np.isfinite(m).all() for m in (A, B, C, D)):
        raise DataError("the equilibrium model holds NaN or infinite weights; repair or retrain it.")
    return A, B, C, D
