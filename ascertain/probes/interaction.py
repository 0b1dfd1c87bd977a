"""Interaction bases: coordinates of activations in which layers act on each other as sparsely and as independently as they can."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch

from ascertain.errors import DataError, InputError
from ascertain.evidence import Evidence
from ascertain.probes.differentiable import Values, call, differentiable, double, finite, parameters64, read, replaced

__all__ = ["Basis", "Interactions", "interaction_basis", "interactions"]

Array = np.ndarray[Any, np.dtype[Any]]
Kind = Literal["local", "global", "principal"]


@dataclass(frozen=True)
class Basis:
    """Coordinates of one layer's flattened activations f: g = (f - mean) @ matrix, and f = mean + g @ inverse on what is kept.

    ``importance`` (k,) is the mean squared effect of each direction, per unit of its standard deviation, on the directions that it
    feeds, largest first; the columns of ``matrix`` are scaled by its root. ``rank`` is that of the activations.
    """

    layer: str
    mean: Array
    matrix: Array
    inverse: Array
    importance: Array
    rank: int


@dataclass(frozen=True)
class Interactions:
    """Strengths between the directions of successive layers.

    ``edges[l]`` (k of layer l + 1, k of layer l): mean over the samples of the squared integrated gradient of direction i along
    direction j, from the mean activation; ``errors`` are standard errors over the samples.
    """

    bases: tuple[Basis, ...]
    edges: tuple[Array, ...]
    errors: tuple[Array, ...]
    samples: int
    evidence: Evidence

    @property
    def effective_edges(self) -> Array:
        """Participation ratio (sum E)^2 / sum E^2 of each pair of layers: how many equal edges would be as spread out."""
        return np.array([e.sum() ** 2 / (e**2).sum() if e.any() else 0.0 for e in self.edges])

    @property
    def density(self) -> Array:
        """Effective edges over all edges of each pair of layers; small is sparse."""
        sizes: Array = np.array([max(e.size, 1) for e in self.edges])
        return np.divide(self.effective_edges, sizes)


def interaction_basis(
    module: torch.nn.Module,
    layers: Sequence[str],
    inputs: Any,
    *,
    kind: Kind = "local",
    tolerance: float = 1e-10,
    batch_size: int = 1024,
) -> tuple[Basis, ...]:
    """The interaction basis of each layer, in the order in which the layers compute (``input`` is the network's input).

    ``local`` weighs directions by their effect on the next listed layer, ``global`` by that on the last one, ``principal`` by
    their variance alone. Directions whose share of the largest variance, or of the largest importance, is below ``tolerance`` are
    dropped, so units do not matter. Every listed layer should carry all that the next one sees: what bypasses it is held fixed.
    Reference: Bushnaq et al. (2024), The local interaction basis.
    """
    data = double(inputs, module)
    values = parameters64(module)
    with differentiable(module):
        acts = _activations(module, values, layers, data, batch_size)
        found = [_principal(layers[-1], acts[-1], tolerance)]
        for i in range(len(layers) - 2, -1, -1):
            if kind == "principal":
                found.append(_principal(layers[i], acts[i], tolerance))
                continue
            after = found[-1] if kind == "local" else found[0]
            step = partial(_segment, module, values, layers[i], after.layer)
            found.append(_weighted(layers[i], acts[i], after, step, data, tolerance, batch_size))
    return tuple(reversed(found))


def interactions(
    module: torch.nn.Module,
    bases: Sequence[Basis],
    inputs: Any,
    *,
    points: int = 8,
    batch_size: int = 256,
) -> Interactions:
    """The interaction graph in given bases; ``points`` of Gauss-Legendre quadrature stand for each integrated gradient."""
    data = double(inputs, module)
    values = parameters64(module)
    layers = [basis.layer for basis in bases]
    edges, errors = [], []
    with differentiable(module):
        acts = _activations(module, values, layers, data, batch_size)
        for i, (basis, after) in enumerate(pairwise(bases)):
            step = partial(_segment, module, values, basis.layer, after.layer)
            mean, error = _edges(basis, after, acts[i], step, data, points, batch_size)
            edges.append(mean)
            errors.append(error)
    return Interactions(tuple(bases), tuple(edges), tuple(errors), len(data), Evidence.ESTIMATED)


def _activations(
    module: torch.nn.Module, values: Values, layers: Sequence[str], data: torch.Tensor, batch_size: int
) -> list[torch.Tensor]:
    if len(layers) < 2 or len(set(layers)) < len(layers) or "input" in layers[1:]:
        raise InputError(f"layers={list(layers)} is no path; give two or more different layers, 'input' only as the first.")
    if len(data) < 4:
        raise DataError(f"{len(data)} samples say nothing about a distribution; give at least 4, better 10 per dimension.")
    names = [name for name in layers if name != "input"]
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
    with torch.no_grad():
        for batch in data.split(batch_size):
            with read(module, names) as found:
                call(module, values, batch)
            for name in layers:
                value = batch if name == "input" else _reached(found, name)
                rows[name].append(finite(value, f"layer {name!r}").reshape(len(batch), -1))
    return [torch.cat(rows[name]) for name in layers]


def _reached(found: Values, name: str) -> torch.Tensor:
    if name not in found:
        raise InputError(f"layer {name!r} is not called by the forward pass; choose layers that it calls.")
    return found[name]


def _segment(module: torch.nn.Module, values: Values, start: str, end: str, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Flat activations of layer ``end`` for flat activations ``z`` of layer ``start``, all else as for the inputs ``x``."""
    if start == "input":
        with read(module, [end]) as found:
            call(module, values, z.reshape(x.shape))
        return found[end].reshape(len(x), -1)
    with read(module, [start]) as shape, torch.no_grad():
        call(module, values, x[:1])
    with replaced(module, start, z.reshape(len(x), *shape[start].shape[1:])), read(module, [end]) as found:
        call(module, values, x)
    return found[end].reshape(len(x), -1)


def _whitening(rows: torch.Tensor, tolerance: float, layer: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean, kept principal directions (d, r) and their standard deviations, largest first."""
    mean = rows.mean(0)
    _, s, directions = torch.linalg.svd((rows - mean) / len(rows) ** 0.5, full_matrices=False)
    largest = float(s[0]) if len(s) else 0.0
    if largest <= 1e-12 * float(mean.norm()) or not largest:
        raise DataError(f"layer {layer!r} is constant on the data, so it has no directions; leave it out.")
    kept = s > tolerance**0.5 * largest
    return mean, directions[kept].T, s[kept]


def _principal(layer: str, rows: torch.Tensor, tolerance: float) -> Basis:
    mean, directions, deviations = _whitening(rows, tolerance, layer)
    return _basis(layer, mean, directions, directions.T, deviations**2, len(deviations))


def _basis(
    layer: str, mean: torch.Tensor, matrix: torch.Tensor, inverse: torch.Tensor, importance: torch.Tensor, rank: int
) -> Basis:
    a, b, c, d = (t.detach().cpu().numpy() for t in (mean, matrix, inverse, importance))
    return Basis(layer, a, b, c, d, rank)


def _weighted(
    layer: str, rows: torch.Tensor, after: Basis, step: Any, data: torch.Tensor, tolerance: float, batch_size: int
) -> Basis:
    """Directions of whitened activations, ordered by the mean squared derivative of the coordinates that come after."""
    mean, directions, deviations = _whitening(rows, tolerance, layer)
    unwhiten = directions * deviations
    target = torch.as_tensor(after.matrix, device=rows.device)
    total = rows.new_zeros(len(deviations), len(deviations))
    for x, z in zip(data.split(batch_size), rows.split(batch_size), strict=True):
        leaf = z.clone().requires_grad_()
        for gradient in _gradients(step(x, leaf) @ target, leaf):
            part = gradient @ unwhiten
            total += part.T @ part
    importance, turn = torch.linalg.eigh(total / len(rows))
    importance, turn = importance.flip(0), turn.flip(1)
    kept = importance > tolerance * importance[0]
    if not bool(kept.any()):
        raise DataError(f"layer {layer!r} does not move layer {after.layer!r} on the data; list layers that feed each other.")
    importance, turn = importance[kept], turn[:, kept]
    matrix = directions / deviations @ turn * importance.sqrt()
    inverse = (unwhiten @ turn / importance.sqrt()).T
    return _basis(layer, mean, matrix, inverse, importance, len(deviations))


def _gradients(values: torch.Tensor, leaf: torch.Tensor) -> Iterator[torch.Tensor]:
    """Per-sample gradients of each column; one plain backward pass each, since samples do not interact."""
    if not values.requires_grad:  # the layer is upstream of the leaf, or does not see it
        yield from (torch.zeros_like(leaf) for _ in range(values.shape[1]))
        return
    for k in range(values.shape[1]):
        last = k == values.shape[1] - 1
        (gradient,) = torch.autograd.grad(values[:, k].sum(), leaf, retain_graph=not last, materialize_grads=True)
        yield finite(gradient, "the derivative of a layer")


def _edges(
    basis: Basis, after: Basis, rows: torch.Tensor, step: Any, data: torch.Tensor, points: int, batch_size: int
) -> tuple[Array, Array]:
    """Mean and standard error over the samples of the squared integrated gradients."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    at, weight = (torch.as_tensor(a / 2 + b, device=rows.device) for a, b in ((nodes, 0.5), (weights, 0.0)))
    mean, matrix, inverse, target = (
        torch.as_tensor(a, device=rows.device) for a in (basis.mean, basis.matrix, basis.inverse, after.matrix)
    )
    first = rows.new_zeros(target.shape[1], matrix.shape[1])
    second = torch.zeros_like(first)
    size = max(1, batch_size // points)
    for x, z in zip(data.split(size), rows.split(size), strict=True):
        coordinates = (z - mean) @ matrix
        leaf = (at[:, None, None] * coordinates).reshape(-1, matrix.shape[1]).requires_grad_()
        tiled = x.repeat(points, *[1] * (x.ndim - 1))
        for i, gradient in enumerate(_gradients(step(tiled, mean + leaf @ inverse) @ target, leaf)):
            integrated = torch.einsum("p,pnk->nk", weight, gradient.reshape(points, *coordinates.shape))
            square = (integrated * coordinates) ** 2
            first[i] += square.sum(0)
            second[i] += (square**2).sum(0)
    average = first / len(rows)
    spread = (second / len(rows) - average**2).clamp(min=0) / len(rows)
    return average.cpu().numpy(), spread.sqrt().cpu().numpy()
