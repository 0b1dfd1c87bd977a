"""Selecting entries and putting them beside each other: slice, gather, pad, concatenate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from ascertain.errors import ShapeError
from ascertain.operators.base import Affine, Array, Operator, Ref, Shape, is_numpy, namespace

__all__ = ["Concat", "Gather", "Pad", "Slice"]


@dataclass(frozen=True, eq=False)
class Slice(Affine):
    """x[start:stop:step] on every axis; ``ranges`` holds (start, stop, step) per axis with 0 <= start <= stop <= size, step > 0."""

    ranges: tuple[tuple[int, int, int], ...]

    def infer(self, *shapes: Shape) -> Shape:
        fits = len(self.ranges) == len(shapes[0]) and all(
            0 <= a <= b <= n and s > 0 for (a, b, s), n in zip(self.ranges, shapes[0], strict=True)
        )
        if not fits:
            raise ShapeError(f"Slice {self.ranges} leaves shape {shapes[0]}. Give start <= stop <= size for every axis.")
        return tuple(len(range(*r)) for r in self.ranges)

    @property
    def _index(self) -> tuple[slice, ...]:
        return (slice(None), *(slice(*r) for r in self.ranges))

    def linear(self, *inputs: Array) -> Array:
        return inputs[0][self._index]

    def forward(self, *inputs: Array) -> Array:
        return self.linear(*inputs)

    def adjoint(self, gradient: Array, *shapes: Shape) -> tuple[Array, ...]:
        return (placed(gradient, shapes[0], self._index),)

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls(((1, 4, 2), (0, 3, 1))), ((5, 3),)
        yield cls(((2, 5, 1),)), ((6,),)


def placed(values: Array, shape: Shape, index: tuple[slice, ...], fill: float = 0.0) -> Array:
    """``(R, *shape)`` filled with a number, with values at an index."""
    full = (values.shape[0], *shape)
    out = np.full(full, fill, values.dtype) if is_numpy(values) else values.new_full(full, fill)
    out[index] = values
    return out


@dataclass(frozen=True, eq=False)
class Pad(Affine):
    """``value`` around the input: ``before[i]`` and ``after[i]`` entries on axis i."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    value: float = 0.0

    def infer(self, *shapes: Shape) -> Shape:
        if not len(self.before) == len(self.after) == len(shapes[0]) or min((*self.before, *self.after), default=0) < 0:
            raise ShapeError(
                f"Pad {self.before}, {self.after} does not fit shape {shapes[0]}. Give one size >= 0 for each axis end."
            )
        return tuple(a + n + b for a, n, b in zip(self.before, shapes[0], self.after, strict=True))

    def _index(self, shape: Shape) -> tuple[slice, ...]:
        return (slice(None), *(slice(a, a + n) for a, n in zip(self.before, shape, strict=True)))

    def linear(self, *inputs: Array) -> Array:
        shape = tuple(inputs[0].shape[1:])
        return placed(inputs[0], self.infer(shape), self._index(shape))

    def forward(self, *inputs: Array) -> Array:
        shape = tuple(inputs[0].shape[1:])
        return placed(inputs[0], self.infer(shape), self._index(shape), self.value)

    def adjoint(self, gradient: Array, *shapes: Shape) -> tuple[Array, ...]:
        return (gradient[self._index(shapes[0])],)

    def magnitude(self) -> Affine:
        return replace(self, value=abs(self.value))

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls((0, 1), (2, 0), -0.5), ((2, 3),)
        yield cls((1,), (0,)), ((4,),)


@dataclass(frozen=True, eq=False)
class Concat(Affine):
    """The inputs one after the other along an axis >= 0."""

    axis: int

    def infer(self, *shapes: Shape) -> Shape:
        rests = {(*s[: self.axis], *s[self.axis + 1 :]) for s in shapes}
        if len(rests) != 1 or any(len(s) <= self.axis for s in shapes):
            raise ShapeError(
                f"Concat on axis {self.axis} cannot join shapes {', '.join(map(str, shapes))}. Make the other axes equal."
            )
        return (*shapes[0][: self.axis], sum(s[self.axis] for s in shapes), *shapes[0][self.axis + 1 :])

    def linear(self, *inputs: Array) -> Array:
        return namespace(inputs[0]).concatenate(inputs, self.axis + 1)

    def forward(self, *inputs: Array) -> Array:
        return self.linear(*inputs)

    def adjoint(self, gradient: Array, *shapes: Shape) -> tuple[Array, ...]:
        ends = np.cumsum([s[self.axis] for s in shapes]).tolist()
        lead = (slice(None),) * (self.axis + 1)
        return tuple(gradient[(*lead, slice(end - s[self.axis], end))] for s, end in zip(shapes, ends, strict=True))

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls(1), ((2, 3), (2, 1), (2, 2))
        yield cls(0), ((2,), (1,))


@dataclass(frozen=True, eq=False)
class Gather(Affine):
    """Entries ``indices`` (integers >= 0, any shape) along an axis; the shape of the indices replaces that axis."""

    axis: int
    indices: Array

    def infer(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        found = np.asarray(self.indices)
        if self.axis >= len(x) or found.size and not (0 <= found.min() and found.max() < x[self.axis]):
            raise ShapeError(f"Gather on axis {self.axis} has an index outside shape {x}. Use indices from 0 to size - 1.")
        return (*x[: self.axis], *found.shape, *x[self.axis + 1 :])

    def linear(self, *inputs: Array) -> Array:
        x, axis, flat = inputs[0], self.axis + 1, self.indices.reshape(-1)
        taken = x.take(flat, axis) if is_numpy(x) else x.index_select(axis, flat)
        return taken if self.indices.ndim == 1 else taken.reshape(*x.shape[:axis], *self.indices.shape, *x.shape[axis + 1 :])

    def forward(self, *inputs: Array) -> Array:
        return self.linear(*inputs)

    def adjoint(self, gradient: Array, *shapes: Shape) -> tuple[Array, ...]:
        full = (gradient.shape[0], *shapes[0])
        axis, flat = self.axis + 1, self.indices.reshape(-1)
        g = gradient.reshape(*full[:axis], flat.shape[0], *full[axis + 1 :])
        if is_numpy(g):
            out = np.zeros(full, g.dtype)
            np.add.at(out, (*(slice(None),) * axis, flat), g)
            return (out,)
        return (g.new_zeros(full).index_add(axis, flat, g),)

    def terms(self, *shapes: Shape) -> int:
        flat = np.asarray(self.indices).reshape(-1)
        return max(0, int(np.bincount(flat).max()) - 1) if flat.size else 0

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls(1, np.array([[2, 0], [0, 1]])), ((2, 3, 2),)
        yield cls(0, np.array(1)), ((3,),)
        yield cls(0, np.array([2, 1, 0])), ((3, 2),)
