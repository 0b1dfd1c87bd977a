"""A network as data: an immutable graph in static single assignment form."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ascertain.errors import ShapeError
from ascertain.operators.base import Array, Emit, Operator, Ref, Shape, is_numpy

__all__ = ["Builder", "Constant", "Graph", "Input", "Node", "Source", "fingerprint"]


@dataclass(frozen=True, eq=False)
class Input(Operator):
    """A free variable of the network."""


@dataclass(frozen=True, eq=False)
class Constant(Operator):
    """A fixed array that no pass could fold away (an output that depends on no input, say)."""

    value: Array

    def infer(self, *shapes: Shape) -> Shape:
        return tuple(self.value.shape)


@dataclass(frozen=True)
class Node:
    """One application of an operator; ``inputs`` are positions of earlier nodes."""

    name: str
    operator: Operator
    inputs: tuple[int, ...]
    shape: Shape


@dataclass(frozen=True)
class Source:
    """Where a graph came from, kept so that a witness can be replayed on the original."""

    kind: str
    """``onnx``, ``module``, ``pt2`` or ``built``."""
    path: Path | None = None
    replay: Callable[[np.ndarray], np.ndarray] | None = field(default=None, compare=False)
    """Runs the ORIGINAL model on one float32 input of the graph's input shape; returns the flat output."""
    digest: str = ""
    """SHA-256 of the file's bytes, decompressed."""


@dataclass(frozen=True)
class Graph:
    """A network. Nodes are in topological order; exactly one input and one output, of any shape."""

    nodes: tuple[Node, ...]
    input: int
    output: int
    source: Source = Source("built")

    @property
    def input_shape(self) -> Shape:
        return self.nodes[self.input].shape

    @property
    def output_shape(self) -> Shape:
        return self.nodes[self.output].shape

    @property
    def input_size(self) -> int:
        return int(np.prod(self.input_shape, dtype=np.int64))

    @property
    def output_size(self) -> int:
        return int(np.prod(self.output_shape, dtype=np.int64))

    def shapes(self, node: Node) -> tuple[Shape, ...]:
        """Input shapes of a node."""
        return tuple(self.nodes[i].shape for i in node.inputs)

    def values(self, x: Array) -> list[Array]:
        """Every node's value ``(B, *shape)`` for inputs ``(B, *input_shape)``."""
        if tuple(x.shape[1:]) != self.input_shape:
            raise ShapeError(f"inputs have shape {tuple(x.shape[1:])}, the network takes {self.input_shape}; reshape them first.")
        out: list[Array] = []
        for i, node in enumerate(self.nodes):
            if i == self.input:
                out.append(x)
            elif isinstance(node.operator, Constant):
                v = node.operator.value
                out.append(
                    np.broadcast_to(np.asarray(v, x.dtype), (len(x), *node.shape)) if is_numpy(x) else v.expand(len(x), *node.shape)
                )
            else:
                out.append(node.operator.forward(*(out[j] for j in node.inputs)))
        return out

    def __call__(self, x: Array) -> Array:
        """Outputs ``(B, *output_shape)`` for inputs ``(B, *input_shape)``, computed in the kind, dtype and device of the inputs."""
        return self.like(x).values(x)[self.output]

    def like(self, x: Array) -> Graph:
        """A copy whose float parameters are of the kind (numpy, torch), dtype and device of an array."""
        if is_numpy(x):
            return self.convert(lambda a: a.astype(x.dtype, copy=False) if a.dtype.kind == "f" else a)
        import torch

        def convert(a: Array) -> Array:
            tensor = torch.tensor(a) if is_numpy(a) else a
            return tensor.to(x.device, x.dtype if tensor.is_floating_point() else tensor.dtype)

        return self.convert(convert)

    def convert(self, function: Callable[[Array], Array]) -> Graph:
        """A copy whose parameters went through a function."""
        return replace(self, nodes=tuple(replace(n, operator=n.operator.convert(function)) for n in self.nodes))

    @cached_property
    def hash(self) -> str:
        """SHA-256 of operators, attributes, wiring and weights; names and origin do not count."""
        digest = hashlib.sha256(f"{self.input} {self.output}".encode())
        for node in self.nodes:
            digest.update(f"{node.inputs}{node.shape}".encode())
            digest.update(fingerprint(node.operator))
        return digest.hexdigest()


def fingerprint(operator: Operator) -> bytes:
    """SHA-256 of an operator's class and fields."""
    digest = hashlib.sha256(f"{type(operator).__module__}.{type(operator).__qualname__}".encode())
    for f in fields(operator):
        value = getattr(operator, f.name)
        if isinstance(value, Operator):
            digest.update(f"\n{f.name} ".encode() + fingerprint(value))
        elif hasattr(value, "dtype"):
            array = np.asarray(value)
            digest.update(f"\n{f.name} {array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        else:
            digest.update(f"\n{f.name} {value!r}".encode())
    return digest.digest()


class Builder(Emit):
    """Collects nodes; `Builder.graph` freezes them."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.scope = ""
        """Name given to the nodes that are added next."""

    def input(self, shape: Shape, name: str = "input") -> Ref:
        self.nodes.append(Node(name, Input(), (), tuple(shape)))
        return Ref(len(self.nodes) - 1, tuple(shape))

    def constant(self, value: np.ndarray) -> Ref:
        self.nodes.append(Node(self.scope, Constant(value), (), tuple(value.shape)))
        return Ref(len(self.nodes) - 1, tuple(value.shape))

    def __call__(self, operator: Operator, *inputs: Ref) -> Ref:
        shape = tuple(operator.infer(*(r.shape for r in inputs)))
        self.nodes.append(Node(self.scope or f"{operator.name}_{len(self.nodes)}", operator, tuple(r.index for r in inputs), shape))
        return Ref(len(self.nodes) - 1, shape)

    def graph(self, input: Ref, output: Ref, source: Source = Source("built")) -> Graph:
        return Graph(tuple(self.nodes), input.index, output.index, source)
