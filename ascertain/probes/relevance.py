"""Layer-wise relevance propagation on any loaded network, with the share that biases absorb."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch

from ascertain.errors import DataError, InputError, ShapeError, UnsupportedError
from ascertain.evidence import Evidence
from ascertain.graph import Graph, load
from ascertain.operators.base import Affine, Bilinear, Composite, Operator, Shape, Univariate
from ascertain.probes.capture import unknown, untouched
from ascertain.probes.relevance_products import expanded, shares

__all__ = ["AlphaBeta", "Epsilon", "Gamma", "Relevance", "Rule", "ZBox", "relevance"]

Array = np.ndarray[Any, np.dtype[Any]]
Tensors = tuple[torch.Tensor, ...]


class Rule(Protocol):
    """How the relevance of the outputs of an affine map goes to its inputs and to its offset."""

    def share(self, operator: Affine, inputs: Tensors, received: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        """Relevance of each input, and what the offset absorbs of each output's relevance."""


@dataclass(frozen=True)
class Epsilon:
    """R_i = sum_j x_i w_ji / (z_j + epsilon sign z_j) R_j, with z = W x + b. Bach et al. (2015), eq. 58.

    Through networks of rectifiers and max-pooling this is gradient times input, up to epsilon.
    """

    epsilon: float = 1e-9

    def share(self, operator: Affine, inputs: Tensors, received: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        z = operator.forward(*inputs)
        scaled = _over(received, z + self.epsilon * _sign(z))
        parts = operator.adjoint(scaled, *map(_shape, inputs))
        return tuple(x * p for x, p in zip(inputs, parts, strict=True)), (z - operator.linear(*inputs)) * scaled


@dataclass(frozen=True)
class Gamma:
    """Contributions of the sign of z_j weigh 1 + gamma times as much: cancelling ones matter less. Montavon et al. (2019)."""

    gamma: float = 0.25
    epsilon: float = 1e-9

    def share(self, operator: Affine, inputs: Tensors, received: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        z = operator.forward(*inputs)
        offset = z - operator.linear(*inputs)
        up = z >= 0
        with_, against = _signed(operator, inputs)
        favoured = torch.where(up, with_ + offset.clamp(min=0), against + offset.clamp(max=0))
        scaled = _over(received, z + self.gamma * favoured + self.epsilon * _sign(z))
        plain = operator.adjoint(scaled, *map(_shape, inputs))
        raised = _spread(operator, inputs, scaled * up, True)
        lowered = _spread(operator, inputs, scaled * ~up, False)
        parts = tuple(x * p + self.gamma * (u + v) for x, p, u, v in zip(inputs, plain, raised, lowered, strict=True))
        favoured_offset = torch.where(up, offset.clamp(min=0), offset.clamp(max=0))
        return parts, (offset + self.gamma * favoured_offset) * scaled


@dataclass(frozen=True)
class AlphaBeta:
    """Positive contributions share alpha times the relevance, negative ones 1 - alpha times. Bach et al. (2015), eq. 60."""

    alpha: float = 2.0

    def share(self, operator: Affine, inputs: Tensors, received: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        offset = operator.forward(*inputs) - operator.linear(*inputs)
        positive, negative = _signed(operator, inputs)
        above = self.alpha * _over(received, positive + offset.clamp(min=0))
        below = (1 - self.alpha) * _over(received, negative + offset.clamp(max=0))
        ups, downs = _spread(operator, inputs, above, True), _spread(operator, inputs, below, False)
        parts = tuple(u + d for u, d in zip(ups, downs, strict=True))
        return parts, offset.clamp(min=0) * above + offset.clamp(max=0) * below


@dataclass(frozen=True)
class ZBox:
    """For the first layer, whose inputs lie in a box: contributions x w - lower w+ - upper w- are never negative.

    The offset absorbs nothing. Montavon et al. (2017), eq. 17.
    """

    lower: float
    upper: float

    def share(self, operator: Affine, inputs: Tensors, received: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        (x,) = inputs
        if not bool(((x >= self.lower) & (x <= self.upper)).all()):
            raise DataError(
                f"inputs range over [{float(x.min())}, {float(x.max())}], not in [{self.lower}, {self.upper}]; widen it."
            )
        size = operator.magnitude()
        low, high = torch.full_like(x, self.lower), torch.full_like(x, self.upper)
        z = operator.linear(x - (low + high) / 2) + size.linear((high - low) / 2)
        scaled = _over(received, z)
        shape = _shape(x)
        (straight,), (absolute,) = operator.adjoint(scaled, shape), size.adjoint(scaled, shape)
        return ((x - (low + high) / 2) * straight + (high - low) / 2 * absolute,), torch.zeros_like(received)


@dataclass(frozen=True)
class Relevance:
    """Relevance of the inputs for one output per sample, and where the rest went.

    ``inputs`` (n, *input), ``output`` (n,) is the explained value. ``biases`` maps each node with an offset to what it absorbed
    (n,); ``lost`` (n,) is what stabilisers took, or rules found no taker for. They sum up: inputs + biases + lost = output.
    """

    inputs: Array
    output: Array
    biases: Mapping[str, Array]
    lost: Array
    evidence: Evidence = field(default=Evidence.BOUNDED)

    @property
    def bias_share(self) -> Array:
        """(n,) what biases absorbed over the explained value; may be negative or above 1 where parts cancel."""
        total: Array = np.sum([*self.biases.values(), np.zeros_like(self.output)], axis=0)
        return total / np.where(self.output == 0, np.nan, self.output)


def relevance(
    net: torch.nn.Module | Graph,
    inputs: Any,
    target: Any = None,
    *,
    rule: Rule | None = None,
    first: Rule | None = None,
    rules: Mapping[str, Rule] | None = None,
) -> Relevance:
    """Distributes one output of each sample over its inputs, layer by layer, by conserving rules.

    ``target`` is an output position, one per sample, or None for the largest. ``rule`` (default `Epsilon`) is that of layers that
    mix with trained weights, ``first`` of those that read the input, ``rules`` of nodes by name; sums, means and scaling share by
    `Epsilon`, elementwise functions pass on what they get, maxima give it to the winner (winners that tie share it). In products of
    two values attention, gates and the scales of norms are held fixed, so that what they weigh takes everything; other products
    share by halves (`ascertain.probes.relevance_products`). Raises UnsupportedError for operators that no rule is known for (a
    softmax that weighs nothing, such as one at the end).
    """
    x = torch.as_tensor(inputs).detach().cpu()
    x = x.double() if x.is_floating_point() else x
    if not bool(x.isfinite().all()):
        raise DataError("the inputs hold NaN or infinite numbers; leave those samples out.")
    if isinstance(net, torch.nn.Module):
        with untouched(net):
            net = load(net, input_shape=(1, *x.shape[1:]))
    chosen = dict(rules or {})
    for name in chosen:
        if name not in {node.name for node in net.nodes}:
            raise unknown(name, tuple(node.name for node in net.nodes), "the graph")
    shaped = x[:, None] if tuple(x.shape[1:]) != net.input_shape and net.input_shape[:1] == (1,) else x
    with torch.no_grad():
        graph = net.like(shaped)
        values = graph.values(shaped)
        if not bool(values[graph.output].isfinite().all()):
            culprit = next(node.name for node, value in zip(graph.nodes, values, strict=True) if not bool(value.isfinite().all()))
            raise DataError(
                f"node {culprit!r} is the first to answer NaN or infinite numbers; look at its weights and at the inputs."
            )
        start = _start(values[graph.output], target)
        found, biases = _backward(graph, values, start, rule or Epsilon(), first, chosen)
        total = start.flatten(1).sum(1)
        lost = total - found.flatten(1).sum(1) - sum(biases.values(), torch.zeros_like(total))
    arrays = {name: value.numpy() for name, value in biases.items()}
    return Relevance(found.reshape(x.shape).numpy(), total.numpy(), MappingProxyType(arrays), lost.numpy())


def _start(output: torch.Tensor, target: Any) -> torch.Tensor:
    flat = output.flatten(1)
    index = flat.argmax(1) if target is None else torch.as_tensor(target).expand(len(flat))
    if bool(((index < 0) | (index >= flat.shape[1])).any()):
        raise InputError(f"target {target} is no position among {flat.shape[1]} outputs; count from 0.")
    start = torch.zeros_like(flat).scatter(1, index[:, None], flat.gather(1, index[:, None]))
    return start.reshape(output.shape)


def _backward(
    graph: Graph, values: list[torch.Tensor], start: torch.Tensor, rule: Rule, first: Rule | None, rules: dict[str, Rule]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Relevance of the input, and what the offset of each node absorbed."""
    got: dict[int, torch.Tensor] = {graph.output: start}
    biases: dict[str, torch.Tensor] = {}
    near = _near_input(graph)
    missing: list[tuple[str, str]] = []
    for i in range(graph.output, -1, -1):
        node = graph.nodes[i]
        if i == graph.input or i not in got or not node.inputs:
            continue
        operator, inputs, received = node.operator, tuple(values[j] for j in node.inputs), got.pop(i)
        absorbed = None
        if not bool(received.any()):
            # What gets nothing, such as the scores of attention that is held fixed, needs no rule.
            continue
        if isinstance(operator, Affine):
            own = rules.get(node.name) or _rule(operator, graph.shapes(node), rule, first if i in near else None)
            parts, absorbed = (
                own.share(operator, inputs, received) if own else (operator.adjoint(received, *graph.shapes(node)), None)
            )
        elif isinstance(operator, Univariate):
            parts = (received,)
        elif isinstance(operator, Bilinear):
            parts = shares(graph, node, operator, inputs, received)
        elif _selects(operator, inputs):
            parts = _routed(operator, inputs, received)
        elif (known := _through(operator, inputs, received)) is not None:
            parts, absorbed = known
        else:
            missing.append((operator.name, node.name))
            continue
        if absorbed is not None and bool(absorbed.any()):
            biases[node.name] = biases.get(node.name, 0) + absorbed.flatten(1).sum(1)
        for j, part in zip(node.inputs, parts, strict=True):
            got[j] = got[j] + part if j in got else part
    if missing:
        listed = ", ".join(f"{name} ({node})" for name, node in missing)
        raise UnsupportedError(
            f"no relevance rule is known for {listed}; explain a part of the network without them.", tuple(missing)
        )
    return got.get(graph.input, torch.zeros_like(values[graph.input])), biases


def _through(operator: Operator, inputs: Tensors, received: torch.Tensor) -> tuple[Tensors, torch.Tensor] | None:
    """Relevance through the small graph that an operator of one value equals, and what offsets in it absorb (n, 1)."""
    if not isinstance(operator, Composite) or len(inputs) != 1:
        return None
    graph = expanded(operator, inputs[0])
    try:
        found, biases = _backward(graph, graph.values(inputs[0]), received, Epsilon(), None, {})
    except UnsupportedError:
        return None
    return (found,), sum(biases.values(), torch.zeros(len(found), dtype=found.dtype))[:, None]


def _rule(operator: Affine, shapes: tuple[Shape, ...], rule: Rule, first: Rule | None) -> Rule | None:
    """None for pure movement, the given rule for maps with trained weights, `Epsilon` for other affine maps."""
    if operator.terms(*shapes) == 0:
        return None
    if _mixes(operator):
        return first or rule
    return Epsilon()


def _mixes(operator: Operator) -> bool:
    return any(sum(n > 1 for n in a.shape) >= 2 for a in operator.arrays().values())


def _near_input(graph: Graph) -> set[int]:
    """Nodes that read the input itself, through movement or nothing."""
    moved, found = {graph.input}, set()
    for i, node in enumerate(graph.nodes):
        if len(node.inputs) == 1 and node.inputs[0] in moved and isinstance(node.operator, Affine):
            if node.operator.terms(*graph.shapes(node)) == 0:
                moved.add(i)
            else:
                found.add(i)
    return found


def _selects(operator: Operator, inputs: Tensors) -> bool:
    """Whether outputs are inputs picked by size: then scaling and shifting commute with the operator."""
    if operator.infer(*map(_shape, inputs)) is None or not inputs[0].is_floating_point():
        return False
    y = operator.forward(*inputs)
    doubled, shifted = operator.forward(*(2 * x for x in inputs)), operator.forward(*(x + 1 for x in inputs))
    return torch.allclose(doubled, 2 * y, rtol=1e-9, atol=1e-12) and torch.allclose(shifted, y + 1, rtol=1e-9, atol=1e-9)


def _routed(operator: Operator, inputs: Tensors, received: torch.Tensor) -> Tensors:
    with torch.enable_grad():
        leaves = tuple(x.detach().clone().requires_grad_() for x in inputs)
        return torch.autograd.grad(operator.forward(*leaves), leaves, received, materialize_grads=True)


def _signed(operator: Affine, inputs: Tensors) -> Tensors:
    """Sums of the positive and of the negative contributions to each output, offset apart."""
    signed, absolute = operator.linear(*inputs), operator.magnitude().linear(*(abs(x) for x in inputs))
    return (absolute + signed).clamp(min=0) / 2, (signed - absolute).clamp(max=0) / 2


def _spread(operator: Affine, inputs: Tensors, scaled: torch.Tensor, positive: bool) -> Tensors:
    """sum_j c_ij s_j over the contributions c_ij = x_i w_ji of one sign: (x w + |x| |w|) / 2, or (x w - |x| |w|) / 2."""
    shapes = [_shape(x) for x in inputs]
    straight, absolute = operator.adjoint(scaled, *shapes), operator.magnitude().adjoint(scaled, *shapes)
    sign = 1 if positive else -1
    return tuple((x * s + sign * abs(x) * a) / 2 for x, s, a in zip(inputs, straight, absolute, strict=True))


def _shape(x: torch.Tensor) -> Shape:
    return tuple(x.shape[1:])


def _sign(z: torch.Tensor) -> torch.Tensor:
    return torch.where(z >= 0, 1.0, -1.0).to(z.dtype)


def _over(received: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """received / z, and 0 where z is 0: nothing contributed there."""
    if received.shape != z.shape:
        raise ShapeError(
            f"relevance of shape {tuple(received.shape)} met values of shape {tuple(z.shape)}; load the network again."
        )
    return torch.where(z == 0, torch.zeros_like(z), received / torch.where(z == 0, torch.ones_like(z), z))
