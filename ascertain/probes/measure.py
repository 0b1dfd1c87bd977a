"""The contract of a similarity measure, and the preparation that all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.stats import t as student

from ascertain.errors import DataError, ResourceError, ShapeError

__all__ = ["Basis", "Measure", "Rows", "basis", "centred", "checked", "each_sample", "jackknife", "predicted", "square"]

TOLERANCE = {2: 1e-3, 4: 1e-6, 8: 1e-10}
"""Singular values below this fraction of the largest are rounding of the network's own arithmetic, by bytes of a number."""


SQUARE_BYTES = 2e9
"""What a matrix over all pairs of rows may take."""


class Rows(np.ndarray):
    """Rows of a layer that know how many of them, one after the other, belong to each sample; parts and results know no more."""

    places = 1

    @classmethod
    def of(cls, rows: np.ndarray, places: int) -> Rows:
        """A view of rows."""
        found = rows.view(cls)
        found.places = places
        return found


def each_sample(places: int | None, *rows: Any) -> int:
    """Rows that belong to each sample: as given, or as captured rows say."""
    return max(getattr(x, "places", 1) for x in rows) if places is None else places


class Measure(ABC):
    """A number for two sets of rows; each set is prepared once, and pairs of prepared ones are compared."""

    limits: ClassVar[tuple[float, float]] = (0.0, 1.0)
    symmetric: ClassVar[bool] = True
    distance: ClassVar[bool] = False
    """Whether small numbers mean alike."""

    @property
    def second_moments(self) -> bool:
        """Whether it depends on the joint covariance alone."""
        return False

    @property
    @abstractmethod
    def name(self) -> str:
        """What is printed beside the number."""

    @abstractmethod
    def prepare(self, rows: np.ndarray) -> Any:
        """What is needed of one set of rows (n, d), once checked."""

    @abstractmethod
    def compare(self, first: Any, second: Any) -> float:
        """The number."""

    def table(self, firsts: Sequence[Any], seconds: Sequence[Any]) -> np.ndarray:
        """The numbers of all pairs (len(firsts), len(seconds)); ``seconds`` may be ``firsts``."""
        out = np.zeros((len(firsts), len(seconds)))
        mirrored = self.symmetric and firsts is seconds
        for i, first in enumerate(firsts):
            for j, second in enumerate(seconds):
                out[i, j] = out[j, i] if mirrored and j < i else self.compare(first, second)
        return out

    @abstractmethod
    def reorder(self, state: Any, order: np.ndarray) -> Any:
        """The prepared form of the same rows in another order."""

    def chance(self, first: Any, second: Any, count: int) -> float | None:
        """Mean (or a bound on it, see the class) over all re-pairings of the rows; None where no closed form is known."""
        return None

    def caveat(self, first: Any, second: Any, count: int) -> str:
        """Why the number says nothing about the data, or nothing."""
        return ""


@dataclass(frozen=True, eq=False)
class Basis:
    """Singular value decomposition u diag(s) v of centred rows, without directions of rounding."""

    u: np.ndarray
    """(n, r) orthonormal columns."""
    s: np.ndarray
    """(r,) largest first."""
    v: np.ndarray
    """(r, d) orthonormal rows."""


def checked(rows: Any, what: str = "the rows") -> np.ndarray:
    """Rows as a float array (n, d), n >= 4, finite and not constant; DataError and ShapeError say what is wrong."""
    x = np.asarray(rows.detach().cpu() if hasattr(rows, "detach") else rows)
    if x.dtype.kind not in "fiub":
        raise DataError(f"{what} hold {x.dtype} entries, not real numbers; give an array of floats (samples, features).")
    if x.ndim == 1:
        x = x[:, None]
    if x.ndim != 2:
        raise ShapeError(f"{what} have shape {x.shape}, not (samples, features); reshape them, or capture with activations().")
    if len(x) < 4:
        raise DataError(f"{what} hold {len(x)} samples, no measure has a meaning below 4; give more.")
    if x.dtype.kind != "f":
        x = x.astype(np.float64)
    if not np.isfinite(x).all():
        raise DataError(f"{what} hold NaN or infinite numbers; look for the first layer that answers them.")
    if x.shape[1] == 0 or ((x[1] == x[0]).all() and (x == x[0]).all()):
        raise DataError(f"{what} are constant over all {len(x)} samples, so nothing can be compared; choose another layer or data.")
    return x


