"""Random small networks of all kinds of nonlinearities: no bound is ever above a value, no verdict is ever wrong."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
import torch

import ascertain
from ascertain.certify.plan import Plan
from ascertain.certify.result import Status
from ascertain.graph import lower
from ascertain.graph.graph import Builder, Graph
from ascertain.operators import (
    Atan,
    Cos,
    Dense,
    Elu,
    Erf,
    Exp,
    Floor,
    Gelu,
    Hardswish,
    Heaviside,
    LogSigmoid,
    LogSoftmax,
    LogSumExp,
    Mish,
    Product,
    Relu,
    Reshape,
    Sigmoid,
    Silu,
    Sin,
    Softmax,
    Softplus,
    Softsign,
    Sqrt,
    Square,
    Standardize,
    Sum,
    Tanh,
)
from ascertain.operators.base import Ref
from ascertain.operators.bilinear import divide
from ascertain.properties.property import Atoms, Case, Property
from ascertain.properties.sets import Box

CURVES = (
    Atan,
    Cos,
    Elu,
    Erf,
    Gelu,
    Hardswish,
    LogSigmoid,
    Mish,
    Relu,
    Sigmoid,
    Silu,
    Sin,
    Softplus,
    Softsign,
    Square,
    Tanh,
)
STEPS = (Floor(), Heaviside(0.5))
METHODS = ("interval", "zonotope", "crown", "alpha")


def seeds(count: int) -> range:
    """That many seeds, or as many as ASCERTAIN_RANDOM_NETWORKS says."""
    return range(int(os.environ.get("ASCERTAIN_RANDOM_NETWORKS", count)))


def dense(rng: np.random.Generator, value: Ref, outputs: int, scale: float = 1.0) -> Dense:
    (inputs,) = value.shape
    return Dense(rng.normal(size=(outputs, inputs)) * scale / np.sqrt(inputs), rng.normal(size=outputs) * 0.5)


def curve(rng: np.random.Generator, build: Builder, x: Ref) -> Ref:
    return build(CURVES[rng.integers(len(CURVES))](), build(dense(rng, x, 4, float(rng.choice([0.5, 1.0, 3.0]))), x))


def step(rng: np.random.Generator, build: Builder, x: Ref) -> Ref:
    stairs = build(STEPS[rng.integers(len(STEPS))], build(dense(rng, x, 4, 3.0), x))
    return build(Sum((1.0, 0.3)), build(dense(rng, x, 4), x), stairs)


def product(rng: np.random.Generator, build: Builder, x: Ref) -> Ref:
    return build(Product("a,a->a"), *(build(dense(rng, x, 4), x) for _ in range(2)))


def ratio(rng: np.random.Generator, build: Builder, x: Ref) -> Ref:
    below = build(Exp(), build(dense(rng, x, 4, 0.5), x)) if rng.random() < 0.5 else None
    if below is None:
        below = build(Sqrt(), build(Softplus(), build(dense(rng, x, 4), x)))
    return divide(build, build(dense(rng, x, 4), x), below)


def attention(rng: np.random.Generator, build: Builder, x: Ref) -> Ref:
    q, k, v = (build(Reshape((2, 2)), build(dense(rng, x, 4), x)) for _ in range(3))
    weights = build(Softmax(1), build(Product("ik,jk->ij"), q, k))
    return build(Reshape((4,)), build(Product("ij,jk->ik"), weights, v))


def norm(rng: np.random.Generator, build: Builder, x: Ref) -> Ref:
    return build(Standardize((0,), 1e-3, bool(rng.random() < 0.5)), build(dense(rng, x, 4), x))


def grouped(rng: np.random.Generator, build: Builder, x: Ref) -> Ref:
    z = build(dense(rng, x, 4, 2.0), x)
    kind = rng.integers(3)
    if kind < 2:
        return build((Softmax, LogSoftmax)[kind](0), z)
    level = build(LogSumExp(1), build(Reshape((2, 2)), z))
    return build(Sum((1.0, 0.5)), z, build(dense(rng, build(Reshape((2,)), level), 4), build(Reshape((2,)), level)))


def cell(rng: np.random.Generator, build: Builder, x: Ref) -> Ref:
    """Two steps of an LSTM with hidden size 2 over the two halves of four numbers."""
    z = build(dense(rng, x, 4), x)
    h = c = None
    for _ in range(2):
        gates = [build(dense(rng, z, 2), z) for _ in range(4)]
        if h is not None:
            gates = [build(Sum((1.0, 1.0)), g, build(dense(rng, h, 2), h)) for g in gates]
        i, f, o = (build(Sigmoid(), g) for g in gates[:3])
        new = build(Product("a,a->a"), i, build(Tanh(), gates[3]))
        c = new if c is None else build(Sum((1.0, 1.0)), new, build(Product("a,a->a"), f, c))
        h = build(Product("a,a->a"), o, build(Tanh(), c))
    assert h is not None
    return build(dense(rng, h, 4), h)


BLOCKS: tuple[Callable[[np.random.Generator, Builder, Ref], Ref], ...] = (
    curve,
    curve,
    curve,
    step,
    product,
    ratio,
    attention,
    norm,
    grouped,
    cell,
)


def network(rng: np.random.Generator, inputs: int, depth: int) -> Graph:
    """Blocks after one another, some with a skip, and two outputs."""
    build = Builder()
    x = build.input((inputs,))
    value = build(dense(rng, x, 4), x)
    for _ in range(depth):
        new = BLOCKS[rng.integers(len(BLOCKS))](rng, build, value)
        value = build(Sum((1.0, 0.5)), new, value) if rng.random() < 0.3 else new
    return build.graph(x, build(dense(rng, value, 2), value))


def extremes(graph: Graph, box: Box, rng: np.random.Generator, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest outputs that samples, corners and a descent from the best of them find."""
    share = rng.random((count, graph.input_size))
    share[: count // 4] = np.round(share[: count // 4])
    x = box.lower + (box.upper - box.lower) * share
    y = graph(x)
    plan = Plan.compile(lower(graph), torch.float64)
    low, high = torch.tensor(box.lower), torch.tensor(box.upper)
    start = [x[(s * y[:, k]).argsort()[:4]] for k in range(y.shape[1]) for s in (1, -1)]
    points, sign = torch.tensor(np.concatenate(start)), torch.tensor([1.0, -1.0] * y.shape[1]).repeat_interleave(4).double()
    column = torch.arange(y.shape[1]).repeat_interleave(8)
    found = [y]
    for rate in np.geomspace(0.1, 1e-4, 15):
        points.requires_grad_(True)
        out = plan.forward(points)[plan.output]
        (gradient,) = torch.autograd.grad((sign * out[torch.arange(len(out)), column]).sum(), points)
        points = (points.detach() - rate * (high - low) * torch.nan_to_num(gradient).sign()).clamp(low, high)
        found.append(out.detach().numpy())
    every = np.concatenate(found)
    return every.min(0), every.max(0)


def random_box(rng: np.random.Generator, size: int) -> Box:
    center = rng.normal(size=size)
    width = float(rng.choice([1e-6, 0.01, 0.2, 1.0, 3.0])) * rng.random(size)
    return Box(center - width, center + width)


@pytest.mark.parametrize("seed", seeds(40))
def test_bounds_contain_every_value(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 4))
    graph, box = network(rng, size, int(rng.integers(1, 4))), random_box(rng, size)
    least, most = extremes(graph, box, rng)
    widths = {}
    for method in METHODS:
        found = ascertain.bound(graph, box, method=method)
        assert not (np.isnan(found.lower) | np.isnan(found.upper)).any()
        room = 1e-12 * (1 + np.abs(least) + np.abs(most))
        assert (found.lower <= least + room).all() and (found.upper >= most - room).all(), method
        widths[method] = found.upper - found.lower
    assert (widths["crown"] <= widths["interval"] * (1 + 1e-9) + 1e-12).all()


