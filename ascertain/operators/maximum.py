"""Maxima and sorting: tournaments of max(x, y) = y + relu(x - y)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from ascertain.errors import ShapeError
from ascertain.operators.affine import Sum
from ascertain.operators.arguments import argument, array, integers, variable
from ascertain.operators.arrays import broadcast, position, spread, through_torch
from ascertain.operators.base import Array, Composite, Emit, Operator, Ref, Shape, namespace
from ascertain.operators.convolution import Pads, batched, each, geometry
from ascertain.operators.movement import Expand, Reshape, axes_of
from ascertain.operators.piecewise import Clip, Relu, bound
from ascertain.operators.pooling import pooled
from ascertain.operators.reading import Call, aten, onnx
from ascertain.operators.selection import Concat, Slice, picked

__all__ = ["GroupSort", "MaxPool", "Maximum", "Minimum", "ReduceMax"]


def larger(emit: Emit, x: Ref, y: Ref) -> Ref:
    """max(x, y)."""
    return emit(Sum((1.0, 1.0)), y, emit(Relu(), emit(Sum((1.0, -1.0)), x, y)))


def tournament(play: Callable[[Ref, Ref], Ref], players: Sequence[Ref]) -> Ref:
    """The winner of pairwise rounds, in as few rounds as possible."""
    left = list(players)
    while len(left) > 1:
        left = [play(*left[i : i + 2]) if i + 1 < len(left) else left[i] for i in range(0, len(left), 2)]
    return left[0]


@dataclass(frozen=True, eq=False)
class Maximum(Composite):
    """The elementwise maximum of its inputs, with broadcasting."""

    def infer(self, *shapes: Shape) -> Shape:
        return broadcast(self.name, *shapes)

    def forward(self, *inputs: Array) -> Array:
        rank = max(x.ndim for x in inputs) - 1
        return reduce(self._pick, (spread(x, rank) for x in inputs))

    def _pick(self, x: Array, y: Array) -> Array:
        return namespace(x).maximum(x, y)

    def expand(self, emit: Emit, *inputs: Ref) -> Ref:
        return tournament(lambda x, y: larger(emit, x, y), inputs)

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls(), ((2, 3), (2, 3))
        yield cls(), ((2, 1), (3,), (1, 1, 1))


@dataclass(frozen=True, eq=False)
class Minimum(Maximum):
    """The elementwise minimum of its inputs, with broadcasting."""

    def _pick(self, x: Array, y: Array) -> Array:
        return namespace(x).minimum(x, y)

    def expand(self, emit: Emit, *inputs: Ref) -> Ref:
        def smaller(x: Ref, y: Ref) -> Ref:
            return emit(Sum((1.0, -1.0)), x, emit(Relu(), emit(Sum((1.0, -1.0)), x, y)))

        return tournament(smaller, inputs)


@dataclass(frozen=True, eq=False)
class ReduceMax(Composite):
    """The maximum over axes >= 0, which keep size 1 where ``keepdims``."""

    axes: tuple[int, ...]
    keepdims: bool

    def infer(self, *shapes: Shape) -> Shape:
        for axis in self.axes:
            position(axis, len(shapes[0]), "ReduceMax")
        kept = [1 if i in self.axes else n for i, n in enumerate(shapes[0])]
        return tuple(kept) if self.keepdims else tuple(n for i, n in enumerate(kept) if i not in self.axes)

    def forward(self, *inputs: Array) -> Array:
        x, axes = inputs[0], tuple(i + 1 for i in self.axes)
        return namespace(x).amax(x, axes, keepdims=self.keepdims) if axes else x

    def expand(self, emit: Emit, *inputs: Ref) -> Ref:
        x = inputs[0]
        for axis in self.axes:
            while (n := x.shape[axis]) > 1:
                half = n // 2
                winners = larger(emit, _cut(emit, x, axis, 0, half), _cut(emit, x, axis, half, 2 * half))
                x = emit(Concat(axis), winners, _cut(emit, x, axis, n - 1, n)) if n % 2 else winners
        return x if self.keepdims else emit(Reshape(self.infer(x.shape)), x)

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls((0, 2), False), ((3, 2, 5),)
        yield cls((1,), True), ((2, 4),)


def _cut(emit: Emit, x: Ref, axis: int, start: int, stop: int) -> Ref:
    return emit(Slice(tuple((start, stop, 1) if i == axis else (0, n, 1) for i, n in enumerate(x.shape))), x)


@dataclass(frozen=True, eq=False)
class MaxPool(Composite):
    """Maximum over windows of ``(N, C, *S)``; what lies outside the input never wins."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pads: Pads
    dilation: tuple[int, ...]
    ceil: bool = False

    def infer(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        if len(x) != len(self.kernel) + 2:
            raise ShapeError(
                f"MaxPool with kernel {self.kernel} needs {len(self.kernel) + 2} axes, got shape {x}. Reshape the input."
            )
        return (*x[:2], *(taps.shape[1] for taps in self._taps(x[2:])))

    def _taps(self, size: Shape) -> list[np.ndarray]:
        """For each axis ``(k, windows)``: input indices, those outside replaced by one inside the same window."""
        out = pooled(size, self.kernel, self.stride, self.pads, self.dilation, self.ceil)
        found = []
        for n, m, k, s, (a, _), d in zip(size, out, self.kernel, self.stride, self.pads, self.dilation, strict=True):
            tap = np.arange(k)[:, None] * d + np.arange(m) * s - a
            inside = (tap >= 0) & (tap < n)
            if not inside.any(0).all():
                raise ShapeError(f"MaxPool with pads {self.pads} has a window of nothing but padding. Use smaller pads.")
            some = tap[inside.argmax(0), np.arange(m)]
            found.append(np.where(inside, tap, some))
        return found

    def forward(self, *inputs: Array) -> Array:
        x = inputs[0]
        taps = self._taps(tuple(x.shape[3:]))

        def run(x: Array) -> Array:
            import torch

            for axis, tap in enumerate(taps, 3):
                parts = [x.index_select(axis, torch.as_tensor(t, device=x.device)) for t in tap]
                x = reduce(torch.maximum, parts)
            return x

        return through_torch(run, x)

    def expand(self, emit: Emit, *inputs: Ref) -> Ref:
        x = inputs[0]
        for axis, taps in enumerate(self._taps(x.shape[2:]), 2):
            players = [picked(emit, x, axis, t) for t in np.unique(taps, axis=0)]
            x = tournament(lambda a, b: larger(emit, a, b), players)
        return x

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), ((1, 2, 4, 5),)
        yield cls((3, 2), (2, 1), ((1, 1), (0, 1)), (1, 2)), ((1, 1, 5, 4),)
        yield cls((3,), (2,), ((1, 0),), (1,), ceil=True), ((2, 1, 6),)


