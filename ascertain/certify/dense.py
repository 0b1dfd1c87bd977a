"""A piecewise-linear network as dense layers, the form that the compiled kernels and the linear programs work on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ascertain.errors import DataError, UnsupportedError
from ascertain.graph.graph import Constant, Graph, Node
from ascertain.operators.base import Affine, Univariate

__all__ = ["DenseForm", "DenseLayer", "dense_form", "gamma"]

FEW = 8
"""Roundings in one coefficient or offset that an operator computes from its parameters (batch norm: 7, also merged)."""


@dataclass(frozen=True, eq=False)
class DenseLayer:
    """z = sum_j blocks[j] @ v_(sources[j]) + bias, where v_0 = x is the flat input and v_k = relu(z_k) of layer k.

    The stored matrices are float64. ``error[j]`` bounds elementwise |true block - stored block| (None: exact), because composing
    affine maps rounds; ``bias_error`` likewise for the bias (zeros where exact).
    """

    sources: tuple[int, ...]
    blocks: tuple[np.ndarray, ...]
    errors: tuple[np.ndarray | None, ...]
    bias: np.ndarray
    bias_error: np.ndarray

    @property
    def size(self) -> int:
        return len(self.bias)


@dataclass(frozen=True, eq=False)
class DenseForm:
    """Layers 1..K; the last is the affine output, every earlier one is followed by a ReLU."""

    input_size: int
    layers: tuple[DenseLayer, ...]
    neurons: tuple[tuple[int, int], ...]
    """For each ReLU layer: (node index in the lowered graph, size)."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Outputs ``(B, n_out)`` for flat inputs ``(B, n_in)``."""
        values = [x]
        for layer in self.layers:
            z = layer.bias + sum(values[s] @ block.T for s, block in zip(layer.sources, layer.blocks, strict=True))
            values.append(np.maximum(z, 0.0))
        return np.asarray(z)


def gamma(terms: int) -> float:
    """Relative error of a float64 sum of ``terms`` products in any order, with room for the rounding of the bound itself."""
    count = 1.01 * (terms + 4)
    return count * 2.0**-53 / (1.0 - count * 2.0**-53)


@dataclass(frozen=True, eq=False)
class _Term:
    """A linear part: ``columns`` (n_source, *shape) holds the images of the unit vectors; ``error`` (None: exact) bounds theirs."""

    columns: np.ndarray
    error: np.ndarray | None
    unit: bool
    """Pure movement so far: every entry of the source is in at most one place, with coefficient 1."""


@dataclass(frozen=True, eq=False)
class _Value:
    """An affine expression of the input and the ReLU layers before it."""

    terms: dict[int, _Term]
    bias: np.ndarray
    bias_error: np.ndarray


def dense_form(graph: Graph, limit: int = 20_000_000) -> DenseForm | None:
    """Composes the affine maps of a lowered graph between its ReLUs; None where the matrices would take over ``limit`` entries.

    Raises UnsupportedError for nodes other than affine maps and ReLU, DataError for weights that are not finite.
    """
    values: dict[int, _Value] = {}
    layers: list[DenseLayer] = []
    neurons: list[tuple[int, int]] = []
    last = {i: j for j, node in enumerate(graph.nodes) for i in node.inputs}
    for i, node in enumerate(graph.nodes):
        if i == graph.input:
            values[i] = _source(0, node)
        elif isinstance(node.operator, Constant):
            constant = np.asarray(node.operator.value, np.float64)[None]
            values[i] = _Value({}, constant, np.zeros_like(constant))
        elif isinstance(node.operator, Univariate) and node.operator.rectifier:
            layers.append(_layer(values[node.inputs[0]], node))
            neurons.append((i, layers[-1].size))
            values[i] = _source(len(layers), node)
        elif isinstance(node.operator, Affine):
            parts = [values[j] for j in node.inputs]
            sources = {s: len(t.columns) for p in parts for s, t in p.terms.items()}
            stored = sum(block.size for layer in layers for block in layer.blocks)
            if stored + int(np.prod(node.shape, dtype=np.int64)) * sum(sources.values()) > limit:
                return None
            values[i] = _apply(node.operator.convert(_double), node, [graph.nodes[j] for j in node.inputs], parts)
        else:
            raise UnsupportedError(
                f"node {node.name!r} is a {node.operator.name}, neither affine nor a ReLU; lower the graph first.",
                ((node.operator.name, node.name),),
            )
        for j in node.inputs:
            if last[j] == i and j != graph.output:
                values.pop(j, None)
    layers.append(_layer(values[graph.output], graph.nodes[graph.output]))
    return DenseForm(graph.input_size, tuple(layers), tuple(neurons))


