"""Every ONNX reader equals onnxruntime on one-node models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import ascertain.operators
from ascertain.graph.graph import Builder
from ascertain.operators.reading import ONNX, Call, NotSupported

X = "variable"
R = np.random.default_rng(7)


def w(*shape: int) -> np.ndarray:
    return R.normal(size=shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


@dataclass
class Case:
    """One node: inputs are a shape in a tuple (X, *shape) for a variable, an array for a constant, or None."""

    op: str
    inputs: list[Any]
    opsets: tuple[int, ...] = (13,)
    outputs: int = 1
    attributes: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        kinds = [i[1:] if isinstance(i, tuple) else "-" if i is None else f"c{i.shape}" for i in self.inputs]
        return f"{self.op} {kinds} {self.attributes}".replace("'", "")


def case(op: str, *inputs: Any, opsets: tuple[int, ...] = (13,), outputs: int = 1, **attributes: Any) -> Case:
    return Case(op, list(inputs), opsets, outputs, attributes)


def x(*shape: int) -> tuple[Any, ...]:
    return (X, *shape)


def conv_cases() -> list[Case]:
    image = x(1, 4, 7, 6)
    return [
        case("Conv", image, w(3, 4, 3, 2), opsets=(7, 11, 21)),
        case("Conv", image, w(6, 2, 3, 3), w(6), group=2, strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 2]),
        case("Conv", image, w(3, 4, 3, 2), w(3), auto_pad="SAME_UPPER", strides=[2, 2]),
        case("Conv", image, w(3, 4, 4, 4), w(3), auto_pad="SAME_LOWER"),
        case("Conv", image, w(3, 4, 3, 2), auto_pad="VALID", kernel_shape=[3, 2]),
        case("Conv", x(2, 3, 9), w(2, 3, 3), w(2), pads=[2, 0], strides=[2]),
        case("Conv", x(1, 2, 4, 5, 3), w(2, 2, 2, 3, 2), w(2), pads=[0, 1, 0, 1, 0, 1]),
        case("ConvTranspose", x(1, 4, 3, 5), w(4, 2, 3, 2), w(2), opsets=(7, 11, 21)),
        case("ConvTranspose", x(1, 4, 3, 5), w(4, 1, 3, 3), group=2, strides=[2, 3], pads=[1, 0, 0, 2], output_padding=[1, 2]),
        case(
            "ConvTranspose",
            x(1, 4, 3, 5),
            w(4, 1, 3, 3),
            strides=[2, 2],
            pads=[1, 1, 1, 1],
            output_padding=[1, 1],
            dilations=[2, 1],
        ),
        case("ConvTranspose", x(1, 4, 3, 5), w(4, 1, 3, 3), strides=[2, 2], output_shape=[6, 9]),
        case("ConvTranspose", x(1, 4, 3, 5), w(4, 1, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
        case("ConvTranspose", x(1, 4, 3, 5), w(4, 1, 3, 3), strides=[2, 2], auto_pad="SAME_LOWER"),
        case("ConvTranspose", x(1, 2, 5), w(2, 3, 4), w(3), strides=[3], pads=[1, 2]),
        case("AveragePool", image, kernel_shape=[2, 3], opsets=(7, 11, 21)),
        case("AveragePool", image, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        case("AveragePool", image, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 0, 1], count_include_pad=1),
        case("AveragePool", image, kernel_shape=[2, 2], strides=[2, 4], ceil_mode=1, opsets=(10, 21)),
        case(
            "AveragePool",
            image,
            kernel_shape=[3, 3],
            strides=[2, 2],
            pads=[1, 1, 1, 1],
            ceil_mode=1,
            count_include_pad=1,
            opsets=(21,),
        ),
        case("AveragePool", image, kernel_shape=[2, 2], auto_pad="SAME_UPPER", strides=[2, 2]),
        case("AveragePool", image, kernel_shape=[2, 2], dilations=[2, 1], opsets=(19,)),
        case("AveragePool", x(1, 2, 8), kernel_shape=[3], strides=[3]),
        case("GlobalAveragePool", image),
        case("MaxPool", image, kernel_shape=[2, 2], strides=[2, 2], opsets=(8, 12, 21)),
        case("MaxPool", image, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]),
        case("MaxPool", image, kernel_shape=[2, 2], strides=[2, 4], ceil_mode=1, opsets=(10, 12)),
        case("MaxPool", image, kernel_shape=[2, 2], dilations=[3, 2]),
        case("MaxPool", image, kernel_shape=[3, 3], auto_pad="SAME_LOWER", strides=[2, 2]),
        case("MaxPool", x(1, 2, 8), kernel_shape=[3], strides=[2]),
        case("GlobalMaxPool", image),
    ]


def affine_cases() -> list[Case]:
    return [
        case("Gemm", x(2, 4), w(4, 3), w(3), opsets=(7, 9, 11, 13, 21)),
        case("Gemm", x(2, 4), w(3, 4), w(1, 3), transB=1, alpha=0.3, beta=-2.0),
        case("Gemm", x(4, 2), w(4, 3), w(2, 1), transA=1, opsets=(11,)),
        case("Gemm", x(4, 3), w(4, 3), w(4, 1), transB=1),
        case("Gemm", x(2, 4), w(4, 3), w(1)),
        case("Gemm", x(2, 4), w(4, 3), opsets=(11,)),
        case("Gemm", w(3, 4), x(5, 4), w(5), transB=1, alpha=2.0),
        case("Gemm", w(3, 4), x(4, 5), x(3, 5), beta=0.5, alpha=2.0),
        case("MatMul", x(2, 4), w(4, 3)),
        case("MatMul", x(4), w(4, 3)),
        case("MatMul", x(2, 4), w(4)),
        case("MatMul", x(4), w(4)),
        case("MatMul", w(4), x(4)),
        case("MatMul", w(3, 4), x(4, 2)),
        case("MatMul", w(3, 4), x(4)),
        case("MatMul", w(4), x(4, 2)),
        case("MatMul", w(4), x(3, 4, 2)),
        case("MatMul", x(3, 2, 4), w(4)),
        case("MatMul", x(5, 1, 2, 4), w(3, 4, 2)),
        case("MatMul", w(3, 5, 4), x(4, 2)),
        case("MatMul", x(4), w(3, 4, 2)),
        case("Add", x(2, 3), w(3), opsets=(7, 13, 14)),
        case("Add", w(4, 1, 1), x(2, 3)),
        case("Add", x(2, 3), x(3)),
        case("Sub", x(2, 3), w(2, 1)),
        case("Sub", w(3), x(2, 3)),
        case("Sub", x(2, 3), x(4, 1, 3)),
        case("MatMul", x(2, 3), x(3, 2)),
        case("MatMul", x(5, 1, 2, 4), x(3, 4, 2)),
        case("MatMul", x(4), x(3, 4, 2)),
        case("MatMul", x(3, 2, 4), x(4)),
        case("MatMul", x(4), x(4)),
        case("Gemm", x(2, 3), x(4, 3), x(4), transB=1, alpha=0.5),
        case("Mul", x(2, 3), x(2, 3)),
        case("Mul", x(2, 1, 3), x(4, 1)),
        case("Mul", x(1, 1), x(2, 3)),
        case("Div", x(2, 3), x(2, 3)),
        case("Div", w(3), x(2, 3)),
        case("Mul", x(2, 3), w(2, 1)),
        case("Mul", w(2, 2, 3), x(1, 3)),
        case("Mul", np.array(-1, np.float32), x(1, 3)),
        case("Div", x(2, 3), w(3)),
        case("Neg", x(2, 3)),
        case("Sum", x(2, 3), w(3), x(4, 1, 1)),
        case("Mean", x(2, 3), w(3), x(2, 1)),
        case("BatchNormalization", x(2, 3, 4), w(3), w(3), w(3), w(3) ** 2, epsilon=0.01, opsets=(7, 9, 14, 15)),
        case("BatchNormalization", x(2, 3), w(3), w(3), w(3), w(3) ** 2),
        case("ReduceSum", x(2, 3, 4), axes=[0, -1], opsets=(7, 11)),
        case("ReduceSum", x(2, 3, 4), ints(1), keepdims=0),
        case("ReduceSum", x(2, 3, 4)),
        case("ReduceSum", x(2, 3, 4), noop_with_empty_axes=1),
        case("ReduceMean", x(2, 3, 4), axes=[-1], keepdims=0, opsets=(11, 13)),
        case("ReduceMean", x(2, 3, 4), ints(1, 2), opsets=(18,)),
    ]


def movement_cases() -> list[Case]:
    far = 2**63 - 1
    return [
        case("Identity", x(2, 3)),
        case("Dropout", x(2, 3), opsets=(7, 10, 13)),
        case("Dropout", x(2, 3), np.array(0.3, np.float32), np.array(False)),
        case("Cast", x(2, 3), to=11),
        case("Reshape", x(2, 3, 4), ints(0, -1)),
        case("Reshape", x(2, 3, 4), ints(4, 6), allowzero=1, opsets=(14,)),
        case("Flatten", x(2, 3, 4), opsets=(7, 13)),
        case("Flatten", x(2, 3, 4), axis=-1),
        case("Flatten", x(2, 3, 4), axis=0),
        case("Flatten", x(2, 3, 4), axis=3),
        case("Squeeze", x(1, 3, 1), axes=[-1], opsets=(7, 11)),
        case("Squeeze", x(1, 3, 1), ints(0)),
        case("Squeeze", x(1, 3, 1)),
        case("Unsqueeze", x(2, 3), axes=[0, 3], opsets=(7, 11)),
        case("Unsqueeze", x(2, 3), ints(-1, 1)),
        case("Transpose", x(2, 3, 4)),
        case("Transpose", x(2, 3, 4), perm=[1, 0, 2]),
        case("Slice", x(5, 6), starts=[1, -3], ends=[4, 100], opsets=(7, 9)),
        case("Slice", x(5, 6), starts=[-2], ends=[far], axes=[1], opsets=(9,)),
        case("Slice", x(5, 6), ints(1), ints(5), ints(-1), ints(2)),
        case("Slice", x(5, 6), ints(-1, 4), ints(-far, 0), ints(0, 1), ints(-1, -2)),
        case("Gather", x(3, 4), ints(-1, 0, 2)),
        case("Gather", x(3, 4), np.array(-2, np.int64), axis=1),
        case("Gather", x(3, 4), ints(0, 3, 3, 1).reshape(2, 2), axis=-1),
        case("Gather", x(3, 6), ints(1, 3, 5), axis=1),
        case("Gather", x(3, 3), ints(0, 1, 2), axis=1),
        case("Gather", x(3, 3), ints(2, 1, 0), axis=1),
        case("Concat", x(2, 3), x(2, 1), axis=1, opsets=(7, 13)),
        case("Concat", w(2, 2), x(2, 1), w(2, 3), w(2, 1), x(2, 2), w(2, 1), axis=-1),
        case("Concat", w(1, 3), x(2, 3), axis=0),
        case("Split", x(6, 2), outputs=3, axis=0, opsets=(7, 11, 13)),
        case("Split", x(2, 6), outputs=2, axis=1, split=[2, 4], opsets=(7, 11)),
        case("Split", x(2, 6), ints(5, 1), outputs=2, axis=-1),
        case("Split", x(7), outputs=3, num_outputs=3, opsets=(18,)),
        case("Pad", x(2, 3), pads=[0, 1, 2, 0], value=1.5, opsets=(7, 10)),
        case("Pad", x(2, 3), ints(0, 1, 2, 0), np.array(-1.5, np.float32), opsets=(11, 13)),
        case("Pad", x(2, 3), ints(1, 2), None, ints(-1), opsets=(18,)),
        case("Pad", x(3, 5), ints(-1, 1, 0, -2), np.array(2, np.float32)),
        case("Pad", x(3, 5), ints(2, 1, 1, 4), mode="reflect"),
        case("Pad", x(3, 5), ints(2, 1, 0, 4), mode="edge"),
        case("Pad", x(3, 5), ints(2, 1, 0, 4), mode="wrap", opsets=(19,)),
        case("Expand", x(3, 1), ints(2, 1, 4)),
        case("Expand", x(3, 4), ints(1, 1)),
        case("Tile", x(2, 3), ints(3, 2)),
        case("DepthToSpace", x(1, 8, 2, 3), blocksize=2),
        case("DepthToSpace", x(1, 8, 2, 3), blocksize=2, mode="CRD"),
        case("SpaceToDepth", x(1, 2, 4, 6), blocksize=2),
    ]


def resize_cases() -> list[Case]:
    none, modes = np.zeros(0, np.float32), ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
    scales = [np.array([1, 1, a, b], np.float32) for a, b in ((2, 3), (1.5, 0.6), (2.4, 1))]
    places = ("asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners")
    image = x(1, 2, 4, 5)
    return [
        case("Upsample", image, scales=[1.0, 1.0, 2.0, 3.0], opsets=(7,)),
        case("Upsample", image, scales[0], opsets=(9,)),
        case("Resize", image, scales[0], opsets=(10,)),
        case("Resize", image, none, scales[0], opsets=(11, 13, 19)),
        case("Resize", image, none, none, ints(1, 2, 6, 7)),
        case("Resize", image, None, scales[1][2:], axes=[2, 3], opsets=(18,)),
        *(
            case("Resize", image, none, s, coordinate_transformation_mode=p, nearest_mode=m)
            for s in scales
            for p in places
            for m in modes
        ),
    ]


def piecewise_cases() -> list[Case]:
    low, high = np.array(-0.5, np.float32), np.array(0.75, np.float32)
    return [
        case("Relu", x(2, 3), opsets=(7, 13, 14)),
        case("LeakyRelu", x(2, 3), opsets=(7, 16)),
        case("LeakyRelu", x(2, 3), alpha=0.2),
        case("PRelu", x(2, 3, 4), w(3, 1), opsets=(7, 9, 16)),
        case("PRelu", x(2, 3), w(1)),
        case("Abs", x(2, 3)),
        case("Sign", x(2, 3)),
        case("Clip", x(2, 3), min=-0.5, max=0.75, opsets=(7, 10)),
        case("Clip", x(2, 3), low, high, opsets=(11, 13)),
        case("Clip", x(2, 3), None, high),
        case("Clip", x(2, 3), low),
        case("Clip", x(2, 3), high, low),
        case("Clip", x(2, 3)),
        case("Clip", x(2, 3), np.array(0, np.float32), np.array(np.finfo(np.float32).max, np.float32)),
        case("HardSigmoid", x(2, 3)),
        case("HardSigmoid", x(2, 3), alpha=0.7, beta=-0.1),
        *(case(op, x(2, 3)) for op in ("Sigmoid", "Tanh", "Atan", "Erf", "Softsign")),
        *(case("Gelu", x(2, 3), opsets=(20,), approximate=form) for form in ("none", "tanh")),
        case("Gelu", x(2, 3), opsets=(20,)),
        case("Mish", x(2, 3), opsets=(18,)),
        case("HardSwish", x(2, 3), opsets=(14,)),
        case("Swish", x(2, 3), opsets=(24,)),
        *(case("Swish", x(2, 3), opsets=(24,), alpha=a) for a in (-1.7, 0.0, 0.3)),
        case("Max", x(2, 3), x(3), x(1, 1, 3), opsets=(8, 13)),
        case("Max", x(2, 3), w(2, 1)),
        case("Max", x(2, 1), w(3), w(1)),
        case("Max", x(2, 3)),
        case("Min", x(2, 3), x(2, 3)),
        case("Min", np.array(0.1, np.float32), x(2, 3)),
        case("Min", x(2, 3), w(3), x(3)),
        case("ReduceMax", x(2, 3, 5), axes=[1], opsets=(7, 13)),
        case("ReduceMax", x(2, 3, 5), ints(0, -1), keepdims=0, opsets=(18,)),
        case("ReduceMin", x(2, 3, 5)),
    ]


def smooth_cases() -> list[Case]:
    def number(value: float) -> np.ndarray:
        return np.array(value, np.float32)

    names = "Exp Log Sqrt Reciprocal Softplus Elu Selu Celu ThresholdedRelu Sin Cos Tan Floor Ceil Round"
    return [
        *(case(name, x(2, 3)) for name in names.split()),
        *(case("Pow", x(2, 3), number(p)) for p in (1, 2, 3, 4, -1, -2, -3, 0.5, -0.5, 1.7)),
        case("Pow", x(2, 3), np.full((1, 3), 2, np.float32)),
        case("Elu", x(2, 3), alpha=0.3),
        case("Selu", x(2, 3), alpha=1.5, gamma=1.2),
        case("Celu", x(2, 3), alpha=0.3),
        case("ThresholdedRelu", x(2, 3), alpha=0.3),
        case("ThresholdedRelu", x(2, 3), alpha=-0.3),
        *(case(op, x(2, 3), w(3)) for op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")),
        *(case(op, x(2, 3), x(3)) for op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")),
        case("Where", np.array([True, False, True]), x(2, 3), w(1)),
        case("Where", np.array([True, False, True]), w(2, 1), x(2, 3)),
        case("Where", np.array([True, False, True]), x(2, 3), x(3)),
    ]


def norm_cases() -> list[Case]:
    image = x(1, 6, 3, 2)
    return [
        case("LayerNormalization", x(2, 3, 4), w(4), w(4), opsets=(17,)),
        case("LayerNormalization", x(2, 3, 4), w(3, 4), axis=1, epsilon=0.1, opsets=(17,)),
        case("RMSNormalization", x(2, 3, 4), w(4), epsilon=0.01, opsets=(23,)),
        case("InstanceNormalization", image, w(6), w(6), opsets=(7, 13)),
        case("GroupNormalization", image, w(3), w(3), num_groups=3, opsets=(18,)),
        case("GroupNormalization", image, w(6), w(6), num_groups=2, epsilon=0.1, opsets=(21,)),
        case("LpNormalization", x(2, 3, 4), axis=1),
        case("LpNormalization", x(2, 3), p=1),
        *(
            case(op, x(2, 3, 4), axes=[0, -1], keepdims=0, opsets=(7, 13))
            for op in ("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp")
        ),
        *(case(op, x(2, 3, 4), ints(1), opsets=(18,)) for op in ("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp")),
        case("ReduceLogSumExp", x(2, 3, 4)),
        case("ReduceLogSumExp", x(2, 3), noop_with_empty_axes=1, opsets=(18,)),
        case("ReduceL2", x(2, 1), axes=[1]),
        case("ReduceLogSum", x(2, 3, 4), axes=[1]),
        case("TopK", x(2, 5), ints(3), outputs=2, opsets=(11,)),
        case("TopK", x(5, 2), ints(5), outputs=2, axis=0, largest=0, opsets=(11,)),
    ]


def attention_cases() -> list[Case]:
    q, k, v = x(2, 2, 3, 4), x(2, 2, 5, 4), x(2, 2, 5, 2)
    hidden = np.array([[0, -np.inf, 1, 0, 0], [0, 0, -np.inf, -np.inf, 2], [-np.inf, 1, 0, 0, -np.inf]], np.float32)
    return [
        case("Attention", q, k, v, opsets=(23,)),
        case("Attention", q, k, v, is_causal=1, scale=0.3, opsets=(23,)),
        case("Attention", q, k, v, hidden, opsets=(23,)),
        case("Attention", q, k, v, hidden == 0, opsets=(23,)),
        case("Attention", q, w(2, 2, 5, 4), v, opsets=(23,)),
        case("Attention", x(1, 3, 8), x(1, 5, 4), x(1, 5, 4), q_num_heads=4, kv_num_heads=2, opsets=(23,)),
        case("Einsum", x(2, 3, 4), equation="bij->jb"),
        case("Einsum", x(1, 5, 2, 4), x(1, 6, 2, 4), equation="bqhd,bkhd->bhqk"),
        case("Einsum", x(1, 2, 5, 6), w(1, 6, 2, 4), equation="bhqk,bkhd->bqhd"),
        case("Einsum", w(3, 4, 2), x(2, 5, 3), equation="hij,jkh -> kih"),
        case("Einsum", x(2, 3, 4), w(5, 4), equation="...d,ed->...e"),
        case("Einsum", x(4, 1), x(1, 3), equation="...i,...i"),
        case("Einsum", x(2, 3), w(3), equation="ij,j->ij"),
        case("Einsum", x(2, 3), x(3, 4), w(4, 2), equation="ij,jk,kl->il"),
        case("Einsum", x(3), x(4), equation="i,j->ji"),
    ]


def recurrent_cases() -> list[Case]:
    found = []
    for op, gates, many in (("RNN", 1, 2), ("GRU", 3, 2), ("LSTM", 4, 3)):
        states = [None, *[w(2, 2, 3)] * (many - 1)]
        both = {"direction": "bidirectional", "hidden_size": 3}
        weights = [w(2, gates * 3, 4), w(2, gates * 3, 3), w(2, gates * 6)]
        found += [
            case(op, x(4, 2, 4), w(1, gates * 3, 4), w(1, gates * 3, 3), outputs=many, hidden_size=3, opsets=(7, 14)),
            case(op, x(4, 2, 4), *[v[:1] for v in weights], outputs=many, hidden_size=3, direction="reverse"),
            case(op, x(4, 2, 4), *weights, np.full(2, 4, np.int32), *states[1:], outputs=many, **both),
            case(op, x(2, 2, 4), *weights, None, *[x(2, 2, 3)] * (many - 1), outputs=many, **both),
        ]
    found += [
        case("GRU", x(3, 1, 4), w(1, 9, 4), w(1, 9, 3), w(1, 18), None, h, hidden_size=3, linear_before_reset=1)
        for h in (None, w(1, 1, 3), x(1, 1, 3))
    ]
    found += [
        case("RNN", x(3, 1, 4), w(1, 3, 4), w(1, 3, 3), activations=["Relu"], hidden_size=3),
        case("LSTM", x(3, 1, 4), w(1, 12, 4), w(1, 12, 3), activations=["Sigmoid", "Relu", "Tanh"], hidden_size=3),
    ]
    return found


def softmax_cases() -> list[Case]:
    return [
        *(case(op, x(2, 3, 4), opsets=(7, 11, 13)) for op in ("Softmax", "LogSoftmax")),
        case("Softmax", x(2, 3, 4), axis=0, opsets=(7, 11, 13)),
        case("Softmax", x(2, 3, 4), axis=-2, opsets=(11, 13)),
        case("Softmax", x(1, 4), axis=1, opsets=(7, 11, 13)),
        case("LogSoftmax", x(2, 3, 1), axis=1, opsets=(7, 13)),
    ]


CASES = conv_cases() + affine_cases() + movement_cases() + resize_cases() + piecewise_cases() + smooth_cases() + softmax_cases()
CASES += norm_cases() + attention_cases() + recurrent_cases()


def model(c: Case, opset: int) -> tuple[bytes, list[np.ndarray]]:
    """The file, and values for its free inputs."""
    names = ["" if i is None else f"i{k}" for k, i in enumerate(c.inputs)]
    node = helper.make_node(c.op, names, [f"y{k}" for k in range(c.outputs)], **c.attributes)
    free = [(n, i[1:]) for n, i in zip(names, c.inputs, strict=True) if isinstance(i, tuple)]
    fixed = [numpy_helper.from_array(i, n) for n, i in zip(names, c.inputs, strict=True) if isinstance(i, np.ndarray)]
    kinds = [TensorProto.DOUBLE if c.op == "Cast" else TensorProto.FLOAT] * c.outputs
    kinds = [TensorProto.BOOL] if c.op.startswith(("Greater", "Less")) else kinds
    kinds[1:] = [TensorProto.INT64] if c.op == "TopK" else kinds[1:]
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in free],
        [helper.make_tensor_value_info(f"y{k}", kind, None) for k, kind in enumerate(kinds)],
        fixed,
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return built.SerializeToString(), [w(*s) for _, s in free]


def decoded(c: Case) -> dict[str, Any]:
    """Attributes as a file gives them back, floats rounded to single precision."""
    found = {}
    for name, value in c.attributes.items():
        raw = helper.get_attribute_value(helper.make_attribute(name, value))
        parts = [raw] if isinstance(raw, (int, float, bytes)) else list(raw)
        parts = [v.decode() if isinstance(v, bytes) else v for v in parts]
        found[name] = parts if isinstance(value, list) else parts[0]
    return found


@pytest.mark.parametrize(("c", "opset"), [(c, o) for c in CASES for o in c.opsets], ids=lambda v: str(v).replace(" ", "_"))
def test_equals_onnxruntime(c: Case, opset: int) -> None:
    data, values = model(c, opset)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    expected = session.run(None, {i.name: v for i, v in zip(session.get_inputs(), values, strict=True)})

    # The variables are slices of one input, so that nodes of several inputs are read too.
    builder = Builder()
    flat = np.concatenate([v.reshape(-1) for v in values])
    source = builder.input((flat.size,))
    inputs, start = [], 0
    for i in c.inputs:
        if isinstance(i, tuple):
            size = int(np.prod(i[1:]))
            part = builder(ascertain.operators.Slice(((start, start + size, 1),)), source)
            inputs.append(builder(ascertain.operators.Reshape(i[1:]), part))
            start += size
        else:
            inputs.append(i)
    result = ONNX[c.op](Call(c.op, "node", tuple(inputs), decoded(c), opset, builder, c.outputs))
    results = result if isinstance(result, tuple) else (result,)
    assert len(results) == (1 if c.op == "TopK" else c.outputs), "all outputs but indices"
    for ref, value in zip(results, expected, strict=False):
        actual = builder.graph(source, ref)(flat[None].astype(np.float64))[0]
        assert actual.shape == value.shape
        np.testing.assert_allclose(actual, value, rtol=2e-5, atol=2e-5)


def test_every_reader_is_tested() -> None:
    assert set(ONNX) == {c.op for c in CASES} | {"Not", "And", "Or"}, "operators of truth values are tested in test_steps"


REFUSED = [
    case("Gemm", w(2, 3), w(3, 2), x(2, 2)),
    case("Div", x(2, 3), np.array([1, 0, 1], np.float32)),
    case("Cast", x(2, 3), to=7),
    case("Gather", w(3), x(2)),
    case("Conv", x(1, 2, 3, 3), x(1, 2, 3, 3)),
    case("Clip", x(2), x(1)),
    case("Dropout", x(2, 3), np.array(0.3, np.float32), np.array(True)),
    case("BatchNormalization", x(2, 3), w(3), w(3), w(3), w(3) ** 2, training_mode=1),
    case("Pad", x(2, 3), ints(0, 1, 2, 0), np.array(-np.inf, np.float32)),
    case("Resize", x(1, 1, 2, 2), None, np.array([1, 1, 2, 2], np.float32), mode="linear"),
    case("Split", x(4), axis=0),
    case("PRelu", x(3), w(2, 3)),
]


@pytest.mark.parametrize("c", REFUSED, ids=lambda v: str(v).replace(" ", "_"))
def test_refuses_with_reason_and_advice(c: Case) -> None:
    builder = Builder()
    inputs = tuple(builder.input(i[1:]) if isinstance(i, tuple) else i for i in c.inputs)
    with pytest.raises(NotSupported, match=rf"^{c.op} with .* is not supported\. [A-Z].*\.$"):
        ONNX[c.op](Call(c.op, "node", inputs, decoded(c), c.opsets[0], builder))


def test_onnx_names_exist() -> None:
    known = {s.name for s in onnx.defs.get_all_schemas_with_history()}
    assert set(ONNX) <= known
