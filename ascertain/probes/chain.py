"""Feed-forward networks as a chain of products and monotone steps, and sound bounds on how far two such chains are apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import fusion

from ascertain.errors import UnsupportedError

__all__ = ["Chain", "Merge", "Product", "Step", "difference", "read_chain", "shaped"]

Pair = tuple[torch.Tensor, torch.Tensor]
"""Lower and upper bounds."""
Run = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_SHAPES = (nn.Flatten, nn.Unflatten)


@dataclass(frozen=True)
class Step:
    """A map without weights that works on each channel alone: a rectifier, a pool, a flattening."""

    run: Callable[[torch.Tensor], torch.Tensor]
    kind: str
    """``activation`` (monotone, slope at most 1, positively homogeneous), ``maximum``, ``mean`` or ``flatten``."""


@dataclass(frozen=True)
class Product:
    """A dense or convolutional layer in float64, batch norm folded in, and the steps that follow it."""

    name: str
    weight: torch.Tensor
    bias: torch.Tensor
    run: Run
    steps: tuple[Step, ...] = ()

    @property
    def mergeable(self) -> bool:
        return any(step.kind == "activation" for step in self.steps)


Chain = tuple[Product, ...]


@dataclass(frozen=True)
class Merge:
    """Unit m of a layer is taken for ``coefficient[m]`` times unit ``representative[m]``; a kept unit represents itself."""

    representative: torch.Tensor
    coefficient: torch.Tensor

    @property
    def kept(self) -> torch.Tensor:
        found: torch.Tensor = torch.unique(self.representative)
        return found

    def spread(self, size: int) -> Merge:
        """The same for every entry of a channel that was flattened into ``size`` entries."""
        inner = torch.arange(size, device=self.representative.device)
        return Merge((self.representative[:, None] * size + inner).reshape(-1), self.coefficient.repeat_interleave(size))

    def matrix(self) -> torch.Tensor:
        """(units, kept): what the kept units say about all of them."""
        kept = self.kept
        found = self.coefficient.new_zeros(len(self.representative), len(kept))
        found[torch.arange(len(found)), torch.searchsorted(kept, self.representative)] = self.coefficient
        return found


def read_chain(module: nn.Module) -> Chain:
    """The chain of a Sequential of dense and convolutional layers, rectifiers, pools and flattening; names are the submodules'."""
    found: list[Product] = []
    strange: list[tuple[str, str]] = []
    before: nn.Module | None = None
    for name, part in module.named_modules(remove_duplicate=False):
        if isinstance(part, (nn.Sequential, nn.Dropout, nn.Identity)) or (not found and isinstance(part, _SHAPES)):
            continue
        if isinstance(part, nn.Linear):
            found.append(_product(name, part, functional.linear))
        elif isinstance(part, nn.Conv2d) and part.groups == 1 and part.padding_mode == "zeros":
            found.append(_product(name, part, _convolution(part)))
        elif (
            isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d))
            and isinstance(before, (nn.Linear, nn.Conv2d))
            and part.running_mean is not None
        ):
            found[-1] = _folded(found[-1], part)
        elif found and (step := _step(part)) is not None:
            found[-1] = replace(found[-1], steps=(*found[-1].steps, step))
        else:
            strange.append((type(part).__name__, name))
        before = part
    if strange or not found or not isinstance(module, nn.Sequential):
        listed = ", ".join(f"{kind} ({name or 'the module'})" for kind, name in strange or [(type(module).__name__, "")])
        raise UnsupportedError(
            f"feature merging does not know {listed}; give a Sequential of Linear, Conv2d, batch norm after them, rectifiers, "
            "pools and Flatten.",
            tuple(strange),
        )
    return tuple(found)


