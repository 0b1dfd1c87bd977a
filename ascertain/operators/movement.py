"""Movement: other shapes and orders of the same entries, and operators that vanish because they change nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from ascertain.errors import ShapeError
from ascertain.operators.arguments import argument, integers, rounded, unsupported, variable
from ascertain.operators.arrays import broadcast, fold, position, repeats, spread
from ascertain.operators.base import Affine, Array, Operator, Ref, Shape, is_numpy, namespace
from ascertain.operators.reading import Call, aten, onnx

__all__ = ["Expand", "Reshape", "Transpose"]


@dataclass(frozen=True, eq=False)
class Reshape(Affine):
    """The same entries in row-major order under another shape."""

    shape: Shape

    def infer(self, *shapes: Shape) -> Shape:
        if prod(shapes[0]) != prod(self.shape):
            raise ShapeError(f"Reshape cannot turn shape {shapes[0]} into {self.shape}. Both need the same number of entries.")
        return self.shape

    def then(self, after: Operator, *shapes: Shape) -> Operator | None:
        return after if isinstance(after, Reshape) else None

    def preserves_order(self, *shapes: Shape) -> bool:
        return True

    def linear(self, *inputs: Array) -> Array:
        return inputs[0].reshape(inputs[0].shape[0], *self.shape)

    def forward(self, *inputs: Array) -> Array:
        return self.linear(*inputs)

    def adjoint(self, gradient: Array, *shapes: Shape) -> tuple[Array, ...]:
        return (gradient.reshape(gradient.shape[0], *shapes[0]),)

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls((6, 2)), ((3, 4),)
        yield cls(()), ((1,),)


@dataclass(frozen=True, eq=False)
class Transpose(Affine):
    """Axis i of the output is axis ``permutation[i]`` of the input."""

    permutation: tuple[int, ...]

    def infer(self, *shapes: Shape) -> Shape:
        if sorted(self.permutation) != list(range(len(shapes[0]))):
            raise ShapeError(f"Transpose {self.permutation} does not permute the axes of shape {shapes[0]}. List every axis once.")
        return tuple(shapes[0][i] for i in self.permutation)

    def then(self, after: Operator, *shapes: Shape) -> Operator | None:
        return Transpose(tuple(self.permutation[i] for i in after.permutation)) if isinstance(after, Transpose) else None

    def _permute(self, x: Array, permutation: tuple[int, ...]) -> Array:
        order = (0, *(i + 1 for i in permutation))
        return x.transpose(order) if is_numpy(x) else x.permute(order)

    def linear(self, *inputs: Array) -> Array:
        return self._permute(inputs[0], self.permutation)

    def forward(self, *inputs: Array) -> Array:
        return self.linear(*inputs)

    def adjoint(self, gradient: Array, *shapes: Shape) -> tuple[Array, ...]:
        return (self._permute(gradient, tuple(int(i) for i in np.argsort(self.permutation))),)

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls((2, 0, 1)), ((2, 3, 4),)


@dataclass(frozen=True, eq=False)
class Expand(Affine):
    """Repeats the input along axes of size 1 and new leading axes, to the shape that both broadcast to."""

    shape: Shape

    def infer(self, *shapes: Shape) -> Shape:
        return broadcast("Expand", shapes[0], self.shape)

    def linear(self, *inputs: Array) -> Array:
        x = inputs[0]
        out = self.infer(tuple(x.shape[1:]))
        return namespace(x).broadcast_to(spread(x, len(out)), (x.shape[0], *out))

    def forward(self, *inputs: Array) -> Array:
        return self.linear(*inputs)

    def adjoint(self, gradient: Array, *shapes: Shape) -> tuple[Array, ...]:
        return (fold(gradient, shapes[0]),)

    def terms(self, *shapes: Shape) -> int:
        return repeats(shapes[0], self.infer(*shapes)) - 1

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls((2, 3, 4)), ((3, 1),)


# Readers


def reshaped(call: Call, x: Ref, shape: Sequence[int]) -> Ref:
    """x under a shape in which at most one size is -1."""
    size = [int(n) for n in shape]
    if -1 in size:
        rest = -prod(size)
        size[size.index(-1)] = prod(x.shape) // rest if rest > 0 else 0
    return x if tuple(size) == x.shape else call.emit(Reshape(tuple(size)), x)


def transposed(call: Call, x: Ref, permutation: Sequence[int]) -> Ref:
    """x with its axes in another order."""
    order = tuple(position(int(i), len(x.shape), call.operator) for i in permutation)
    return x if order == tuple(range(len(order))) else call.emit(Transpose(order), x)


def axes_of(call: Call, x: Ref, axes: Sequence[int] | None, rank: int | None = None) -> tuple[int, ...]:
    """Axes as numbers >= 0; None means all."""
    rank = len(x.shape) if rank is None else rank
    return tuple(range(rank)) if axes is None else tuple(sorted({position(int(i), rank, call.operator) for i in axes}))


@onnx("Identity", "Dropout")
@aten(
    "alias.default",
    "clone.default",
    "contiguous.default",
    "detach.default",
    "detach_.default",
    "dropout.default",
    "dropout_.default",
    "feature_dropout.default",
    "alpha_dropout.default",
    "lift_fresh_copy.default",
)
def _identity(call: Call) -> Ref:
    training = call.inputs[2] if "dropout" in call.operator.lower() and len(call.inputs) > 2 else False
    if training is not None and bool(np.asarray(training).any()):
        raise unsupported(call, "training mode", "Export the model in evaluation mode.")
    return variable(call)


@aten("native_dropout.default")
def _native_dropout(call: Call) -> tuple[Ref, ...]:
    return (_identity(call),)


@onnx("Cast")
def _cast(call: Call) -> Ref:
    if call.attributes.get("to") not in (1, 11):
        raise unsupported(
            call, "a type other than float32 and float64", "Remove the cast: rounding to another type is not modelled."
        )
    return variable(call)


@aten("_to_copy.default", "to.dtype", "to.dtype_layout", "to.device", "type_as.default")
def _to_copy(call: Call) -> Ref:
    words = [str(v) for v in (*call.inputs[1:], *call.attributes.values())]
    narrow = [w for w in words if w.startswith("torch.") and any(t in w for t in ("int", "float16", "half", "bool", "float8"))]
    if narrow:
        raise unsupported(call, f"type {narrow[0]}", "Remove the cast: rounding to another type is not modelled.")
    if (kind := rounded(call)) is not None:
        raise unsupported(call, f"type {kind}", "Remove the cast: rounding to another type is not modelled.")
    return variable(call)


@onnx("Reshape")
def _reshape_onnx(call: Call) -> Ref:
    x, shape = variable(call), integers(call, 1, "shape")
    if shape is None:
        raise unsupported(call, "no shape", "Give the shape as a constant.")
    keep = not call.attributes.get("allowzero", 0)
    return reshaped(call, x, [x.shape[i] if n == 0 and keep else n for i, n in enumerate(shape)])


@aten("view.default", "reshape.default", "_unsafe_view.default", "_reshape_copy.default", "view_copy.default")
def _reshape_aten(call: Call) -> Ref:
    return reshaped(call, variable(call), integers(call, 1, "size") or ())


@onnx("Flatten")
def _flatten_onnx(call: Call) -> Ref:
    x = variable(call)
    axis = int(call.attributes.get("axis", 1))
    axis = axis + len(x.shape) if axis < 0 else axis
    return reshaped(call, x, (prod(x.shape[:axis]), prod(x.shape[axis:])))


@aten("flatten.using_ints")
def _flatten_aten(call: Call) -> Ref:
    x = variable(call)
    rank = len(x.shape)
    start = position(int(argument(call, 1, "start_dim", 0)), rank, call.operator)
    stop = position(int(argument(call, 2, "end_dim", -1)), rank, call.operator)
    return reshaped(call, x, (*x.shape[:start], prod(x.shape[start : stop + 1]), *x.shape[stop + 1 :]))


@aten("unflatten.int")
def _unflatten(call: Call) -> Ref:
    x = variable(call)
    axis = position(int(argument(call, 1, "dim")), len(x.shape), call.operator)
    sizes = [int(n) for n in argument(call, 2, "sizes")]
    if -1 in sizes:
        sizes[sizes.index(-1)] = x.shape[axis] // -prod(sizes)
    return reshaped(call, x, (*x.shape[:axis], *sizes, *x.shape[axis + 1 :]))


@onnx("Squeeze")
@aten("squeeze.default", "squeeze.dim", "squeeze.dims", "squeeze_copy.dims")
def _squeeze(call: Call) -> Ref:
    x, axes = variable(call), integers(call, 1, "axes")
    if axes is None:
        axes = integers(call, 1, "dim")
    drop = [i for i in axes_of(call, x, axes) if x.shape[i] == 1]
    return reshaped(call, x, [n for i, n in enumerate(x.shape) if i not in drop])


@onnx("Unsqueeze")
@aten("unsqueeze.default")
def _unsqueeze(call: Call) -> Ref:
    x = variable(call)
    axes = integers(call, 1, "axes")
    axes = (integers(call, 1, "dim") or ()) if axes is None else axes
    shape = list(x.shape)
    for i in axes_of(call, x, axes, len(shape) + len(axes)):
        shape.insert(i, 1)
    return reshaped(call, x, shape)


@onnx("Transpose")
def _transpose_onnx(call: Call) -> Ref:
    x = variable(call)
    return transposed(call, x, call.attributes.get("perm") or range(len(x.shape))[::-1])


@aten("permute.default", "t.default", "transpose.int", "numpy_T.default", "swapaxes.default", "permute_copy.default")
def _permute(call: Call) -> Ref:
    x = variable(call)
    order = list(range(len(x.shape)))
    if "permute" in call.operator:
        return transposed(call, x, integers(call, 1, "dims") or ())
    if call.operator.endswith(("t.default", "numpy_T.default")):
        return transposed(call, x, order[::-1])
    first, second = (position(int(v), len(order), call.operator) for v in (argument(call, 1, "dim0"), argument(call, 2, "dim1")))
    order[first], order[second] = second, first
    return transposed(call, x, order)


@onnx("Expand")
@aten("expand.default", "broadcast_to.default", "expand_copy.default")
def _expand(call: Call) -> Ref:
    x, shape = variable(call), integers(call, 1, "size")
    if shape is None:
        raise unsupported(call, "no shape", "Give the shape as a constant.")
    lead = len(shape) - len(x.shape)
    known = tuple(x.shape[i - lead] if n == -1 else n for i, n in enumerate(shape))
    return x if broadcast(call.operator, x.shape, known) == x.shape else call.emit(Expand(known), x)


@onnx("Tile")
@aten("repeat.default", "tile.default")
def _tile(call: Call) -> Ref:
    x, times = variable(call), list(integers(call, 1, "repeats") or ())
    rank = max(len(times), len(x.shape))
    times, shape = [1] * (rank - len(times)) + times, [1] * (rank - len(x.shape)) + list(x.shape)
    apart = reshaped(call, x, [n for size in shape for n in (1, size)])
    wide = tuple(n for pair in zip(times, shape, strict=True) for n in pair)
    return reshaped(call, call.emit(Expand(wide), apart), [n * t for n, t in zip(shape, times, strict=True)])


@onnx("DepthToSpace", "SpaceToDepth")
@aten("pixel_shuffle.default", "pixel_unshuffle.default")
def _shuffle(call: Call) -> Ref:
    x = variable(call)
    if len(x.shape) != 4:
        raise unsupported(call, f"an input of shape {x.shape}", "Give it four axes (N, C, H, W).")
    b = int(argument(call, 1, "blocksize", 0) or argument(call, 1, "upscale_factor", 0) or argument(call, 1, "downscale_factor"))
    n, c, h, w = x.shape
    if call.operator in ("SpaceToDepth", "aten.pixel_unshuffle.default"):
        order = (0, 3, 5, 1, 2, 4) if call.operator == "SpaceToDepth" else (0, 1, 3, 5, 2, 4)
        apart = reshaped(call, x, (n, c, h // b, b, w // b, b))
        return reshaped(call, transposed(call, apart, order), (n, c * b * b, h // b, w // b))
    columns = call.attributes.get("mode", "DCR") == "DCR" and call.operator == "DepthToSpace"
    apart = reshaped(call, x, (n, b, b, c // b**2, h, w) if columns else (n, c // b**2, b, b, h, w))
    return reshaped(
        call, transposed(call, apart, (0, 3, 4, 1, 5, 2) if columns else (0, 1, 4, 2, 5, 3)), (n, c // b**2, h * b, w * b)
    )
