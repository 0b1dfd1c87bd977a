"""Similarity of shapes, distances and neighbourhoods, and how well one layer predicts another."""

from __future__ import annotations

from dataclasses import dataclass
from math import acos, pi
from typing import ClassVar, Literal

import numpy as np
from scipy.spatial.distance import pdist
from scipy.stats import rankdata

from ascertain.errors import DataError
from ascertain.probes.measure import Basis, Measure, basis, centred, predicted, square

__all__ = ["RSA", "LinearPredictivity", "MutualNeighbours", "Procrustes"]


@dataclass(frozen=True)
class Procrustes(Measure):
    """Angle in radians between shapes up to rotation: arccos of the nuclear norm of x' y over their norms (Williams et al., 2021).

    A metric. ``alpha`` 1 compares rows as they are, 0 whitens them first (arccos of the mean canonical correlation where ranks are
    equal), and between them the whitening is partial. ``chance`` is a lower bound of the mean angle under re-pairing.
    """

    alpha: float = 1.0
    limits: ClassVar[tuple[float, float]] = (0.0, pi / 2)
    distance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha <= 1.0:
            raise DataError(f"alpha={self.alpha} is no degree of whitening; give a number from 0 (whitened) to 1 (as it is).")

    @property
    def name(self) -> str:
        return "Procrustes angle" if self.alpha == 1 else f"shape angle, alpha {self.alpha:g}"

    @property
    def second_moments(self) -> bool:
        return True

    def prepare(self, rows: np.ndarray) -> Basis:
        found = basis(rows)
        s = self.alpha * found.s / np.linalg.norm(found.s) + (1 - self.alpha) / np.sqrt(len(found.s))
        s /= np.linalg.norm(s)
        return Basis(found.u * s, s, found.v)

    def compare(self, first: Basis, second: Basis) -> float:
        nuclear = np.linalg.svd(first.u.T @ second.u, compute_uv=False).sum()
        return acos(min(1.0, float(nuclear)))

    def reorder(self, state: Basis, order: np.ndarray) -> Basis:
        return Basis(state.u[order], state.s, state.v)

    def chance(self, first: Basis, second: Basis, count: int) -> float | None:
        # Nuclear norm <= sqrt(rank) Frobenius norm, whose mean square over re-pairings is 1/(n - 1) for shapes of unit norm.
        return acos(min(1.0, float(np.sqrt(min(len(first.s), len(second.s)) / (count - 1)))))


