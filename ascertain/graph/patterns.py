"""Functions that model files write out in pieces, recognised and put back: one operator has far tighter lines than a product.

Every rewriting is exact for the file's own constants: a GELU whose 1 / sqrt 2 was rounded to float32 becomes Gelu(k x) / k.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import inf, nextafter, prod, sqrt

import numpy as np

from ascertain.graph.graph import Builder, Graph, Input, Node
from ascertain.operators.affine import Scale, Shift, Sum, scaled
from ascertain.operators.base import Operator, Ref, Univariate
from ascertain.operators.bilinear import Product
from ascertain.operators.gated import Gelu, Silu, TanhGelu
from ascertain.operators.movement import Reshape
from ascertain.operators.piecewise import Abs
from ascertain.operators.powers import Power
from ascertain.operators.reduction import Reduce
from ascertain.operators.sigmoidal import Erf, Sigmoid, Softsign, Tanh
from ascertain.operators.smooth import Reciprocal, Rsqrt, Sqrt, Square

__all__ = ["gates", "norms"]

_ROOT_TWO = Fraction("1.41421356237309504880168872420969807856967187537694")
_ROOT_TWO_OVER_PI = Fraction("0.79788456080286535587989211986876373695171726232986")
Found = tuple[Operator, Fraction, Fraction]
"""(operator, c, k): the value is c operator(k x)."""


def gates(graph: Graph) -> Graph:
    """Puts back products of x with a gate on x: GELU (by erf or by tanh), SiLU and softsign."""
    found = {i: match for i, node in enumerate(graph.nodes) if (match := _gated(graph, node)) is not None}
    if not found:
        return graph
    builder, refs = Builder(), list[Ref]()
    for i, node in enumerate(graph.nodes):
        builder.scope = node.name
        if isinstance(node.operator, Input):
            refs.append(builder.input(node.shape, node.name))
        elif i in found:
            (operator, factor, inner), core = found[i]
            x = scaled(builder, refs[core], float(inner))
            refs.append(scaled(builder, builder(operator, x), float(factor)))
        else:
            refs.append(builder(node.operator, *(refs[j] for j in node.inputs)))
    return builder.graph(refs[graph.input], refs[graph.output], graph.source)


def _gated(graph: Graph, node: Node) -> tuple[Found, int] | None:
    """The operator that an elementwise product of core and gate is, and the core."""
    if not isinstance(node.operator, Product) or len(set(node.operator.terms)) != 1:
        return None
    first, second = (_peeled(graph, j) for j in node.inputs)
    for (a, core), (b, gate) in ((first, second), (second, first)):
        for reader in (_logistic, _normal, _cubic, _ratio):
            match = reader(graph, core, gate)
            if match is not None and graph.nodes[core].shape == node.shape and match[2] != 0:
                operator, factor, inner = match
                return (operator, a * b * factor, inner), core
    return None


def _number(array: np.ndarray) -> Fraction | None:
    return Fraction(float(array.reshape(-1)[0])) if array.size == 1 and np.isfinite(array).all() else None


def _peeled(graph: Graph, i: int) -> tuple[Fraction, int]:
    """A node as a number times another, the first that is not such a multiple itself."""
    factor = Fraction(1)
    while True:
        operator = graph.nodes[i].operator
        by = None
        if isinstance(operator, Scale):
            by = _number(operator.factor)
        elif isinstance(operator, Sum) and len(operator.coefficients) == 1:
            by = Fraction(operator.coefficients[0])
        if by is None or graph.nodes[graph.nodes[i].inputs[0]].shape != graph.nodes[i].shape:
            return factor, i
        factor, i = factor * by, graph.nodes[i].inputs[0]


def _of(graph: Graph, i: int, kind: type[Univariate]) -> tuple[Fraction, int] | None:
    """The argument, peeled, of a node that applies a function."""
    node = graph.nodes[i]
    return _peeled(graph, node.inputs[0]) if isinstance(node.operator, kind) else None


def _balanced(graph: Graph, gate: int, kind: type[Univariate]) -> tuple[Fraction, Fraction, int] | None:
    """(o, c, argument) of a gate o (1 + function(c argument))."""
    raised = _raised(graph, gate)
    if raised is None:
        return None
    offset, factor, function = raised
    inside = _of(graph, function, kind) if offset == factor else None
    return None if inside is None else (offset, *inside)


def _raised(graph: Graph, i: int) -> tuple[Fraction, Fraction, int] | None:
    """(o, c, node) of a value o + c node."""
    node = graph.nodes[i]
    if not isinstance(node.operator, Shift) or graph.nodes[node.inputs[0]].shape != node.shape:
        return None
    offset = _number(node.operator.offset)
    return None if offset is None else (offset, *_peeled(graph, node.inputs[0]))


def _logistic(graph: Graph, core: int, gate: int) -> Found | None:
    inside = _of(graph, gate, Sigmoid)
    return (Silu(), 1 / inside[0], inside[0]) if inside is not None and inside[1] == core and inside[0] else None


def _normal(graph: Graph, core: int, gate: int) -> Found | None:
    found = _balanced(graph, gate, Erf)
    if found is None or found[2] != core or not found[1]:
        return None
    k = _ROOT_TWO * found[1]
    return Gelu(), 2 * found[0] / k, k


def _cubic(graph: Graph, core: int, gate: int) -> Found | None:
    found = _balanced(graph, gate, Tanh)
    node = None if found is None else graph.nodes[found[2]]
    if found is None or node is None or not isinstance(node.operator, Sum) or len(node.inputs) != 2:
        return None
    once = cubed = Fraction(0)
    for coefficient, j in zip(node.operator.coefficients, node.inputs, strict=True):
        c, i = _peeled(graph, j)
        if i == core:
            once += c * Fraction(coefficient)
        elif _is_cube(graph, core, i):
            cubed += c * Fraction(coefficient)
        else:
            return None
    k = found[1] * once / _ROOT_TWO_OVER_PI
    if not k or not TanhGelu.near(cubic := float(cubed / once / k**2)):
        return None
    return TanhGelu(cubic), 2 * found[0] / k, k


def _is_cube(graph: Graph, core: int, i: int) -> bool:
    node = graph.nodes[i]
    if isinstance(node.operator, Power):
        return node.operator.exponent == 3 and node.inputs == (core,)
    if not isinstance(node.operator, Product) or len(set(node.operator.terms)) != 1 or core not in node.inputs:
        return False
    other = graph.nodes[node.inputs[node.inputs[0] == core]]
    return isinstance(other.operator, Square) and other.inputs == (core,)


def _ratio(graph: Graph, core: int, gate: int) -> Found | None:
    node = graph.nodes[gate]
    raised = _raised(graph, node.inputs[0]) if isinstance(node.operator, Reciprocal) else None
    if raised is None:
        return None
    offset, factor, absolute = raised
    inside = _of(graph, absolute, Abs)
    if inside is None or inside[1] != core or offset <= 0 or factor <= 0 or not inside[0]:
        return None
    k = factor * abs(inside[0]) / offset
    return Softsign(), 1 / (offset * k), k


# Norms


def norms(graph: Graph) -> Graph:
    """Makes reciprocals of roots one function, and notes what an entry of a vector over the vector's own length cannot exceed."""
    nodes = list(graph.nodes)
    for i, node in enumerate(nodes):
        if isinstance(node.operator, Reciprocal) and isinstance((root := nodes[node.inputs[0]]).operator, Sqrt):
            nodes[i] = replace(node, operator=Rsqrt(), inputs=root.inputs)
        elif isinstance(node.operator, Product) and node.operator.known is None:
            most = next((m for k in (0, 1) if (m := _most(nodes, node, node.operator, k)) is not None), None)
            if most is not None:
                nodes[i] = replace(node, operator=replace(node.operator, known=(-most, most)))
    return graph if all(a is b for a, b in zip(nodes, graph.nodes, strict=True)) else replace(graph, nodes=tuple(nodes))


