"""How relevance passes products of two values and the normalisations made of them: what only weighs is held fixed."""

from __future__ import annotations

import torch

from ascertain.graph import Builder, Graph
from ascertain.graph.graph import Node
from ascertain.operators.base import Affine, Bilinear, Composite, Planar, Univariate

__all__ = ["expanded", "shares"]

_FAR = 1e6
_EPSILON = 1e-9


def expanded(operator: Composite, x: torch.Tensor) -> Graph:
    """The small graph that an operator of one value equals."""
    build = Builder()
    start = build.input(tuple(x.shape[1:]))
    return build.graph(start, operator.expand(build, start)).like(x)


def shares(
    graph: Graph, node: Node, operator: Bilinear, values: tuple[torch.Tensor, ...], received: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Relevance of both factors: R_x = share x dz/dx R / z, and so for y.

    A factor that only weighs takes no share, as if it were a constant: a gate, which is never negative and saturates (sigmoids,
    attention, the second factor of GELU), or else a factor common to several entries of the result (the scale of a layer or RMS
    norm). Ali et al. (2022), eqs. 4 and 7; Arras et al. (2017) for gates. Otherwise both take one half; Achtibat et al. (2024).
    """
    gates = [_gate(graph, i) for i in node.inputs]
    x, y, out = map(set, operator.terms)
    scales = [x < out == y, y < out == x]
    held = gates if gates[0] != gates[1] else scales
    weights = [0.5, 0.5] if held[0] == held[1] else [1.0 - h for h in held]
    with torch.enable_grad():
        leaves = tuple(v.detach().clone().requires_grad_() for v in values)
        z = operator.forward(*leaves)
        slope = received / (z + _EPSILON * torch.where(z >= 0, 1.0, -1.0)).detach()
        parts = torch.autograd.grad(z, leaves, slope)
    return tuple(w * v * p for w, v, p in zip(weights, values, parts, strict=True))


def _gate(graph: Graph, index: int) -> bool:
    """Whether a value is never negative and saturates at both ends, by the functions of one value that it consists of."""
    if _at(graph, index, 0.0) is None:
        return False
    points = torch.linspace(-40, 40, 81, dtype=torch.float64).tolist()
    found = [_at(graph, index, p) for p in (-10 * _FAR, -_FAR, *points, _FAR, 10 * _FAR)]
    values = torch.cat([v for v in found if v is not None])
    ends = values[[0, -1]], values[[1, -2]]
    return bool((values.isfinite() & (values >= -_EPSILON)).all()) and torch.allclose(*ends, rtol=1e-6, atol=_EPSILON)


def _at(graph: Graph, index: int, point: float) -> torch.Tensor | None:
    """A node's value when every function it consists of, beside affine maps of one value and movement, is given one number."""
    node = graph.nodes[index]
    operator, shapes = node.operator, graph.shapes(node)
    if isinstance(operator, Univariate) or (isinstance(operator, Planar) and operator.total is not None):
        value: torch.Tensor = operator.forward(torch.full((1, *shapes[0]), point, dtype=torch.float64))
        return value
    if not isinstance(operator, Affine) or not node.inputs or (len(shapes) > 1 and operator.terms(*shapes) > 0):
        return None
    parts = [_at(graph, i, point) for i in node.inputs]
    found = [p for p in parts if p is not None]
    return operator.forward(*found) if len(found) == len(parts) else None