@dataclass(frozen=True)
class RSA(Measure):
    """Correlation between the dissimilarities of all pairs of samples (Kriegeskorte et al., 2008): upper triangles only.

    ``dissimilarity`` is ``correlation`` (of two samples' features; not defined for a sample whose features are all equal) or
    ``euclidean``; ``compare_by`` is ``spearman`` (ties share their mean rank) or ``pearson``.
    """

    dissimilarity: Literal["correlation", "euclidean"] = "correlation"
    compare_by: Literal["spearman", "pearson"] = "spearman"
    limits: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    def __post_init__(self) -> None:
        if self.dissimilarity not in ("correlation", "euclidean") or self.compare_by not in ("spearman", "pearson"):
            raise DataError(f"RSA({self.dissimilarity!r}, {self.compare_by!r}) is not known; see its documentation for the names.")

    @property
    def name(self) -> str:
        return f"RSA, {self.dissimilarity}, {self.compare_by}"

    def prepare(self, rows: np.ndarray) -> tuple[np.ndarray, int]:
        square(len(rows), "give RSA fewer samples or positions")
        x = rows.astype(np.float64)
        x /= np.abs(x).max()
        if self.dissimilarity == "correlation":
            flat = np.flatnonzero(np.ptp(x, axis=1) == 0)
            if flat.size:
                raise DataError(
                    f"sample {flat[0]} (of {flat.size} such) has all features equal, so its correlation distance is not defined; "
                    "use dissimilarity='euclidean'."
                )
        found = pdist(x, self.dissimilarity)
        found = rankdata(found) if self.compare_by == "spearman" else found
        found -= found.mean()
        norm = float(np.linalg.norm(found))
        if norm == 0.0:
            raise DataError("all samples are equally far from each other, so RSA is not defined; choose another layer.")
        return found / norm, len(x)

    def compare(self, first: tuple[np.ndarray, int], second: tuple[np.ndarray, int]) -> float:
        return float(first[0] @ second[0])

    def reorder(self, state: tuple[np.ndarray, int], order: np.ndarray) -> tuple[np.ndarray, int]:
        found, n = state
        i, j = np.triu_indices(n, 1)
        a, b = np.minimum(order[i], order[j]), np.maximum(order[i], order[j])
        return found[a * n - a * (a + 1) // 2 + b - a - 1], n

    def chance(self, first: object, second: object, count: int) -> float | None:
        return 0.0


@dataclass(frozen=True)
class MutualNeighbours(Measure):
    """Mean share of the k nearest neighbours (Euclidean) that a sample has in common in both layers (Huh et al., 2024).

    ``chance``, k / (n - 1), is exact.
    """

    k: int = 10

    @property
    def name(self) -> str:
        return f"mutual {self.k} nearest neighbours"

    def prepare(self, rows: np.ndarray) -> np.ndarray:
        from sklearn.neighbors import NearestNeighbors

        if not 1 <= self.k < len(rows) - 1:
            raise DataError(f"k={self.k} neighbours of {len(rows)} samples say nothing; give 1 <= k < n - 1.")
        found: np.ndarray = NearestNeighbors(n_neighbors=self.k).fit(centred(rows)).kneighbors(return_distance=False)
        return found

    def compare(self, first: np.ndarray, second: np.ndarray) -> float:
        both = np.sort(np.concatenate([first, second], axis=1), axis=1)
        return float((both[:, 1:] == both[:, :-1]).sum(1).mean() / self.k)

    def reorder(self, state: np.ndarray, order: np.ndarray) -> np.ndarray:
        place = np.empty(len(order), dtype=state.dtype)
        place[order] = np.arange(len(order), dtype=state.dtype)
        moved: np.ndarray = place[state[order]]
        return moved

    def chance(self, first: object, second: object, count: int) -> float | None:
        return self.k / (count - 1)


@dataclass(frozen=True)
class LinearPredictivity(Measure):
    """R^2 of predicting the second rows from the first by least squares, on held-out folds. Not symmetric; may be negative.

    ``folds`` 1 fits and scores the same rows instead (biased upwards). Folds are consecutive, so that positions of one sample stay
    together; ``ridge`` is relative to the mean variance of a feature.
    """

    folds: int = 5
    ridge: float = 0.0
    limits: ClassVar[tuple[float, float]] = (-np.inf, 1.0)
    symmetric: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.folds < 1 or not self.ridge >= 0:
            raise DataError(f"LinearPredictivity(folds={self.folds}, ridge={self.ridge}) is not known; folds >= 1, ridge >= 0.")

    @property
    def name(self) -> str:
        return "linear predictivity" + (" in sample" if self.folds == 1 else "")

    def prepare(self, rows: np.ndarray) -> np.ndarray:
        found = basis(rows)
        turned: np.ndarray = found.u * found.s  # a rotation of the rows, without their null directions
        return turned

    def compare(self, first: np.ndarray, second: np.ndarray) -> float:
        if self.folds > len(first) // 2:
            raise DataError(f"{self.folds} folds of {len(first)} samples are too small; give more samples or fewer folds.")
        error = spread = 0.0
        for test in np.array_split(np.arange(len(first)), self.folds):
            train = test if self.folds == 1 else np.setdiff1d(np.arange(len(first)), test, assume_unique=True)
            error += float(((second[test] - predicted(first[train], second[train], first[test], self.ridge)) ** 2).sum())
            spread += float(((second[test] - second[train].mean(0)) ** 2).sum())
        return 1.0 - error / spread

    def reorder(self, state: np.ndarray, order: np.ndarray) -> np.ndarray:
        return np.asarray(state[order])

    def caveat(self, first: np.ndarray, second: np.ndarray, count: int) -> str:
        if self.folds > 1 or first.shape[1] < count - 1:
            return ""
        return f"{first.shape[1]} directions predict {count} rows exactly whatever the data"
