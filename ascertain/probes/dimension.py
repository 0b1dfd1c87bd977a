"""How many dimensions a layer uses: linear (from the spectrum) and intrinsic (from distances), against the number of samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ascertain.errors import DataError
from ascertain.evidence import Evidence
from ascertain.probes.importing import undisturbed
from ascertain.probes.measure import centred, checked, each_sample, jackknife

__all__ = ["Dimension", "dimension"]

Method = Literal["participation ratio", "effective rank", "stable rank", "twonn", "mle"]


@dataclass(frozen=True, eq=False)
class Dimension:
    """A dimension with a 95 % interval, and what fewer samples would have given."""

    method: str
    value: float
    low: float
    high: float
    samples: int
    sizes: np.ndarray
    """(k,) numbers of samples of the curve."""
    curve: np.ndarray
    """(k,) mean over random subsets of that size; NaN where one of them has no dimension."""
    errors: np.ndarray
    """(k,) their standard deviation."""
    notes: tuple[str, ...] = ()
    evidence: Evidence = Evidence.ESTIMATED

    def __str__(self) -> str:
        curve = ", ".join(f"{v:.3g} ± {e:.2g} ({n})" for n, v, e in zip(self.sizes, self.curve, self.errors, strict=True))
        text = f"{self.method} {self.value:.4g}, 95 % interval [{self.low:.4g}, {self.high:.4g}], evidence {self.evidence}"
        return "\n".join([f"{text} from {self.samples} samples; with fewer: {curve}", *(f"  note: {n}" for n in self.notes)])


def dimension(
    rows: np.ndarray,
    method: Method = "participation ratio",
    *,
    k: int = 20,
    places: int | None = None,
    subsets: int = 5,
    seed: int = 0,
) -> Dimension:
    """The dimension of rows (n, d), with jackknife interval and a curve over subsets of n/8, n/4 and n/2 samples.

    With eigenvalues l of the covariance: ``participation ratio`` (sum l)^2 / sum l^2, ``stable rank`` sum l / max l, ``effective
    rank`` exp of the entropy of the normalised singular values (Roy and Vetterli, 2007). ``twonn`` fits log(r2/r1) of the two
    nearest neighbours through the origin, largest tenth discarded (Facco et al., 2017); ``mle`` averages the inverse estimates
    from ``k`` neighbours (Levina and Bickel, 2004; MacKay and Ghahramani, 2005). Both fall short above about 10 dimensions;
    duplicates are removed for them. ``places`` rows of one sample (by default, as a capture says) stay together in subsets.
    """
    places = each_sample(places, rows)
    x = checked(rows)
    if method not in ("participation ratio", "effective rank", "stable rank", "twonn", "mle"):
        raise DataError(f"method={method!r} is not known; see the documentation of dimension() for the five there are.")
    if places < 1 or len(x) % places or subsets < 2:
        raise DataError(f"{len(x)} rows with {places} places and {subsets} subsets: places must divide the rows, subsets >= 2.")
    x, notes = centred(x), []
    local = method in ("twonn", "mle")
    if local and places == 1:
        fewer = np.unique(x, axis=0)
        if len(fewer) < len(x):
            notes.append(f"{len(x) - len(fewer)} duplicates were removed")
            x = fewer[np.random.default_rng(seed).permutation(len(fewer))]
    count = len(x) // places
    if local and places > 1:
        notes.append("positions of one sample count as neighbours of each other")
    if not local and len(x) <= x.shape[1]:
        notes.append(f"{len(x)} rows of {x.shape[1]} features: the value is at most {len(x) - 1} whatever the layer is")
    value = _dimension(x, method, k)
    low, high = _interval(x, method, k, count, value)
    sizes, curve, errors = _curve(x, method, k, places, subsets, seed)
    return Dimension(method, value, low, high, count, sizes, curve, errors, tuple(notes))


def _interval(x: np.ndarray, method: Method, k: int, count: int, value: float) -> tuple[float, float]:
    """The 95 % interval by the delete-a-group jackknife; without an upper end where the dimension needs every sample."""
    groups, places = min(10, count), len(x) // count
    group = np.repeat(np.random.default_rng(0).permutation(count) % groups, places)
    found = np.array([_or_nan(x[group != g], method, k) for g in range(groups)])
    if np.isnan(found).any():
        return 0.0, float("inf")
    low, high = jackknife(value, found)
    return max(0.0, float(low)), float(high)


def _curve(
    x: np.ndarray, method: Method, k: int, places: int, subsets: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng, count = np.random.default_rng(seed), len(x) // places
    least = k + 2 if method == "mle" else 4
    sizes = [count // part for part in (8, 4, 2) if count // part * places >= least and count // part >= 4]
    blocks = x.reshape(count, places, -1)
    found = [
        [_or_nan(blocks[rng.choice(count, size, replace=False)].reshape(size * places, -1), method, k) for _ in range(subsets)]
        for size in sizes
    ]
    table = np.array(found, dtype=np.float64).reshape(len(sizes), subsets)
    return np.array(sizes), table.mean(1), table.std(1, ddof=1)


def _or_nan(x: np.ndarray, method: Method, k: int) -> float:
    try:
        return _dimension(x, method, k)
    except DataError:  # a part of the samples may coincide where all of them do not
        return float("nan")


def _dimension(x: np.ndarray, method: Method, k: int) -> float:
    if method in ("twonn", "mle"):
        return _local(x, method, k)
    x = x - x.mean(0)
    gram = x @ x.T if x.shape[1] > x.shape[0] else x.T @ x
    total = float(np.trace(gram))
    if total <= 1e-24 * len(x):
        raise DataError("these samples are all equal, so they have no dimension; give samples that differ.")
    if method == "participation ratio":
        return total * total / float(np.vdot(gram, gram))
    values = np.maximum(np.linalg.eigvalsh(gram), 0.0)
    if method == "stable rank":
        return total / float(values[-1])
    share = np.sqrt(values)
    share = share[share > 1e-7 * share[-1]] / share.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def _local(x: np.ndarray, method: Method, k: int) -> float:
    """TwoNN or maximum likelihood, from distances to the nearest distinct neighbours."""
    with undisturbed():
        from sklearn.neighbors import NearestNeighbors

    neighbours = 2 if method == "twonn" else k
    if not 2 <= neighbours < len(x) - 1:
        raise DataError(f"{neighbours} neighbours need more than {neighbours + 1} distinct samples, there are {len(x)}; give more.")
    distances, _ = NearestNeighbors(n_neighbors=neighbours).fit(x).kneighbors()
    distances = distances[distances[:, 0] > 0]
    if len(distances) < 4:
        raise DataError("nearly all samples coincide, so no intrinsic dimension can be told; give distinct samples.")
    if method == "mle":
        return float(1.0 / np.log(distances[:, -1:] / distances[:, :-1]).mean())
    ratio = np.sort(np.log(distances[:, 1] / distances[:, 0]))
    kept = int(len(ratio) * 0.9)
    height = -np.log1p(-np.arange(1, kept + 1) / len(ratio))
    spread = float(ratio[:kept] @ ratio[:kept])
    if spread <= 1e-18 * kept:
        raise DataError("each sample's two nearest neighbours are equally far, so TwoNN is not defined; use method='mle'.")
    return float(ratio[:kept] @ height) / spread
