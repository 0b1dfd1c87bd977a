"""Merging units that say the same: iterative feature merging with least-squares coefficients and a certified output error."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ascertain.errors import DataError, InputError, ShapeError, UnsupportedError
from ascertain.evidence import Evidence
from ascertain.probes.capture import untouched
from ascertain.probes.chain import Chain, Merge, Product, difference, read_chain, shaped
from ascertain.probes.differentiable import call, double, finite, parameters64

__all__ = ["FeatureMerging", "MergedLayer", "merge_features"]

Array = np.ndarray[Any, np.dtype[Any]]
_SMALLEST = 1e-7
"""Relative errors below this are rounding of the Gram matrix: units that far apart count as equal."""


@dataclass(frozen=True)
class MergedLayer:
    """Unit m of a layer became ``coefficient[m]`` times unit ``representative[m]``; ``kept`` are those that stay.

    ``error`` is the root of the summed squared errors of the contributions to the next layer, over that of the contributions.
    """

    name: str
    kept: Array
    representative: Array
    coefficient: Array
    error: float


@dataclass(frozen=True)
class FeatureMerging:
    """A smaller module, in evaluation mode, and how far it is from the original.

    ``bound`` (boxes, outputs): |original - merged| is at most this on the whole box, in real arithmetic. ``measured`` (outputs,) is
    the largest difference on the data. ``parameters`` before and after.
    """

    module: nn.Sequential
    layers: tuple[MergedLayer, ...]
    parameters: tuple[int, int]
    bound: Array
    measured: Array
    evidence: Evidence = Evidence.BOUNDED


def merge_features(
    module: nn.Sequential, inputs: Any, *, tolerance: float = 0.0, lower: Any = None, upper: Any = None
) -> FeatureMerging:
    """Merges hidden units (channels) whose activations on the data are multiples of each other, up to a relative ``tolerance``.

    Pairs merge in the order of the error that they cost in the next layer, until a layer's accumulated error reaches the
    tolerance. Boxes ``lower``, ``upper`` (n, *input) are where the error is certified; by default the one box around the data.
    The module is left as it was. After Song et al. (2023), whose cost neither scale nor dead units nor exact copies survive.
    """
    data = double(inputs, module)
    if len(data) < 4 or not tolerance >= 0:
        raise DataError(f"{len(data)} samples with tolerance {tolerance}; give at least 4 samples and a tolerance >= 0.")
    with untouched(module):
        chain = read_chain(module)
        given = data
        data = _checked(module, chain, data)
        acts = _activations(chain, data)
        merges = [
            _merge(acts[i], chain[i + 1].weight, tolerance) if chain[i].mergeable else _none(chain[i])
            for i in range(len(chain) - 1)
        ]
        merges.append(_none(chain[-1]))
        small = _build(module, chain, merges)
        merged = read_chain(small)
        box = (side.reshape(len(side), *data.shape[1:]) for side in _boxes(given, lower, upper))
        low, high = difference(chain, merged, merges, *box)
        measured = (_run(chain, data) - _run(merged, data)).flatten(1).abs().amax(0)
    layers = tuple(_layer(p, m, a, n.weight) for p, m, a, n in zip(chain[:-1], merges[:-1], acts, chain[1:], strict=True))
    bound = torch.maximum(-low, high).clamp(min=0).flatten(1)
    sizes = tuple(sum(p.numel() for p in net.parameters()) for net in (module, small))
    return FeatureMerging(small, layers, (sizes[0], sizes[1]), bound.cpu().numpy() + 0.0, measured.cpu().numpy())


def _checked(module: nn.Sequential, chain: Chain, data: torch.Tensor) -> torch.Tensor:
    """The data as the chain takes them, once the chain is known to compute what the module does."""
    flat = shaped(module, data)
    features = chain[0].weight.shape[1]
    if flat.ndim != chain[0].weight.ndim or flat.shape[1] != features:
        raise ShapeError(
            f"inputs arrive at layer {chain[0].name!r} with shape {tuple(flat.shape[1:])}, it takes {features} features."
        )
    few = slice(0, 64)
    expected = call(module, parameters64(module), data[few])
    if not torch.allclose(_run(chain, flat[few]).reshape(expected.shape), expected, rtol=1e-9, atol=1e-9):
        raise UnsupportedError(
            f"{type(module).__name__} is not the plain chain of its parts (hooks, a forward of its own); rewrite it."
        )
    return flat


def _boxes(data: torch.Tensor, lower: Any, upper: Any) -> tuple[torch.Tensor, torch.Tensor]:
    if (lower is None) != (upper is None):
        raise InputError("only one side of the boxes is given; give lower and upper, or neither.")
    if lower is None:
        return data.amin(0, keepdim=True), data.amax(0, keepdim=True)
    low, high = (double(side).to(data.device) for side in (lower, upper))
    if low.shape[1:] != data.shape[1:] or low.shape != high.shape:
        raise ShapeError(
            f"boxes have shapes {tuple(low.shape)} and {tuple(high.shape)}; give (n, *{tuple(data.shape[1:])}) for both."
        )
    if bool((low > high).any()):
        raise DataError("a lower end of a box lies above its upper end; exchange them.")
    return low, high


def _activations(chain: Chain, data: torch.Tensor) -> list[torch.Tensor]:
    """Units' values (samples and positions, units) right after the activation of each layer but the last."""
    found, x = [], data
    for product in chain[:-1]:
        x = finite(product.run(x, product.weight, product.bias), f"layer {product.name!r}")
        taken = None
        for step in product.steps:
            x = step.run(x)
            if step.kind == "activation":
                taken = x
        found.append((x if taken is None else taken).movedim(1, -1).flatten(0, -2))
    return found