def _double(array: np.ndarray) -> np.ndarray:
    return array if array.dtype.kind != "f" else array.astype(np.float64)


def _source(index: int, node: Node) -> _Value:
    size = int(np.prod(node.shape, dtype=np.int64))
    zero = np.zeros((1, *node.shape))
    return _Value({index: _Term(np.eye(size).reshape(size, *node.shape), None, True)}, zero, zero)


def _apply(operator: Affine, node: Node, inputs: list[Node], parts: list[_Value]) -> _Value:
    shapes = tuple(n.shape for n in inputs)
    rounded = operator.terms(*shapes)
    magnitude = operator.magnitude()
    terms = {}
    for s in sorted({s for p in parts for s in p.terms}):
        terms[s] = _compose(operator, magnitude, rounded, shapes, [p.terms.get(s) for p in parts])
    bias = operator.forward(*(p.bias for p in parts))
    error = magnitude.linear(*(p.bias_error for p in parts)) * (1.0 + 1e-9)
    if rounded and any(p.bias.any() for p in parts):
        error = error + gamma(rounded) * magnitude.forward(*(abs(p.bias) for p in parts))
    elif rounded:  # nothing was added to the offset, but an operator may have computed it from several parameters
        error = error + gamma(min(rounded, FEW)) * magnitude.forward(*(np.zeros_like(p.bias) for p in parts))
    return _Value(terms, bias, error)


def _compose(
    operator: Affine, magnitude: Affine, rounded: int, shapes: tuple[tuple[int, ...], ...], parts: list[_Term | None]
) -> _Term:
    size = next(len(p.columns) for p in parts if p is not None)
    zeros = [np.zeros((size, *shape)) for shape in shapes]
    columns = operator.linear(*(z if p is None else p.columns for p, z in zip(parts, zeros, strict=True)))
    present = [p for p in parts if p is not None]
    unit = len(present) == 1 and present[0].unit
    if not rounded and all(p.error is None for p in present):
        return _Term(columns, None, unit and _moves(columns))
    # One nonzero product in every sum leaves only the rounding of the coefficient itself.
    charge = gamma(min(rounded, FEW) if unit else rounded) if rounded else 0.0
    doubts = (z if p is None else _doubt(p, charge) for p, z in zip(parts, zeros, strict=True))
    error = magnitude.linear(*doubts) * (1.0 + 1e-9)
    return _Term(columns, error, unit and _moves(columns))


def _doubt(term: _Term, charge: float) -> np.ndarray:
    """What one rounded operator adds to the error of a term, before its own coefficients multiply it."""
    fresh = charge * abs(term.columns)
    return fresh if term.error is None else fresh + term.error * (1.0 + charge)


def _moves(columns: np.ndarray) -> bool:
    """Whether every entry of the source is in at most one place, with coefficient 1."""
    flat = columns.reshape(len(columns), -1)
    return bool(np.all((flat == 0.0) | (flat == 1.0)) and np.all(np.count_nonzero(flat, axis=1) <= 1))


def _layer(value: _Value, node: Node) -> DenseLayer:
    size = int(np.prod(node.shape, dtype=np.int64))
    used = {s: t for s, t in value.terms.items() if t.columns.any() or (t.error is not None and t.error.any())}
    blocks = tuple(np.ascontiguousarray(t.columns.reshape(-1, size).T) for t in used.values())
    errors = tuple(None if t.error is None else np.ascontiguousarray(t.error.reshape(-1, size).T) for t in used.values())
    layer = DenseLayer(tuple(used), blocks, errors, value.bias.reshape(-1).copy(), value.bias_error.reshape(-1).copy())
    arrays = [*layer.blocks, layer.bias, layer.bias_error, *(e for e in layer.errors if e is not None)]
    if not all(np.isfinite(a).all() for a in arrays):
        raise DataError(f"the weights before node {node.name!r} are not finite or overflow when composed; repair the network.")
    return replace(layer, bias=np.broadcast_to(layer.bias, (size,)).copy())
