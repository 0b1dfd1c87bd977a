"""Every ATen reader equals torch on single calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from ascertain.graph.graph import Builder
from ascertain.operators import Reshape, Slice
from ascertain.operators.base import Ref
from ascertain.operators.reading import ATEN, Call, NotSupported

R = np.random.default_rng(11)


@dataclass(frozen=True)
class Variable:
    """An argument that depends on the network's input."""

    value: np.ndarray


def x(*shape: int) -> Variable:
    return Variable(R.normal(size=shape).astype(np.float32))


def w(*shape: int) -> np.ndarray:
    return R.normal(size=shape).astype(np.float32)


@dataclass
class Case:
    name: str
    arguments: list[Any]
    keywords: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}_{_shown(self.arguments)}_{self.keywords}".replace(" ", "").replace("'", "")


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_shown, value))}]"
    if isinstance(value, Variable):
        return f"x{value.value.shape}"
    return f"c{value.shape}" if isinstance(value, np.ndarray) else str(value)


def case(name: str, *arguments: Any, **keywords: Any) -> Case:
    return Case(name, list(arguments), keywords)


def mapped(value: Any, change: Any) -> Any:
    """Replaces variables and arrays inside nested lists."""
    if isinstance(value, (list, tuple)):
        return [mapped(v, change) for v in value]
    return change(value) if isinstance(value, (Variable, np.ndarray)) else value


def tensor(value: Any) -> torch.Tensor:
    return torch.from_numpy(value.value if isinstance(value, Variable) else value)


AFFINE = [
    case("linear.default", x(2, 4), w(3, 4), w(3)),
    case("linear.default", x(5, 2, 4), w(3, 4)),
    case("linear.default", x(4), w(3, 4), w(3)),
    case("linear.default", w(2, 4), x(3, 4), w(3)),
    case("linear.default", w(2, 4), x(3, 4), x(3)),
    case("linear.default", x(2, 4), w(3, 4), x(3)),
    case("addmm.default", w(3), x(2, 4), w(4, 3)),
    case("addmm.default", w(2, 1), x(2, 4), w(4, 3), beta=0.5, alpha=2),
    case("addmm.default", x(3), w(2, 4), x(4, 3), beta=3),
    case("baddbmm.default", w(2, 1, 3), x(2, 4, 3), w(2, 3, 3), beta=0.5, alpha=-1),
    case("mm.default", x(2, 4), w(4, 3)),
    case("mm.default", w(2, 4), x(4, 3)),
    case("matmul.default", x(2, 1, 3, 4), w(5, 4, 3)),
    case("matmul.default", x(4), w(4)),
    case("bmm.default", x(2, 3, 4), w(2, 4, 3)),
    case("mv.default", x(3, 4), w(4)),
    case("mv.default", w(3, 4), x(4)),
    case("dot.default", x(4), w(4)),
    case("add.Tensor", x(2, 3), x(3)),
    case("add.Tensor", x(2, 3), w(2, 1), alpha=-3),
    case("add.Tensor", w(2, 3), x(1, 3), alpha=0.5),
    case("add.Tensor", x(2, 3), 1),
    case("add.Scalar", x(2, 3), 0.25, 2),
    case("add_.Tensor", x(2, 3), x(3)),
    case("sub.Tensor", x(2, 3), x(3), alpha=2),
    case("sub.Tensor", w(2, 3), x(3)),
    case("sub.Scalar", x(2, 3), 2),
    case("sub_.Tensor", x(2, 3), w(3)),
    case("rsub.Scalar", x(2, 3), 2, 3),
    case("rsub.Tensor", x(2, 3), w(3), alpha=2),
    case("mm.default", x(2, 3), x(3, 2)),
    case("bmm.default", x(5, 2, 3), x(5, 3, 4)),
    case("mul.Tensor", x(2, 3), x(3)),
    case("div.Tensor", w(2, 3), x(3)),
    case("div.Tensor", x(2, 3), x(2, 1)),
    case("mul.Tensor", x(2, 3), w(3)),
    case("mul.Tensor", x(2, 3), 2),
    case("mul.Tensor", w(2, 2, 3), x(3)),
    case("mul.Scalar", x(2, 3), -0.5),
    case("mul_.Tensor", x(2, 3), w(3)),
    case("div.Tensor", x(2, 3), w(3)),
    case("div.Tensor", x(2, 3), 255),
    case("div.Scalar", x(2, 3), 3.0),
    case("div_.Tensor", x(2, 3), w(3)),
    case("neg.default", x(2, 3)),
    case("batch_norm.default", x(2, 3, 4), w(3), w(3), w(3), w(3) ** 2, False, 0.1, 0.01, False),
    case("batch_norm.default", x(2, 3), None, None, w(3), w(3) ** 2, False, 0.1, 1e-5, False),
    case("_native_batch_norm_legit_no_training.default", x(2, 3, 4, 1), w(3), w(3), w(3), w(3) ** 2, 0.1, 0.02),
    case("native_batch_norm.default", x(2, 3), w(3), w(3), w(3), w(3) ** 2, False, 0.1, 0.03),
    case("sum.dim_IntList", x(2, 3, 4), [0, -1]),
    case("sum.dim_IntList", x(2, 3, 4), None),
    case("sum.dim_IntList", x(2, 3, 4), [], True),
    case("sum.default", x(2, 3)),
    case("mean.default", x(2, 3)),
    case("mean.dim", x(2, 3, 4), [1], True),
    case("mean.dim", x(2, 3, 4), [-1], keepdim=False),
]

