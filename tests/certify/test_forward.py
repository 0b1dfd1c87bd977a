"""Intervals and zonotopes contain exact images, for all kinds of graphs, scales and degenerate boxes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from ascertain.certify.bounds import bound_nodes
from ascertain.certify.forward import Zonotope, interval_step, zonotope_input, zonotope_step
from ascertain.certify.plan import Plan
from ascertain.certify.region import Region
from ascertain.graph.graph import Builder
from ascertain.operators.affine import Dense, Sum
from ascertain.operators.piecewise import LeakyRelu, Relu, Sign
from tests.certify.engine import KINDS, chain, compiled, contained, dense, exactly, graph_of, region, sample


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("zonotope", [False, True])
@pytest.mark.parametrize("radius", [0.0, 0.05, 1.0])
def test_contain_every_sampled_value(kind: str, zonotope: bool, radius: float) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        plan = compiled(graph_of(kind, seed))
        where = region(rng, plan.steps[plan.input].size, 1 + seed, radius)
        every = bound_nodes(plan, where, back=False, zonotope=zonotope).every
        points = sample(where, rng, 200)
        for b in range(len(where)):
            contained(plan, every, plan.forward(points[b]), b, 1e-12)


@pytest.mark.parametrize("zonotope", [False, True])
@pytest.mark.parametrize("scale", [1e-100, 1e-3, 1.0, 1e8, 1e90])
def test_contain_exact_values(zonotope: bool, scale: float) -> None:
    """Rational arithmetic, boxes that are points among them: there rounding alone decides."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        graph = chain(rng, (3, 5, 4, 3), scale)
        plan = compiled(graph)
        where = region(rng, 3, radius=float(rng.choice([0.0, 1e-12, 0.3])))
        low, high = (t[0].tolist() for t in bound_nodes(plan, where, back=False, zonotope=zonotope).every[plan.output])
        for y in exactly(graph, sample(where, rng, 6)[0].numpy()):
            assert all(Fraction(a) <= v <= Fraction(b) for a, v, b in zip(low, y, high, strict=True))


def test_rounding_outward_is_needed() -> None:
    """Without it, the value at a point box is off the exact one: so the tests above can fail."""
    wrong = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        graph = chain(rng, (3, 5, 4, 3))
        point = rng.normal(size=(1, 3))
        value = compiled(graph).forward(torch.tensor(point))[-1][0].tolist()
        wrong += any(Fraction(v) != e for v, e in zip(value, exactly(graph, point)[0], strict=True))
    assert wrong >= 5


@pytest.mark.parametrize("operator", [Relu(), LeakyRelu(0.1), Sign()])
def test_nonlinear_intervals_contain_exact_values(operator: Relu | LeakyRelu | Sign) -> None:
    build = Builder()
    x = build.input((200,))
    plan = Plan.compile(build.graph(x, build(operator, x)))
    rng = np.random.default_rng(0)
    at = rng.normal(size=200) * 10.0 ** rng.integers(-20, 20, size=200)
    box = torch.tensor(at)[None], torch.tensor(at)[None]
    low, high = interval_step(plan, plan.steps[plan.output], [box])
    slope = Fraction(operator.slope) if isinstance(operator, LeakyRelu) else Fraction(0)
    for i, v in enumerate(Fraction(a) for a in at):
        exact = Fraction((v > 0) - (v < 0)) if isinstance(operator, Sign) else v if v > 0 else slope * v
        assert Fraction(float(low[0, i])) <= exact <= Fraction(float(high[0, i]))


def test_zonotopes_keep_what_intervals_lose() -> None:
    """x - x is zero for a zonotope, also through a residual branch and over a batch."""
    build = Builder()
    x = build.input((2,))
    value = build(Dense(np.array([[1.0, 2.0], [3.0, -1.0]])), x)
    plan = compiled(build.graph(x, build(Sum((1.0, -1.0)), value, value)))
    where = Region(-torch.ones((3, 2), dtype=torch.float64), torch.ones((3, 2), dtype=torch.float64))
    low, high = bound_nodes(plan, where, back=False, zonotope=True).every[plan.output]
    assert float((high - low).max()) < 1e-12
    low, high = bound_nodes(plan, where, back=False, zonotope=False).every[plan.output]
    assert float((high - low).min()) >= 8


def test_generators_of_two_branches_share_their_numbers() -> None:
    """A sum of branches with different numbers of generators: values at random generators lie in the sum's zonotope."""
    rng = np.random.default_rng(3)
    plan = compiled(graph_of("residual", 3))
    where = region(rng, 3, radius=1.0)
    bounded = bound_nodes(plan, where, back=False, zonotope=True)
    zonotopes: dict[int, Zonotope] = {plan.input: zonotope_input(where, plan.rounding.unit)}
    total = zonotopes[plan.input].generators.shape[1]
    assert total == int((where.upper > where.lower).sum())
    for s in plan.steps[1:]:
        own = [bounded.boxes[i] for i in s.inputs] if s.nonlinear is not None else []
        args = [zonotopes[i] for i in s.inputs]
        zonotopes[s.index] = zonotope_step(plan, s, args, own, bounded.lines.get(s.index), total)
        total = max(total, zonotopes[s.index].generators.shape[1])
    low, high = zonotopes[plan.output].bounds(plan.rounding.unit)
    values = plan.forward(sample(where, rng, 500)[0])[plan.output]
    assert bool((values >= low - 1e-12).all() and (values <= high + 1e-12).all())
    assert total > 3


def test_batches_equal_their_members() -> None:
    rng = np.random.default_rng(5)
    plan = compiled(chain(rng, (3, 8, 8, 2)))
    where = region(rng, 3, 5)
    together = bound_nodes(plan, where, back=False, zonotope=True).every[plan.output]
    for b in range(5):
        alone = bound_nodes(plan, where[torch.tensor([b])], back=False, zonotope=True).every[plan.output]
        for t, a in zip(together, alone, strict=True):
            # Neurons that are curved elsewhere in the batch cost a member no width beyond rounding.
            torch.testing.assert_close(t[b], a[0], rtol=1e-10, atol=1e-10)


def test_constants_and_outputs_without_inputs() -> None:
    build = Builder()
    x = build.input((2,))
    fixed = build.constant(np.array([1.0, -2.0]))
    plan = compiled(build.graph(x, build(Sum((1.0, 1.0)), build(dense(np.random.default_rng(0), 2, 2), x), fixed)))
    rng = np.random.default_rng(1)
    where = region(rng, 2)
    for zonotope in (False, True):
        every = bound_nodes(plan, where, zonotope=zonotope).every
        contained(plan, every, plan.forward(sample(where, rng, 50)[0]), 0, 1e-12)
