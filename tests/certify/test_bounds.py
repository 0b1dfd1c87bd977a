"""Bounds of every node contain sampled values; the public `bound` against exact ranges; back-substitution pays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ascertain
from ascertain.certify.bounds import _start, bound_nodes, refiner
from ascertain.certify.dense import dense_form
from ascertain.certify.milp import deepest_violation
from ascertain.certify.plan import Plan
from ascertain.errors import DataError, ResourceError, ShapeError, UnsupportedError
from ascertain.evidence import Evidence
from ascertain.graph import lower
from ascertain.graph.graph import Builder, Graph
from ascertain.operators.affine import Dense
from ascertain.operators.maximum import Maximum
from ascertain.operators.piecewise import Relu
from ascertain.properties import Box, LpBall
from ascertain.properties.property import Atoms, Case
from tests.certify.engine import KINDS, chain, compiled, contained, graph_of, region, sample
from tests.certify.random_networks import random_box, random_graph

METHODS = ("interval", "zonotope", "crown", "alpha")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("zonotope", "batch", "p"),
    [(None, 1, None), (False, 3, None), (True, 3, None), (None, 1, 2.0), (None, 1, 1.0)],
)
def test_nodes_contain_sampled_values(kind: str, zonotope: bool | None, batch: int, p: float | None) -> None:
    for seed in range(2):
        rng = np.random.default_rng(seed)
        plan = compiled(graph_of(kind, seed))
        where = region(rng, plan.steps[plan.input].size, batch, p=p)
        bounded = bound_nodes(plan, where, zonotope=zonotope)
        points = sample(where, rng, 300)
        for b in range(batch):
            values = plan.forward(points[b])
            contained(plan, bounded.every, values, b, 1e-9)
            contained(plan, bounded.boxes, values, b, 1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_refined_nodes_contain_sampled_values_and_are_no_wider(kind: str) -> None:
    """Slopes optimised in single precision, proved in double: also where most neurons of a layer are off."""
    for seed in range(1 if kind == "convolutional" else 3):
        rng = np.random.default_rng(seed)
        graph = lower(graph_of(kind, seed))
        plan, fast = Plan.compile(graph, torch.float64), Plan.compile(graph, torch.float32)
        where = region(rng, plan.steps[plan.input].size, radius=1.0)
        plain = bound_nodes(plan, where)
        better = bound_nodes(plan, where, refine=refiner(plan, fast, where, 8), known=plain.every)
        values = plan.forward(sample(where, rng, 400)[0])
        contained(plan, better.boxes, values, 0, 1e-9)
        width = [sum(float((high - low).sum()) for low, high in b.boxes.values()) for b in (plain, better)]
        assert width[1] <= width[0] + 1e-9


def test_rows_of_neurons_agree_with_unit_rows() -> None:
    rng = np.random.default_rng(0)
    plan = compiled(chain(rng))
    step = next(s for s in plan.steps if s.affine is not None and s.index > 1)
    index = torch.tensor([0, 2])
    node, rows, passed = _start(step, index, plan)
    values = plan.forward(torch.tensor(rng.normal(size=(20, 3))))
    assert node == step.inputs[0] and passed is not None
    found = values[node] @ rows[0].T + torch.cat([passed[0], passed[1]])
    expected = torch.cat([values[step.index][:, index], -values[step.index][:, index]], 1)
    torch.testing.assert_close(found, expected)


def test_layers_that_are_off_altogether() -> None:
    rng = np.random.default_rng(0)
    build = Builder()
    x = build.input((2,))
    off = build(Relu(), build(Dense(rng.normal(size=(40, 2)), np.full(40, -50.0)), x))
    value = build(Relu(), build(Dense(rng.normal(size=(40, 40)), rng.normal(size=40)), off))
    graph = build.graph(x, build(Dense(rng.normal(size=(20, 40)), rng.normal(size=20)), value))
    for method in METHODS:
        found = ascertain.bound(graph, Box(np.zeros(2), np.ones(2)), method=method)
        y = graph(np.array([[0.5, 0.5]]))[0]
        assert (found.lower <= y).all() and (y <= found.upper).all() and (found.upper - found.lower).max() < 1e-9


def test_check_may_end_the_work() -> None:
    plan = compiled(chain(np.random.default_rng(0), (3, 9, 9, 2)))

    def stop() -> None:
        raise ResourceError("timeout")

    with pytest.raises(ResourceError, match="timeout"):
        bound_nodes(plan, region(np.random.default_rng(1), 3, radius=2.0), check=stop)


# The public call


def exact_range(graph: Graph, box: Box) -> tuple[np.ndarray, np.ndarray]:
    form = dense_form(lower(graph))
    assert form is not None
    eye = np.eye(graph.output_size)
    ends = []
    for sign in (1.0, -1.0):
        atoms = [Atoms(sign * eye[[j]], np.zeros(1)) for j in range(graph.output_size)]
        ends.append(np.array([sign * deepest_violation(form, Case(box, (a,)), a)[0] for a in atoms]))
    return ends[0], ends[1]


def test_four_methods_against_exact_ranges() -> None:
    widths = {m: 0.0 for m in METHODS}
    for seed in range(12):
        rng = np.random.default_rng(seed)
        graph = random_graph(rng)
        box = random_box(rng, graph.input_size)
        low, high = exact_range(graph, box)
        for method in METHODS:
            found = ascertain.bound(graph, box, method=method, threads=1)
            assert found.evidence is Evidence.PROVED and found.method == method
            room = 1e-5 * (1 + np.abs(low) + np.abs(high))
            assert (found.lower <= low + room).all() and (found.upper >= high - room).all()
            widths[method] += float(np.mean((found.upper - found.lower) / (high - low + 1e-3)))
    assert widths["alpha"] <= widths["crown"] < widths["zonotope"] < widths["interval"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("p", [1, 2, np.inf])
def test_balls(method: str, p: float) -> None:
    rng = np.random.default_rng(2)
    graph = graph_of("residual", 2)
    ball = LpBall(rng.normal(size=3), 0.7, p)
    found = ascertain.bound(graph, ball, method=method)
    y = graph(ball.sample(rng, 300))
    assert (found.lower <= y.min(0) + 1e-9).all() and (found.upper >= y.max(0) - 1e-9).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_point_and_outputs_of_any_shape(method: str) -> None:
    graph = graph_of("convolutional", 0)
    x = np.random.default_rng(0).normal(size=16)
    found = ascertain.bound(graph, Box(x, x), method=method)
    y = graph(x.reshape(1, 1, 1, 4, 4))[0]
    assert (found.lower <= y).all() and (y <= found.upper).all() and (found.upper - found.lower).max() < 1e-10


def test_bad_requests() -> None:
    graph = chain(np.random.default_rng(0))
    with pytest.raises(ShapeError, match="3"):
        ascertain.bound(graph, Box(np.zeros(2), np.ones(2)))
    with pytest.raises(DataError, match="interval"):
        ascertain.bound(graph, Box(np.zeros(3), np.ones(3)), method="magic")
    with pytest.raises(DataError):
        ascertain.bound(graph, Box(np.zeros(3), np.ones(3)), method="alpha", steps=-1)
    with pytest.raises(DataError):
        ascertain.bound(graph, Box(np.zeros(3), np.ones(3)), threads=-1)
    broken = chain(np.random.default_rng(0)).convert(lambda a: a * np.nan)
    with pytest.raises(DataError, match="NaN"):
        ascertain.bound(broken, Box(np.zeros(3), np.ones(3)))


def test_plans_name_every_node_they_cannot_compile() -> None:
    build = Builder()
    x = build.input((2,))
    graph = build.graph(x, build(Maximum(), x, x))
    with pytest.raises(UnsupportedError, match="Maximum") as caught:
        Plan.compile(graph)
    assert len(caught.value.operators) == 1


@pytest.mark.parametrize("method", METHODS)
def test_overflow_never_gives_a_bound(method: str) -> None:
    """Outputs beyond the largest float have no finite bounds above."""
    graph = chain(np.random.default_rng(0), (2, 3, 3, 2), 1e150).convert(abs)
    found = ascertain.bound(graph, Box(np.ones(2), 2 * np.ones(2)), method=method)
    assert (found.upper == np.inf).all() and (found.lower < np.inf).all()