def shaped(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Inputs as the first product takes them, after the flattening and unflattening before it."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d)):
            break
        x = part(x) if isinstance(part, _SHAPES) else x
    return x


def _product(name: str, part: nn.Linear | nn.Conv2d, run: Run) -> Product:
    weight = part.weight.detach().double()
    bias = weight.new_zeros(len(weight)) if part.bias is None else part.bias.detach().double()
    return Product(name, weight, bias, run)


def _convolution(part: nn.Conv2d) -> Run:
    stride, padding, dilation = part.stride, part.padding, part.dilation
    return lambda x, weight, bias: functional.conv2d(x, weight, bias, stride, padding, dilation)


def _folded(product: Product, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> Product:
    mean, variance = (t.detach().double() for t in (norm.running_mean, norm.running_var) if t is not None)
    scale, shift = (None if t is None else t.detach().double() for t in (norm.weight, norm.bias))
    fuse = fusion.fuse_conv_bn_weights if product.weight.ndim > 2 else fusion.fuse_linear_bn_weights
    weight, bias = fuse(product.weight, product.bias, mean, variance, norm.eps, scale, shift)
    return replace(product, weight=weight.detach(), bias=bias.detach())


def _step(part: nn.Module) -> Step | None:
    if isinstance(part, nn.ReLU):
        return Step(functional.relu, "activation")
    if isinstance(part, nn.LeakyReLU) and 0 <= part.negative_slope <= 1:
        slope = part.negative_slope
        return Step(lambda x: functional.leaky_relu(x, slope), "activation")
    if isinstance(part, nn.MaxPool2d) and not part.return_indices:
        return Step(part, "maximum")
    if isinstance(part, (nn.AvgPool2d, nn.AdaptiveAvgPool2d)):
        return Step(part, "mean")
    if isinstance(part, nn.Flatten) and part.start_dim == 1 and part.end_dim == -1:
        return Step(part, "flatten")
    return None


def difference(original: Chain, merged: Chain, merges: list[Merge], lower: torch.Tensor, upper: torch.Tensor) -> Pair:
    """Bounds (n, outputs) on original - merged over boxes (n, *input), in real arithmetic.

    Theorem, layer by layer. Kept units a_K differ by d = a_K - a' in the two chains; all are t = a - M a_K off what kept ones say
    of them. Then W a - W' a' = W t + (W M - W') a_K + W' d. An activation that is monotone with slope at most 1 maps
    differences in [l, u] into [min(l, 0), max(u, 0)], and, being positively homogeneous, t of merged units too, whose difference
    before it is (W_m - c W_k) a + b_m - c b_k.
    """
    box = (lower, upper)
    whole = Merge(torch.arange(lower.shape[1], device=lower.device), lower.new_ones(lower.shape[1]))
    before, off = whole, (torch.zeros_like(lower), torch.zeros_like(upper))
    apart = off
    for product, other, merge in zip(original, merged, merges, strict=True):
        kept, inner = merge.kept, before.kept
        values, low, high = _image(product, product.weight, product.bias, box), box[0][:, inner], box[1][:, inner]
        parts = [
            _image(product, product.weight[kept], product.bias[kept] - other.bias, off),
            _image(product, _times(product.weight[kept], before.matrix()) - other.weight, None, (low, high)),
            _image(product, other.weight, None, apart),
        ]
        apart = sum(p[0] for p in parts), sum(p[1] for p in parts)  # type: ignore[assignment]
        unit = merge.representative
        c = merge.coefficient.reshape(-1, *[1] * (product.weight.ndim - 1))
        moved = product.weight - c * product.weight[unit]
        off = _image(product, moved, product.bias - merge.coefficient * product.bias[unit], box)
        box, before = values, merge
        for step in product.steps:
            box, off, apart, before = _stepped(step, box, off, apart, before)
    return apart


def _times(weight: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    return torch.einsum("oi...,ik->ok...", weight, matrix)


def _image(product: Product, weight: torch.Tensor, bias: torch.Tensor | None, box: Pair) -> Pair:
    centre = product.run((box[0] + box[1]) / 2, weight, bias)
    radius = product.run((box[1] - box[0]) / 2, weight.abs(), None)
    return centre - radius, centre + radius


def _stepped(step: Step, box: Pair, off: Pair, apart: Pair, merge: Merge) -> tuple[Pair, Pair, Pair, Merge]:
    run = step.run
    if step.kind == "activation":
        values = run(box[0]), run(box[1])
        kept, unit = merge.kept, merge.representative
        c = merge.coefficient.reshape(-1, *[1] * (box[0].ndim - 2))
        ranges = values[0] - c * values[1][:, unit], values[1] - c * values[0][:, unit]
        itself = (unit == torch.arange(len(unit), device=unit.device)).reshape(c.shape)
        off = tuple(torch.where(itself, 0.0, t) for t in _narrowed(off, ranges))  # type: ignore[assignment]
        low, high = box[0][:, kept], box[1][:, kept]
        # the other chain's units lie in [low - apart upper, high - apart lower] before the activation
        apart = _narrowed(apart, (run(low) - run(high - apart[0]), run(high) - run(low - apart[1])))
        return values, off, apart, merge
    if step.kind == "maximum":
        off, apart = ((-run(-pair[0]), run(pair[1])) for pair in (off, apart))
        return (run(box[0]), run(box[1])), off, apart, merge
    size = box[0][0, 0].numel()
    box, off, apart = ((run(pair[0]), run(pair[1])) for pair in (box, off, apart))
    return box, off, apart, merge.spread(size) if step.kind == "flatten" else merge


def _narrowed(difference: Pair, known: Pair) -> Pair:
    """Differences after an activation, given those before it and what the ranges allow."""
    return torch.maximum(difference[0].clamp(max=0), known[0]), torch.minimum(difference[1].clamp(min=0), known[1])
