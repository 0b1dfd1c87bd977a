"""What a sparse autoencoder leaves over, and how much of that a linear map of the activations foretells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ascertain.errors import DataError, ShapeError
from ascertain.evidence import Evidence
from ascertain.probes.measure import checked, each_sample, predicted

__all__ = ["ReconstructionError", "reconstruction_error"]


@dataclass(frozen=True, eq=False)
class ReconstructionError:
    """The error e = x - r(x) of a reconstruction, split on held-out data (Engels et al., 2024)."""

    unexplained: float
    """Share of the variance of x that is left in e."""
    vector: float
    """Held-out R^2 of the affine regression of e on x: the error that is linear in the activations."""
    norm: float
    """Held-out R^2 of the affine regression of |e|^2 on x."""
    vector_folds: np.ndarray
    """(folds,) the same in each fold."""
    norm_folds: np.ndarray
    samples: int
    notes: tuple[str, ...] = ()
    evidence: Evidence = Evidence.ESTIMATED


def reconstruction_error(
    rows: np.ndarray,
    reconstruct: Callable[[np.ndarray], Any] | np.ndarray,
    *,
    folds: int = 5,
    places: int | None = None,
    seed: int = 0,
) -> ReconstructionError:
    """Splits the error of a reconstruction (a function of rows (n, d), or its values) into what x foretells linearly and the rest.

    ``places`` rows of one sample (tokens of a text; by default, as a capture says) stay in one fold. Raises DataError and
    ShapeError.
    """
    places = each_sample(places, rows)
    x = checked(rows).astype(np.float64)
    found = reconstruct(rows) if callable(reconstruct) else reconstruct
    r = np.asarray(found.detach().cpu() if hasattr(found, "detach") else found, dtype=np.float64)
    if r.shape != x.shape:
        raise ShapeError(f"the reconstruction has shape {r.shape}, the rows have {x.shape}; give one vector for each row.")
    if not np.isfinite(r).all():
        raise DataError("the reconstruction holds NaN or infinite numbers; look at the autoencoder.")
    count = len(x) // places
    if len(x) % places or not 2 <= folds <= count:
        raise DataError(f"{len(x)} rows of {places} places do not split into {folds} folds; give at least as many samples.")
    e = x - r
    square = (e * e).sum(1, keepdims=True)
    part = np.repeat(np.random.default_rng(seed).permutation(count) % folds, places)
    notes: tuple[str, ...] = ()
    if len(x) * (folds - 1) / folds <= x.shape[1] + 1:
        notes = (f"{len(x)} rows for {x.shape[1]} features: held-out regressions fail for want of samples",)
    vector, each = _held_out(x, e, part, folds)
    norm, norms = _held_out(x, square, part, folds)
    unexplained = float((e**2).sum() / ((x - x.mean(0)) ** 2).sum())
    return ReconstructionError(unexplained, vector, norm, each, norms, count, notes)


def _held_out(x: np.ndarray, y: np.ndarray, part: np.ndarray, folds: int) -> tuple[float, np.ndarray]:
    """R^2 of the regression of y on x over all held-out rows, and in each fold; 1 where nothing varies and nothing is missed."""
    errors, spreads = np.zeros(folds), np.zeros(folds)
    for fold in range(folds):
        train, test = part != fold, part == fold
        errors[fold] = ((y[test] - predicted(x[train], y[train], x[test])) ** 2).sum()
        spreads[fold] = ((y[test] - y[train].mean(0)) ** 2).sum()
    floor = np.finfo(np.float64).tiny
    return float(1 - errors.sum() / max(spreads.sum(), floor)), 1 - errors / np.maximum(spreads, floor)
