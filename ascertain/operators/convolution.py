"""Convolutions and their transposes in one to three dimensions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from ascertain.errors import ShapeError
from ascertain.operators.affine import Shift
from ascertain.operators.arguments import argument, constant, unsupported, variable
from ascertain.operators.arrays import through_torch
from ascertain.operators.base import Affine, Array, Operator, Ref, Shape
from ascertain.operators.movement import Reshape
from ascertain.operators.normalization import MERGED, bias_size, merge
from ascertain.operators.reading import Call, aten, onnx

__all__ = ["Conv", "ConvTranspose", "Pads", "convolve", "transpose_convolve"]

Pads = tuple[tuple[int, int], ...]


def exact(x: Array) -> AbstractContextManager[object]:
    """Keeps cuDNN's transforms (Winograd, FFT, TF32) away: their error is not that of a plain sum of products."""
    if not x.is_cuda:
        return nullcontext()
    import torch

    return torch.backends.cudnn.flags(enabled=False)


def spans(size: Shape, kernel: Shape, like: Conv | ConvTranspose, pads: Pads) -> Shape:
    """Positions of the kernel along each axis."""
    return tuple(
        (n + a + b - d * (k - 1) - 1) // s + 1
        for n, (a, b), d, k, s in zip(size, pads, like.dilation, kernel, like.stride, strict=True)
    )


def compiled(x: Array, weight: Array, bias: Array | None, like: Conv | ConvTranspose, positions: int, single: bool = False) -> bool:
    """Whether our own loops run: on the CPU, in float64 (or ``single``), where they were measured to be faster than torch.

    Torch keeps what it differentiates; kernels of one entry, in float64 also those that do not overlap (they leave little to
    sum); less than 2^19 products, where the call itself takes longest; and groups and three dimensions, which the loops lack.
    """
    import torch

    taps = prod(weight.shape[2:])
    if x.device.type != "cpu" or like.groups > 1 or weight.ndim > 4 or taps == 1 or len(x) * positions * weight.numel() < 2**19:
        return False
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        return False
    return x.dtype == weight.dtype and (
        taps > prod(like.stride) if x.dtype == torch.float64 else single and x.dtype == torch.float32
    )


def crop_or_pad(x: Array, pads: Pads) -> Array:
    """Adds zeros (or cuts, where negative) on both ends of the last axes."""
    if not any(map(any, pads)):
        return x
    import torch

    return torch.nn.functional.pad(x, [n for pair in reversed(pads) for n in pair])


def convolve(x: Array, weight: Array, bias: Array | None, like: Conv | ConvTranspose, pads: Pads) -> Array:
    """Cross-correlation of ``(M, C, *S)`` with zeros around it."""
    size = spans(tuple(x.shape[2:]), tuple(weight.shape[2:]), like, pads)
    if compiled(x, weight, bias, like, prod(size)):
        from ascertain.operators import convolution_kernels

        return convolution_kernels.convolve(x, weight, bias, like.stride, [a for a, _ in pads], like.dilation, size)
    import torch

    common = tuple(max(min(p), 0) for p in pads)
    apply = getattr(torch.nn.functional, f"conv{len(pads)}d")
    x = crop_or_pad(x, tuple((a - m, b - m) for (a, b), m in zip(pads, common, strict=True)))
    with exact(x):
        return apply(x, weight, bias, like.stride, common, like.dilation, like.groups)