def grid(box: Box) -> np.ndarray:
    axes = [np.linspace(a, b, 4001 if len(box.lower) == 1 else 151) for a, b in zip(box.lower, box.upper, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))


@pytest.mark.parametrize("seed", seeds(150))
def test_verdicts_agree_with_a_fine_grid(seed: int) -> None:
    """The limit lies near the least value on the grid: just above it (violated) and below it by a little or a lot."""
    rng = np.random.default_rng(1000 + seed)
    size = int(rng.integers(1, 3))
    graph, box = network(rng, size, int(rng.integers(1, 3))), random_box(rng, size)
    y = graph(grid(box))
    row = rng.normal(size=2)
    values = y @ row
    spread = values.max() - values.min() + 1e-6
    share = float(rng.choice([-0.05, 1e-3, 0.02, 0.3]))
    limit = values.min() - share * spread
    case = Case(box, (Atoms(row[None], np.array([limit])),))
    verdict = ascertain.verify(graph, Property((case,)), threads=1, timeout=0.5)
    if verdict.status is Status.HOLDS:
        assert values.min() > limit, f"holds, but the grid reaches {values.min()} at limit {limit}"
    if verdict.status is Status.VIOLATED:
        assert verdict.witness is not None
        x = np.asarray(verdict.witness.input, dtype=np.float64).reshape(1, -1)
        assert float(graph(x)[0] @ row) <= limit + 1e-5 * (1 + abs(limit))
