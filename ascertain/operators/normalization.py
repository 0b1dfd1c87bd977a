"""Normalisation layers; in evaluation mode batch norm is affine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ascertain.errors import ShapeError
from ascertain.operators.arguments import argument, constant, unsupported, variable
from ascertain.operators.base import Affine, Array, Operator, Ref, Shape, namespace
from ascertain.operators.reading import Call, aten, onnx

__all__ = ["BatchNorm"]


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
