"""Helpers for arrays with one extra leading axis: broadcasting behind it, its transpose, and numpy arrays through torch."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from ascertain.errors import ShapeError
from ascertain.operators.base import Array, Shape, is_numpy

__all__ = ["broadcast", "fits", "fold", "position", "repeats", "spread", "through_torch"]


def broadcast(name: str, *shapes: Shape) -> Shape:
    """The shape to which shapes broadcast; ShapeError names the operator when they do not."""
    try:
        return tuple(np.broadcast_shapes(*shapes))
    except ValueError:
        raise ShapeError(f"{name} cannot broadcast shapes {', '.join(map(str, shapes))}. Reshape one of them first.") from None


def fits(shape: Shape, into: Shape) -> bool:
    """Whether an array of one shape broadcasts to another without changing that one."""
    return len(shape) <= len(into) and all(a in (1, b) for a, b in zip(shape[::-1], into[::-1], strict=False))


def spread(x: Array, rank: int) -> Array:
    """``(B, *shape)`` with ones inserted behind B until ``rank`` axes follow it, so that numpy's broadcasting applies."""
    missing = rank + 1 - x.ndim
    return x if missing <= 0 else x.reshape(x.shape[0], *[1] * missing, *x.shape[1:])


def fold(gradient: Array, shape: Shape) -> Array:
    """Transpose of broadcasting: sums ``(R, *broadcast shape)`` over every axis along which ``shape`` was repeated."""
    extra = gradient.ndim - 1 - len(shape)
    repeated = [i for i, n in enumerate(shape) if n == 1 and gradient.shape[1 + extra + i] != 1]
    axes = (*range(1, 1 + extra), *(1 + extra + i for i in repeated))
    summed = gradient.sum(axis=axes, keepdims=True) if axes else gradient
    return summed.reshape(gradient.shape[0], *shape)


def repeats(shape: Shape, out: Shape) -> int:
    """How often broadcasting ``shape`` to ``out`` uses one entry."""
    return max(1, prod(out) // max(1, prod(shape)))


def position(axis: int, rank: int, name: str) -> int:
    """A possibly negative axis as 0 .. rank - 1; ShapeError when it is outside."""
    if not -rank <= axis < max(rank, 1):
        raise ShapeError(f"{name} has no axis {axis} in a shape of {rank} axes. Use an axis from {-rank} to {rank - 1}.")
    return axis % rank if rank else 0


def through_torch(function: Callable[..., Array], *arrays: Any) -> Array:
    """Applies a torch function; numpy inputs, other arguments included, become tensors of the first one's dtype and back."""
    if not is_numpy(arrays[0]):
        return function(*arrays)
    dtype = np.result_type(arrays[0], *(a for a in arrays[1:] if a is not None))
    import torch

    tensors = [None if a is None else torch.from_numpy(np.array(a, dtype=dtype)) for a in arrays]
    return function(*tensors).numpy()
