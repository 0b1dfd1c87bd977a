"""Normalisation by statistics of the input itself: layer, RMS, group and instance norm, and vectors scaled to length one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, nextafter, prod, sqrt

import numpy as np

from ascertain.operators.affine import Sum, scaled, shifted
from ascertain.operators.arguments import argument, constant, integers, unsupported, variable
from ascertain.operators.arrays import fits, position
from ascertain.operators.base import Array, Composite, Emit, Operator, Ref, Shape, namespace
from ascertain.operators.bilinear import multiply
from ascertain.operators.movement import reshaped
from ascertain.operators.normalization import normalized
from ascertain.operators.reading import Call, aten, onnx
from ascertain.operators.reduction import Reduce
from ascertain.operators.smooth import Rsqrt, Square

__all__ = ["Standardize"]


@dataclass(frozen=True, eq=False)
class Standardize(Composite):
    """c / sqrt(mean(c^2) + epsilon) over axes >= 0, where c is x - mean(x), or x itself where not ``centred``.

    Over n entries no result is larger than sqrt(n), or sqrt(n - 1) where centred (Samuelson 1968), whatever the box of x.
    """

    axes: tuple[int, ...]
    epsilon: float
    centred: bool = True

    def infer(self, *shapes: Shape) -> Shape:
        for axis in self.axes:
            position(axis, len(shapes[0]), "Standardize")
        return shapes[0]

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        axes = tuple(i + 1 for i in self.axes)
        c = x - x.mean(axis=axes, keepdims=True) if self.centred else x
        return c / namespace(x).sqrt((c * c).mean(axis=axes, keepdims=True) + self.epsilon)

    def expand(self, emit: Emit, *inputs: Ref) -> Ref:
        (x,) = inputs
        mean = Reduce(self.axes, True, mean=True)
        c = emit(Sum((1.0, -1.0)), x, emit(mean, x)) if self.centred else x
        variance = emit(mean, emit(Square(), c))
        count = prod(x.shape[i] for i in self.axes)
        largest = nextafter(sqrt(count - 1 if self.centred else count), inf)
        return multiply(emit, c, emit(Rsqrt(), shifted(emit, variance, self.epsilon)), (-largest, largest))

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        yield cls((2,), 1e-5), ((1, 3, 4),)
        yield cls((1, 2), 0.5, centred=False), ((2, 3, 2),)
        yield cls((1,), 1e-3), ((2, 1),)


# Readers


def _positive(call: Call, epsilon: float) -> float:
    if not 0 < epsilon < inf:
        raise unsupported(call, f"epsilon {epsilon}", "Give it a positive one: without it the result has a pole.")
    return epsilon


def standardized(call: Call, x: Ref, axes: Sequence[int], epsilon: float, centred: bool = True) -> Ref:
    """x by its own statistics over axes."""
    found = tuple(sorted(position(i, len(x.shape), call.operator) for i in axes))
    return call.emit(Standardize(found, _positive(call, epsilon), centred), x)


def fitted(call: Call, y: Ref, weight: np.ndarray | None, bias: np.ndarray | None) -> Ref:
    """y * weight + bias, whose shapes must broadcast to that of y."""
    for found in (weight, bias):
        if found is not None and not fits(found.shape, y.shape):
            raise unsupported(call, f"parameters of shape {found.shape} for {y.shape}", "Give one number for each entry.")
    y = y if weight is None else scaled(call.emit, y, weight)
    return y if bias is None else shifted(call.emit, y, bias)


def _last(call: Call, x: Ref, place: int, name: str = "normalized_shape") -> range:
    """The last axes, whose sizes an argument lists."""
    sizes = integers(call, place, name) or ()
    if not sizes or sizes != x.shape[-len(sizes) :]:
        raise unsupported(call, f"{name} {sizes} for {x.shape}", "Name the sizes of the last axes.")
    return range(len(x.shape) - len(sizes), len(x.shape))


@aten("layer_norm.default")
def _layer_norm(call: Call) -> Ref:
    x = variable(call)
    y = standardized(call, x, _last(call, x, 1), float(argument(call, 4, "eps", 1e-5)))
    return fitted(call, y, constant(call, 2, "weight"), constant(call, 3, "bias"))


@aten("native_layer_norm.default")
def _native_layer_norm(call: Call) -> tuple[Ref, ...]:
    return (_layer_norm(call),)


@aten("rms_norm.default")
def _rms_norm(call: Call) -> Ref:
    x, weight = variable(call), constant(call, 2, "weight")
    double = call.types[0] == "float64" if call.types else weight is not None and weight.dtype == np.float64
    unit = np.finfo(np.float64 if double else np.float32).eps
    y = standardized(call, x, _last(call, x, 1), float(argument(call, 3, "eps", unit)), centred=False)
    return fitted(call, y, weight, None)


@aten("_fused_rms_norm.default")
def _fused_rms_norm(call: Call) -> tuple[Ref, ...]:
    return (_rms_norm(call),)


@onnx("LayerNormalization", "RMSNormalization")
def _layer_normalization(call: Call) -> Ref:
    x, centred = variable(call), call.operator == "LayerNormalization"
    axis = position(int(call.attributes.get("axis", -1)), len(x.shape), call.operator)
    epsilon = float(call.attributes.get("epsilon", 1e-5))
    y = standardized(call, x, range(axis, len(x.shape)), epsilon, centred)
    return fitted(call, y, constant(call, 1), constant(call, 2) if centred else None)


def _channels(x: Ref, values: np.ndarray | None) -> np.ndarray | None:
    """Numbers for each channel, in a shape that broadcasts to x."""
    return None if values is None else values.reshape(-1, *[1] * (len(x.shape) - 2))


def _grouped(call: Call, x: Ref, groups: int, epsilon: float) -> Ref:
    """x standardised over each group of channels and all places."""
    if len(x.shape) < 2 or groups < 1 or x.shape[1] % groups:
        raise unsupported(call, f"{groups} groups for the shape {x.shape}", "Let the groups divide the channels, on axis 1.")
    apart = reshaped(call, x, (x.shape[0], groups, prod(x.shape[1:]) // groups))
    return reshaped(call, standardized(call, apart, (2,), epsilon), x.shape)


@aten("group_norm.default")
def _group_norm(call: Call) -> Ref:
    x = variable(call)
    y = _grouped(call, x, int(argument(call, 1, "num_groups")), float(argument(call, 4, "eps", 1e-5)))
    return fitted(call, y, _channels(x, constant(call, 2, "weight")), _channels(x, constant(call, 3, "bias")))


@aten("native_group_norm.default")
def _native_group_norm(call: Call) -> tuple[Ref, ...]:
    x = variable(call)
    y = _grouped(call, x, int(argument(call, 6, "group")), float(argument(call, 7, "eps")))
    return (fitted(call, y, _channels(x, constant(call, 1, "weight")), _channels(x, constant(call, 2, "bias"))),)


@onnx("GroupNormalization")
def _group_normalization(call: Call) -> Ref:
    x, groups = variable(call), int(call.attributes["num_groups"])
    y = _grouped(call, x, groups, float(call.attributes.get("epsilon", 1e-5)))
    weight, bias = constant(call, 1), constant(call, 2)
    if call.opset < 21 and weight is not None and bias is not None:
        weight, bias = (np.repeat(v, x.shape[1] // groups) for v in (weight, bias))
    return fitted(call, y, _channels(x, weight), _channels(x, bias))


def _places(call: Call, x: Ref) -> range:
    if len(x.shape) < 3:
        raise unsupported(call, f"an input of shape {x.shape}", "Give it places beside batch and channels.")
    return range(2, len(x.shape))


@onnx("InstanceNormalization")
def _instance_normalization(call: Call) -> Ref:
    x = variable(call)
    y = standardized(call, x, _places(call, x), float(call.attributes.get("epsilon", 1e-5)))
    return fitted(call, y, _channels(x, constant(call, 1)), _channels(x, constant(call, 2)))


@aten("instance_norm.default")
def _instance_norm(call: Call) -> Ref:
    x, epsilon = variable(call), float(argument(call, 7, "eps", 1e-5))
    if not argument(call, 5, "use_input_stats", True):
        return normalized(call, 1, 2, epsilon)
    y = standardized(call, x, _places(call, x), epsilon)
    return fitted(call, y, _channels(x, constant(call, 1, "weight")), _channels(x, constant(call, 2, "bias")))
