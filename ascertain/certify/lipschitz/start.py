"""Strictly feasible multipliers to start from: one number for each stage, from the output back."""

from __future__ import annotations

import numpy as np

from ascertain.certify.lipschitz.plant import Plant, Stage
from ascertain.errors import DataError

__all__ = ["float_storage", "start", "step_back"]

_WIDE = 800
"""Stages of this size are tried once: one trial takes seconds."""
_FACTORS = (1.05, 1.25, 1.6, 2.0, 3.0)
"""Tried multiples of the least multiplier that bounds a stage; 2 is best for one rectifier layer, 1 for a norm-preserving one."""


def step_back(stage: Stage, factors: np.ndarray, after: np.ndarray) -> np.ndarray | None:
    """The storage matrix before a stage for given multipliers, in floats; None where there is none."""
    from scipy.linalg import solve_triangular

    gate, total, product = stage.gate.middle, factors * (stage.low + stage.high), 2 * factors * stage.low * stage.high
    feed = None if stage.feed is None else stage.feed.middle
    onto = after if feed is None else feed.T @ after
    last = np.diag(2 * factors) - (onto if feed is None else onto @ feed)
    off = -(gate.T * total)
    corner = gate.T @ (product[:, None] * gate)
    if stage.keep is not None:
        corner -= stage.keep.middle.T @ after @ stage.keep.middle
        off -= (onto @ stage.keep.middle).T
    if stage.loop is not None:
        loop = stage.loop.middle
        last += loop.T @ (product[:, None] * loop) - total[:, None] * loop - (total[:, None] * loop).T
        off += (gate.T * product) @ loop
    try:
        factor = np.linalg.cholesky((last + last.T) / 2)
    except np.linalg.LinAlgError:
        return None
    half = solve_triangular(factor, off.T, lower=True, check_finite=False)
    before = half.T @ half - corner
    return np.asarray((before + before.T) / 2)


def float_storage(plant: Plant, factors: list[np.ndarray]) -> np.ndarray | None:
    """The first storage matrix for given multipliers of all stages, in floats; None where a stage has none."""
    matrix: np.ndarray | None = plant.output.middle.T @ plant.output.middle
    for stage, lam in zip(reversed(plant.stages), reversed(factors), strict=True):
        if matrix is None:
            return None
        matrix = step_back(stage, lam, matrix)
    return matrix


def _largest(matrix: np.ndarray) -> float:
    """The largest eigenvalue of a positive semidefinite matrix, about."""
    if len(matrix) < 200:
        return float(np.linalg.eigvalsh((matrix + matrix.T) / 2)[-1]) if len(matrix) else 0.0
    # From below, by a power iteration: factors of 1.25 and more are far enough above.
    v = np.random.default_rng(0).standard_normal(len(matrix))
    for _ in range(40):
        v = matrix @ (v / max(float(np.linalg.norm(v)), 1e-300))
    return float(np.linalg.norm(v))


def start(plant: Plant) -> tuple[list[np.ndarray], np.ndarray] | None:
    """Multipliers of all stages with the first storage matrix; None where none were found (an equilibrium stage)."""
    storage = plant.output.middle.T @ plant.output.middle
    storage = storage + 1e-6 * max(float(np.trace(storage)) / max(len(storage), 1), 1e-200) * np.eye(len(storage))
    found: list[np.ndarray] = []
    if not np.isfinite(storage).all():
        raise DataError("products of the network's weights overflow; scale the weights down.")
    for stage in reversed(plant.stages):
        feed = None if stage.feed is None else stage.feed.middle
        fed = storage if feed is None else feed.T @ storage @ feed
        if not np.isfinite(fed).all():
            raise DataError("products of the network's weights overflow; scale the weights down.")
        least = _largest(fed) / 2
        best: tuple[float, np.ndarray, np.ndarray] | None = None
        factors = _FACTORS if stage.size < _WIDE else _FACTORS[3:]
        if stage.loop is not None:
            factors = (*factors, *(4.0 * 2.0**k for k in range(40)))
        for factor in factors:
            lam = np.full(stage.size, max(factor * least, 1e-200))
            before = step_back(stage, lam, storage)
            if before is None or not np.isfinite(before).all():
                continue
            size = float(np.linalg.norm(before))
            if best is None or size < best[0]:
                best = size, lam, before
            if stage.size >= _WIDE:
                break
        if best is None:
            return None
        found.append(best[1])
        storage = best[2] + 1e-6 * max(float(np.trace(best[2])) / len(best[2]), 1e-200) * np.eye(len(best[2]))
    return found[::-1], storage