CONVOLUTION = [
    case("conv1d.default", x(2, 3, 9), w(2, 3, 3), w(2), [2], [1]),
    case("conv2d.default", x(1, 4, 6, 5), w(6, 2, 3, 2), w(6), [2, 1], [1, 0], [1, 2], 2),
    case("conv2d.default", x(4, 6, 5), w(6, 4, 3, 2)),
    case("conv2d.default", x(1, 4, 6, 5), w(6, 4, 3, 2), None, [2], [1]),
    case("conv2d.padding", x(1, 4, 6, 5), w(6, 4, 3, 2), w(6), [1], "same", [2]),
    case("conv2d.padding", x(1, 4, 6, 5), w(6, 4, 4, 2), w(6), [1], "same"),
    case("conv1d.padding", x(1, 4, 6), w(6, 4, 3), w(6), [2], "valid"),
    case("conv3d.padding", x(1, 1, 3, 4, 5), w(1, 1, 2, 3, 3), w(1), [1], "same"),
    case("conv3d.default", x(1, 2, 3, 4, 5), w(2, 1, 2, 3, 3), w(2), [1], [1, 0, 2], groups=2),
    case("conv_transpose1d.default", x(1, 2, 5), w(2, 3, 4), w(3), [3], [1]),
    case("conv_transpose2d.input", x(1, 4, 3, 5), w(4, 1, 3, 3), w(2), [2, 3], [1, 0], [1, 2], 2, [2, 1]),
    case("conv_transpose3d.input", x(1, 2, 2, 3, 2), w(2, 1, 2, 2, 2), w(1), [2]),
    case("convolution.default", x(1, 4, 6, 5), w(6, 2, 3, 2), w(6), [2, 1], [1, 0], [1, 2], False, [0, 0], 2),
    case("convolution.default", x(1, 4, 3, 5), w(4, 1, 3, 3), None, [2, 3], [1, 0], [2, 1], True, [1, 2], 2),
    case("avg_pool1d.default", x(1, 2, 8), [3], [2], [1], True, False),
    case("avg_pool2d.default", x(1, 2, 7, 6), [2, 3]),
    case("avg_pool2d.default", x(2, 7, 6), [3, 3], [2, 2], [1, 1], True),
    case("avg_pool2d.default", x(1, 2, 7, 6), [3, 3], [2, 2], [1, 0], False, False),
    case("avg_pool3d.default", x(1, 1, 4, 4, 3), [2, 2, 3], [2]),
    case("adaptive_avg_pool1d.default", x(1, 2, 6), [3]),
    case("adaptive_avg_pool2d.default", x(1, 2, 4, 6), [1, 1]),
    case("adaptive_avg_pool2d.default", x(2, 4, 6), [2, 3]),
    case("adaptive_avg_pool3d.default", x(1, 2, 4, 6, 2), [2, 1, 2]),
    case("_adaptive_avg_pool2d.default", x(1, 2, 4, 6), [4, 2]),
    case("max_pool1d.default", x(1, 2, 8), [3], [2], [1], [2], True),
    case("max_pool2d.default", x(1, 2, 7, 6), [2, 3]),
    case("max_pool2d.default", x(2, 7, 6), [3, 3], [2, 2], [1, 1], 1, True),
    case("max_pool3d.default", x(1, 1, 4, 4, 3), [2, 2, 2]),
    case("max_pool2d_with_indices.default", x(1, 2, 7, 6), [3, 2], [2, 2], [1, 1], [1, 2]),
    case("max_pool3d_with_indices.default", x(1, 1, 4, 4, 3), [2, 2, 2]),
]

