"""Modules of an interaction graph: groups of directions of all layers that mostly act on each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ascertain.errors import DataError, InputError
from ascertain.evidence import Evidence

__all__ = ["Modules", "modularity", "modules"]

Array = np.ndarray[Any, np.dtype[Any]]
_TRIALS = 10


@dataclass(frozen=True)
class Modules:
    """A partition of the directions of all layers, and what it is worth.

    ``labels[l]`` (k of layer l,) are module numbers, the largest module first. ``null`` holds the modularity that the same search
    reaches on graphs whose weights were shuffled within each pair of layers: only what exceeds it is structure.
    ``cross_mass`` is the share of each pair's edge strength between different modules.
    """

    labels: tuple[Array, ...]
    count: int
    modularity: float
    null: Array
    cross_mass: Array
    evidence: Evidence


def modules(edges: Sequence[Any], *, floor: float = 1e-6, resolution: float = 1.0, nulls: int = 5, seed: int = 0) -> Modules:
    """Modules found by the Leiden algorithm on strengths in decades above ``floor`` times the largest of their pair of layers.

    ``edges[l]`` is (k of layer l + 1, k of layer l), nonnegative, as in ``Interactions.edges``.
    Reference: Traag, Waltman, van Eck (2019), From Louvain to Leiden.
    """
    strengths = [_checked(np.asarray(e, dtype=np.float64), i) for i, e in enumerate(edges)]
    if not strengths or any(a.shape[0] != b.shape[1] for a, b in pairwise(strengths)):
        raise InputError(f"edges of shapes {[e.shape for e in strengths]} do not follow each other; give (after, before) matrices.")
    weights = [_decades(e, floor) for e in strengths]
    widths = [strengths[0].shape[1], *(e.shape[0] for e in strengths)]
    labels = _leiden(weights, resolution, seed, widths)
    random = np.random.default_rng(seed)
    null = []
    for _ in range(nulls):
        shuffled = [random.permutation(w.reshape(-1)).reshape(w.shape) for w in weights]
        null.append(modularity(shuffled, _leiden(shuffled, resolution, seed, widths), resolution))
    cross = [
        float(e[b[:, None] != a[None, :]].sum() / e.sum()) if e.any() else 0.0
        for e, a, b in zip(strengths, labels[:-1], labels[1:], strict=True)
    ]
    count = len(set(np.concatenate(labels).tolist()))
    return Modules(labels, count, modularity(weights, labels, resolution), np.array(null), np.array(cross), Evidence.ESTIMATED)


def modularity(weights: Sequence[Array], labels: Sequence[Array], resolution: float = 1.0) -> float:
    """Share of weight inside modules minus what the strengths of the nodes would give, each pair of layers against its own.

    A layered graph has edges between successive layers only; Newman's null, which allows them anywhere, rewards cutting it by
    depth. Reference: Barber (2007), Modularity and community detection in bipartite networks.
    """
    total = float(sum(w.sum() for w in weights))
    excess = _excess(weights, resolution)
    same = [a[:, None] == b[None, :] for b, a in pairwise(labels)]
    return sum(float(e[s].sum()) for e, s in zip(excess, same, strict=True)) / total if total else 0.0


def _excess(weights: Sequence[Array], resolution: float) -> list[Array]:
    """Weights minus those of a random graph with the same strengths."""
    return [w - resolution * np.outer(w.sum(1), w.sum(0)) / (w.sum() or 1.0) for w in weights]


def _checked(edges: Array, index: int) -> Array:
    if edges.ndim != 2 or not np.isfinite(edges).all() or (edges < 0).any():
        raise DataError(f"edges[{index}] is no matrix of finite strengths >= 0; give the edges of an interaction graph.")
    return edges


def _decades(edges: Array, floor: float) -> Array:
    if not edges.any():
        return edges
    scaled: Array = np.log10(np.maximum(edges / edges.max(), floor) / floor)
    return scaled


def _leiden(weights: Sequence[Array], resolution: float, seed: int, widths: Sequence[int]) -> tuple[Array, ...]:
    """Module numbers of all nodes by layer, the largest module first: the best of several runs."""
    try:
        from graspologic_native import leiden  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise InputError("modules need the package graspologic-native (MIT); install it with pip.") from error
    start = np.cumsum([0, *widths])
    total = sum(w.sum() for w in weights) or 1.0
    # A constant Potts model on the excess weights, with next to no penalty, is the modularity of a layered graph.
    listed = [
        (str(start[i] + j), str(start[i + 1] + k), float(e[k, j] / total))
        for i, e in enumerate(_excess(weights, resolution))
        for k, j in np.argwhere(e != 0)
    ]
    best, value = np.arange(start[-1]), 0.0
    for trial in range(_TRIALS if listed else 0):
        _, found = leiden(listed, resolution=1e-9, use_modularity=False, iterations=10, seed=seed + trial)
        raw = np.array([found.get(str(i), len(found) + i) for i in range(start[-1])])
        reached = modularity(weights, _split(raw, widths), resolution)
        if reached > value:
            best, value = raw, reached
    _, inverse, sizes = np.unique(best, return_inverse=True, return_counts=True)
    order = np.empty(len(sizes), int)
    order[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return _split(order[inverse], widths)


def _split(labels: Array, widths: Sequence[int]) -> tuple[Array, ...]:
    return tuple(np.split(labels, np.cumsum(widths)[:-1]))
