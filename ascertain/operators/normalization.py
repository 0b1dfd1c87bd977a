"""Normalisation layers; in evaluation mode batch norm is affine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ascertain.errors import ShapeError
from ascertain.operators.arguments import argument, constant, unsupported, variable
from ascertain.operators.base import Affine, Array, Operator, Ref, Shape, namespace
from ascertain.operators.reading import Call, aten, onnx

__all__ = ["MERGED", "BatchNorm", "bias_size", "merge"]

MERGED = 6
"""Roundings that `merge` adds to a coefficient or, relative to its margin, to an offset: 2.5 in the slope, 3 at most after it."""

_SUBNORMAL, _NORMAL = 2.0**-149, 2.0**-126
"""The least positive numbers of float32, and those with its full digits."""


@dataclass(frozen=True, eq=False)
class BatchNorm(Affine):
    """y = (x - mean) * scale / sqrt(variance + epsilon) + bias along axis 1 of the file's shape; all four arrays ``(C,)``."""

    scale: Array
    bias: Array
    mean: Array
    variance: Array
    epsilon: float

    def _slope(self) -> Array:
        return self.scale / namespace(self.scale).sqrt(self.variance + self.epsilon)

    def _channels(self, values: Array, rank: int) -> Array:
        return values.reshape(-1, *[1] * (rank - 2))

    def infer(self, *shapes: Shape) -> Shape:
        if len(shapes[0]) < 2 or shapes[0][1] != self.scale.shape[0]:
            raise ShapeError(
                f"BatchNorm has {self.scale.shape[0]} channels, its input has shape {shapes[0]}. Put channels on axis 1."
            )
        return shapes[0]

    def linear(self, *inputs: Array) -> Array:
        return inputs[0] * self._channels(self._slope(), inputs[0].ndim - 1)

    def forward(self, *inputs: Array) -> Array:
        rank = inputs[0].ndim - 1
        centred = inputs[0] - self._channels(self.mean, rank)
        return centred * self._channels(self._slope(), rank) + self._channels(self.bias, rank)

    def adjoint(self, gradient: Array, *shapes: Shape) -> tuple[Array, ...]:
        return (self.linear(gradient),)

    def magnitude(self) -> Affine:
        return replace(self, scale=abs(self.scale), bias=abs(self.bias), mean=-abs(self.mean))

    def terms(self, *shapes: Shape) -> int:
        # sum, half of it through the root, root, quotient, difference, product, sum
        return 7

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        r = np.random.default_rng(0)
        a, b, c, d = (r.uniform(0.1, 4, size=3) * s for s in (1, -1, 1, 1))
        yield cls(a, b, c, d, 2.0**-10), ((2, 3, 4, 2),)
        yield cls(b, a, -c, d, 0.0), ((1, 3),)


def merge(
    after: Operator, shape: Shape, weight: np.ndarray, layout: Shape, bias: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Weight, offset and margin, in float64, of a product with batch norm ``after`` its output of a shape.

    ``layout`` is the shape in which channels broadcast against ``weight``. An offset is a difference that may cancel: its
    error is MERGED roundings of the margin, the sum of the sizes of what was added up. None for other operators, and where
    coefficients leave the range in which float32 has its full digits.
    """
    if not isinstance(after, BatchNorm):
        return None
    after.infer(shape)
    weight, scale, mean, beta, variance = (
        np.asarray(a, np.float64) for a in (weight, after.scale, after.mean, after.bias, after.variance)
    )
    before = np.zeros_like(mean) if bias is None else np.asarray(bias, np.float64)
    with np.errstate(all="ignore"):
        slope = scale / np.sqrt(variance + after.epsilon)
        product = weight * slope.reshape(layout)
        offset = (before - mean) * slope + beta
        # the least margin covers what underflow does to an offset
        margin = np.maximum((abs(before) + abs(mean)) * abs(slope) + abs(beta), _NORMAL)
    sizes = ((variance, 0.0), (weight, _SUBNORMAL), (scale, _SUBNORMAL), (slope, _NORMAL), (product, _NORMAL), (margin, _NORMAL))
    return (product, offset, margin) if all(_sized(x, least) for x, least in sizes) else None


def bias_size(bias: Array | None, margin: Array | None) -> Array | None:
    """What the error of a bias is relative to: its margin, else its absolute value."""
    return margin if bias is None or margin is not None else abs(bias)


def _sized(x: np.ndarray, least: float) -> bool:
    """Whether every entry is zero or of a size from the least to the greatest power of two in float32."""
    size = abs(x)
    return bool(((size == 0.0) | ((size >= least) & (size <= 2.0**127))).all())


@onnx("BatchNormalization")
def _batch_normalization(call: Call) -> Ref:
    if call.attributes.get("training_mode", 0) or call.attributes.get("spatial", 1) == 0:
        raise unsupported(call, "training mode or per-pixel statistics", "Export the model in evaluation mode.")
    return normalized(call, 1, 2, float(call.attributes.get("epsilon", 1e-5)))


def normalized(call: Call, first: int, mean: int, epsilon: float) -> Ref:
    """Batch norm of input 0 with scale and bias at ``first``, mean and variance at ``mean + 1`` and after."""
    x = variable(call)
    channels = x.shape[1] if len(x.shape) > 1 else 0
    scale, bias = constant(call, first), constant(call, first + 1)
    average, variance = constant(call, mean + 1), constant(call, mean + 2)
    if average is None or variance is None:
        raise unsupported(call, "statistics of the batch", "Export the model in evaluation mode.")
    if not (variance.astype(np.float64) + epsilon > 0).all():
        raise unsupported(call, "a variance that is not positive", "Check the model's statistics.")
    scale = np.ones(channels) if scale is None else scale
    bias = np.zeros(channels) if bias is None else bias
    return call.emit(BatchNorm(scale, bias, average, variance, epsilon), x)


@aten("batch_norm.default")
def _batch_norm(call: Call) -> Ref:
    if argument(call, 5, "training", False):
        raise unsupported(call, "training mode", "Call model.eval() before exporting.")
    return normalized(call, 1, 2, float(argument(call, 7, "eps", 1e-5)))


@aten("_native_batch_norm_legit_no_training.default", "cudnn_batch_norm.default", "native_batch_norm.default")
def _batch_norm_tuple(call: Call) -> tuple[Ref, ...]:
    legit = "no_training" in call.operator
    if not legit and argument(call, 5, "training", False):
        raise unsupported(call, "training mode", "Call model.eval() before exporting.")
    return (normalized(call, 1, 2, float(argument(call, 6 if legit else 7, "eps", 1e-5))),)
