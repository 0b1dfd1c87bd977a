"""A piecewise-linear network as dense layers, the form that the compiled kernels and the linear programs work on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["DenseForm", "DenseLayer"]


@dataclass(frozen=True, eq=False)
class DenseLayer:
    """z = sum_j blocks[j] @ v_(sources[j]) + bias, where v_0 = x is the flat input and v_k = relu(z_k) of layer k.

    The stored matrices are float64. ``error[j]`` bounds elementwise |true block - stored block| (None: exact), because composing
    affine maps rounds; ``bias_error`` likewise for the bias (zeros where exact).
    """

    sources: tuple[int, ...]
    blocks: tuple[np.ndarray, ...]
    errors: tuple[np.ndarray | None, ...]
    bias: np.ndarray
    bias_error: np.ndarray


@dataclass(frozen=True, eq=False)
class DenseForm:
    """Layers 1..K; the last is the affine output, every earlier one is followed by a ReLU."""

    input_size: int
    layers: tuple[DenseLayer, ...]
    neurons: tuple[tuple[int, int], ...]
    """For each ReLU layer: (node index in the lowered graph, size)."""