def transpose_convolve(x: Array, weight: Array, bias: Array | None, like: Conv | ConvTranspose, pads: Pads, size: Shape) -> Array:
    """Transpose of `convolve`: ``(M, O, *T)`` to ``(M, C, *size)``."""
    # In float32 torch is slow at transposed convolutions to few channels: to one, and with a stride to less than 16.
    hard = weight.shape[1] < (16 if max(like.stride) > 1 else 2)
    if compiled(x, weight, bias, like, prod(x.shape[2:]), single=hard):
        from ascertain.operators import convolution_kernels

        return convolution_kernels.transpose_convolve(x, weight, bias, like.stride, [a for a, _ in pads], like.dilation, size)
    import torch

    kernel = weight.shape[2:]
    full = [(n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip(x.shape[2:], like.stride, like.dilation, kernel, strict=True)]
    extra = tuple(n + a + b - f for n, (a, b), f in zip(size, pads, full, strict=True))
    apply = getattr(torch.nn.functional, f"conv_transpose{len(pads)}d")
    direct = all(a == b and 0 <= e < max(s, d) for (a, b), e, s, d in zip(pads, extra, like.stride, like.dilation, strict=True))
    with exact(x):
        if direct:
            common = tuple(a for a, _ in pads)
            return apply(x, weight, bias, like.stride, common, extra, like.groups, like.dilation)
        y = apply(x, weight, None, like.stride, 0, 0, like.groups, like.dilation)
    y = crop_or_pad(y, tuple((-a, e - b) for (a, b), e in zip(pads, extra, strict=True)))
    return y if bias is None else y + bias.reshape(-1, *[1] * len(pads))


def per_channel(after: Operator, shape: Shape) -> Array | None:
    """The offset ``(C,)`` of an operator that only shifts the channels of ``(N, C, *S)``; None for any other."""
    if not isinstance(after, Shift) or after.infer(shape) != shape:
        return None
    offset = np.moveaxis(np.broadcast_to(after.offset, shape), 1, 0).reshape(shape[1], -1)
    return offset[:, 0].copy() if (offset == offset[:, :1]).all() else None


def folded(x: Array) -> Array:
    """``(B, N, C, *S)`` as ``(B * N, C, *S)``."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def unfolded(y: Array, like: Array) -> Array:
    """``(B * N, C, *S)`` as ``(B, N, C, *S)``, with B and N those of another array."""
    return y.reshape(*like.shape[:2], *y.shape[1:])


@dataclass(frozen=True, eq=False)
class Conv(Affine):
    """Cross-correlation of ``(N, C, *S)`` with ``weight`` ``(O, C / groups, *K)``; ``pads`` are (before, after) per axis of S.

    Stored parameters are exact, or off by what `merge` rounds: then ``margin`` ``(O,)`` is what errors of ``bias`` are relative to.
    """

    weight: Array
    bias: Array | None
    stride: tuple[int, ...]
    pads: Pads
    dilation: tuple[int, ...]
    groups: int = 1
    margin: Array | None = None

    def infer(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        out, channels, *kernel = map(int, self.weight.shape)
        if len(x) != len(kernel) + 2 or x[1] != channels * self.groups or out % self.groups:
            raise ShapeError(f"Conv with weight {tuple(self.weight.shape)} and {self.groups} groups does not fit shape {x}.")
        size = spans(x[2:], tuple(kernel), self, self.pads)
        if min(size) < 1:
            raise ShapeError(
                f"Conv with kernel {tuple(kernel)} is larger than its input {x}. Pad the input or use a smaller kernel."
            )
        return (x[0], out, *size)

    def _apply(self, x: Array, bias: Array | None) -> Array:
        def run(x: Array, weight: Array, bias: Array | None) -> Array:
            return unfolded(convolve(folded(x), weight, bias, self, self.pads), x)

        return through_torch(run, x, self.weight, bias)

    def then(self, after: Operator, *shapes: Shape) -> Operator | None:
        out = self.infer(*shapes)
        if self.margin is None:
            merged = merge(after, out, self.weight, (-1, *[1] * (self.weight.ndim - 1)), self.bias)
            if merged is not None:
                return replace(self, weight=merged[0], bias=merged[1], margin=merged[2])
        bias = None if self.bias is not None else per_channel(after, out)
        return None if bias is None else replace(self, bias=bias)

    def linear(self, *inputs: Array) -> Array:
        return self._apply(inputs[0], None)

    def forward(self, *inputs: Array) -> Array:
        return self._apply(inputs[0], self.bias)

    def adjoint(self, gradient: Array, *shapes: Shape) -> tuple[Array, ...]:
        def run(g: Array, weight: Array) -> Array:
            return unfolded(transpose_convolve(folded(g), weight, None, self, self.pads, shapes[0][2:]), g)

        return (through_torch(run, gradient, self.weight),)

    def magnitude(self) -> Affine:
        return replace(self, weight=abs(self.weight), bias=bias_size(self.bias, self.margin))

    def torus(self, *shapes: Shape) -> tuple[Array, Shape] | None:
        out, channels, *kernel = map(int, self.weight.shape)
        full = np.zeros((out, channels * self.groups, *((k - 1) * d + 1 for k, d in zip(kernel, self.dilation, strict=True))))
        taps = tuple(slice(None, None, d) for d in self.dilation)
        for g, rows in enumerate(np.split(np.arange(out), self.groups)):
            full[(rows[0] + np.arange(len(rows)))[:, None], np.arange(g * channels, (g + 1) * channels), *taps] = self.weight[rows]
        return full, tuple(n + k - 1 for n, k in zip(shapes[0][2:], full.shape[2:], strict=True))

    def terms(self, *shapes: Shape) -> int:
        out, channels, *kernel = map(int, self.weight.shape)
        return max(channels, out // self.groups) * prod(kernel) + 1 + (0 if self.margin is None else MERGED)

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        r = np.random.default_rng(0)
        yield cls(r.normal(size=(3, 2, 3, 2)), r.normal(size=3), (2, 1), ((1, 0), (0, 2)), (1, 2)), ((1, 2, 6, 5),)
        yield cls(r.normal(size=(4, 1, 3, 3)), None, (2, 2), ((1, 1), (1, 1)), (1, 1), groups=2), ((2, 2, 6, 5),)
        yield cls(r.normal(size=(2, 3, 2)), r.normal(size=2), (3,), ((0, 0),), (2,)), ((1, 3, 8),)
        margin = np.array([4.0, 5.0])
        yield cls(r.normal(size=(2, 1, 1)), r.normal(size=2), (1,), ((0, 0),), (1,), margin=margin), ((1, 1, 3),)
        yield (
            cls(r.normal(size=(2, 1, 2, 2, 2)), r.normal(size=2), (1, 2, 1), ((0, 1), (1, 1), (0, 0)), (1, 1, 1)),
            ((1, 1, 3, 3, 2),),
        )


@dataclass(frozen=True, eq=False)
class ConvTranspose(Affine):
    """Transposed convolution of ``(N, C, *S)`` with ``weight`` ``(C, O / groups, *K)``: (before, after) ``pads`` are cut off the
    result and ``extra`` entries (output padding) added behind it. ``margin`` is that of `Conv`.
    """

    weight: Array
    bias: Array | None
    stride: tuple[int, ...]
    pads: Pads
    dilation: tuple[int, ...]
    extra: tuple[int, ...]
    groups: int = 1
    margin: Array | None = None

    def infer(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        channels, out, *kernel = map(int, self.weight.shape)
        if len(x) != len(kernel) + 2 or x[1] != channels or channels % self.groups:
            raise ShapeError(
                f"ConvTranspose with weight {tuple(self.weight.shape)} and {self.groups} groups does not fit shape {x}."
            )
        size = tuple(
            (n - 1) * s + d * (k - 1) + 1 - a - b + e
            for n, s, d, k, (a, b), e in zip(x[2:], self.stride, self.dilation, kernel, self.pads, self.extra, strict=True)
        )
        if min(size) < 1:
            raise ShapeError(f"ConvTranspose cuts everything off its input {x}. Use smaller pads.")
        return (x[0], out * self.groups, *size)

    def _apply(self, x: Array, bias: Array | None) -> Array:
        size = self.infer(tuple(x.shape[1:]))[2:]

        def run(x: Array, weight: Array, bias: Array | None) -> Array:
            return unfolded(transpose_convolve(folded(x), weight, bias, self, self.pads, size), x)

        return through_torch(run, x, self.weight, bias)

    def then(self, after: Operator, *shapes: Shape) -> Operator | None:
        out = self.infer(*shapes)
        if self.margin is None:
            grouped = self.weight.reshape(self.groups, -1, *self.weight.shape[1:])
            merged = merge(after, out, grouped, (self.groups, 1, -1, *[1] * (self.weight.ndim - 2)), self.bias)
            if merged is not None:
                return replace(self, weight=merged[0].reshape(self.weight.shape), bias=merged[1], margin=merged[2])
        bias = None if self.bias is not None else per_channel(after, out)
        return None if bias is None else replace(self, bias=bias)

    def linear(self, *inputs: Array) -> Array:
        return self._apply(inputs[0], None)

    def forward(self, *inputs: Array) -> Array:
        return self._apply(inputs[0], self.bias)

    def adjoint(self, gradient: Array, *shapes: Shape) -> tuple[Array, ...]:
        cut = tuple((a, b - e) for (a, b), e in zip(self.pads, self.extra, strict=True))

        def run(g: Array, weight: Array) -> Array:
            return unfolded(convolve(crop_or_pad(folded(g), cut), weight, None, self, ((0, 0),) * len(cut)), g)

        return (through_torch(run, gradient, self.weight),)

    def magnitude(self) -> Affine:
        return replace(self, weight=abs(self.weight), bias=bias_size(self.bias, self.margin))

    def terms(self, *shapes: Shape) -> int:
        channels, out, *kernel = map(int, self.weight.shape)
        return max(out, channels // self.groups) * prod(kernel) + 1 + (0 if self.margin is None else MERGED)

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        r = np.random.default_rng(0)
        yield cls(r.normal(size=(2, 3, 3, 2)), r.normal(size=3), (2, 1), ((1, 1), (0, 0)), (1, 2), (1, 0)), ((1, 2, 3, 2),)
        yield cls(r.normal(size=(4, 1, 2, 3)), None, (2, 3), ((1, 0), (0, 2)), (1, 1), (0, 4), groups=2), ((2, 4, 3, 2),)
        yield cls(r.normal(size=(2, 1, 3)), r.normal(size=1), (2,), ((1, 1),), (1,), (1,)), ((1, 2, 4),)
        yield cls(r.normal(size=(2, 1, 3)), r.normal(size=1), (2,), ((1, 1),), (1,), (1,), margin=np.ones(1) * 5), ((1, 2, 4),)


# Readers


def geometry(call: Call, kernel: Shape, size: Shape) -> tuple[Shape, Pads, Shape]:
    """Stride, pads and dilation of an ONNX convolution or pooling; ``auto_pad`` is resolved for the input size."""
    rank = len(kernel)
    get = call.attributes.get
    stride = tuple(get("strides") or (1,) * rank)
    dilation = tuple(get("dilations") or (1,) * rank)
    flat = tuple(get("pads") or (0,) * 2 * rank)
    mode = get("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0) for n, s, d, k in zip(size, stride, dilation, kernel, strict=True)
        ]
        less = [t // 2 for t in total]
        more = [t - m for t, m in zip(total, less, strict=True)]
        return stride, tuple(zip(less, more, strict=True) if mode == "SAME_UPPER" else zip(more, less, strict=True)), dilation
    if mode == "VALID":
        flat = (0,) * 2 * rank
    if min(flat, default=0) < 0:
        raise unsupported(call, f"negative pads {flat}", "Slice the input before it.")
    return stride, tuple(zip(flat[:rank], flat[rank:], strict=True)), dilation


def each(value: object, rank: int) -> Shape:
    """A number, or a list of one or ``rank`` numbers, as ``rank`` integers."""
    found = [int(n) for n in value] if isinstance(value, (list, tuple)) else [int(value)]  # type: ignore[call-overload]
    return tuple(found * rank if len(found) == 1 else found)


def batched(call: Call, x: Ref, rank: int, apply: Callable[[Ref], Ref]) -> Ref:
    """Applies an operator on ``(N, C, *S)`` to a value that may lack the axis N."""
    if len(x.shape) != rank + 1:
        return apply(x)
    y = apply(call.emit(Reshape((1, *x.shape)), x))
    return call.emit(Reshape(y.shape[1:]), y)


def _weights(call: Call, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    weight = constant(call, 1, name)
    if weight is None:
        raise unsupported(call, "no weight", "Give the weight as a constant.")
    return weight, constant(call, 2, "bias")


@onnx("Conv")
def _conv_onnx(call: Call) -> Ref:
    x, (weight, bias) = variable(call), _weights(call, "W")
    stride, pads, dilation = geometry(call, weight.shape[2:], x.shape[2:])
    return call.emit(Conv(weight, bias, stride, pads, dilation, int(call.attributes.get("group", 1))), x)


@onnx("ConvTranspose")
def _conv_transpose_onnx(call: Call) -> Ref:
    x, (weight, bias) = variable(call), _weights(call, "W")
    kernel, get = weight.shape[2:], call.attributes.get
    mode = get("auto_pad", "NOTSET")
    stride, pads, dilation = geometry(replace(call, attributes={**call.attributes, "auto_pad": "NOTSET"}), kernel, x.shape[2:])
    extra = tuple(get("output_padding") or (0,) * len(kernel))
    wanted = get("output_shape") or ([n * s for n, s in zip(x.shape[2:], stride, strict=True)] if mode.startswith("SAME") else None)
    if wanted is not None:
        total = [
            s * (n - 1) + e + (k - 1) * d + 1 - w
            for s, n, e, k, d, w in zip(stride, x.shape[2:], extra, kernel, dilation, wanted[-len(kernel) :], strict=True)
        ]
        half = [(t // 2, t - t // 2) for t in total]
        pads = tuple((a, b) if mode == "SAME_UPPER" else (b, a) for a, b in half)
    elif mode == "VALID":
        pads = ((0, 0),) * len(kernel)
    return call.emit(ConvTranspose(weight, bias, stride, pads, dilation, extra, int(get("group", 1))), x)


def _conv(call: Call, stride: object, padding: object, dilation: object, groups: int) -> Ref:
    weight, bias = _weights(call, "weight")
    rank = weight.ndim - 2
    steps, spread = each(stride, rank), each(dilation, rank)
    if isinstance(padding, str):
        total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(spread, weight.shape[2:], strict=True)]
        pads: Pads = tuple((t // 2, t - t // 2) for t in total)
    else:
        pads = tuple((p, p) for p in each(padding, rank))
    return batched(call, variable(call), rank, lambda x: call.emit(Conv(weight, bias, steps, pads, spread, groups), x))


@aten("conv1d.default", "conv2d.default", "conv3d.default", "conv1d.padding", "conv2d.padding", "conv3d.padding")
def _conv_aten(call: Call) -> Ref:
    stride, padding, dilation = argument(call, 3, "stride", 1), argument(call, 4, "padding", 0), argument(call, 5, "dilation", 1)
    return _conv(call, stride, padding, dilation, int(argument(call, 6, "groups", 1)))


def _conv_transpose(call: Call, stride: object, padding: object, extra: object, dilation: object, groups: int) -> Ref:
    weight, bias = _weights(call, "weight")
    rank = weight.ndim - 2
    pads: Pads = tuple((p, p) for p in each(padding, rank))
    operator = ConvTranspose(weight, bias, each(stride, rank), pads, each(dilation, rank), each(extra, rank), groups)
    return batched(call, variable(call), rank, lambda x: call.emit(operator, x))


@aten("conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input")
def _conv_transpose_aten(call: Call) -> Ref:
    stride, padding, extra = argument(call, 3, "stride", 1), argument(call, 4, "padding", 0), argument(call, 5, "output_padding", 0)
    return _conv_transpose(call, stride, padding, extra, argument(call, 7, "dilation", 1), int(argument(call, 6, "groups", 1)))


@aten("convolution.default")
def _convolution(call: Call) -> Ref:
    stride, padding, dilation, flipped, extra, groups = call.inputs[3:9]
    if flipped:
        return _conv_transpose(call, stride, padding, extra, dilation, int(groups))
    return _conv(call, stride, padding, dilation, int(groups))
