"""Random small networks of all kinds of nonlinearities: no bound is ever above a value, no verdict is ever wrong."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
import torch

import ascertain
from ascertain.certify.bounds import bound_nodes
from ascertain.certify.deep import region_of
from ascertain.certify.falsify import stack_atoms
from ascertain.certify.plan import Plan
from ascertain.certify.result import Status
from ascertain.certify.search.box_split import BoxSearch
from ascertain.certify.search.neuron_split import NeuronSearch
from ascertain.errors import ResourceError
from ascertain.graph import lower
from ascertain.graph.graph import Builder, Graph
from ascertain.operators import (
    Abs,
    Atan,
    Cos,
    Dense,
    Elu,
    Erf,
    Exp,
    Floor,
    Gelu,
    GroupSort,
    Hardswish,
    Heaviside,
    Log,
    LogSigmoid,
    LogSoftmax,
    LogSumExp,
    Maximum,
    Mish,
    Product,
    Reciprocal,
    Relu,
    Reshape,
    Rsqrt,
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
    Tan,
    Tanh,
)
from ascertain.operators.affine import Scale, Shift
from ascertain.operators.base import Ref
from ascertain.operators.bilinear import divide, multiply
from ascertain.operators.powers import Power, RealPower
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


def partial(rng: np.random.Generator, build: Builder, x: Ref) -> Ref:
    """A function that is not defined everywhere, of numbers that may reach where it is not."""
    z = build(Softplus(), build(dense(rng, x, 4), x)) if rng.random() < 0.5 else build(dense(rng, x, 4, 0.3), x)
    shifted = build(Shift(np.array(float(rng.choice([0.0, 0.5, 2.0])))), z)
    return build(
        (Log(), Sqrt(), Rsqrt(), Reciprocal(), Tan(), Power(-2.0), RealPower(0.3), RealPower(-1.3))[rng.integers(8)], shifted
    )


def choice(rng: np.random.Generator, build: Builder, x: Ref) -> Ref:
    """One of two values by the sign of a third, and then its larger half."""
    condition = build(Heaviside(float(rng.integers(2))), build(dense(rng, x, 4, 2.0), x))
    yes, no = curve(rng, build, x), build(dense(rng, x, 4), x)
    value = build(Sum((1.0, 1.0)), multiply(build, condition, build(Sum((1.0, -1.0)), yes, no)), no)
    return build(GroupSort(0, 4), value) if rng.random() < 0.5 else build(Maximum(), value, no)


def gate(rng: np.random.Generator, build: Builder, x: Ref) -> Ref:
    """A gate written out, or something that only looks like one."""
    z = build(dense(rng, x, 4, 2.0), x)
    scale, kind = float(rng.choice([1.0, 1.702, -1.0, 0.3])), rng.integers(4)
    scaled = build(Scale(np.array(scale)), z)
    if kind == 0:
        return multiply(build, z, build(Sigmoid(), scaled))
    if kind == 1:
        return multiply(build, z, build(Shift(np.array(float(rng.choice([1.0, 0.9])))), build(Erf(), scaled)))
    if kind == 2:
        return multiply(build, z, build(Reciprocal(), build(Shift(np.array(0.7)), build(Abs(), scaled))))
    cube = build(Scale(np.array(float(rng.choice([0.044715, 0.05])))), multiply(build, z, build(Square(), z)))
    inner = build(Scale(np.array(0.7978845608)), build(Sum((1.0, 1.0)), z, cube))
    return multiply(build, build(Scale(np.array(0.5)), z), build(Shift(np.array(1.0)), build(Tanh(), inner)))


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
    partial,
    choice,
    gate,
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
    with np.errstate(all="ignore"):
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
    every = finite(np.concatenate(found))
    return every.min(0, initial=np.inf), every.max(0, initial=-np.inf)


def finite(y: np.ndarray) -> np.ndarray:
    """The outputs at points where the network has any."""
    return np.asarray(y[np.isfinite(y).all(1)])


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
    with np.errstate(all="ignore"):
        y = graph(grid(box))
    everywhere, row = bool(np.isfinite(y).all()), rng.normal(size=2)
    values = finite(y) @ row
    if len(values) == 0:
        return
    spread = values.max() - values.min() + 1e-6
    share = float(rng.choice([-0.05, 1e-3, 0.02, 0.3]))
    limit = values.min() - share * spread
    case = Case(box, (Atoms(row[None], np.array([limit])),))
    verdict = ascertain.verify(graph, Property((case,)), threads=1, timeout=0.5)
    if verdict.status is Status.HOLDS:
        assert everywhere and values.min() > limit, f"holds, but the grid reaches {values.min()} at limit {limit}"
    if verdict.status is Status.VIOLATED:
        assert verdict.witness is not None
        x = np.asarray(verdict.witness.input, dtype=np.float64).reshape(1, -1)
        assert float(graph(x)[0] @ row) <= limit + 1e-5 * (1 + abs(limit))


class Patience:
    """Ends a search after so many looks at the clock."""

    def __init__(self, looks: int) -> None:
        self.left = looks

    def stop(self) -> bool:
        self.left -= 1
        return self.left < 0

    def check(self) -> None:
        if self.stop():
            raise ResourceError("enough")


@pytest.mark.parametrize("kind", ["boxes", "neurons"])
@pytest.mark.parametrize("seed", seeds(40))
def test_no_search_closes_what_holds_a_counterexample(seed: int, kind: str) -> None:
    """Nobody confirms the known one, so that nothing but its leaf staying open keeps the search from a proof."""
    rng = np.random.default_rng(3000 + seed)
    size = int(rng.integers(1, 4))
    graph, box = network(rng, size, int(rng.integers(1, 4))), random_box(rng, size)
    with np.errstate(all="ignore"):
        y = finite(graph(box.lower + (box.upper - box.lower) * np.round(rng.random((2000, size)), int(rng.integers(0, 3)))))
    if len(y) == 0:
        return
    unsafe = []
    for shift in (float(rng.choice([1e-6, 1e-2])), -0.01):  # one that is violated, and one that hardly holds
        row = rng.normal(size=(1, 2))
        least, most = (y @ row.T).min(), (y @ row.T).max()
        unsafe.append(Atoms(row, np.array([least + shift * (most - least) + 1e-9 * np.sign(shift) * (1 + abs(y).max())])))
    plan, where = Plan.compile(lower(graph), torch.float64), region_of(box, torch.float64, torch.device("cpu"))
    rows, limits = stack_atoms(tuple(unsafe), torch.float64, plan.device)
    patience = Patience(40)
    if kind == "boxes":
        boxes = BoxSearch(plan, where, rows, limits, lambda points: False, np.inf, patience.stop)
        assert boxes.run().status == "unknown"
        return
    fast = Plan.compile(lower(graph), torch.float32)
    search = NeuronSearch(plan, fast, where, bound_nodes(plan, where), rows, limits, lambda points: False, patience.check)
    search.steps = 3
    assert search.run(3).status == "unknown"