MOVEMENT = [
    *(case(f"{n}.default", x(2, 3)) for n in ("alias", "clone", "detach", "contiguous", "lift_fresh_copy")),
    case("detach_.default", x(2, 3)),
    *(case(f"{n}.default", x(2, 3), 0.5, False) for n in ("dropout", "dropout_", "feature_dropout", "alpha_dropout")),
    case("native_dropout.default", x(2, 3), 0.5, False),
    case("_to_copy.default", x(2, 3), dtype=torch.float64),
    case("to.dtype", x(2, 3), torch.float64),
    case("to.device", x(2, 3), torch.device("cpu"), torch.float32),
    case("to.dtype_layout", x(2, 3), dtype=torch.float64),
    case("type_as.default", x(2, 3), w(1)),
    case("view.default", x(2, 3, 4), [2, -1]),
    case("reshape.default", x(2, 3, 4), [4, 6]),
    case("_unsafe_view.default", x(2, 3, 4), [24]),
    case("_reshape_copy.default", x(2, 3, 4), [24]),
    case("view_copy.default", x(2, 3, 4), [24]),
    case("flatten.using_ints", x(2, 3, 4), 1),
    case("flatten.using_ints", x(2, 3, 4), 0, -2),
    case("unflatten.int", x(2, 12), 1, [3, -1]),
    case("squeeze.default", x(1, 3, 1)),
    case("squeeze.dim", x(1, 3, 1), -1),
    case("squeeze.dim", x(1, 3, 1), 1),
    case("squeeze.dims", x(1, 3, 1), [0, 2]),
    case("squeeze_copy.dims", x(1, 3, 1), [0, 1]),
    case("unsqueeze.default", x(2, 3), -1),
    case("unsqueeze.default", x(2, 3), 0),
    case("permute.default", x(2, 3, 4), [2, 0, 1]),
    case("permute_copy.default", x(2, 3, 4), [-1, 0, 1]),
    case("t.default", x(2, 3)),
    case("t.default", x(3)),
    case("numpy_T.default", x(2, 3, 4)),
    case("transpose.int", x(2, 3, 4), -1, 0),
    case("swapaxes.default", x(2, 3, 4), 1, 2),
    case("expand.default", x(3, 1), [2, -1, 4]),
    case("expand_copy.default", x(3, 1), [2, 3, 4]),
    case("broadcast_to.default", x(3, 1), [3, 4]),
    case("repeat.default", x(2, 3), [4, 1, 2]),
    case("tile.default", x(2, 3), [2]),
    case("pixel_shuffle.default", x(1, 8, 2, 3), 2),
    case("pixel_unshuffle.default", x(1, 2, 4, 6), 2),
    case("slice.Tensor", x(5, 6), 1, -4, 2**63 - 1, 2),
    case("slice.Tensor", x(5, 6), 0),
    case("slice_copy.Tensor", x(5, 6), 0, None, 3),
    case("narrow.default", x(5, 6), 1, 2, 3),
    case("select.int", x(5, 6), -1, -2),
    case("select_copy.int", x(5, 6), 0, 3),
    case("index_select.default", x(5, 6), 1, np.array([3, 0, 3])),
    case("index.Tensor", x(5, 6), [None, np.array([[3, -1], [0, 3]])]),
    case("index.Tensor", x(3, 6), [np.array([True, False, True])]),
    case("flip.default", x(2, 3, 4), [0, -1]),
    case("cat.default", [x(2, 3), w(2, 1), x(2, 2)], 1),
    case("cat.default", [w(1, 3), x(2, 3)]),
    case("cat.default", [w(0), x(2, 3)]),
    case("concat.default", [x(2, 3), x(2, 3)], -1),
    case("concatenate.default", [x(2, 3), x(2, 3)], 0),
    case("stack.default", [x(2, 3), w(2, 3), x(2, 3)], -1),
    case("constant_pad_nd.default", x(2, 3), [1, 2, 0, 1], 0.5),
    case("constant_pad_nd.default", x(2, 3), [-1, 2]),
    case("pad.default", x(2, 3), [1, 0]),
    case("pad.default", x(1, 2, 4), [1, 2], "reflect"),
    case("pad.default", x(1, 2, 4), [3, 2], "circular"),
    case("reflection_pad1d.default", x(1, 2, 4), [1, 2]),
    case("reflection_pad2d.default", x(1, 2, 4, 3), [1, 2, 3, 0]),
    case("reflection_pad3d.default", x(1, 2, 4, 3, 3), [1, 2, 1, 0, 0, 1]),
    case("replication_pad1d.default", x(1, 2, 4), [1, 6]),
    case("replication_pad2d.default", x(1, 2, 4, 3), [1, 2, 3, 0]),
    case("replication_pad3d.default", x(1, 2, 4, 3, 3), [1, 2, 1, 0, 0, 1]),
    case("split.Tensor", x(5, 2), 2),
    case("split.Tensor", x(2, 6), 3, -1),
    case("split.sizes", x(2, 6), [5, 1], 1),
    case("split_copy.Tensor", x(5, 2), 3),
    case("unsafe_split.Tensor", x(5, 2), 3),
    case("unsafe_split_with_sizes.default", x(2, 6), [2, 4], 1),
    case("split_with_sizes.default", x(2, 6), [2, 4], 1),
    case("chunk.default", x(2, 7), 3, 1),
    case("unsafe_chunk.default", x(4, 2), 2),
    case("unbind.int", x(3, 2)),
    case("unbind.int", x(3, 2), 1),
    case("upsample_nearest1d.default", x(1, 2, 5), [8]),
    case("upsample_nearest1d.vec", x(1, 2, 5), None, [2.0]),
    case("upsample_nearest2d.default", x(1, 2, 4, 5), [8, 7]),
    case("upsample_nearest2d.default", x(1, 2, 4, 5), [10, 8], 2.6, 1.7),
    case("upsample_nearest2d.vec", x(1, 2, 4, 5), None, [1.5, 2.4]),
    case("upsample_nearest2d.vec", x(1, 2, 4, 5), [3, 10], None),
    case("upsample_nearest3d.default", x(1, 1, 2, 3, 2), [4, 3, 6]),
    case("upsample_nearest3d.vec", x(1, 1, 2, 3, 2), None, [2.0, 1.0, 3.0]),
]

