"""The affine map that a network is at an input: rows say what an output looks for, columns what an input entry does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ascertain.errors import InputError, ShapeError
from ascertain.evidence import Evidence
from ascertain.probes.differentiable import call, differentiable, double, finite, finite_output, parameters64, read, submodule

__all__ = ["LinearMap", "linear_map"]

Array = np.ndarray[Any, np.dtype[Any]]
_STEPS = (1e-3, 1e-4, 1e-5, 1e-6)
"""Lengths, relative to the input, of the steps on which a map is tried; a kink nearby spoils only the longer ones."""
_ROUNDING = 1e-9
"""What rounding leaves of the deviation from an exact map on such steps, at most."""


@dataclass(frozen=True)
class LinearMap:
    """f(y) = matrix y + offset: the derivative of f at ``point``, and what f is there beyond it.

    ``exact`` says that f itself is this map near the point, as rectifier networks are; else it is a tangent. ``deviation`` is
    |f - map| on random small steps, over the change of f there (the smallest over lengths of steps). The derivative is BOUNDED,
    whatever ``exact`` says; ``exact`` is measured. Reference: Montufar et al. (2014), section 3.
    """

    matrix: Array
    """(*output, *input)."""
    offset: Array
    point: Array
    output: Array
    deviation: float
    exact: bool
    evidence: Evidence = Evidence.BOUNDED

    def __call__(self, inputs: Any) -> Array:
        """The map at other inputs (n, *input): what the network would say if nothing switched."""
        x = np.asarray(inputs, dtype=np.float64)
        if x.shape[1:] != self.point.shape:
            raise ShapeError(f"inputs have shape {x.shape}, the map takes (n, *{self.point.shape}); reshape them.")
        return (x.reshape(len(x), -1) @ self._flat.T).reshape(len(x), *self.output.shape) + self.offset

    @property
    def rows(self) -> Array:
        """(outputs, *input): the pattern with which each output weighs the input."""
        return self._flat.reshape(-1, *self.point.shape)

    @property
    def columns(self) -> Array:
        """(inputs, *output): what one unit of each input entry adds to the output."""
        return self._flat.T.reshape(-1, *self.output.shape)

    @cached_property
    def singular_values(self) -> Array:
        """Gains of the map, largest first."""
        found: Array = np.linalg.svd(self._flat, compute_uv=False)
        return found

    @property
    def _flat(self) -> Array:
        return self.matrix.reshape(-1, self.point.size)


def linear_map(module: torch.nn.Module, point: Any, *, layer: str = "output", seed: int = 0) -> LinearMap:
    """The affine map from the input to the output, or to a named layer, at one input ``point`` (without a batch axis).

    One backward pass for each output. The module runs in evaluation mode and in float64, and is left as it was.
    """
    x = double(torch.as_tensor(point)[None], module)
    if not x.is_floating_point():
        raise InputError("the point holds whole numbers, which have no derivative; give floats (what an embedding returns, say).")
    values = parameters64(module)
    whole = submodule(module, layer) is module

    def run(inputs: torch.Tensor) -> torch.Tensor:
        with read(module, [] if whole else [layer]) as found:
            result = finite_output(module, values, inputs) if whole else call(module, values, inputs)
        if not whole and layer not in found:
            raise InputError(f"layer {layer!r} is not called by the forward pass; choose one that it calls.")
        return result if whole else finite(found[layer], f"layer {layer!r}")

    with differentiable(module):
        leaf = x.clone().requires_grad_()
        y = run(leaf)
        if not y.ndim or y.shape[0] != 1:
            raise ShapeError(f"one input gives an output of shape {tuple(y.shape)}; its first axis must count the samples.")
        matrix = finite(_derivative(y.reshape(-1), leaf), "the derivative")
        deviation = _deviation(run, x, y.detach(), matrix, seed)
    output = y.detach()[0]
    offset = output - (matrix @ x.reshape(-1)).reshape(output.shape)
    shaped = matrix.reshape(*output.shape, *x.shape[1:])
    a, b, p, q = (t.cpu().numpy() for t in (shaped, offset, x[0], output))
    return LinearMap(a, b, p, q, deviation, deviation < _ROUNDING)


def _derivative(outputs: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
    if not outputs.requires_grad:
        return torch.zeros(len(outputs), leaf.numel(), dtype=leaf.dtype, device=leaf.device)
    rows = [torch.autograd.grad(v, leaf, retain_graph=True, materialize_grads=True)[0].reshape(-1) for v in outputs]
    return torch.stack(rows)


@torch.no_grad()
def _deviation(
    run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, y: torch.Tensor, matrix: torch.Tensor, seed: int
) -> float:
    """Largest |f(x + d) - f(x) - matrix d| over 16 directions, over the size of matrix d; the smallest over lengths of d."""
    generator = torch.Generator().manual_seed(seed)
    size = float(x.abs().max()) or 1.0
    found = []
    for step in _STEPS:
        d = step * size * torch.randn((16, *x.shape[1:]), generator=generator, dtype=x.dtype).to(x.device)
        change = (run(x + d) - y).reshape(16, -1)
        linear = d.reshape(16, -1) @ matrix.T
        scale = float(torch.maximum(change.abs(), linear.abs()).max())
        found.append(float((change - linear).abs().max()) / scale if scale else 0.0)
    return min(found)
