"""Mutual information of activations with labels, inputs or other activations, each number with what it can mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, log
from typing import Any, Protocol

import numpy as np
from scipy import stats
from scipy.spatial import cKDTree
from scipy.special import digamma, logsumexp

from ascertain.errors import DataError, InputError, ShapeError
from ascertain.evidence import Evidence

__all__ = [
    "Binned",
    "Compressed",
    "Information",
    "InformationPlane",
    "Method",
    "Neighbours",
    "Noisy",
    "information_plane",
    "mutual_information",
]

Array = np.ndarray[Any, np.dtype[Any]]
_SHUFFLES = 5


@dataclass(frozen=True)
class Information:
    """Bits, in [lower, upper], and what they mean. ``null`` is what the same estimator says of shuffled pairs: its bias."""

    value: float
    lower: float
    upper: float
    null: float
    samples: int
    meaning: str
    evidence: Evidence

    def __str__(self) -> str:
        chance = "" if np.isnan(self.null) else f", {self.null:.4g} for shuffled pairs"
        return (
            f"{self.value:.4g} bits in [{self.lower:.4g}, {self.upper:.4g}]{chance}, evidence {self.evidence} from {self.samples} "
            f"samples\n  meaning: {self.meaning}"
        )


@dataclass(frozen=True)
class InformationPlane:
    """For each layer, information of its activations with the inputs and with the labels."""

    layers: tuple[str, ...]
    inputs: tuple[Information, ...]
    labels: tuple[Information, ...]


class Method(Protocol):
    """A way to give information of activations a meaning and a number."""

    def of_inputs(self, t: Array) -> Information:
        """Information between activations ``t`` (n, d) and the n inputs of which they are a deterministic function."""

    def between(self, t: Array, other: Array, seed: int) -> Information:
        """Information between activations (n, d) and other numbers (n, e) or whole-number labels (n,)."""


@dataclass(frozen=True)
class Binned:
    """Activations cut into bins of one fixed width, in their own units: never relative to their range, which moves in training."""

    width: float

    def of_inputs(self, t: Array) -> Information:
        value = _entropy(self._cells(t))
        meaning = (
            f"entropy of the activations in bins of width {self.width:g}, over these {len(t)} inputs, where it is exact; at most "
            f"log2 n = {log(len(t), 2):.2f} bits. It says how they cluster at this resolution: without bins it is infinite."
        )
        return Information(value, value, value, float("nan"), len(t), meaning, Evidence.BOUNDED)

    def between(self, t: Array, other: Array, seed: int) -> Information:
        def estimate(a: Array, b: Array) -> float:
            first = self._cells(a)
            second = b if _is_label(b) else self._cells(b)
            return _entropy(first) + _entropy(second) - _entropy(_pairs(first, second))

        meaning = (
            f"information after cutting into bins of width {self.width:g}, from counts; many cells for few samples push it up to "
            "its null, so only the excess is evidence"
        )
        return _estimated(estimate, t, other, seed, 4, meaning)

    def _cells(self, t: Array) -> Array:
        if not self.width > 0:
            raise InputError(f"bins of width {self.width} cut nothing; give a positive width in the units of the activations.")
        cells = np.floor(t / self.width)
        return np.asarray(np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1))


@dataclass(frozen=True)
class Neighbours:
    """k-nearest-neighbour estimate: Kraskov et al. (2004), estimator 1; with labels Ross (2014)."""

    k: int = 3

    def of_inputs(self, t: Array) -> Information:
        distinct = np.unique(t, axis=0, return_inverse=True)[1].reshape(-1)
        if len(np.unique(distinct)) < len(t):
            least = _entropy(distinct)
            meaning = (
                "activations repeat, so they are discrete at least in part: the value is the entropy of those seen here, the truth "
                "is finite where the network is a step function and infinite where any part of it varies"
            )
            return Information(least, 0.0, inf, float("nan"), len(t), meaning, Evidence.ESTIMATED)
        meaning = (
            "infinite: a deterministic function of continuous inputs carries unbounded information about them, and an estimate "
            "would only report the number of samples; bin it, add noise, or compare with labels"
        )
        return Information(inf, inf, inf, float("nan"), len(t), meaning, Evidence.BOUNDED)

    def between(self, t: Array, other: Array, seed: int) -> Information:
        def estimate(a: Array, b: Array) -> float:
            return _labelled(a, b, self.k) if _is_label(b) else _kraskov(a, b, self.k)

        kind = "labels" if _is_label(other) else "continuous numbers"
        most = round(log(len(t), 2) / 2)
        meaning = (
            f"information with {kind} from distances to {self.k} neighbours; reliable up to about 10 dimensions and {most} bits "
            "(strong dependence needs exponentially many samples), and only where neither is a function of the other"
        )
        return _estimated(estimate, t, other, seed, self.k, meaning)


@dataclass(frozen=True)
class Compressed:
    """Both sides reduced to their leading principal components, then `Neighbours`: a lower bound up to estimation error."""

    dimensions: int = 4
    k: int = 3

    def of_inputs(self, t: Array) -> Information:
        return Neighbours(self.k).of_inputs(t)

    def between(self, t: Array, other: Array, seed: int) -> Information:
        first, kept = _principal(t, self.dimensions)
        second, also = (other, 1.0) if _is_label(other) else _principal(other, self.dimensions)
        found = Neighbours(self.k).between(first, second, seed)
        against = "labels" if _is_label(other) else f"{second.shape[1]} ({also:.1%})"
        meaning = (
            f"information between {first.shape[1]} principal components ({kept:.1%} of variance) and {against}: what compression "
            f"loses is missing, so the truth is at least this, up to error; {found.meaning}"
        )
        return Information(found.value, found.lower, found.upper, found.null, found.samples, meaning, found.evidence)


@dataclass(frozen=True)
class Noisy:
    """Gaussian noise of one deviation on every activation, which makes information finite. Goldfeld et al. (2019).

    ``lower`` and ``upper`` are theorems for inputs uniform on the given ones (Kolchinsky and Tracey 2017); ``value`` is a Monte
    Carlo estimate between them.
    """

    deviation: float
    draws: int = 4

    def of_inputs(self, t: Array) -> Information:
        lower, upper = self._bounds(t)
        value = float(np.clip(self._sampled(t, 0), lower, upper))
        return Information(
            value, lower, upper, float("nan"), len(t), self._meaning("about which input it was", t), Evidence.BOUNDED
        )

    def between(self, t: Array, other: Array, seed: int) -> Information:
        if not _is_label(other):
            raise InputError("noise gives information with inputs or labels only; give whole-number labels, or use Neighbours.")
        lower, upper = self._bounds(t)
        value = self._sampled(t, seed)
        for label, count in zip(*np.unique(other, return_counts=True), strict=True):
            low, high = self._bounds(t[other == label])
            share = count / len(t)
            lower, upper = lower - share * high, upper - share * low
            value -= share * self._sampled(t[other == label], seed)
        lower, upper = max(lower, 0.0), max(min(upper, _entropy(other)), 0.0)
        value = float(np.clip(value, lower, upper))
        meaning = self._meaning("about the label", t)
        return Information(value, lower, upper, float("nan"), len(t), meaning, Evidence.BOUNDED)

    def _meaning(self, about: str, t: Array) -> str:
        return (
            f"what activations with added noise of deviation {self.deviation:g} say {about}, for inputs uniform on these {len(t)}; "
            "the network itself has no such noise, so it is a property of the resolution as much as of the network"
        )

    def _bounds(self, t: Array) -> tuple[float, float]:
        """Pairwise-distance bounds on the information of a uniform mixture of Gaussians, in bits."""
        if not self.deviation > 0:
            raise InputError(f"noise of deviation {self.deviation} leaves information infinite; give a positive one.")
        sums = np.zeros(2)
        for rows in np.array_split(t, max(1, len(t) // 256)):
            square = _squares(rows, t) / self.deviation**2
            sums += [float(logsumexp(-square / c, axis=1).sum()) for c in (8, 2)]
        low, high = log(len(t)) - sums / len(t)
        return max(float(low), 0.0) / log(2), max(float(high), 0.0) / log(2)

    def _sampled(self, t: Array, seed: int) -> float:
        random = np.random.default_rng(seed)
        total = 0.0
        for rows in np.array_split(t, max(1, len(t) // 256)):
            for _ in range(self.draws):
                noise = random.normal(size=rows.shape)
                square = _squares(rows + self.deviation * noise, t) / self.deviation**2
                total += float((-0.5 * (noise**2).sum(1) - logsumexp(-square / 2, axis=1)).sum())
        return (total / (self.draws * len(t)) + log(len(t))) / log(2)


def mutual_information(activations: Any, other: Any = None, *, method: Method, seed: int = 0) -> Information:
    """Information in bits between activations (n, ...) and labels (n,), other numbers (n, ...), or, with None, their own inputs."""
    t = _rows(activations, "the activations")
    if other is None:
        return method.of_inputs(t)
    second = np.asarray(other)
    if second.dtype.kind in "bui" and second.ndim == 1:
        second = np.asarray(np.unique(second, return_inverse=True)[1])
    else:
        second = _rows(second, "the other side")
    if len(second) != len(t):
        raise ShapeError(f"{len(t)} activations come with {len(second)} others; give one for each sample.")
    return method.between(t, second, seed)


def information_plane(activations: Mapping[str, Any], labels: Any, *, method: Method, seed: int = 0) -> InformationPlane:
    """Information of every layer with the inputs (of which it is a function) and with the labels."""
    whole = np.asarray(labels)
    if whole.ndim != 1 or whole.dtype.kind not in "bui":
        raise ShapeError(f"labels have shape {whole.shape} and type {whole.dtype}; give one whole number for each sample.")
    names = tuple(activations)
    inputs = tuple(mutual_information(activations[name], method=method) for name in names)
    with_labels = tuple(mutual_information(activations[name], whole, method=method, seed=seed) for name in names)
    return InformationPlane(names, inputs, with_labels)


def _rows(values: Any, what: str) -> Array:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim == 0 or len(found) < 4:
        raise DataError(f"{what} have shape {found.shape}: at least 4 samples are needed for any information.")
    if not np.isfinite(found).all():
        raise DataError(f"{what} hold NaN or infinite numbers; leave those samples out.")
    return found.reshape(len(found), -1)


def _is_label(values: Array) -> bool:
    return values.ndim == 1


def _entropy(cells: Array) -> float:
    share = np.unique(cells, return_counts=True)[1] / len(cells)
    return float(-(share * np.log2(share)).sum()) + 0.0


def _pairs(first: Array, second: Array) -> Array:
    found: Array = first.astype(np.int64) * (int(second.max()) + 1) + second
    return found


def _estimated(estimate: Any, t: Array, other: Array, seed: int, k: int, meaning: str) -> Information:
    """An estimate with a 95 % interval from disjoint parts of the data, and its value on shuffled pairs."""
    n = len(t)
    random = np.random.default_rng(seed)
    parts = np.array_split(random.permutation(n), int(np.clip(n // (10 * k), 2, 8)))
    value = float(estimate(t, other))
    each = np.array([estimate(t[part], other[part]) for part in parts])
    half = float(stats.t.ppf(0.975, len(parts) - 1) * each.std(ddof=1) / len(parts) ** 0.5)
    null = float(np.mean([estimate(t, other[random.permutation(n)]) for _ in range(_SHUFFLES)]))
    return Information(value, value - half, value + half, null, n, meaning, Evidence.ESTIMATED)


def _kraskov(x: Array, y: Array, k: int) -> float:
    n = len(x)
    _enough(n, k)
    x, y = (side / (side.std(0).max() or 1.0) for side in (x, y))  # one distance for both: their units must not matter
    radius = _radius(np.concatenate([x, y], 1), k)
    counts = [cKDTree(side).query_ball_point(side, radius, p=np.inf, return_length=True) for side in (x, y)]
    return float(digamma(k) + digamma(n) - np.mean(digamma(counts[0]) + digamma(counts[1]))) / log(2)


def _labelled(x: Array, labels: Array, k: int) -> float:
    _enough(len(x), k)
    sizes = np.bincount(labels)
    kept = sizes[labels] > 1
    x, labels = x[kept], labels[kept]
    radius, near = np.zeros(len(x)), np.zeros(len(x))
    for label in np.unique(labels):
        own = labels == label
        near[own] = min(k, own.sum() - 1)
        radius[own] = _radius(x[own], int(near[own][0]))
    counts = cKDTree(x).query_ball_point(x, radius, p=np.inf, return_length=True)
    found = digamma(len(x)) + np.mean(digamma(near) - digamma(sizes[labels]) - digamma(counts))
    return float(found) / log(2)


def _enough(samples: int, k: int) -> None:
    if k < 1 or samples < 2 * k + 2:
        raise DataError(f"{samples} samples are too few for {k} neighbours; give at least {10 * max(k, 1)}, or a smaller k >= 1.")


def _radius(points: Array, k: int) -> Array:
    """Just under the distance to the k-th neighbour, in the largest coordinate."""
    distance = cKDTree(points).query(points, k + 1, p=np.inf)[0][:, -1]
    if (distance == 0).any():
        raise DataError(f"more than {k} samples coincide, so distances carry no information; use Binned or Noisy, or a larger k.")
    return np.asarray(np.nextafter(distance, 0))


def _principal(values: Array, dimensions: int) -> tuple[Array, float]:
    """Leading principal components, and their share of the variance."""
    if dimensions < 1:
        raise InputError(f"{dimensions} principal components hold nothing; keep at least 1.")
    u, s, _ = np.linalg.svd(values - values.mean(0), full_matrices=False)
    kept = min(dimensions, int((s > 1e-12 * s[0]).sum()))
    if not kept:
        raise DataError("the values are constant, so there is nothing to compress; leave that layer out.")
    return u[:, :kept] * s[:kept], float((s[:kept] ** 2).sum() / (s**2).sum())


def _squares(a: Array, b: Array) -> Array:
    """Squared distances between rows; never below 0."""
    found: Array = np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T, 0)
    return found