PIECEWISE = [
    case("relu.default", x(2, 3)),
    case("relu_.default", x(2, 3)),
    case("leaky_relu.default", x(2, 3)),
    case("leaky_relu_.default", x(2, 3), 0.3),
    case("prelu.default", x(2, 3, 2), w(3)),
    case("prelu.default", x(2, 3), w(1)),
    case("_prelu_kernel.default", x(2, 3, 2), w(1, 3, 1)),
    case("abs.default", x(2, 3)),
    case("sign.default", x(2, 3)),
    case("sgn.default", x(2, 3)),
    case("clamp.default", x(2, 3), -0.5, 0.5),
    case("clamp.default", x(2, 3), 0),
    case("clamp.default", x(2, 3), max=0.25),
    case("clamp.Tensor", x(2, 3), w(3), w(2, 1)),
    case("clamp_.default", x(2, 3), 0.5, -0.5),
    case("clip.default", x(2, 3), None, 0.5),
    case("clamp_min.default", x(2, 3), 0.1),
    case("clamp_min.Tensor", x(2, 3), w(3)),
    case("clamp_max.default", x(2, 3), 0.1),
    case("clamp_max.Tensor", x(2, 3), w(3)),
    case("hardtanh.default", x(2, 3)),
    case("hardtanh_.default", x(2, 3), -0.25, 2),
    case("relu6.default", x(2, 3)),
    case("relu6_.default", x(2, 3)),
    case("hardsigmoid.default", x(2, 3)),
    case("hardsigmoid_.default", x(2, 3)),
    *(case(f"{name}{place}.default", x(2, 3)) for name in ("sigmoid", "tanh", "atan", "arctan", "erf") for place in ("", "_")),
    *(case(f"{name}{place}.default", x(2, 3)) for name in ("gelu", "silu", "mish", "hardswish") for place in ("", "_")),
    case("gelu.default", x(2, 3), approximate="tanh"),
    case("special_erf.default", x(2, 3)),
    case("log_sigmoid.default", x(2, 3)),
    case("maximum.default", x(2, 3), x(2, 1)),
    case("maximum.default", w(2, 1), x(1, 3)),
    case("max.other", x(2, 3), w(3)),
    case("minimum.default", x(2, 3), x(2, 1)),
    case("min.other", x(2, 3), w(3)),
    case("amax.default", x(2, 3, 5), [0, -1]),
    case("amax.default", x(2, 3), [], True),
    case("amin.default", x(2, 3, 5), [1], True),
    case("max.default", x(2, 3)),
    case("min.default", x(2, 3)),
    case("max.dim", x(2, 3), 1),
    case("min.dim", x(2, 3), -2, True),
    case("sort.default", x(2, 7)),
    case("sort.default", x(6, 2), 0, True),
]

