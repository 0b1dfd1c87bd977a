"""Reads ONNX files: walks the file, folds constants, calls readers. Knows no operator but ``Constant``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ascertain.errors import ModelError
from ascertain.graph.files import digest, inside, read_bytes
from ascertain.graph.fold import OF_SHAPE, evaluate, guarded
from ascertain.graph.graph import Graph, Source
from ascertain.graph.importing import Unknown, Walk, static_shape
from ascertain.graph.replay import OnnxReplay
from ascertain.operators.base import Ref, Shape
from ascertain.operators.reading import ONNX, Call, NotSupported

if TYPE_CHECKING:
    import onnx

__all__ = ["read_onnx"]

_OURS = ("", "ai.onnx")
_LARGEST_CONSTANT = 2**29
_LARGEST_FOLDED = 2**28


def read_onnx(path: Path, input_shape: Shape | None, output: str | None) -> Graph:
    """The graph of an ``.onnx`` or ``.onnx.gz`` file as its nodes say, before any pass."""
    data = read_bytes(path)
    model = _parse(data, path)
    if model.functions:
        from onnx import inliner

        model = guarded(lambda: inliner.inline_local_functions(model), f"{path}: its functions")
    reader = _Reader(path, model)
    source = reader.input(input_shape)
    target = reader.target(output)
    reader.needed(target)
    for i, node in enumerate(model.graph.node):
        if i in reader.live:
            reader.visit(node)
    if target not in reader.values and target not in reader.initializers:
        raise ModelError(f"{path}: no node makes the output {target!r}; export the model again.")
    result = reader.walk.finish(reader.value(target), target)
    replay = OnnxReplay(path, digest(data), source.shape, reader.input_name, target, reader.dtype)
    return reader.walk.builder.graph(source, result, Source("onnx", path, replay, replay.digest))


def _parse(data: bytes, path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, RecursionError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path} is not a complete ONNX file; export or fetch it again.") from error
    if not model.graph.node:
        raise ModelError(f"{path} holds no ONNX network (its graph is empty); check that it is the right file.")
    if model.graph.sparse_initializer:
        raise ModelError(f"{path} stores sparse weights; export it with dense ones.")
    return model


@dataclass
class _Reader:
    path: Path
    model: onnx.ModelProto
    values: dict[str, Any] = field(default_factory=dict)
    """A `Ref`, an `Unknown` or a numpy array for every name made so far."""
    live: set[int] = field(default_factory=set)
    """Positions of the nodes on which the output depends."""
    folded: int = 0
    """Numbers in all constants computed so far."""

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.walk = Walk(str(self.path), ONNX)
        self.opset = max((o.version for o in self.model.opset_import if o.domain in _OURS), default=0)
        if self.opset < 1:
            raise ModelError(f"{self.path} names no operator set, so it is incomplete; export or fetch it again.")
        self.initializers = {t.name: t for t in graph.initializer}
        self.makers: dict[str, int] = {}
        for i, node in enumerate(graph.node):
            for name in node.output:
                if name and (name in self.makers or name in self.initializers):
                    raise ModelError(f"{self.path}: {name!r} is made twice, by node {_label(node)!r} too; export the model again.")
                self.makers[name] = i

    def input(self, given: Shape | None) -> Ref:
        """The network's one input."""
        from onnx import helper

        free = [v for v in self.model.graph.input if v.name not in self.initializers]
        if len(free) != 1:
            names = ", ".join(repr(v.name) for v in free) or "none"
            raise ModelError(f"{self.path} has {len(free)} inputs ({names}), exactly one is supported; merge them into one.")
        name, kind = free[0].name, free[0].type
        if not kind.HasField("tensor_type"):
            raise ModelError(f"{self.path}: the input {name!r} is not a tensor; export the model with a tensor input.")
        tensor = kind.tensor_type
        found = guarded(lambda: helper.tensor_dtype_to_np_dtype(tensor.elem_type), f"{self.path}: the type of input {name!r}")
        if found.kind != "f":
            raise ModelError(
                f"{self.path}: the input {name!r} holds {found} numbers, not floats; only real-valued inputs are supported."
            )
        self.dtype, self.input_name = str(found), name
        dims: list[int | None] = [d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None for d in tensor.shape.dim]
        declared = dims if tensor.HasField("shape") else None
        ref = self.walk.builder.input(static_shape(declared, given, f"{self.path}: the input {name!r}"), name)
        self.values[name] = ref
        return ref

    def target(self, wanted: str | None) -> str:
        """The output that is asked for: the only one, the first, or one by name."""
        names = [v.name for v in self.model.graph.output]
        if not names:
            raise ModelError(f"{self.path} has no outputs; export the model again.")
        if wanted is not None and wanted not in names:
            raise ModelError(f"{self.path} has no output {wanted!r}; its outputs are {', '.join(map(repr, names))}.")
        return names[0] if wanted is None else wanted

    def needed(self, target: str) -> None:
        """Marks the nodes on which the output depends: the others may be anything."""
        stack, seen = [target], {target}
        while stack:
            i = self.makers.get(stack.pop())
            if i is not None:
                self.live.add(i)
                fresh = [n for n in self.model.graph.node[i].input if n and n not in seen]
                seen.update(fresh)
                stack.extend(fresh)

    def value(self, name: str) -> Any:
        """What a name stands for; initializers are decoded on first use."""
        if name not in self.values:
            if name not in self.initializers:
                raise ModelError(
                    f"{self.path}: {name!r} is used before any node makes it, or nothing does; export the model again."
                )
            self.values[name] = self.tensor(self.initializers[name], f"weight {name!r}")
        return self.values[name]

    def tensor(self, tensor: onnx.TensorProto, what: str) -> np.ndarray:
        """The array of a stored tensor; external data only from the model's folder."""
        from onnx import numpy_helper

        what = f"{self.path}: {what}"
        size = prod(tensor.dims)
        if any(n < 0 for n in tensor.dims) or size > _LARGEST_CONSTANT:
            raise ModelError(
                f"{what} has the shape {tuple(tensor.dims)}, more than {_LARGEST_CONSTANT} numbers or none; store less."
            )
        if tensor.data_location != tensor.EXTERNAL:
            return np.asarray(guarded(lambda: numpy_helper.to_array(tensor), what))
        entries = {e.key: e.value for e in tensor.external_data}
        file = inside(self.path.parent, entries.get("location", ""), what)
        inline = type(tensor)(data_type=tensor.data_type, dims=tensor.dims, name=tensor.name)
        inline.raw_data = guarded(lambda: _external(file, entries), what)
        return np.asarray(guarded(lambda: numpy_helper.to_array(inline), what))

    def visit(self, node: onnx.NodeProto) -> None:
        """Adds the values that a node makes."""
        inputs = [self.value(name) if name else None for name in node.input]
        label = _label(node)
        if node.domain not in _OURS:
            results: tuple[Any, ...] = (self.walk.missing(f"{node.domain}.{node.op_type}", label, "custom domain"),)
        elif any(isinstance(x, Unknown) for x in inputs):
            rest = node.op_type not in OF_SHAPE and any(_variable(x) for x in inputs)
            results = self.walk.probe(node.op_type, label) if rest else (Unknown(constant=True),)
        elif any(_variable(x) for x in inputs) and node.op_type not in OF_SHAPE:
            results = self.read(node, inputs)
        else:
            results = self.fold(node, inputs)
        if any(isinstance(r, Unknown) for r in results):
            results = (results[0],) * len(node.output)
        self.values.update((name, r) for name, r in zip(node.output, results, strict=False) if name)

    def read(self, node: onnx.NodeProto, inputs: list[Any]) -> tuple[Any, ...]:
        """Values of a node on a variable, by its reader."""
        label = _label(node)
        attributes = dict(self.attributes(node))
        weights = [(n, x) for n, x in zip(node.input, inputs, strict=True) if isinstance(x, np.ndarray)]
        given = tuple(_widened(x) if isinstance(x, np.ndarray) else x for x in inputs)
        call = Call(node.op_type, label, given, attributes, self.opset, self.walk.builder, len(node.output))
        return self.walk.read(node.op_type, call, weights)

    def fold(self, node: onnx.NodeProto, inputs: list[Any]) -> tuple[Any, ...]:
        """Values of a node on constants, or on the shape of a variable."""
        what = f"{self.path}: node {_label(node)!r} ({node.op_type})"
        if node.op_type == "Constant":
            values = dict(self.attributes(node)).values()
            return tuple(guarded(lambda: [np.asarray(v) for v in values], what))
        # No number of the variable is looked at: a view of one zero stands for it.
        known = [np.broadcast_to(np.float32(0), x.shape) if isinstance(x, Ref) else x for x in inputs]
        try:
            results = guarded(lambda: evaluate(node, known, self.opset), what)
        except NotSupported as error:
            return (self.walk.missing(node.op_type, _label(node), str(error)),)
        self.folded += sum(r.size for r in results)
        if self.folded > _LARGEST_FOLDED:
            raise ModelError(
                f"{what}: the constants computed so far hold more than {_LARGEST_FOLDED} numbers; fold them when exporting."
            )
        return tuple(results)

    def attributes(self, node: onnx.NodeProto) -> Iterator[tuple[str, Any]]:
        """Attributes as Python and numpy values; graphs stay what they are."""
        from onnx import TensorProto, helper

        what = f"attribute of node {_label(node)!r}"
        for attribute in node.attribute:
            value = guarded(partial(helper.get_attribute_value, attribute), f"{self.path}: {what}")
            if isinstance(value, TensorProto):
                value = self.tensor(value, what)
            elif isinstance(value, bytes):
                value = value.decode("utf-8", "replace")
            elif isinstance(value, (list, tuple)):
                value = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in value]
            if node.op_type == "Constant" and attribute.name == "value_int":
                value = np.int64(value)
            elif node.op_type == "Constant" and attribute.name.startswith("value_float"):
                value = np.asarray(value, np.float32)
            yield attribute.name, value


def _variable(value: Any) -> bool:
    return isinstance(value, Ref) or (isinstance(value, Unknown) and not value.constant)


def _label(node: onnx.NodeProto) -> str:
    return str(node.name or next((n for n in node.output if n), node.op_type))


def _widened(array: np.ndarray) -> np.ndarray:
    """Half and brain floats as float32, exactly."""
    small = "float" in array.dtype.name and array.dtype.itemsize < 4
    return array.astype(np.float32) if small else array


def _external(file: Path, entries: dict[str, str]) -> bytes:
    size = file.stat().st_size
    offset = int(entries.get("offset", 0))
    length = int(entries.get("length", size - offset))
    if not 0 <= offset <= offset + length <= size:
        raise ValueError(f"bytes {offset} to {offset + length} of {file.name}, which has {size}")
    with file.open("rb") as stream:
        stream.seek(offset)
        return stream.read(length)
