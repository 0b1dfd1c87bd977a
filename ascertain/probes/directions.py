"""What single directions of a layer are good for: accuracy kept by a few of them, and the directions of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ascertain.errors import DataError, ShapeError
from ascertain.evidence import Evidence
from ascertain.probes.activations import Activations, activations
from ascertain.probes.canonical import SVCCA
from ascertain.probes.capture import answers, channel_axis, unknown, untouched
from ascertain.probes.linear_probes import wilson
from ascertain.probes.measure import Basis, basis, checked

__all__ = ["AccuracyKept", "ClassDirections", "accuracy_kept", "class_directions"]

Kind = Literal["svcca", "principal", "random", "largest neurons"]


@dataclass(frozen=True, eq=False)
class AccuracyKept:
    """Accuracy of a network whose layer keeps k directions and holds the others at their mean."""

    kinds: tuple[str, ...]
    counts: np.ndarray
    """(c,) values of k."""
    accuracy: np.ndarray
    """(kinds, c)"""
    low: np.ndarray
    """95 % interval (Wilson)."""
    high: np.ndarray
    full: float
    """With the whole layer."""
    samples: int
    evidence: Evidence = Evidence.ESTIMATED


def accuracy_kept(
    net: nn.Module,
    layer: str,
    data: Any,
    labels: Any,
    counts: Sequence[int],
    *,
    fit: Any = None,
    against: np.ndarray | None = None,
    batch_size: int = 256,
    seed: int = 0,
) -> AccuracyKept:
    """Accuracy on data and labels when a layer's channels keep k directions (Raghu et al., 2017), random ones as the baseline.

    Directions are found on ``fit`` (``data`` if None): principal, random, the neurons of largest mean square, and, where the rows
    of another layer on ``fit`` are given as ``against``, canonical ones of SVCCA (with the least-squares reconstruction from
    canonical variables). Raises ModelError, ShapeError, DataError. The network is left as it was.
    """
    y = np.asarray(labels).reshape(-1)
    if not getattr(data, "shape", ()) or len(data) != len(y):
        raise ShapeError(f"{len(y)} labels do not fit data of shape {tuple(getattr(data, 'shape', ()))}; give one for each sample.")
    captured = activations(net, [layer], data if fit is None else fit, batch_size=batch_size)
    rows = checked(captured[layer], f"layer {layer!r}").astype(np.float64)
    if any(not 1 <= k <= rows.shape[1] for k in counts):
        raise DataError(f"counts={list(counts)} must lie between 1 and the {rows.shape[1]} channels of layer {layer!r}.")
    mean, maps = rows.mean(0), _maps(rows, against, np.random.default_rng(seed))
    table = np.zeros((len(maps), len(counts)))
    with untouched(net):
        full = _accuracy(net, layer, data, y, batch_size, None)
        for i, pieces in enumerate(maps.values()):
            for j, k in enumerate(counts):
                table[i, j] = _accuracy(net, layer, data, y, batch_size, (pieces[0][:, :k] @ pieces[1][:k], mean))
    limits = np.array([[wilson(v, len(y)) for v in row] for row in table])
    return AccuracyKept(tuple(maps), np.array(counts), table, limits[..., 0], limits[..., 1], full, len(y))


def _maps(rows: np.ndarray, against: np.ndarray | None, rng: np.random.Generator) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pairs (read (d, r), write (r, d)): the first k columns and rows reduce a centred row to k directions."""
    found = basis(rows)
    mixed, _ = np.linalg.qr(rng.normal(size=(rows.shape[1], rows.shape[1])))
    strongest = np.eye(rows.shape[1])[:, np.argsort(-(rows**2).mean(0), kind="stable")]
    maps = {"principal": (found.v.T, found.v), "random": (mixed, mixed.T), "largest neurons": (strongest, strongest.T)}
    if against is None:
        return maps
    other = checked(against, "the rows of the other layer")
    if len(other) != len(rows):
        raise ShapeError(f"{len(other)} rows of the other layer do not fit {len(rows)} of this one; capture both on the same data.")
    mine, theirs = SVCCA().prepare(rows), SVCCA().prepare(other)
    left, _, _ = np.linalg.svd(mine.u.T @ theirs.u, full_matrices=False)
    read, write = mine.v.T @ (left / mine.s[:, None]), (left.T * mine.s) @ mine.v
    return {"svcca": (read, write), **maps}