SOFTMAX = [
    case("softmax.int", x(2, 3, 4), 1),
    case("softmax.int", x(2, 3), -1, torch.float64),
    case("_softmax.default", x(2, 3), 1, False),
    case("log_softmax.int", x(2, 3, 4), -2),
    case("_log_softmax.default", x(2, 3), 0, False),
]

SMOOTH = [
    *(
        case(f"{name}{end}.default", x(2, 3))
        for name in (
            [
                "exp",
                "log",
                "sqrt",
                "rsqrt",
                "reciprocal",
                "square",
                "log2",
                "log10",
                "log1p",
                "expm1",
                "exp2",
                "elu",
                "selu",
                "celu",
                "sin",
                "cos",
                "tan",
                "floor",
                "ceil",
                "round",
            ]
        )
        for end in ("", "_")
    ),
    *(case("pow.Tensor_Scalar", x(2, 3), p) for p in (1, 2, 3, 4, -1, -2, -3, 0.5, -0.5, 1.7)),
    case("pow_.Scalar", x(2, 3), 3),
    case("pow.Tensor_Tensor", x(2, 3), np.full(1, 3, np.float32)),
    case("softplus.default", x(2, 3)),
    case("softplus.default", x(2, 3), 2.0, 30.0),
    case("elu.default", x(2, 3), 0.3),
    case("elu.default", x(2, 3), 0.7, 1.2, 0.4),
    case("celu.default", x(2, 3), 0.3),
    case("threshold.default", x(2, 3), 0.1, 0.7),
    case("threshold_.default", x(2, 3), -0.1, 0.0),
    case("round.decimals", x(2, 3), decimals=1),
    case("heaviside.default", x(2, 3), np.full((), 0.5, np.float32)),
    case("heaviside_.default", x(2, 3), np.ones(1, np.float32)),
]

