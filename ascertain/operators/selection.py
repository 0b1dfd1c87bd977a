"""Selecting entries and putting them beside each other: slice, gather, pad, concatenate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ascertain.errors import ShapeError
from ascertain.operators.affine import Shift
from ascertain.operators.arguments import argument, array, integers, real, unsupported, variable
from ascertain.operators.arrays import position
from ascertain.operators.base import Affine, Array, Emit, Operator, Ref, Shape, is_numpy, namespace
from ascertain.operators.movement import Reshape
from ascertain.operators.reading import Call, aten, onnx

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
        if self.axis >= len(x) or (found.size and not (found.min() >= 0 and found.max() < x[self.axis])):
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


# Readers


def sliced(call: Call, x: Ref, ranges: dict[int, slice]) -> Ref:
    """x[...] with Python slices on some axes; a negative step becomes a gather."""
    full = [(0, n, 1) for n in x.shape]
    for axis, wanted in ranges.items():
        taken = range(*wanted.indices(x.shape[axis]))
        if taken.step > 0:
            full[axis] = (taken.start, max(taken.start, taken.stop), taken.step)
        else:
            x = call.emit(Gather(axis, np.array(taken, dtype=np.int64)), x)
            full[axis] = (0, len(taken), 1)
    return x if all(r == (0, n, 1) for r, n in zip(full, x.shape, strict=True)) else call.emit(Slice(tuple(full)), x)


def picked(emit: Emit, x: Ref, axis: int, indices: np.ndarray) -> Ref:
    """Entries at indices >= 0 along an axis: a slice where they are evenly spaced, else a gather."""
    flat = indices.reshape(-1)
    steps = np.diff(flat)
    if indices.ndim > 1 or flat.size == 0 or (steps.size and not (steps[0] > 0 and (steps == steps[0]).all())):
        return emit(Gather(axis, indices.astype(np.int64)), x)
    taken = (int(flat[0]), int(flat[-1]) + 1, int(steps[0]) if steps.size else 1)
    whole = flat.size == x.shape[axis]
    part = x if whole else emit(Slice(tuple(taken if i == axis else (0, n, 1) for i, n in enumerate(x.shape))), x)
    return part if indices.ndim else emit(Reshape((*x.shape[:axis], *x.shape[axis + 1 :])), part)


def joined(call: Call, parts: Sequence[object], axis: int) -> Ref:
    """Concatenation of values and constants: constants become padding of a neighbour plus one offset."""
    rank = next(len(p.shape) for p in parts if isinstance(p, Ref))
    axis = position(axis, rank, call.operator)
    used = [p if isinstance(p, Ref) else array(p) for p in parts]
    # the exporters' empty tensors of one axis, which torch.cat ignores
    used = [p for p in used if isinstance(p, Ref) or p.size or p.ndim == rank]
    refs: list[Ref] = []
    waiting = 0
    for part in used:
        if isinstance(part, Ref):
            refs.append(_padded(call, part, axis, waiting, 0))
            waiting = 0
        elif refs:
            refs[-1] = _padded(call, refs[-1], axis, 0, part.shape[axis])
        else:
            waiting += part.shape[axis]
    whole = refs[0] if len(refs) == 1 else call.emit(Concat(axis), *refs)
    if all(isinstance(p, Ref) for p in used):
        return whole
    offset = np.concatenate([np.zeros(p.shape, np.float32) if isinstance(p, Ref) else p for p in used], axis)
    return call.emit(Shift(offset), whole) if offset.any() else whole


def _padded(call: Call, x: Ref, axis: int, before: int, after: int, value: float = 0.0) -> Ref:
    if before == after == 0:
        return x
    first, last = [0] * len(x.shape), [0] * len(x.shape)
    first[axis], last[axis] = before, after
    return call.emit(Pad(tuple(first), tuple(last), value), x)


def surrounded(call: Call, x: Ref, before: Sequence[int], after: Sequence[int], mode: str, value: float) -> Ref:
    """x with entries added (cut off where negative) at both ends of every axis: a constant, or its own entries repeated."""
    cut = {
        i: slice(max(-a, 0), n - max(-b, 0))
        for i, (a, n, b) in enumerate(zip(before, x.shape, after, strict=True))
        if min(a, b) < 0
    }
    x = sliced(call, x, cut)
    first, last = tuple(max(a, 0) for a in before), tuple(max(b, 0) for b in after)
    if mode == "constant":
        if not np.isfinite(value):
            raise unsupported(call, f"the fill value {value}", "Use a finite one.")
        return call.emit(Pad(first, last, value), x) if any((*first, *last)) else x
    numpy_mode = {"reflect": "reflect", "edge": "edge", "replicate": "edge", "wrap": "wrap", "circular": "wrap"}.get(mode)
    if numpy_mode is None:
        raise unsupported(call, f"mode {mode}", "Use constant, reflect, edge or wrap.")
    for axis, (a, b) in enumerate(zip(first, last, strict=True)):
        if a or b:
            x = picked(call.emit, x, axis, np.pad(np.arange(x.shape[axis]), (a, b), numpy_mode))  # type: ignore[call-overload]
    return x


def parted(call: Call, x: Ref, axis: int, sizes: Sequence[int]) -> tuple[Ref, ...]:
    """Consecutive pieces of x along an axis."""
    axis = position(axis, len(x.shape), call.operator)
    ends = np.cumsum([0, *sizes]).tolist()
    if ends[-1] != x.shape[axis]:
        raise ShapeError(f"{call.operator} into sizes {list(sizes)} does not fit axis {axis} of shape {x.shape}. Make them add up.")
    return tuple(sliced(call, x, {axis: slice(a, b)}) for a, b in pairwise(ends))


def _even(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]


@onnx("Slice")
def _slice_onnx(call: Call) -> Ref:
    x = variable(call)
    starts, ends = integers(call, 1, "starts") or (), integers(call, 2, "ends") or ()
    axes = integers(call, 3, "axes") or tuple(range(len(starts)))
    steps = integers(call, 4, "steps") or (1,) * len(starts)
    found = zip(axes, starts, ends, steps, strict=True)
    return sliced(call, x, {position(axis, len(x.shape), "Slice"): slice(a, b, s) for axis, a, b, s in found})


@aten("slice.Tensor", "slice_copy.Tensor", "narrow.default")
def _slice_aten(call: Call) -> Ref:
    x = variable(call)
    axis = position(int(argument(call, 1, "dim", 0)), len(x.shape), call.operator)
    start, stop = argument(call, 2, "start"), argument(call, 3, "end")
    if call.operator.endswith("narrow.default"):
        return sliced(call, x, {axis: slice(int(start), int(start) + int(argument(call, 3, "length")))})
    return sliced(call, x, {axis: slice(start, stop, int(argument(call, 4, "step", 1)))})


@aten("select.int", "select_copy.int")
def _select(call: Call) -> Ref:
    x = variable(call)
    axis = position(int(argument(call, 1, "dim")), len(x.shape), call.operator)
    return picked(call.emit, x, axis, np.array(position(int(argument(call, 2, "index")), x.shape[axis], call.operator)))


def _indices(call: Call, place: int, name: str, size: int) -> np.ndarray:
    found = argument(call, place, name)
    if found is None or isinstance(found, Ref):
        raise unsupported(call, "indices computed from the network's input", "Make them a constant of the model.")
    known = np.asarray(found)
    if known.size and not (known.min() >= -size and known.max() < size):
        raise ShapeError(f"{call.operator} has an index outside an axis of size {size}. Use indices from {-size} to {size - 1}.")
    return np.where(known < 0, known + size, known)


@onnx("Gather")
def _gather(call: Call) -> Ref:
    x = variable(call)
    axis = position(int(call.attributes.get("axis", 0)), len(x.shape), "Gather")
    return picked(call.emit, x, axis, _indices(call, 1, "indices", x.shape[axis]))


@aten("index_select.default")
def _index_select(call: Call) -> Ref:
    x = variable(call)
    axis = position(int(argument(call, 1, "dim")), len(x.shape), call.operator)
    return picked(call.emit, x, axis, _indices(call, 2, "index", x.shape[axis]))


@aten("index.Tensor")
def _index(call: Call) -> Ref:
    x, given = variable(call), list(argument(call, 1, "indices"))
    axes = [i for i, v in enumerate(given) if v is not None]
    if len(axes) != 1:
        raise unsupported(call, f"indices on {len(axes)} axes", "Index one axis at a time.")
    known = np.asarray(given[axes[0]])
    if known.dtype == np.bool_:
        known = np.flatnonzero(known)
    size = x.shape[axes[0]]
    return picked(call.emit, x, axes[0], _indices(replace(call, inputs=(x, known)), 1, "indices", size))


@aten("flip.default")
def _flip(call: Call) -> Ref:
    x = variable(call)
    axes = integers(call, 1, "dims") or ()
    return sliced(call, x, {position(i, len(x.shape), call.operator): slice(None, None, -1) for i in axes})


@onnx("Concat")
def _concat(call: Call) -> Ref:
    return joined(call, call.inputs, int(call.attributes.get("axis", 1)))


@aten("cat.default", "concat.default", "concatenate.default")
def _cat(call: Call) -> Ref:
    return joined(call, call.inputs[0], int(argument(call, 1, "dim", 0)))


@aten("stack.default")
def _stack(call: Call) -> Ref:
    parts = call.inputs[0]
    rank = next(len(p.shape) for p in parts if isinstance(p, Ref))
    axis = position(int(argument(call, 1, "dim", 0)), rank + 1, call.operator)

    def thick(part: object) -> object:
        if isinstance(part, Ref):
            return call.emit(Reshape((*part.shape[:axis], 1, *part.shape[axis:])), part)
        return np.expand_dims(array(part), axis)

    return joined(call, [thick(p) for p in parts], axis)


@onnx("Pad")
def _pad_onnx(call: Call) -> Ref:
    x, value = variable(call), real(call, 2, "value", 0.0)
    pads = integers(call, 1, "pads") or (0,) * 2 * len(x.shape)
    axes = integers(call, 3, "axes") or tuple(range(len(x.shape)))
    before, after = [0] * len(x.shape), [0] * len(x.shape)
    for i, axis in enumerate(axes):
        place = position(axis, len(x.shape), "Pad")
        before[place], after[place] = pads[i], pads[i + len(axes)]
    return surrounded(call, x, before, after, str(call.attributes.get("mode", "constant")), value or 0.0)


@aten("constant_pad_nd.default", "pad.default", "reflection_pad1d.default", "reflection_pad2d.default", "reflection_pad3d.default")
@aten("replication_pad1d.default", "replication_pad2d.default", "replication_pad3d.default")
def _pad_aten(call: Call) -> Ref:
    x, flat = variable(call), integers(call, 1, "pad") or integers(call, 1, "padding") or ()
    before, after = [0] * len(x.shape), [0] * len(x.shape)
    for i in range(len(flat) // 2):
        before[-1 - i], after[-1 - i] = flat[2 * i], flat[2 * i + 1]
    if call.operator.endswith("pad_nd.default"):
        return surrounded(call, x, before, after, "constant", float(argument(call, 2, "value", 0.0)))
    named = next((m for m in ("reflect", "replicat") if m in call.operator), "")
    mode = {"reflect": "reflect", "replicat": "replicate", "": str(argument(call, 2, "mode", "constant"))}[named]
    return surrounded(call, x, before, after, mode, float(argument(call, 3, "value", 0.0)))


@onnx("Split")
def _split_onnx(call: Call) -> tuple[Ref, ...]:
    x = variable(call)
    axis = position(int(call.attributes.get("axis", 0)), len(x.shape), "Split")
    sizes = integers(call, 1, "split")
    if sizes is None:
        count = int(call.attributes.get("num_outputs", call.outputs))
        if count < 1:
            raise unsupported(call, "an unknown number of outputs", "State the sizes of the pieces.")
        sizes = tuple(_even(x.shape[axis], -(-x.shape[axis] // count)))
    return parted(call, x, axis, sizes)


@aten("split.Tensor", "split_with_sizes.default", "split.sizes", "chunk.default", "unsafe_chunk.default", "split_copy.Tensor")
@aten("unsafe_split.Tensor", "unsafe_split_with_sizes.default")
def _split_aten(call: Call) -> tuple[Ref, ...]:
    x, wanted = variable(call), call.inputs[1]
    axis = position(int(argument(call, 2, "dim", 0)), len(x.shape), call.operator)
    if isinstance(wanted, (list, tuple)):
        return parted(call, x, axis, [int(n) for n in wanted])
    size = -(-x.shape[axis] // int(wanted)) if "chunk" in call.operator else int(wanted)
    return parted(call, x, axis, _even(x.shape[axis], size))


@aten("unbind.int")
def _unbind(call: Call) -> tuple[Ref, ...]:
    x = variable(call)
    axis = position(int(argument(call, 1, "dim", 0)), len(x.shape), call.operator)
    return tuple(picked(call.emit, x, axis, np.array(i)) for i in range(x.shape[axis]))