def jackknife(value: Any, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Student's 95 % interval from values (groups, ...) that lack one group of samples each, stretched to the value less its bias.

    A bias that falls as 1 / n is (groups - 1) times what leaving out a group adds (Quenouille, 1956); one that falls as
    1 / sqrt(n), as canonical correlations have it, is twice that, which is allowed for.
    """
    groups, middle = len(found), found.mean(0)
    error = np.sqrt((groups - 1) / groups * ((found - middle) ** 2).sum(0)) * student.ppf(0.975, groups - 1)
    unbiased = value - 2 * (groups - 1) * (middle - value)
    return np.minimum(value, unbiased) - error, np.maximum(value, unbiased) + error


def centred(rows: np.ndarray) -> np.ndarray:
    """Rows in float64, less their mean, in units of their largest entry so that no square over- or underflows."""
    low, high = rows.min(0).astype(np.float64), rows.max(0).astype(np.float64)
    size = max(np.abs(low).max(), np.abs(high).max())
    if not 1e-100 < size < 1e100:
        return centred(rows / size)
    mean = rows.mean(0, dtype=np.float64)
    x: np.ndarray = np.subtract(rows, mean, dtype=np.float64)
    x /= max((high - mean).max(), (mean - low).max())
    return x


def basis(rows: np.ndarray, share: float = 1.0) -> Basis:
    """The decomposition of centred rows; of the fewest directions that hold a share of the variance where it is below 1.

    Those come from the smaller Gram matrix: their singular values are large enough for it.
    """
    x, tolerance = centred(rows), TOLERANCE.get(rows.dtype.itemsize, 1e-10)
    if share < 1.0:
        found = _from_gram(x, share)
        if found.s[-1] > 1e-5 * found.s[0]:
            return found
    u, s, v = np.linalg.svd(x, full_matrices=False)
    kept = int((s > tolerance * s[0]).sum())
    if share < 1.0:
        kept = min(kept, _count(s * s, share))
    return Basis(np.ascontiguousarray(u[:, :kept]), s[:kept], v[:kept])


def _count(variances: np.ndarray, share: float) -> int:
    total = np.cumsum(variances)
    return int(np.searchsorted(total, share * total[-1] * (1 - 1e-12))) + 1


def _from_gram(x: np.ndarray, share: float) -> Basis:
    wide = x.shape[1] > x.shape[0]
    values, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    kept = _count(values, share)
    s, side = np.sqrt(values[:kept]), np.ascontiguousarray(vectors[:, :kept])
    if wide:
        return Basis(side, s, (side.T @ x) / s[:, None])
    return Basis(x @ (side / s), s, side.T)


def square(count: int, hint: str) -> None:
    """ResourceError where a number for every pair of so many rows would not fit."""
    if 8.0 * count * count > SQUARE_BYTES:
        raise ResourceError(f"a matrix of {count} x {count} rows needs {8e-9 * count * count:.3g} GB; {hint}.")


def predicted(x: np.ndarray, y: np.ndarray, at: np.ndarray, ridge: float = 0.0) -> np.ndarray:
    """Affine least squares of y on x, at other rows; the least solution, with a ridge relative to the mean variance of a direction.

    Directions in which x varies by no more than rounding, beside what it meets at the other rows, are left out.
    """
    mean, level = x.mean(0), y.mean(0)
    u, s, v = np.linalg.svd(x - mean, full_matrices=False)
    size = max(float(s[0]), float(np.linalg.norm(at - mean)))
    kept = s > 1e-10 * size
    gain = np.where(kept, s, 0.0) / np.where(kept, s * s + ridge * float(s @ s) / len(s), 1.0)
    out: np.ndarray = level + (((at - mean) @ v.T) * gain) @ (u.T @ (y - level))
    return out
