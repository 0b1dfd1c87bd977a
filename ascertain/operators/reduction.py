"""Sums and means over axes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from ascertain.operators.arrays import position
from ascertain.operators.base import Affine, Array, Operator, Ref, Shape, namespace

__all__ = ["Reduce"]


@dataclass(frozen=True, eq=False)
class Reduce(Affine):
    """The sum (or ``mean``) over axes >= 0, which keep size 1 where ``keepdims``."""

    axes: tuple[int, ...]
    keepdims: bool
    mean: bool = False

    def infer(self, *shapes: Shape) -> Shape:
        for axis in self.axes:
            position(axis, len(shapes[0]), "Reduce")
        kept = [1 if i in self.axes else n for i, n in enumerate(shapes[0])]
        return tuple(kept) if self.keepdims else tuple(n for i, n in enumerate(kept) if i not in self.axes)

    def _count(self, shape: Shape) -> int:
        return prod(shape[i] for i in self.axes)

    def linear(self, *inputs: Array) -> Array:
        x = inputs[0]
        total = x.sum(axis=tuple(i + 1 for i in self.axes), keepdims=self.keepdims) if self.axes else x
        return total / self._count(tuple(x.shape[1:])) if self.mean else total

    def forward(self, *inputs: Array) -> Array:
        return self.linear(*inputs)

    def adjoint(self, gradient: Array, *shapes: Shape) -> tuple[Array, ...]:
        (shape,) = shapes
        g = gradient / self._count(shape) if self.mean else gradient
        kept = (1 if i in self.axes else n for i, n in enumerate(shape))
        return (namespace(g).broadcast_to(g.reshape(g.shape[0], *kept), (g.shape[0], *shape)),)

    def terms(self, *shapes: Shape) -> int:
        return self._count(shapes[0]) - 1 + self.mean

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls((0, 2), False), ((2, 3, 4),)
        yield cls((1,), True, mean=True), ((2, 3),)
