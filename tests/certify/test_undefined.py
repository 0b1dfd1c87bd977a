"""Numbers that overflow and functions outside their domain: infinite bounds, verdicts of unknown with the reason, never NaN."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ascertain
from ascertain.certify.bounds import bound_nodes
from ascertain.certify.linear import backward, charges
from ascertain.certify.plan import Plan
from ascertain.certify.region import Region
from ascertain.certify.result import Status
from ascertain.graph import lower
from ascertain.graph.graph import Builder, Graph
from ascertain.operators import Cos, Dense, Exp, Log, Product, Reciprocal, Sigmoid, Softmax, Sqrt, Standardize, Tan, Tanh
from ascertain.operators.base import Operator
from ascertain.operators.piecewise import Clip
from ascertain.operators.selection import Concat, Slice
from ascertain.properties.property import Atoms, Case, Property
from ascertain.properties.sets import Box

METHODS = ("interval", "zonotope", "crown", "alpha")


def chain(*operators: Operator) -> Graph:
    build = Builder()
    x = value = build.input((2,))
    for operator in operators:
        value = build(operator, value)
    return build.graph(x, value)


def below(box: Box, limit: float) -> Property:
    """The first of two outputs stays below a limit."""
    return Property((Case(box, (Atoms(np.array([[-1.0, 0.0]]), np.array([-limit])),)),))


@pytest.mark.parametrize("bounded", [Sigmoid(), Cos(), Clip(-1.0, 1.0), Softmax(0), Standardize((0,), 1e-3)])
@pytest.mark.parametrize(
    ("partial", "low", "high"), [(Log(), 0.0, 1.0), (Sqrt(), -1.0, 1.0), (Reciprocal(), -1.0, 1.0), (Tan(), 1.0, 2.0)]
)
def test_a_bounded_function_does_not_hide_that_there_is_no_value(
    partial: Operator, low: float, high: float, bounded: Operator
) -> None:
    graph, box = chain(partial, bounded), Box(np.full(2, low), np.full(2, high))
    for method in METHODS:
        found = ascertain.bound(graph, box, method=method)
        assert (found.lower == -np.inf).all() and (found.upper == np.inf).all(), method
    verdict = ascertain.verify(graph, below(box, 2.0), threads=1, timeout=0.2)
    assert verdict.status is Status.UNKNOWN


def test_the_reason_names_the_function() -> None:
    box = Box(np.full(2, -1.0), np.ones(2))
    verdict = ascertain.verify(chain(Log(), Tanh()), below(box, 2.0), threads=1, timeout=1.0)
    assert verdict.status is Status.UNKNOWN and "Log at node" in verdict.reason
    inside = Box(np.full(2, 0.1), np.ones(2))
    assert ascertain.verify(chain(Log(), Tanh()), below(inside, 2.0), threads=1, timeout=10.0).status is Status.HOLDS


@pytest.mark.parametrize("last", [Sigmoid(), Softmax(0), Reciprocal()])
def test_exponentials_that_overflow_prove_nothing_false(last: Operator) -> None:
    graph, box = chain(Dense(1e3 * np.eye(2)), Exp(), last), Box(np.full(2, -1.0), np.ones(2))
    for method in METHODS:
        found = ascertain.bound(graph, box, method=method)
        assert not (np.isnan(found.lower) | np.isnan(found.upper)).any() and (found.upper >= 1.0).all()


def test_sums_that_overflow_prove_nothing() -> None:
    """The true margin is about -0.9e308; the first sums of its lower bound exceed the largest float."""
    build = Builder()
    x = build.input((4,))
    curved = build(Sigmoid(), build(Dense(np.eye(3, 4)), x))
    graph = build.graph(x, build(Concat(0), curved, build(Slice(((3, 4, 1),)), x)))
    box = Box(np.array([2.99] * 3 + [0.95]), np.array([3.01] * 3 + [1.0]))
    for row in ([1.2e308, 1.2e308, -1.5e308], [1.2e308, -1.5e308, 1.2e308], [-1.5e308, 1.2e308, 1.2e308]):
        unsafe = Atoms(np.array([[*row, -1.79e308]]), np.zeros(1))
        verdict = ascertain.verify(graph, Property((Case(box, (unsafe,)),)), threads=1, timeout=0.2)
        assert verdict.status is not Status.HOLDS


def reciprocal_of_a_square(offset: float) -> Graph:
    """1 / ((a - b)^2 + offset), its square multiplied out, so that intervals reach 0 on large boxes."""
    build = Builder()
    x = build.input((2,))
    first, second = (build(Dense(np.array(w, float)), x) for w in ([[1, 0], [1, 0], [0, 1]], [[1, 0], [0, 1], [0, 1]]))
    square = build(Dense(np.array([[1.0, -2.0, 1.0]]), np.array([offset])), build(Product("a,a->a"), first, second))
    return build.graph(x, build(Reciprocal(), square))


def test_sets_without_bounds_leave_others_of_the_batch_alone() -> None:
    plan = Plan.compile(lower(reciprocal_of_a_square(0.05)), torch.float64)
    low, high = torch.tensor([[-1.0, -1.0], [0.5, -0.5], [0.9, 0.2]]), torch.tensor([[1.0, 1.0], [0.6, -0.4], [1.0, 0.3]])

    def bounds(where: Region) -> torch.Tensor:
        found = bound_nodes(plan, where)
        charge = charges(plan, where, found.boxes, found.lines, plan.output, found.charge)
        swept = backward(plan, where, found.lines, plan.output, torch.tensor([[[1.0], [-1.0]]]).double(), charge=charge)
        assert (swept.lower.isnan() == swept.constant.isnan()).all()
        return swept.lower

    together, apart = bounds(Region(low.double(), high.double())), bounds(Region(low[1:].double(), high[1:].double()))
    assert together[0].isnan().all() and torch.allclose(together[1:], apart, rtol=1e-12)


def test_boxes_are_split_until_a_divisor_keeps_its_sign() -> None:
    graph, box = reciprocal_of_a_square(0.05), Box(np.full(2, -1.0), np.ones(2))
    for limit, status in ((25.0, Status.HOLDS), (19.0, Status.VIOLATED)):
        unsafe = Atoms(np.array([[-1.0]]), np.array([-limit]))
        verdict = ascertain.verify(graph, Property((Case(box, (unsafe,)),)), threads=1, timeout=60.0)
        assert verdict.status is status
