"""The search over input boxes: against dense grids and exact programs; what it closes holds no unsafe point."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

import ascertain
from ascertain.certify import strategy
from ascertain.certify.bounds import bound_nodes
from ascertain.certify.dense import dense_form
from ascertain.certify.falsify import stack_atoms
from ascertain.certify.linear import backward
from ascertain.certify.milp import minimum_margin
from ascertain.certify.plan import Plan
from ascertain.certify.region import Region
from ascertain.certify.search import box_split
from ascertain.certify.search.box_split import BoxSearch
from ascertain.certify.search.clipping import clip
from ascertain.certify.search.looseness import gains
from ascertain.graph import lower
from ascertain.graph.graph import Builder, Graph
from ascertain.operators import Product, Sin
from ascertain.operators.affine import Sum
from ascertain.properties.property import Atoms, Case, Property
from ascertain.properties.sets import Box
from tests.certify.engine import SMOOTH, compiled, dense, graph_of


def unsafe_near(rng: np.random.Generator, graph: Graph, box: Box, shift: float) -> Case:
    """Two conjunctions, of one and of two rows, with limits ``shift`` spreads below the sampled point nearest to violating them."""
    y = graph(box.sample(rng, 2000).reshape(-1, *graph.input_shape)).reshape(2000, -1)
    unsafe = []
    for count in (1, 2):
        matrix = rng.normal(size=(count, y.shape[1]))
        values = y @ matrix.T
        nearest = values[np.argmin((values - values.mean(0)).max(1))]
        unsafe.append(Atoms(matrix, nearest - shift * (values.max(0) - values.min(0) + 1e-3)))
    return Case(box, tuple(unsafe))


def started(graph: Graph, case: Case, *, confirms: bool = True) -> BoxSearch:
    plan, box = compiled(graph), case.set.box()
    region = Region(torch.tensor(box.lower).unsqueeze(0), torch.tensor(box.upper).unsqueeze(0))
    rows, limits = stack_atoms(case.unsafe, torch.float64, plan.device)

    def confirm(points: torch.Tensor) -> bool:
        x = points.numpy()
        y = graph(x.reshape(-1, *graph.input_shape)).reshape(len(x), -1)
        inside = ((x >= box.lower) & (x <= box.upper)).all()
        return confirms and bool(inside) and any(a.hold(p, v) for p, v in zip(x, y, strict=True) for a in case.unsafe)

    return BoxSearch(plan, region, rows, limits, confirm, time.monotonic() + 60)


def random_case(kind: str, seed: int, shift: float, radius: float = 0.6) -> tuple[Graph, Case]:
    rng = np.random.default_rng(seed)
    graph = graph_of(kind, seed)
    center = rng.normal(size=3)
    width = radius * rng.random(3)
    width[seed % 5 : 1] = 0.0
    return graph, unsafe_near(rng, graph, Box(center - width, center + width), shift)


def grid(box: Box, count: int) -> np.ndarray:
    axes = [np.linspace(a, b, count) for a, b in zip(box.lower, box.upper, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))


def violating(graph: Graph, case: Case, x: np.ndarray) -> np.ndarray:
    """Which conjunctions hold at which points, (K, C)."""
    y = graph(x.reshape(-1, *graph.input_shape)).reshape(len(x), -1)
    return np.stack([(y @ a.matrix.T <= a.bound).all(1) for a in case.unsafe], 1)


# Verdicts


@pytest.mark.parametrize("kind", SMOOTH)
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shift", [-0.2, 0.01, 0.1])
def test_verdicts_agree_with_dense_grids(kind: str, seed: int, shift: float) -> None:
    graph, case = random_case(kind, seed, shift)
    found = started(graph, case).run()
    hit = violating(graph, case, grid(case.set.box(), 25)).any()
    if shift < 0:
        assert found.status == "violated"
    elif hit:
        assert found.status != "holds"
    else:
        # the grid says nothing about what lies between its points
        assert found.status in (("holds",) if shift == 0.1 else ("holds", "violated"))


@pytest.mark.parametrize("kind", ["chain", "residual"])
@pytest.mark.parametrize("seed", range(6))
def test_piecewise_linear_networks_agree_with_mixed_integer_programs(kind: str, seed: int) -> None:
    graph, case = random_case(kind, seed, [-0.1, 0.02, 0.1][seed % 3])
    form = dense_form(lower(graph))
    assert form is not None
    margin, _ = minimum_margin(form, case)
    found = started(graph, case).run()
    if abs(margin) > 1e-4:
        assert found.status == ("violated" if margin <= 0 else "holds")


@pytest.mark.parametrize("kind", [*SMOOTH, "residual"])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_closed_holds_no_unsafe_point(kind: str, seed: int) -> None:
    """Nobody confirms witnesses: after some rounds every unsafe point must lie in an open box that knows the conjunction."""
    graph, case = random_case(kind, seed, -0.3, radius=1.5)
    search = started(graph, case, confirms=False)
    search.stop = lambda: search.visited > 400
    found = search.run()
    assert found.reason == "interrupted"
    points = np.concatenate([grid(case.set.box(), 21), case.set.box().sample(np.random.default_rng(seed), 5000)])
    unsafe = violating(graph, case, points)
    boxes = search.frontier.pop(search.frontier.size, spread=False)
    assert unsafe.any() and len(boxes["lower"]) > 64 and search.stuck == np.inf
    for x, broken in zip(points[unsafe.any(1)], unsafe[unsafe.any(1)], strict=True):
        inside = ((boxes["lower"] <= x) & (x <= boxes["upper"])).all(1)
        assert boxes["open"][inside].any(0)[broken].all()


def test_the_engine_uses_it_where_no_kernel_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, case = random_case("joint", 3, 0.05, radius=1.0)
    verdict = ascertain.verify(graph, Property((case,)), threads=1, timeout=60)
    assert verdict.status == "holds" and verdict.strategy == "input split"
    monkeypatch.setattr(strategy.Job, "_dense", lambda self, network: None)
    graph, case = random_case("curved", 3, -0.05)
    assert ascertain.verify(graph, Property((case,)), threads=1, timeout=60).status == "violated"


# Limits


def test_limits_end_the_search_with_a_reason_and_it_can_go_on() -> None:
    graph, case = random_case("joint", 3, 0.05, radius=1.0)
    search = started(graph, case)
    search.deadline = time.monotonic() - 1
    found = search.run()
    assert (found.status, found.reason, found.visited) == ("unknown", "timeout", 0)
    search.deadline, search.stop = time.monotonic() + 60, lambda: True
    assert search.run().reason == "interrupted"
    search.stop = lambda: False
    assert search.run().status == "holds" and search.share == pytest.approx(1.0)


def test_memory_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box_split, "FEWEST", 2048)
    graph, case = random_case("joint", 0, -0.3, radius=2.0)
    search = started(graph, case, confirms=False)
    search.memory = 1
    assert search.run().reason.startswith("memory")


def test_boxes_that_no_float_divides_stay_unknown() -> None:
    graph, case = random_case("curved", 0, -0.3)
    x = grid(case.set.box(), 9)
    point = x[violating(graph, case, x).any(1)][0]
    search = started(graph, Case(Box(point, np.nextafter(point, np.inf)), case.unsafe), confirms=False)
    assert search.run().reason.startswith("exhausted")
    search = started(graph, Case(Box(point, point), case.unsafe))
    assert search.run().status == "violated"


def test_no_conjunction_is_excluded_by_a_bound_that_is_no_number() -> None:
    build = Builder()
    x = build.input((2,))
    huge = build(Product("i,i->i"), x, x)
    for _ in range(12):
        huge = build(Product("i,i->i"), huge, huge)
    graph = build.graph(x, build(Sum((1.0, -1.0)), huge, huge))
    case = Case(Box(np.full(2, -100.0), np.full(2, 100.0)), (Atoms(np.eye(2)[:1], np.array([-1.0])),))
    search = started(graph, case, confirms=False)
    search.stop = lambda: search.visited > 200
    assert search.run().reason == "interrupted" and search.share == 0.0


# Clipping


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("seed", range(20))
def test_clipping_keeps_what_linear_programs_keep(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, batch = int(rng.integers(1, 5)), 3
    rows = np.round(rng.normal(size=(batch, 4, n)) * 10.0 ** rng.integers(-3, 4, size=(batch, 4, 1)), 3)
    center, radius = rng.normal(size=(2, batch, n))
    low, high = center - abs(radius), center + abs(radius)
    levels = -(rows * center[:, None]).sum(2) + rng.normal(size=(batch, 4)) * (abs(rows) * abs(radius)[:, None]).sum(2)
    which = rng.integers(4, size=(2, count))
    pairs = np.array([(b, c) for b in range(batch) for c in range(2)])
    margin, (_, left, right) = clip(rows, levels, which, pairs, low, high)
    for p, (b, c) in enumerate(pairs):
        matrix, limit, ends = rows[b, which[c]], -levels[b, which[c]], list(zip(low[b], high[b], strict=True))
        size = np.abs(matrix).max() * 1e-7 + 1e-12
        least = linprog(
            np.append(np.zeros(n), 1.0), np.c_[matrix, -np.ones(count)], limit, bounds=[*ends, (None, None)], method="highs"
        ).fun
        assert margin[p] <= 0 or least > -size
        if count <= 2 and least > size:  # one weight is found exactly, and cutting only helps
            assert margin[p] > 0
        if margin[p] > 0:
            continue
        assert (low[b] <= left[p]).all() and (right[p] <= high[b]).all()
        for i in range(n):
            for side, end in ((1.0, left), (-1.0, -right)):
                extreme = linprog(side * np.eye(n)[i], matrix, limit, bounds=ends, method="highs")
                assert extreme.status == 2 or extreme.fun >= end[p, i] - 1e-7


def test_one_row_is_clipped_to_the_last_digit() -> None:
    margin, (row, left, right) = clip(
        np.array([[[2.0, -1.0, 0.0]]]), np.array([[-1.0]]), np.array([[0]]), np.array([[0, 0]]), -np.ones((1, 3)), np.ones((1, 3))
    )
    np.testing.assert_allclose((margin[0], *row[0]), (-4.0, 2.0, -1.0, 0.0), atol=1e-12)
    assert (left[0] == -1).all() and (right[0] == 1).all()
    margin, (_, left, right) = clip(
        np.array([[[2.0, -1.0, 0.0]]]), np.array([[2.0]]), np.array([[0]]), np.array([[0, 0]]), -np.ones((1, 3)), np.ones((1, 3))
    )
    assert right[0, 0] >= -0.5 and left[0, 1] <= 0.0
    np.testing.assert_allclose((*left[0], *right[0]), (-1.0, 0.0, -1.0, -0.5, 1.0, 1.0), atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_cuts_nothing(bad: float) -> None:
    for rows, levels in (([[bad, 1.0], [0.0, 0.0]], [-2.0, -1.0]), ([[0.0, 0.0], [0.0, 0.0]], [bad, -1.0])):
        where = np.array([[0, 1]]), np.array([[0, 0]]), -np.ones((1, 2)), np.ones((1, 2))
        margin, (_, left, right) = clip(np.array([rows]), np.array([levels]), *where)
        assert margin[0] <= 0 and (left == -1).all() and (right == 1).all()


# The choice of a coordinate


def test_gains_are_those_of_inputs_that_bend_something() -> None:
    rng = np.random.default_rng(0)
    build = Builder()
    x = build.input((3,))
    narrow = dense(rng, 3, 4)
    narrow.weight[:, 1] = 0.0
    graph = build.graph(x, build(Sum((1.0, 1.0)), build(Sin(), build(narrow, x)), build(dense(rng, 3, 4), x)))
    plan = Plan.compile(lower(graph))
    region = Region(
        torch.tensor([[-1.0, -1.0, -1e-3], [0.0, 0.0, 0.0]]).double(), torch.tensor([[1.0, 1.0, 1e-3], [2.0, 3.0, 0.0]]).double()
    )
    bounded = bound_nodes(plan, region)
    rows = torch.ones((1, 1, 4), dtype=torch.float64)
    kept = backward(plan, region, bounded.lines, plan.output, rows, keep=True).kept
    box = torch.tensor([1, 0, 1])
    found = gains(
        plan, bounded, {k: a.expand(2, -1, -1)[box, 0] for k, a in kept.items()}, box, region.lower[box], region.upper[box]
    )
    assert found.shape == (3, 3) and bool((found[:, 1] == 0).all()) and bool((found[:, 0] > 0).all())
    assert float(found[0, 2]) == 0.0 and 0 < float(found[1, 2]) < float(found[1, 0])
    assert torch.equal(found[0], found[2])