def _most(nodes: list[Node], node: Node, product: Product, k: int) -> float | None:
    """A bound of |c_i| / sqrt(epsilon + s sum of c_j^2), where that is what a product with its core c at place k computes."""
    core, gate = node.inputs[k], nodes[node.inputs[1 - k]]
    over = nodes[gate.inputs[0]] if isinstance(gate.operator, Reshape) else gate
    if not isinstance(over.operator, Rsqrt):
        return None
    below, share = nodes[over.inputs[0]], Fraction(1)
    if isinstance(below.operator, Shift) and (below.operator.offset >= 0).all() and below.shape == over.shape:
        below = nodes[below.inputs[0]]
    if isinstance(below.operator, Scale) and (by := _number(below.operator.factor)) is not None and by > 0:
        below, share = nodes[below.inputs[0]], by
    total, shape = below.operator, nodes[core].shape
    if not isinstance(total, Reduce) or prod(below.shape) != prod(over.shape):
        return None
    square = nodes[below.inputs[0]]
    if not isinstance(square.operator, Square) or square.inputs != (core,):
        return None
    kept = [i for i in range(len(shape)) if i not in total.axes]
    letters, others = product.terms[k], product.terms[1 - k]
    if letters != product.terms[2] or others != "".join(letters[i] for i in kept) or gate.shape != tuple(shape[i] for i in kept):
        return None
    n = prod(shape[i] for i in total.axes)
    share = share / n if total.mean else share
    square_bound = Fraction(n - 1, n) / share if _centred(nodes, core, total.axes) else 1 / share  # Samuelson 1968
    return nextafter(sqrt(nextafter(float(square_bound), inf)), inf)


def _centred(nodes: list[Node], i: int, axes: tuple[int, ...]) -> bool:
    """Whether a value is x - mean(x) over the axes."""
    node = nodes[i]
    if not isinstance(node.operator, Sum) or node.operator.coefficients != (1.0, -1.0):
        return False
    x, mean = node.inputs
    reduced = nodes[mean].operator
    if not isinstance(reduced, Reduce) or nodes[mean].inputs != (x,) or nodes[x].shape != node.shape:
        return False
    return reduced.mean and reduced.keepdims and set(reduced.axes) == set(axes)