HALF = np.array([[True, False, True], [True, True, False]])
CHOICES = [
    *(case(f"{name}.Scalar", x(2, 3), 0.1) for name in ("gt", "ge", "lt", "le")),
    *(case(f"{name}.Tensor", x(2, 3), w(3)) for name in ("gt", "ge", "lt", "le")),
    *(case(f"{name}.Tensor", x(2, 3), x(2, 3)) for name in ("gt", "ge", "lt", "le")),
    case("where.self", HALF, x(2, 3), x(2, 3)),
    case("where.self", HALF, x(2, 3), w(3)),
    case("where.self", HALF[:1], w(2, 3), x(2, 3)),
    case("where.ScalarOther", HALF, x(2, 3), 0.5),
    case("where.ScalarSelf", HALF, 0.5, x(2, 3)),
    case("masked_fill.Scalar", x(2, 3), HALF, 0.5),
    case("masked_fill.Tensor", x(2, 3), HALF, np.ones((), np.float32)),
    case("masked_fill_.Scalar", x(2, 3), HALF, 0.5),
    case("masked_fill_.Tensor", x(2, 3), HALF, np.ones((), np.float32)),
]
ON_CONDITIONS = {f"{name}.default" for name in ("logical_not", "bitwise_not", "logical_and", "logical_or")} | {
    *(f"{name}.Tensor" for name in ("bitwise_and", "bitwise_or", "__and__", "__or__")),
    "where.Scalar",
}
"""Operators of truth values, tested on whole networks in test_steps."""
HIDDEN = np.where(HALF, w(2, 3), -np.inf).astype(np.float32)
IMAGE = x(1, 6, 3, 2)
NORMS = [
    case("layer_norm.default", x(2, 3, 4), [3, 4], w(3, 4), w(3, 4), 0.1),
    case("layer_norm.default", x(2, 4), [4]),
    case("native_layer_norm.default", x(2, 4), [4], w(4), None, 1e-5),
    case("rms_norm.default", x(2, 4), [4], w(4)),
    case("rms_norm.default", x(2, 3, 4), [3, 4], None, 0.1),
    case("_fused_rms_norm.default", x(2, 4), [4], w(4), 0.1),
    case("group_norm.default", IMAGE, 3, w(6), w(6), 0.1),
    case("group_norm.default", x(2, 4), 2),
    case("native_group_norm.default", IMAGE, w(6), None, 1, 6, 6, 2, 0.1),
    case("instance_norm.default", IMAGE, w(6), w(6), None, None, True, 0.1, 1e-5, False),
    case("instance_norm.default", IMAGE, w(6), w(6), w(6), abs(w(6)), False, 0.1, 1e-5, False),
    case("logsumexp.default", x(2, 3, 4), [0, 2]),
    case("logsumexp.default", x(2, 3), [1], True),
    case("linalg_vector_norm.default", x(2, 3)),
    case("linalg_vector_norm.default", x(2, 3, 4), 1, [1], True),
    case("linalg_vector_norm.default", x(2, 3), float("inf"), [-1]),
    case("linalg_vector_norm.default", x(2, 1), 2, [1]),
    case("var.correction", x(2, 3, 4), [0, 2], correction=0, keepdim=True),
    case("var.correction", x(2, 3)),
    case("std.correction", x(2, 3), [1], correction=2),
    case("var_mean.correction", x(2, 3), [0], correction=1, keepdim=True),
    case("std_mean.correction", x(2, 3), [1]),
    case("topk.default", x(2, 5), 3),
    case("topk.default", x(5, 2), 5, 0, False),
]
ATTENTION = [
    case("scaled_dot_product_attention.default", x(2, 2, 4), x(2, 3, 4), x(2, 3, 5)),
    case("scaled_dot_product_attention.default", x(1, 2, 4), x(1, 3, 4), x(1, 3, 5), HALF, scale=0.7),
    case("scaled_dot_product_attention.default", x(1, 2, 4), x(1, 3, 4), x(1, 3, 5), HIDDEN),
    case("scaled_dot_product_attention.default", x(2, 2, 4), x(2, 3, 4), x(2, 3, 5), x(2, 3)),
    case("scaled_dot_product_attention.default", x(1, 4, 3), x(1, 4, 3), x(1, 4, 3), None, 0.0, True),
    case("scaled_dot_product_attention.default", w(1, 4, 3), x(1, 2, 3), w(1, 2, 3), None, 0.0, True),
    case("scaled_dot_product_attention.default", x(1, 4, 2, 3), x(1, 2, 5, 3), w(1, 2, 5, 3), enable_gqa=True),
    case("_scaled_dot_product_attention_math.default", x(1, 2, 2, 4), x(1, 2, 3, 4), x(1, 2, 3, 4), HIDDEN),
    case("_scaled_dot_product_flash_attention_for_cpu.default", *[x(1, 2, 3, 4)] * 3, 0.0, True, scale=0.2),
    case("einsum.default", "bqhd,bkhd->bhqk", [x(1, 2, 3, 4), x(1, 5, 3, 4)]),
    case("einsum.default", "...ij,...jk", [x(2, 2, 3), w(1, 3, 4)]),
    case("einsum.default", "i,ij,j->", [x(2), w(2, 3), x(3)]),
]


def recurrent(name: str, gates: int, state: Any, layers: int, twice: bool, biased: bool, first: bool) -> Case:
    """Inputs (4, 2, 3) or (2, 4, 3), hidden size 2."""
    weights: list[np.ndarray] = []
    for layer in range(layers):
        for _ in range(1 + twice):
            width = 3 if layer == 0 else 2 * (1 + twice)
            weights += [w(gates * 2, width), w(gates * 2, 2), *([w(gates * 2), w(gates * 2)] if biased else [])]
    return case(f"{name}.input", x(2, 4, 3) if first else x(4, 2, 3), state, weights, biased, layers, 0.5, False, twice, first)