@dataclass(frozen=True, eq=False)
class GroupSort(Composite):
    """Sorts each group of ``size`` neighbours along an axis; size 2 is MaxMin (Anil, Lucas, Grosse 2019)."""

    axis: int
    size: int
    descending: bool = False

    def infer(self, *shapes: Shape) -> Shape:
        axis = position(self.axis, len(shapes[0]), "GroupSort")
        if self.size < 1 or shapes[0][axis] % self.size:
            raise ShapeError(f"GroupSort cannot cut axis {axis} of shape {shapes[0]} into groups of {self.size}. Use a divisor.")
        return shapes[0]

    def _grouped(self, shape: Shape) -> Shape:
        return (*shape[: self.axis], shape[self.axis] // self.size, self.size, *shape[self.axis + 1 :])

    def forward(self, *inputs: Array) -> Array:
        x, axis = inputs[0], self.axis + 2
        groups = x.reshape(x.shape[0], *self._grouped(tuple(x.shape[1:])))
        xp = namespace(x)
        ordered = np.sort(groups, axis) if xp is np else groups.sort(axis).values
        return (xp.flip(ordered, (axis,)) if self.descending else ordered).reshape(x.shape)

    def expand(self, emit: Emit, *inputs: Ref) -> Ref:
        x, axis = inputs[0], self.axis + 1
        groups = emit(Reshape(self._grouped(x.shape)), x)
        lanes = [_cut(emit, groups, axis, i, i + 1) for i in range(self.size)]
        for i, j in sorting_network(self.size):
            rise = emit(Relu(), emit(Sum((1.0, -1.0)), lanes[i], lanes[j]))
            lanes[i], lanes[j] = emit(Sum((1.0, -1.0)), lanes[i], rise), emit(Sum((1.0, 1.0)), lanes[j], rise)
        return emit(Reshape(x.shape), emit(Concat(axis), *(lanes[::-1] if self.descending else lanes)))

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls(1, 2), ((1, 6, 2),)
        yield cls(0, 5, descending=True), ((5,),)
        yield cls(1, 4), ((2, 8),)


def sorting_network(size: int) -> Iterator[tuple[int, int]]:
    """Comparisons (i, j), i < j, that sort any sequence: Batcher's odd-even merge exchange (Knuth 5.2.2, algorithm M)."""
    top = 1 << max(0, (size - 1).bit_length() - 1)
    p = top if size > 1 else 0
    while p > 0:
        q, r, d = top, 0, p
        while True:
            yield from ((i, i + d) for i in range(size - d) if i & p == r)
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1


# Readers


def _extremum(call: Call, values: Sequence[object], largest: bool) -> Ref:
    refs = [v for v in values if isinstance(v, Ref)]
    x = refs[0] if len(refs) == 1 else call.emit(Maximum() if largest else Minimum(), *refs)
    known = [array(v) for v in values if not isinstance(v, Ref)]
    if not known:
        return x
    limit = reduce(np.maximum if largest else np.minimum, known)
    shape = broadcast(call.operator, x.shape, limit.shape)
    x = x if shape == x.shape else call.emit(Expand(shape), x)
    found = bound(limit, lower=largest)
    return x if found is None else call.emit(Clip(found, None) if largest else Clip(None, found), x)


@onnx("Max")
@aten("maximum.default", "max.other")
def _maximum(call: Call) -> Ref:
    return _extremum(call, call.inputs, True)


@onnx("Min")
@aten("minimum.default", "min.other")
def _minimum(call: Call) -> Ref:
    return _extremum(call, call.inputs, False)


def _reduced(call: Call, x: Ref, axes: Sequence[int] | None, keepdims: bool, largest: bool) -> Ref:
    found = axes_of(call, x, axes)
    if not found:
        return x
    if largest:
        return call.emit(ReduceMax(found, keepdims), x)
    return call.emit(Sum((-1.0,)), call.emit(ReduceMax(found, keepdims), call.emit(Sum((-1.0,)), x)))


@onnx("ReduceMax", "ReduceMin")
def _reduce_onnx(call: Call) -> Ref:
    axes = integers(call, 1, "axes")
    if not axes:
        axes = () if call.attributes.get("noop_with_empty_axes", 0) else None
    return _reduced(call, variable(call), axes, bool(call.attributes.get("keepdims", 1)), call.operator == "ReduceMax")


@onnx("GlobalMaxPool")
def _global_max_pool(call: Call) -> Ref:
    x = variable(call)
    return _reduced(call, x, range(2, len(x.shape)), True, True)


@aten("amax.default", "amin.default", "max.default", "min.default")
def _reduce_aten(call: Call) -> Ref:
    axes, keepdims = integers(call, 1, "dim") or None, bool(argument(call, 2, "keepdim", False))
    return _reduced(call, variable(call), axes, keepdims, "max" in call.operator)


@aten("max.dim", "min.dim")
def _reduce_with_index(call: Call) -> tuple[Ref, ...]:
    return (_reduce_aten(call),)


@aten("sort.default")
def _sort(call: Call) -> tuple[Ref, ...]:
    x = variable(call)
    axis = position(int(argument(call, 1, "dim", -1)), len(x.shape), call.operator)
    return (call.emit(GroupSort(axis, x.shape[axis], bool(argument(call, 2, "descending", False))), x),)


@onnx("MaxPool")
def _max_pool_onnx(call: Call) -> Ref:
    x, get = variable(call), call.attributes.get
    kernel = tuple(get("kernel_shape") or ())
    stride, pads, dilation = geometry(call, kernel, x.shape[2:])
    return call.emit(MaxPool(kernel, stride, pads, dilation, bool(get("ceil_mode", 0))), x)


@aten("max_pool1d.default", "max_pool2d.default", "max_pool3d.default")
def _max_pool_aten(call: Call) -> Ref:
    rank = int(call.operator.split("pool")[1][0])
    kernel = each(argument(call, 1, "kernel_size"), rank)
    stride = each(argument(call, 2, "stride") or list(kernel), rank)
    pads = tuple((p, p) for p in each(argument(call, 3, "padding", 0), rank))
    operator = MaxPool(
        kernel, stride, pads, each(argument(call, 4, "dilation", 1), rank), bool(argument(call, 5, "ceil_mode", False))
    )
    return batched(call, variable(call), rank, lambda x: call.emit(operator, x))


@aten("max_pool2d_with_indices.default", "max_pool3d_with_indices.default")
def _max_pool_with_indices(call: Call) -> tuple[Ref, ...]:
    return (_max_pool_aten(call),)
