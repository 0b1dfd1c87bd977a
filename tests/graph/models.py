"""Small ONNX files made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def tensor(name: str, values: Any, dtype: Any = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], name=f"node_{output}", **attributes)


def model(
    nodes: list[onnx.NodeProto],
    weights: list[onnx.TensorProto],
    shape: tuple[int | str | None, ...] | None = (1, 3),
    outputs: tuple[str, ...] = ("y",),
    opset: int = 13,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def mlp(seed: int = 0) -> onnx.ModelProto:
    """3 -> 4 -> 2 with one ReLU."""
    r = np.random.default_rng(seed)
    weights = [tensor("w1", r.normal(size=(3, 4))), tensor("b1", r.normal(size=4)), tensor("w2", r.normal(size=(4, 2)))]
    nodes = [
        node("MatMul", ["x", "w1"], "h"),
        node("Add", ["h", "b1"], "a"),
        node("Relu", ["a"], "z"),
        node("MatMul", ["z", "w2"], "y"),
    ]
    return model(nodes, weights)


def save(folder: Path, proto: onnx.ModelProto, name: str = "m.onnx") -> Path:
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    return path
