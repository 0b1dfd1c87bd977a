"""Random graphs of many kinds, regions, exact evaluation and slow references for tests of the batched engine."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ascertain.certify.linear import Boxes
from ascertain.certify.lines import Lines
from ascertain.certify.plan import Plan
from ascertain.certify.region import Ball, Region
from ascertain.graph import lower
from ascertain.graph.graph import Builder, Graph
from ascertain.operators import Gelu, LogSumExp, Product, Sigmoid, Sin, Softmax, Tanh
from ascertain.operators.affine import Dense, Sum
from ascertain.operators.convolution import Conv
from ascertain.operators.movement import Reshape
from ascertain.operators.piecewise import Relu
from ascertain.operators.pooling import AveragePool
from ascertain.operators.selection import Concat

ONES, ZERO_PADS = (1, 1), ((0, 0), (0, 0))


def dense(rng: np.random.Generator, inputs: int, outputs: int, scale: float = 1.0) -> Dense:
    return Dense(rng.normal(size=(outputs, inputs)) * scale, rng.normal(size=outputs) * 0.3 * scale)


def conv(rng: np.random.Generator, channels: int, outputs: int) -> Conv:
    weight = rng.normal(size=(outputs, channels, 3, 3)) * 0.5
    return Conv(weight, rng.normal(size=outputs) * 0.3, ONES, ((1, 1), (1, 1)), ONES)


def chain(rng: np.random.Generator, sizes: tuple[int, ...] = (3, 6, 5, 2), scale: float = 1.0) -> Graph:
    """Affine maps with ReLUs between them."""
    build = Builder()
    x = value = build.input((sizes[0],))
    for k, (a, b) in enumerate(pairwise(sizes)):
        value = build(dense(rng, a, b, scale), build(Relu(), value) if k else value)
    return build.graph(x, value)


def residual(rng: np.random.Generator) -> Graph:
    """Two residual blocks: values that two steps read, sums that meet again."""
    build = Builder()
    x = build.input((3,))
    value = build(dense(rng, 3, 5), x)
    for _ in range(2):
        inner = build(dense(rng, 5, 5), build(Relu(), build(dense(rng, 5, 5), build(Relu(), value))))
        value = build(Sum((1.0, 0.5)), value, inner)
    return build.graph(x, build(dense(rng, 5, 2), build(Relu(), value)))


def convolutional(rng: np.random.Generator) -> Graph:
    """Convolutions, average pooling, two branches that are concatenated, a dense head."""
    build = Builder()
    x = build.input((1, 1, 4, 4))
    first = build(Relu(), build(conv(rng, 1, 2), x))
    left = build(Relu(), build(conv(rng, 2, 2), first))
    both = build(Concat(1), left, first)
    small = build(AveragePool((2, 2), (2, 2), ZERO_PADS, ONES), both)
    flat = build(Reshape((16,)), small)
    return build.graph(x, build(dense(rng, 6, 3), build(Relu(), build(dense(rng, 16, 6), flat))))


def curved(rng: np.random.Generator) -> Graph:
    """Sigmoid, sine and tanh, with values that two of them read."""
    build = Builder()
    x = build.input((3,))
    first = build(dense(rng, 3, 4), x)
    second = build(Sum((1.0, 1.0)), build(Sigmoid(), first), build(Sin(), first))
    return build.graph(x, build(dense(rng, 4, 2), build(Tanh(), build(dense(rng, 4, 4), second))))


def joint(rng: np.random.Generator) -> Graph:
    """A product of two values, a softmax over rows, a matrix product with it, logsumexp and a rectifier: one head of attention."""
    build = Builder()
    x = build.input((3,))
    a, b, c = (build(Reshape((2, 2)), build(dense(rng, 3, 4), x)) for _ in range(3))
    weights = build(Softmax(1), build(Product("ik,jk->ij"), a, b))
    mixed = build(Product("ij,jk->ik"), weights, build(Gelu(), c))
    gated = build(Product("ij,ij->ij"), mixed, build(Relu(), a))
    level = build(Reshape((2,)), build(LogSumExp(1), gated))
    return build.graph(x, build(Sum((1.0, 1.0)), build(dense(rng, 4, 2), build(Reshape((4,)), gated)), level))


KINDS = {"chain": chain, "residual": residual, "convolutional": convolutional}
SMOOTH = {"curved": curved, "joint": joint}


def graph_of(kind: str, seed: int) -> Graph:
    return (KINDS | SMOOTH)[kind](np.random.default_rng(seed))


def compiled(graph: Graph) -> Plan:
    return Plan.compile(lower(graph), torch.float64)


def region(rng: np.random.Generator, size: int, batch: int = 1, radius: float = 0.5, p: float | None = None) -> Region:
    """Boxes around random points, one coordinate in five a point; with p one ball around the first point, in its box."""
    center, width = rng.normal(size=(batch, size)), radius * rng.random((batch, size))
    width[:, rng.random(size) < 0.2] = 0.0
    if p is None:
        return Region(torch.tensor(center - width), torch.tensor(center + width))
    c = torch.tensor(center[0])
    return Region((c - radius).unsqueeze(0), (c + radius).unsqueeze(0), Ball(c, radius, p))


def sample(region: Region, rng: np.random.Generator, count: int) -> Tensor:
    """Points (B, count, n) of each set: half of them corners of boxes, or on the surface of the ball."""
    lower, upper = region.lower.numpy()[:, None], region.upper.numpy()[:, None]
    share = rng.random((len(region), count, lower.shape[-1]))
    share[:, : count // 2] = np.round(share[:, : count // 2])
    points = np.clip(lower + (upper - lower) * share, lower, upper)
    if region.ball is not None:
        c, r = region.ball.center.numpy(), region.ball.radius
        away = rng.normal(size=points.shape)
        if region.ball.p == 1.0:
            away[:, : count // 4] = np.eye(away.shape[-1])[rng.integers(away.shape[-1], size=count // 4)] * np.sign(rng.normal())
        norm = np.linalg.norm(away, ord=int(region.ball.p), axis=-1, keepdims=True)
        size = rng.random((*points.shape[:2], 1))
        size[:, : count // 2] = 1.0
        points = c + away / norm * size * r * (1 - 1e-14)
    return torch.tensor(points)


def fractions(array: np.ndarray) -> np.ndarray:
    return np.vectorize(Fraction, otypes=[object])(np.asarray(array, dtype=np.float64))


def exactly(graph: Graph, x: np.ndarray) -> np.ndarray:
    """Outputs in rational arithmetic of inputs (K, *shape) as objects, for graphs of Dense, ReLU and Sum."""
    exact = graph.convert(fractions)
    values: list[np.ndarray] = []
    for i, node in enumerate(exact.nodes):
        args = [values[j] for j in node.inputs]
        if i == exact.input:
            values.append(fractions(x))
        elif isinstance(node.operator, Sum):
            values.append(sum(Fraction(c) * a for c, a in zip(node.operator.coefficients, args, strict=True)))
        else:
            values.append(node.operator.forward(*args))
    return values[exact.output]


def loops(plan: Plan, region: Region, lines: dict[int, Lines], start: int, row: Tensor, member: int) -> float:
    """The back-substituted lower bound of one row for one set of the batch: a coefficient at a time, boxes only."""
    pending = {start: row.tolist()}
    constant = 0.0
    for s in reversed(plan.steps[: start + 1]):
        if s.index not in pending or s.index == plan.input:
            continue
        a = pending.pop(s.index)
        if s.nonlinear is not None:
            line = lines[s.index]
            pick = [t[member % len(t), 0] for t in (line.lower_slope, line.upper_slope, line.upper_intercept)]
            out = []
            for i, c in enumerate(a):
                out.append(c * float(pick[0][i]) if c >= 0 else c * float(pick[1][i]))
                constant += min(c, 0.0) * float(pick[2][i])
            target = pending.setdefault(s.inputs[0], [0.0] * len(out))
            for i, c in enumerate(out):
                target[i] += c
            continue
        zero = [torch.zeros((1, *shape), dtype=plan.dtype) for shape in s.shapes]
        offset = s.operator.forward(*zero).reshape(-1).tolist()
        constant += sum(c * b for c, b in zip(a, offset, strict=True))
        for j, (i, shape) in enumerate(zip(s.inputs, s.shapes, strict=True)):
            size = int(np.prod(shape))
            target = pending.setdefault(i, [0.0] * size)
            units = [z.expand(size, *z.shape[1:]) for z in zero]
            units[j] = torch.eye(size, dtype=plan.dtype).reshape(size, *shape)
            columns = (s.operator.forward(*units).reshape(size, -1) - torch.tensor(offset, dtype=plan.dtype)).tolist()
            for n, column in enumerate(columns):
                target[n] += sum(c * v for c, v in zip(a, column, strict=True))
    final = pending.get(plan.input, [])
    low, high = region.lower[member % len(region)].tolist(), region.upper[member % len(region)].tolist()
    return constant + sum(c * (a if c >= 0 else b) for c, a, b in zip(final, low, high, strict=True))


def contained(plan: Plan, boxes: Boxes, values: list[Tensor], member: int, slack: float = 0.0) -> None:
    """Asserts that values (K, size) of every node lie in its bounds."""
    for k, (low, high) in boxes.items():
        least, most = low[member % len(low)], high[member % len(high)]
        room = slack * (1 + values[k].abs())
        assert bool((values[k] >= least - room).all()), f"node {k} below its lower bound by {float((least - values[k]).max())}"
        assert bool((values[k] <= most + room).all()), f"node {k} above its upper bound by {float((values[k] - most).max())}"
