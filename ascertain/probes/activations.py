"""Capture once, measure many: the activations of layers on data."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import nn

from ascertain.errors import DataError, ResourceError, ShapeError
from ascertain.graph import Graph
from ascertain.probes.capture import Tap, tap, unknown
from ascertain.probes.measure import Rows

__all__ = ["Activations", "FewSamplesWarning", "Moments", "activations"]

Maps = Literal["positions", "flattened", "resized"]


class FewSamplesWarning(UserWarning):
    """There are fewer rows than dimensions: measures of the full space say little."""


@dataclass(frozen=True, eq=False)
class Activations(Mapping[str, np.ndarray]):
    """Rows (samples, or positions of samples) by features, for each layer; a mapping from layer names to arrays.

    The arrays know how many rows belong to a sample, and measures keep these together.
    """

    rows: Mapping[str, np.ndarray]
    places: Mapping[str, int]
    """Rows that each sample has in each layer; the rows of one sample follow each other."""
    digests: np.ndarray
    """(n,) of the inputs, by which two captures are matched."""
    maps: str
    """How maps and sequences became rows."""

    def __getitem__(self, name: str) -> Rows:
        if name not in self.rows:
            raise unknown(name, tuple(self.rows), "the capture")
        return Rows.of(self.rows[name], self.places[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def samples(self) -> int:
        """How many inputs were captured."""
        return len(self.digests)

    def matching(self, other: Activations) -> Activations:
        """``self`` with its samples in the order of another capture of the same inputs; DataError where inputs differ."""
        if np.array_equal(self.digests, other.digests):
            return self
        mine, theirs = np.argsort(self.digests, kind="stable"), np.argsort(other.digests, kind="stable")
        if len(mine) != len(theirs) or not np.array_equal(self.digests[mine], other.digests[theirs]):
            raise DataError(
                f"two captures saw different inputs ({len(mine)} and {len(theirs)} samples), so their rows cannot be paired; "
                "capture both networks on the same data, and without random augmentation."
            )
        order = np.empty_like(mine)
        order[theirs] = mine
        rows = {name: frozen(_take(array, order, self.places[name])) for name, array in self.rows.items()}
        return Activations(rows, self.places, other.digests, self.maps)


@dataclass(frozen=True, eq=False)
class Moments:
    """Means and joint covariance of layers, from one pass that keeps no rows."""

    names: tuple[str, ...]
    widths: tuple[int, ...]
    samples: int
    count: int
    """Rows that were seen."""
    mean: np.ndarray
    """(sum of widths,)"""
    covariance: np.ndarray
    """(D, D) sums of products of centred features, all layers in a row; not divided by the count."""

    def cross(self, first: str, second: str) -> np.ndarray:
        """Sums of products of the centred features of two layers."""
        return self.covariance[self._slice(first), self._slice(second)]

    def factors(self) -> dict[str, np.ndarray]:
        """Matrices of mean 0 with the joint covariance of the layers: a measure that depends on no more takes them for rows.

        In float32: sums of products know singular values no better.
        """
        values, vectors = np.linalg.eigh(self.covariance)
        half = (vectors * np.sqrt(np.maximum(values, 0.0) / 2.0)).T.astype(np.float32)
        rows = np.concatenate([half, -half])
        return {name: frozen(np.ascontiguousarray(rows[:, self._slice(name)])) for name in self.names}

    def _slice(self, name: str) -> slice:
        if name not in self.names:
            raise unknown(name, self.names, "the capture")
        at = self.names.index(name)
        start = sum(self.widths[:at])
        return slice(start, start + self.widths[at])


def frozen(array: np.ndarray) -> np.ndarray:
    """The array, made read-only."""
    array.setflags(write=False)
    return array


def _take(array: np.ndarray, order: np.ndarray, places: int) -> np.ndarray:
    blocks: np.ndarray = array.reshape(-1, places, array.shape[1])[order]
    return blocks.reshape(array.shape)


@overload
def activations(
    net: nn.Module | Graph,
    layers: Sequence[str] | None,
    data: Any,
    *,
    maps: Maps = ...,
    grid: int = ...,
    channels: Mapping[str, int] | None = ...,
    keep: Literal["arrays"] = ...,
    batch_size: int = ...,
    memory: float = ...,
) -> Activations: ...
@overload
def activations(
    net: nn.Module | Graph,
    layers: Sequence[str] | None,
    data: Any,
    *,
    maps: Maps = ...,
    grid: int = ...,
    channels: Mapping[str, int] | None = ...,
    keep: Literal["moments"],
    batch_size: int = ...,
    memory: float = ...,
) -> Moments: ...
def activations(
    net: nn.Module | Graph,
    layers: Sequence[str] | None,
    data: Any,
    *,
    maps: Maps = "positions",
    grid: int = 1,
    channels: Mapping[str, int] | None = None,
    keep: Literal["arrays", "moments"] = "arrays",
    batch_size: int = 256,
    memory: float = 2e9,
) -> Activations | Moments:
    """What layers answer on data, captured in one pass; the network is left exactly as it was.

    ``net`` is a torch module (layers are named as its submodules, ``output`` is the whole; ``name#2`` is a second call,
    ``lstm:1.0`` a further output) or a loaded graph (named as its nodes). ``layers`` None takes all without parts.
    ``data`` is an array (n, ...), or an iterable of batches, or of tuples that begin with one, or of dicts of arguments.
    ``maps`` says what becomes of convolution maps, tokens and recurrent states: every position is a row (``positions``), all are
    features of one row (``flattened``), or they are averaged to ``grid`` positions along each axis first (``resized``), so that
    layers of several sizes can be compared. ``channels`` corrects the channel axis of named layers (samples are axis 0).
    ``keep="moments"`` keeps means and joint covariance (float64) instead of rows. ``memory`` bounds what is kept, in bytes.

    Raises ModelError (unknown layer, with the nearest; several devices), DataError (NaN, fewer than 4 samples), ShapeError, and
    ResourceError where the budget does not suffice.
    """
    if maps not in ("positions", "flattened", "resized") or keep not in ("arrays", "moments") or grid < 1 or batch_size < 1:
        raise DataError(
            f"maps={maps!r}, grid={grid}, keep={keep!r}, batch_size={batch_size} are not known; maps is positions, flattened or "
            "resized, keep is arrays or moments, and sizes are positive."
        )
    keys: list[np.ndarray] = []
    with torch.random.fork_rng(), ExitStack() as ends:  # a loader that shuffles draws random numbers too
        first, batches = _first(data, batch_size)
        keys.append(_keys(first))
        source = ends.enter_context(tap(net, layers, first))
        rows = _Rows(source, maps, grid, dict(channels or {}))
        store = _Arrays(memory, _length(data)) if keep == "arrays" else _Sums(memory)
        if batches is None:  # an array is cut so that a batch takes no more than a quarter of the budget
            keys, batches = [], _cut(data, max(1, min(batch_size, int(memory / (4 * source.bytes)))))
        else:
            store.add(rows.of(first, 0, len(keys[0])), len(keys[0]))
        for batch in batches:
            number = len(keys)
            keys.append(_keys(batch))
            store.add(rows.of(batch, number, len(keys[-1])), len(keys[-1]))
    digests = np.concatenate(keys)
    if len(digests) < 4:
        raise DataError(f"the data hold {len(digests)} samples, no measure has a meaning below 4; give more.")
    return store.close(digests, maps)


def _length(data: Any) -> int | None:
    return len(data) if hasattr(data, "shape") else None


def _first(data: Any, size: int) -> tuple[Any, Iterator[Any] | None]:
    """A batch, and those after it; of an array only its first sample, and None."""
    if hasattr(data, "shape"):
        if not data.shape or len(data) < 4:
            raise DataError(f"the data have shape {tuple(data.shape)}, no measure has a meaning below 4 samples; give more.")
        return data[:1], None
    if isinstance(data, torch.utils.data.Dataset):
        data = torch.utils.data.DataLoader(data, batch_size=size)
    if not isinstance(data, Iterable):
        raise DataError(f"data of type {type(data).__name__} cannot be read; give an array (n, ...) or an iterable of batches.")
    batches = (batch[0] if isinstance(batch, (tuple, list)) else batch for batch in data)
    first = next(batches, None)
    if first is None:
        raise DataError("the data hold no batch; give at least 4 samples.")
    return first, batches


def _cut(data: Any, size: int) -> Iterator[Any]:
    return (data[start : start + size] for start in range(0, len(data), size))


def _keys(batch: Any) -> np.ndarray:
    """Digests of the samples of a batch; DataError for NaN."""
    parts = [v for v in batch.values() if hasattr(v, "shape")] if isinstance(batch, Mapping) else [batch]
    if not parts or any(not getattr(part, "shape", ()) or len(part) != len(parts[0]) for part in parts):
        raise DataError(f"a batch of type {type(batch).__name__} holds no samples on axis 0; give arrays of shape (n, ...).")
    arrays = [np.ascontiguousarray(v.detach().cpu().numpy() if isinstance(v, torch.Tensor) else v) for v in parts]
    for array in arrays:
        if array.dtype.kind not in "biufc":
            raise DataError(f"the data hold {array.dtype} entries, not numbers; encode them as the network takes them.")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError("the data hold NaN or infinite numbers; remove those samples.")
    digests = [hashlib.blake2b(b"".join(a[i].tobytes() for a in arrays), digest_size=8).digest() for i in range(len(arrays[0]))]
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


class _Rows:
    """Turns the values of layers into rows."""

    def __init__(self, source: Tap, maps: Maps, grid: int, channels: dict[str, int]) -> None:
        for name in channels:
            if name not in source.names:
                raise unknown(name, source.names, "the capture")
        self.source, self.maps, self.grid, self.channels = source, maps, grid, channels

    def of(self, batch: Any, number: int, samples: int) -> dict[str, np.ndarray]:
        found = {}
        for name, value in self.source.read(batch).items():
            if len(value) != samples:
                raise ShapeError(f"layer {name!r} answers {len(value)} rows to {samples} samples; choose another layer.")
            if value.is_complex():
                raise ShapeError(f"layer {name!r} answers complex numbers; choose a layer of real ones.")
            number_type = value if value.is_floating_point() else value.to(torch.float32)
            array = self._rows(name, number_type.float() if value.dtype in (torch.float16, torch.bfloat16) else number_type)
            found[name] = array.contiguous().cpu().numpy()
            if not np.isfinite(found[name]).all():
                raise DataError(
                    f"layer {name!r} answers NaN or infinite numbers to batch {number}; look for the first layer that does, "
                    "and at the weights before it."
                )
        return found

    def _rows(self, name: str, value: torch.Tensor) -> torch.Tensor:
        if value.ndim <= 2 or self.maps == "flattened":
            return value.reshape(len(value), -1)
        axis = self.channels.get(name, self.source.channel(name, value.ndim))
        if not 0 < axis < value.ndim:
            raise ShapeError(f"layer {name!r} has {value.ndim} axes, channels are not on axis {axis}; give 1 to {value.ndim - 1}.")
        value = value.movedim(axis, 1)
        if self.maps == "resized":
            flat = value.flatten(4) if value.ndim > 5 else value
            value = nn.functional.interpolate(flat, size=(self.grid,) * (flat.ndim - 2), mode="area")
        return value.movedim(1, -1).reshape(-1, value.shape[1])


class _Arrays:
    """Rows of all batches, in arrays that grow in place."""

    def __init__(self, memory: float, samples: int | None) -> None:
        self.memory, self.samples, self.seen = memory, samples or 0, 0
        self.kept: dict[str, np.ndarray] = {}
        self.places: dict[str, int] = {}

    def add(self, rows: dict[str, np.ndarray], samples: int) -> None:
        needed = sum(array.nbytes for array in rows.values()) / samples * max(self.samples, self.seen + samples)
        if needed > self.memory:
            raise ResourceError(
                f"the activations need {needed / 1e9:.3g} GB or more, the budget is {self.memory / 1e9:.3g} GB; capture fewer "
                "layers or samples, use maps='resized', keep='moments', or a larger memory=."
            )
        for name, array in rows.items():
            places = self.places.setdefault(name, len(array) // samples)
            if name not in self.kept:
                self.kept[name] = np.empty((self.samples * places, array.shape[1]), array.dtype)
            kept = self.kept[name]
            if len(array) != places * samples or array.shape[1] != kept.shape[1]:
                raise ShapeError(f"layer {name!r} changes its shape from batch to batch; pad the data, or use maps='resized'.")
            start, end = self.seen * places, (self.seen + samples) * places
            if end > len(kept):
                kept.resize((end + end // 2, kept.shape[1]), refcheck=False)  # pages that are not written cost nothing
            kept[start:end] = array
        self.seen += samples

    def close(self, digests: np.ndarray, maps: str) -> Activations:
        for name, array in self.kept.items():
            array.resize((self.seen * self.places[name], array.shape[1]), refcheck=False)
        rows = {name: frozen(array) for name, array in self.kept.items()}
        short = [f"{name!r} ({a.shape[1]} features, {len(a)} rows)" for name, a in rows.items() if len(a) < a.shape[1]]
        if short:
            warnings.warn(
                f"fewer rows than features in {', '.join(short)}: CCA of all directions is 1 whatever the data, and dimensions are "
                "bounded by the rows. Give more data, or use SVCCA or debiased CKA.",
                FewSamplesWarning,
                stacklevel=3,
            )
        return Activations(rows, self.places, frozen(digests), maps)


class _Sums:
    """Joint moments of all layers, merged batch by batch."""

    def __init__(self, memory: float) -> None:
        self.memory, self.count = memory, 0
        self.names: tuple[str, ...] = ()
        self.widths: tuple[int, ...] = ()
        self.mean = np.zeros(0)
        self.covariance = np.zeros((0, 0))

    def add(self, rows: dict[str, np.ndarray], samples: int) -> None:
        if not self.names:
            self.names, self.widths = tuple(rows), tuple(a.shape[1] for a in rows.values())
            size = sum(self.widths)
            if 16.0 * size * size > self.memory:
                raise ResourceError(
                    f"moments of {size} features need {16e-9 * size * size:.3g} GB, the budget is {self.memory / 1e9:.3g} GB; "
                    "capture fewer layers, or use maps='resized' or 'positions'."
                )
            self.mean, self.covariance = np.zeros(size), np.zeros((size, size))
        lengths = {name: len(array) for name, array in rows.items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} {count // samples}" for name, count in lengths.items())
            raise ShapeError(f"layers differ in their positions per sample ({listed}); use maps='resized' or 'flattened'.")
        joint = np.concatenate(list(rows.values()), axis=1).astype(np.float64)
        fresh, mean = len(joint), joint.mean(0)
        joint -= mean
        step, total = mean - self.mean, self.count + fresh
        self.covariance += joint.T @ joint
        self.covariance += np.outer(step, step) * (self.count * fresh / total)
        self.mean += step * (fresh / total)
        self.count = total

    def close(self, digests: np.ndarray, maps: str) -> Moments:
        return Moments(self.names, self.widths, len(digests), self.count, frozen(self.mean), frozen(self.covariance))
