"""Evaluates the parts of an ONNX graph that do not depend on the network's input."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ascertain.errors import InputError, ModelError
from ascertain.operators.reading import NotSupported

if TYPE_CHECKING:
    import onnx

__all__ = ["FAILURES", "OF_SHAPE", "evaluate", "failure", "guarded"]

OF_SHAPE = frozenset({"EyeLike", "IsNaN", "Shape", "Size"})
"""Operators that look at the shape of their input only: constant, because shapes here are static and values real numbers."""
_RANDOM = frozenset(
    {"Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
_LIMIT = 2**26
"""Largest array that folding may make, in elements."""
FAILURES = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError, NotImplementedError, MemoryError)
"""What third-party code raises on malformed nodes."""


def guarded(function: Callable[[], Any], what: str) -> Any:
    """Calls a function on parts of a file; whatever it finds malformed becomes an InputError naming them."""
    try:
        return function()
    except NotSupported:
        raise
    except InputError as error:
        raise type(error)(f"{what}: {error}") from error
    except FAILURES as error:
        raise ModelError(f"{what} is malformed ({failure(error)}); export the model again.") from error


def failure(error: BaseException) -> str:
    """The first line of what third-party code said."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def evaluate(node: onnx.NodeProto, inputs: list[np.ndarray | None], opset: int) -> list[np.ndarray]:
    """Outputs of one node on constant inputs, in the file's own number types as any runtime would compute them."""
    import onnx
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
        raise NotSupported("control flow")
    if node.op_type in _RANDOM:
        raise NotSupported("its value is random")
    given = {name: value for name, value in zip(node.input, inputs, strict=True) if value is not None}
    types = {n: helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in given.items()}
    opsets = [helper.make_opsetid("", opset)]
    _check_size(node, given, types, opset)
    graph = helper.make_graph(
        [node],
        "constant",
        [helper.make_value_info(n, t) for n, t in types.items()],
        [helper.make_value_info(n, onnx.TypeProto()) for n in node.output if n],
    )
    results = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run(None, given)
    if not all(isinstance(r, (np.ndarray, np.generic)) for r in results):
        raise NotSupported("it makes a sequence, map or optional")
    named = iter(results)
    return [np.asarray(next(named)) if name else np.zeros(0) for name in node.output]


def _check_size(node: onnx.NodeProto, given: dict[str, np.ndarray], types: dict[str, Any], opset: int) -> None:
    """Refuses a node whose result would fill the memory, before it is made."""
    from onnx import defs, helper, numpy_helper, shape_inference

    try:
        schema = defs.get_schema(node.op_type, opset, "")
    except defs.SchemaError:
        raise NotSupported(f"opset {opset} has no such operator") from None
    data = {n: numpy_helper.from_array(v) for n, v in given.items() if v.size <= 1024}
    found = shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=[helper.make_opsetid("", opset)])
    for kind in found.values():
        size = 1
        for dim in kind.tensor_type.shape.dim:
            size *= max(dim.dim_value, 0) if dim.HasField("dim_value") else 1
        if size > _LIMIT:
            raise ModelError(
                f"node {node.name or node.op_type!r} ({node.op_type}) makes a constant of {size} numbers, more than {_LIMIT}."
            )