def _run(chain: Chain, x: torch.Tensor) -> torch.Tensor:
    for product in chain:
        x = product.run(x, product.weight, product.bias)
        for step in product.steps:
            x = step.run(x)
    return finite(x, "the output")


def _none(product: Product) -> Merge:
    width = len(product.weight)
    return Merge(torch.arange(width, device=product.weight.device), product.weight.new_ones(width))


def _gram(acts: torch.Tensor, consumer: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean products of activations, and squared norms of what the next layer reads each unit with."""
    width = acts.shape[1]
    reads = consumer.reshape(len(consumer), width, -1).square().sum((0, 2))
    return acts.T @ acts / len(acts), reads


def _costs(gram: torch.Tensor, reads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Least-squares coefficient of unit m on unit r, at least 0, and the squared error that it leaves in the next layer."""
    energy = gram.diagonal()
    coefficient = torch.where(energy > 0, gram.clamp(min=0) / torch.where(energy > 0, energy, 1.0), 0.0)
    left = (energy[:, None] - coefficient * gram.clamp(min=0)).clamp(min=0)
    left.fill_diagonal_(0.0)
    return coefficient, reads[:, None] * left


def _merge(acts: torch.Tensor, consumer: torch.Tensor, tolerance: float) -> Merge:
    gram, reads = _gram(acts, consumer)
    coefficient, cost = _costs(gram, reads)
    limit = max(tolerance, _SMALLEST) ** 2 * float((reads * gram.diagonal()).sum())
    root = torch.arange(len(gram), device=gram.device)
    clusters = cost.clone()  # summed cost of each cluster under each root
    closed = torch.eye(len(gram), dtype=torch.bool, device=gram.device)
    spent = 0.0
    for _ in range(len(gram) - 1):
        rise = (clusters - clusters.diagonal()[:, None]).masked_fill(closed, torch.inf)
        best = int(rise.argmin())
        source, target = divmod(best, len(gram))
        if spent + float(rise[source, target]) > limit:
            break
        spent += float(rise[source, target])
        root[root == source] = target
        clusters[target] += clusters[source]
        closed[source], closed[:, source] = True, True
    each = torch.arange(len(root), device=root.device)
    return Merge(root, torch.where(root == each, 1.0, coefficient[each, root]))


def _layer(product: Product, merge: Merge, acts: torch.Tensor, consumer: torch.Tensor) -> MergedLayer:
    gram, reads = _gram(acts, consumer)
    off = (acts - acts[:, merge.representative] * merge.coefficient).square().mean(0)
    total = float((reads * gram.diagonal()).sum())
    error = (float((reads * off).sum()) / total) ** 0.5 if total else 0.0
    kept, unit, c = (t.cpu().numpy() for t in (merge.kept, merge.representative, merge.coefficient))
    return MergedLayer(product.name, kept, unit, c, error)


def _build(module: nn.Sequential, chain: Chain, merges: list[Merge]) -> nn.Sequential:
    """A copy of the module with the kept units, batch norm folded in."""
    small = deepcopy(module)
    before: Merge | None = None
    for product, merge in zip(chain, merges, strict=True):
        weight = product.weight[merge.kept]
        if before is not None:
            inner = before.spread(weight.shape[1] // len(before.representative))
            weight = torch.einsum("oi...,ik->ok...", weight, inner.matrix())
        _set(small, product.name, _resized(small.get_submodule(product.name), weight, product.bias[merge.kept]))
        before = merge
    for name, part in list(small.named_modules()):
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            _set(small, name, nn.Identity())
    return small


def _set(module: nn.Module, name: str, part: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, part)


def _resized(part: nn.Module, weight: torch.Tensor, bias: torch.Tensor) -> nn.Module:
    changed = deepcopy(part)
    old = part.get_parameter("weight")
    if isinstance(changed, nn.Linear):
        changed.out_features, changed.in_features = weight.shape
    elif isinstance(changed, nn.Conv2d):
        changed.out_channels, changed.in_channels = weight.shape[:2]
    plain = changed.bias is None and not bool(bias.any())
    changed.weight = nn.Parameter(weight.to(old.dtype), old.requires_grad)
    changed.register_parameter("bias", None if plain else nn.Parameter(bias.to(old.dtype), old.requires_grad))
    return changed