def _accuracy(
    net: nn.Module, layer: str, data: Any, labels: np.ndarray, size: int, kept: tuple[np.ndarray, np.ndarray] | None
) -> float:
    parts = dict(net.named_modules())
    if layer not in parts:
        raise unknown(layer, tuple(parts), type(net).__name__)

    def project(module: nn.Module, inputs: Any, result: Any) -> torch.Tensor | None:
        if kept is None:
            return None
        if not isinstance(result, torch.Tensor):
            raise ShapeError(f"layer {layer!r} returns {type(result).__name__}, not one tensor; choose a layer that does.")
        matrix, mean = (torch.as_tensor(a).to(result) for a in kept)
        axis = channel_axis(module, result.ndim)
        return (((result.movedim(axis, -1) - mean) @ matrix) + mean).movedim(-1, axis)

    handle, right = parts[layer].register_forward_hook(project), 0
    try:
        for start in range(0, len(labels), size):
            answer = answers(net, data[start : start + size])
            right += int((answer.argmax(1).cpu().numpy() == labels[start : start + size]).sum())
    finally:
        handle.remove()
    return right / len(labels)


@dataclass(frozen=True, eq=False)
class ClassDirections:
    """The direction of each layer that correlates best with each class."""

    layers: tuple[str, ...]
    classes: tuple[str, ...]
    correlation: np.ndarray
    """(L, C) multiple correlation of a class score with the layer's leading directions."""
    null: np.ndarray
    """(L,) root of its mean square over re-pairings, k / (n - 1)."""
    directions: tuple[np.ndarray, ...]
    """For each layer (C, d) unit vectors among its features."""
    samples: int
    evidence: Evidence = Evidence.ESTIMATED


def class_directions(layers: Activations, scores: Any, *, threshold: float = 0.99) -> ClassDirections:
    """SVCCA of every layer with every single class; ``scores`` are logits (n, C) or labels (n,) (Raghu et al., 2017)."""
    target = np.asarray(scores.detach().cpu() if hasattr(scores, "detach") else scores)
    names = tuple(str(c) for c in (np.unique(target) if target.ndim == 1 else range(target.shape[1])))
    target = (target[:, None] == np.unique(target)).astype(np.float64) if target.ndim == 1 else checked(target, "the scores")
    if len(target) != layers.samples or any(layers.places[name] != 1 for name in layers):
        raise ShapeError(
            f"{len(target)} scores do not fit layers of {layers.samples} samples with one row each; capture with maps='flattened'."
        )
    y = target - target.mean(0)
    norms = np.linalg.norm(y, axis=0)
    if (norms == 0).any():
        raise DataError(f"class {names[int(np.argmin(norms))]!r} has the same score on all samples; leave it out.")
    found = [_toward(SVCCA(threshold).prepare(checked(layers[name], f"the rows of layer {name!r}")), y / norms) for name in layers]
    null = np.array([np.sqrt(min(1.0, kept / (layers.samples - 1))) for _, _, kept in found])
    correlation, directions = np.array([r for r, _, _ in found]), tuple(d for _, d, _ in found)
    return ClassDirections(tuple(layers), names, correlation, null, directions, len(target))


def _toward(layer: Basis, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    share = layer.u.T @ y
    direction = (share / layer.s[:, None]).T @ layer.v
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return np.minimum(np.linalg.norm(share, axis=0), 1.0), direction, len(layer.s)