STATE = np.zeros((1, 2, 2), np.float32)
RECURRENT = [
    *(
        recurrent(name, gates, state, layers, twice, biased, first)
        for name, gates, copies in (("rnn_tanh", 1, 0), ("rnn_relu", 1, 0), ("gru", 3, 0), ("lstm", 4, 2))
        for state, layers, twice, biased, first in (
            ([STATE] * copies or STATE, 1, False, True, False),
            ([w(4, 2, 2)] * copies or w(4, 2, 2), 2, True, True, True),
            ([x(2, 2, 2)] * copies or x(2, 2, 2), 2, False, False, False),
        )
    ),
]

CASES = NORMS + ATTENTION + RECURRENT + AFFINE + CONVOLUTION + MOVEMENT + PIECEWISE + SOFTMAX + SMOOTH + CHOICES
ONLY_CUDA = {"cudnn_batch_norm.default"}


def read(c: Case) -> tuple[tuple[Ref, ...], Builder, Ref, np.ndarray]:
    """The values of a call; its variables are pieces of one flat input."""
    found: list[np.ndarray] = []
    mapped(c.arguments, lambda v: found.append(v.value) if isinstance(v, Variable) else None)
    flat = np.concatenate([v.reshape(-1) for v in found])
    builder = Builder()
    source = builder.input((flat.size,))
    start = 0

    def ref(value: Any) -> Any:
        nonlocal start
        if not isinstance(value, Variable):
            return value
        piece = builder(Slice(((start, start + value.value.size, 1),)), source)
        start += value.value.size
        return builder(Reshape(value.value.shape), piece)

    call = Call(f"aten.{c.name}", "node", tuple(mapped(c.arguments, ref)), c.keywords, 0, builder)
    result = ATEN[c.name](call)
    return result if isinstance(result, tuple) else (result,), builder, source, flat


@pytest.mark.parametrize("c", CASES, ids=str)
def test_equals_torch(c: Case) -> None:
    packet, overload = c.name.split(".")
    function = getattr(getattr(torch.ops.aten, packet), overload)
    expected = function(*mapped(c.arguments, lambda v: tensor(v).clone()), **c.keywords)
    expected = list(expected) if isinstance(expected, (tuple, list)) else [expected]
    results, builder, source, flat = read(c)
    first = ("max", "min", "sort", "topk", "native_", "_native", "_fused", "_scaled")
    multiple = not c.name.startswith(first)
    assert len(results) == (len(expected) if multiple else 1)
    for value, out in zip(results, expected, strict=False):
        actual = builder.graph(source, value)(flat[None].astype(np.float64))[0]
        assert actual.shape == tuple(out.shape)
        np.testing.assert_allclose(actual, out.numpy(), rtol=2e-5, atol=2e-5)


def test_every_reader_is_tested() -> None:
    assert set(ATEN) - ONLY_CUDA == {c.name for c in CASES} | ON_CONDITIONS


REFUSED = [
    case("linear.default", w(2, 3), w(4, 3), x(4)),
    case("div.Tensor", x(2, 3), 0),
    case("dropout.default", x(2, 3), 0.5, True),
    case("batch_norm.default", x(2, 3), None, None, None, None, True, 0.1, 1e-5, False),
    case("to.dtype", x(2, 3), torch.int64),
    case("_to_copy.default", x(2, 3), dtype=torch.float16),
    case("_to_copy.default", x(2, 3), dtype=torch.bfloat16),
    case("clamp.Tensor", x(2, 3), x(3)),
    case("adaptive_avg_pool2d.default", x(1, 2, 4, 6), [3, 4]),
    case("avg_pool2d.default", x(1, 2, 4, 6), [2, 2], [2, 2], [0, 0], False, True, 3),
    case("index.Tensor", x(5, 6), [np.array([0]), np.array([1])]),
    case("prelu.default", x(2, 3), w(2)),
    case("softmax.int", x(2, 3), 1, torch.float16),
]


@pytest.mark.parametrize("c", REFUSED, ids=str)
def test_refuses_with_reason_and_advice(c: Case) -> None:
    with pytest.raises(NotSupported, match=rf"^aten\.{c.name} with .* is not supported\. [A-Z].*\.$"):
        read(c)


def test_names_exist() -> None:
    for name in ATEN:
        packet, overload = name.split(".")
        assert overload in getattr(torch.ops.aten, packet).overloads(), name
