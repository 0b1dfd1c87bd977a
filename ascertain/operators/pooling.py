"""Average pooling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from ascertain.errors import ShapeError
from ascertain.operators.arguments import argument, unsupported, variable
from ascertain.operators.arrays import through_torch
from ascertain.operators.base import Affine, Array, Operator, Ref, Shape, is_numpy
from ascertain.operators.convolution import Conv, Pads, batched, convolve, each, geometry, transpose_convolve
from ascertain.operators.reading import Call, aten, onnx
from ascertain.operators.reduction import reduced

__all__ = ["AveragePool", "pooled"]


@dataclass(frozen=True, eq=False)
class AveragePool(Affine):
    """Mean over windows of ``(N, C, *S)``; zeros of the (before, after) ``pads`` count in the mean where ``count_pads``.

    With ``ceil`` a last window that sticks out is kept when it starts inside; what sticks out is never counted.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pads: Pads
    dilation: tuple[int, ...]
    ceil: bool = False
    count_pads: bool = False

    def infer(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        if len(x) != len(self.kernel) + 2:
            raise ShapeError(f"AveragePool with kernel {self.kernel} needs {len(self.kernel) + 2} axes, got shape {x}.")
        out = pooled(x[2:], self.kernel, self.stride, self.pads, self.dilation, self.ceil)
        if not self._counts(x[2:], out).all():
            raise ShapeError(f"AveragePool with pads {self.pads} has a window of nothing but padding. Use smaller pads.")
        return (*x[:2], *out)

    def _counts(self, size: Shape, out: Shape) -> np.ndarray:
        """Number of counted entries of every window."""
        counts = np.ones(())
        for n, m, k, s, (a, b), d in zip(size, out, self.kernel, self.stride, self.pads, self.dilation, strict=True):
            tap = np.arange(m)[:, None] * s - a + np.arange(k) * d
            counted = tap < n + b if self.count_pads else (tap >= 0) & (tap < n)
            counts = counts[..., None] * counted.sum(1)
        return counts

    def _parts(self, x: Array, size: Shape) -> tuple[Array, Array, Conv]:
        """Counts, the kernel of ones, and the convolution that sums the windows of a single channel."""
        out = pooled(size, self.kernel, self.stride, self.pads, self.dilation, self.ceil)
        ends = zip(size, out, self.kernel, self.stride, self.pads, self.dilation, strict=True)
        pads = tuple((a, (m - 1) * s + d * (k - 1) + 1 - n - a) for n, m, k, s, (a, _), d in ends)
        counts, ones = self._counts(size, out), np.ones((1, 1, *self.kernel))
        if is_numpy(x):
            return counts.astype(x.dtype), ones.astype(x.dtype), Conv(ones, None, self.stride, pads, self.dilation)
        return x.new_tensor(counts), x.new_ones(ones.shape), Conv(ones, None, self.stride, pads, self.dilation)

    def linear(self, *inputs: Array) -> Array:
        x = inputs[0]
        counts, ones, window = self._parts(x, tuple(x.shape[3:]))

        def run(x: Array, ones: Array, counts: Array) -> Array:
            y = convolve(x.reshape(-1, 1, *x.shape[3:]), ones, None, window, window.pads)
            return y.reshape(*x.shape[:3], *y.shape[2:]) / counts

        return through_torch(run, x, ones, counts)

    def forward(self, *inputs: Array) -> Array:
        return self.linear(*inputs)

    def adjoint(self, gradient: Array, *shapes: Shape) -> tuple[Array, ...]:
        size = shapes[0][2:]
        counts, ones, window = self._parts(gradient, size)

        def run(g: Array, ones: Array, counts: Array) -> Array:
            share = (g / counts).reshape(-1, 1, *g.shape[3:])
            return transpose_convolve(share, ones, None, window, window.pads, size).reshape(*g.shape[:3], *size)

        return (through_torch(run, gradient, ones, counts),)

    def terms(self, *shapes: Shape) -> int:
        return prod(self.kernel) + 1

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), ((1, 2, 4, 6),)
        yield cls((3, 2), (2, 1), ((1, 1), (0, 1)), (1, 2), count_pads=True), ((2, 2, 6, 5),)
        yield cls((3,), (2,), ((1, 1),), (1,), ceil=True), ((1, 2, 6),)


def pooled(size: Shape, kernel: Shape, stride: Shape, pads: Pads, dilation: Shape, ceil: bool) -> Shape:
    """Number of pooling windows along each axis."""
    out = []
    for n, k, s, (a, b), d in zip(size, kernel, stride, pads, dilation, strict=True):
        room = n + a + b - d * (k - 1) - 1
        count = (-(-room // s) if ceil else room // s) + 1
        out.append(count - 1 if ceil and (count - 1) * s >= n + a else count)
    if min(out) < 1:
        raise ShapeError(
            f"A pooling window {kernel} is larger than its input of size {size}. Pad the input or use a smaller window."
        )
    return tuple(out)


# Readers


@onnx("AveragePool")
def _average_pool_onnx(call: Call) -> Ref:
    x, get = variable(call), call.attributes.get
    kernel = tuple(get("kernel_shape") or ())
    stride, pads, dilation = geometry(call, kernel, x.shape[2:])
    return call.emit(AveragePool(kernel, stride, pads, dilation, bool(get("ceil_mode", 0)), bool(get("count_include_pad", 0))), x)


@aten("avg_pool1d.default", "avg_pool2d.default", "avg_pool3d.default")
def _average_pool_aten(call: Call) -> Ref:
    rank = int(call.operator.split("pool")[1][0])
    if argument(call, 6, "divisor_override") is not None:
        raise unsupported(call, "divisor_override", "Scale the pooled values instead.")
    kernel = each(argument(call, 1, "kernel_size"), rank)
    stride = each(argument(call, 2, "stride") or list(kernel), rank)
    pads = tuple((p, p) for p in each(argument(call, 3, "padding", 0), rank))
    ceil, count = bool(argument(call, 4, "ceil_mode", False)), bool(argument(call, 5, "count_include_pad", True))
    operator = AveragePool(kernel, stride, pads, (1,) * rank, ceil, count)
    return batched(call, variable(call), rank, lambda x: call.emit(operator, x))


@aten("adaptive_avg_pool1d.default", "adaptive_avg_pool2d.default", "adaptive_avg_pool3d.default", "_adaptive_avg_pool2d.default")
def _adaptive_average_pool(call: Call) -> Ref:
    x = variable(call)
    rank = int(call.operator.split("pool")[1][0])
    given = argument(call, 1, "output_size")
    size = x.shape[-rank:]
    wanted = tuple(n if w is None else int(w) for n, w in zip(size, given if len(given) == rank else [*given] * rank, strict=True))
    if wanted == (1,) * rank:
        return reduced(call, x, range(-rank, 0), True, True)
    if any(n % w for n, w in zip(size, wanted, strict=True)):
        raise unsupported(call, f"sizes {size} to {wanted}", "Choose an output size that divides the input's.")
    kernel = tuple(n // w for n, w in zip(size, wanted, strict=True))
    operator = AveragePool(kernel, kernel, ((0, 0),) * rank, (1,) * rank)
    return batched(call, x, rank, lambda x: call.emit(operator, x))
