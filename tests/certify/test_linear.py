"""Back-substitution equals a slow reference, never exceeds exact minima, and its charges cover the rounding of floats."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch

from ascertain.certify.bounds import bound_nodes
from ascertain.certify.linear import Charges, backward, charges
from ascertain.certify.lines import Lines
from ascertain.certify.plan import Plan
from ascertain.certify.region import Ball, Region
from ascertain.certify.relaxations import relax
from ascertain.graph import lower
from ascertain.graph.graph import Builder, Graph
from ascertain.operators.affine import Dense, Sum
from ascertain.operators.piecewise import LeakyRelu, Relu, Sign
from tests.certify.engine import KINDS, chain, compiled, dense, exactly, graph_of, loops, region, sample


def proved(plan: Plan, where: Region, rows: torch.Tensor, *, free: bool = False) -> torch.Tensor:
    """Lower bounds (B, S) of rows on the output, from interval bounds; ``free`` leaves the charges out."""
    bounded = bound_nodes(plan, where, back=False, zonotope=False)
    charge = None if free else charges(plan, where, bounded.boxes, bounded.lines, plan.output)
    return backward(plan, where, bounded.lines, plan.output, rows, charge=charge).lower


def some_rows(rng: np.random.Generator, plan: Plan, count: int = 4, batch: int = 1) -> torch.Tensor:
    return torch.tensor(rng.normal(size=(batch, count, plan.steps[plan.output].size)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 3])
def test_equals_loops(kind: str, batch: int) -> None:
    rng = np.random.default_rng(7)
    plan = compiled(graph_of(kind, 1))
    where = region(rng, plan.steps[plan.input].size, batch)
    bounded = bound_nodes(plan, where, back=False)
    rows = some_rows(rng, plan, 3)
    lower = backward(plan, where, bounded.lines, plan.output, rows).lower
    assert lower.shape == (batch, 3)
    for b in range(batch):
        for s in range(3):
            assert float(lower[b, s]) == pytest.approx(loops(plan, where, bounded.lines, plan.output, rows[0, s], b), rel=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("batch", "p"), [(1, None), (4, None), (1, 2.0), (1, 1.0)])
def test_never_above_sampled_values(kind: str, batch: int, p: float | None) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        plan = compiled(graph_of(kind, seed))
        where = region(rng, plan.steps[plan.input].size, batch, p=p)
        rows = some_rows(rng, plan, 4, batch if seed % 2 else 1)
        lower = proved(plan, where, rows)
        points = sample(where, rng, 400)
        for b in range(batch):
            values = plan.forward(points[b])[plan.output] @ rows[b % len(rows)].T
            assert bool((lower[b] <= values.amin(0) + 1e-9 * (1 + values.abs().amax(0))).all())


def test_balls_are_tighter_than_their_boxes() -> None:
    rng = np.random.default_rng(0)
    plan = compiled(chain(rng))
    rows = some_rows(rng, plan)
    ball = region(rng, 3, p=2.0)
    assert bool((proved(plan, ball, rows) > proved(plan, Region(ball.lower, ball.upper), rows)).all())


@pytest.mark.parametrize("scale", [1e-200, 1e-160, 1e150])
@pytest.mark.parametrize("p", [1.0, 2.0])
def test_dual_norms_of_extreme_rows(scale: float, p: float) -> None:
    """Squares underflow below 1e-162 and overflow above 1e154: the minimum over a ball may not profit from that."""
    where = Region(torch.full((1, 2), -10.0), torch.full((1, 2), 10.0), Ball(torch.zeros(2, dtype=torch.float64), 1.0, p))
    where = where.to(torch.float64)
    rows = torch.tensor([[[3.0, 4.0]]], dtype=torch.float64) * scale
    best = -5.0 * scale if p == 2.0 else -4.0 * scale
    assert float(where.minimum(rows, 2.0**-53)) == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("scale", [1e-60, 1e-3, 1.0, 1e6, 1e60])
def test_charged_bounds_never_above_exact_corners(scale: float) -> None:
    """Rational arithmetic at corners and at the engine's own minimiser."""
    for seed in range(12):
        rng = np.random.default_rng(seed)
        graph = chain(rng, (2, 3, 3, 2), scale) if seed % 2 else small_residual(rng, scale)
        plan = compiled(graph)
        where = region(rng, 2, radius=float(rng.choice([0.0, 1e-9, 0.1, 1.0])))
        rows = some_rows(rng, plan, 2)
        bounded = bound_nodes(plan, where)
        charge = charges(plan, where, bounded.boxes, bounded.lines, plan.output)
        swept = backward(plan, where, bounded.lines, plan.output, rows, charge=charge)
        corners = [[float(t[0, i]) for i, t in enumerate(c)] for c in product((where.lower, where.upper), repeat=2)]
        points = np.array(corners + where.minimiser(swept.rows)[0].tolist())
        assert not_above(swept.lower[0], rows[0], exactly(graph, points))


def small_residual(rng: np.random.Generator, scale: float) -> Graph:
    build = Builder()
    x = build.input((2,))
    first = build(dense(rng, 2, 2, scale), x)
    return build.graph(x, build(Sum((1.0, -0.25)), first, build(dense(rng, 2, 2, scale), build(Relu(), first))))


def not_above(lower: torch.Tensor, rows: torch.Tensor, values: np.ndarray) -> bool:
    """Whether lower[s] <= rows[s] . y for every exact output y, in rational arithmetic."""
    for bound, row in zip(lower.tolist(), rows.tolist(), strict=True):
        for y in values:
            if Fraction(bound) > sum(Fraction(c) * v for c, v in zip(row, y, strict=True)):
                return False
    return True


def cancelling(rng: np.random.Generator) -> Graph:
    """Every ReLU is active, so the exact minimum is at a corner; weights of 1e8 and opposite signs cancel in the next layer."""
    build = Builder()
    x = build.input((2,))
    up = rng.normal(size=(6, 2)) * 1e8
    first = build(Relu(), build(Dense(np.vstack([up, up + rng.normal(size=up.shape)]), np.full(12, 1e9)), x))
    down = rng.normal(size=(2, 6)) * 1e8
    second = build(Dense(np.hstack([down, -down]), rng.normal(size=2)), first)
    return build.graph(x, build(Dense(rng.normal(size=(1, 2))), second))


def above_exact_minimum(seed: int, charge: bool) -> bool:
    rng = np.random.default_rng(seed)
    graph = cancelling(rng)
    plan = compiled(graph)
    where = region(rng, 2, radius=0.5)
    rows = torch.tensor([[[1.0], [-1.0]]], dtype=torch.float64)
    lower = proved(plan, where, rows, free=not charge)
    corners = np.array([[float(t[0, i]) for i, t in enumerate(c)] for c in product((where.lower, where.upper), repeat=2)])
    return not not_above(lower[0], rows[0], exactly(graph, corners))


def test_charges_cover_cancellation() -> None:
    assert not any(above_exact_minimum(seed, True) for seed in range(40))
    assert sum(above_exact_minimum(seed, False) for seed in range(40)) >= 5, "the test would not notice charges that are missing"


def test_charges_of_zero_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    true = charges

    def nothing(*args: object) -> Charges:
        found = true(*args)  # type: ignore[arg-type]
        return Charges({k: torch.zeros_like(v) for k, v in found.weights.items()}, found.reach)

    monkeypatch.setitem(proved.__globals__, "charges", nothing)
    assert any(above_exact_minimum(seed, True) for seed in range(40))


def test_charges_stay_small() -> None:
    """What is subtracted is some thousand roundings of the largest value, no more."""
    rng = np.random.default_rng(0)
    plan = compiled(chain(rng, (3, 20, 20, 2)))
    where, rows = region(rng, 3), some_rows(rng, plan)
    lost = proved(plan, where, rows, free=True) - proved(plan, where, rows)
    assert bool((lost > 0).all()) and float(lost.max()) < 1e-9


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.95])
def test_any_slope_between_zero_and_one_is_sound(seed: int, fraction: float) -> None:
    """Also on neurons that are stable: most are off in a part of these networks, where columns are left out."""
    rng = np.random.default_rng(seed)
    build = Builder()
    x = value = build.input((3,))
    for a, b in ((3, 24), (24, 24)):
        layer = Dense(rng.normal(size=(b, a)), np.where(rng.random(b) < fraction, -8.0, 0.5) + rng.normal(size=b))
        value = build(Relu(), build(layer, value))
    graph = build.graph(x, build(dense(rng, 24, 2), value))
    plan = compiled(graph)
    where = region(rng, 3)
    bounded = bound_nodes(plan, where)
    rows = some_rows(rng, plan, 48)
    charge = charges(plan, where, bounded.boxes, bounded.lines, plan.output)
    lines = {
        k: Lines(torch.tensor(rng.random((1, 48, line.upper_slope.shape[-1]))), line.upper_slope, line.upper_intercept)
        for k, line in bounded.lines.items()
    }
    lower = backward(plan, where, lines, plan.output, rows, charge=charge).lower[0]
    values = plan.forward(sample(where, rng, 500)[0])[plan.output] @ rows[0].T
    assert bool((lower <= values.amin(0) + 1e-9).all()), f"above by {float((lower - values.amin(0)).max())}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_split_multipliers_hold_where_the_signs_do(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    plan = compiled(graph_of(kind, seed))
    where = region(rng, plan.steps[plan.input].size, radius=1.0)
    bounded = bound_nodes(plan, where)
    rows = some_rows(rng, plan, 5)
    points = sample(where, rng, 3000)[0]
    values = plan.forward(points)
    inside = torch.ones(len(points), dtype=torch.bool)
    lines, shift = {}, {}
    for k in plan.nonlinear:
        z = plan.steps[k].inputs[0]
        low, high = (t.clone() for t in bounded.boxes[z])
        sign = torch.sign(values[z][0])
        sign[torch.tensor(rng.random(len(sign)) > 0.15)] = 0.0
        inside &= (sign * values[z] >= 0).all(1)
        low[0, sign > 0], high[0, sign < 0] = low[0, sign > 0].clamp(min=0), high[0, sign < 0].clamp(max=0)
        line = relax(plan.steps[k], [(low, high)], plan.rounding.unit)
        alpha = torch.tensor(rng.random((1, 5, len(sign))))
        lines[k] = Lines(alpha, line.upper_slope, line.upper_intercept)
        shift[z] = -torch.tensor(rng.exponential(size=(1, 5, len(sign)))) * sign
    assert bool(inside[0]) and any(bool(s.any()) for s in shift.values())
    charge = charges(plan, where, bounded.boxes, bounded.lines, plan.output)
    lower = backward(plan, where, lines, plan.output, rows, charge=charge, shift=shift).lower[0]
    found = values[plan.output][inside] @ rows[0].T
    assert bool((lower <= found.amin(0) + 1e-9).all())


@pytest.mark.parametrize("operator", [Relu(), LeakyRelu(0.3), LeakyRelu(-2.0), Sign()])
def test_lines_contain_the_function(operator: Relu | LeakyRelu | Sign) -> None:
    """Exactly, at ends, kinks and random points, for boxes of all sizes and places."""
    build = Builder()
    x = build.input((400,))
    plan = Plan.compile(build.graph(x, build(operator, x)))
    rng = np.random.default_rng(0)
    center = rng.normal(size=400) * 10.0 ** rng.integers(-40, 40, size=400) * (rng.random(400) < 0.8)
    width = np.abs(center) * rng.choice([0.0, 1e-15, 0.1, 3.0], size=400) + (center == 0)
    low, high = center - width, center + width
    step = plan.steps[plan.output]
    line = relax(step, [(torch.tensor(low)[None], torch.tensor(high)[None])], plan.rounding.unit)
    for share in (0.0, 0.3, 0.5, 1.0, None):
        at = np.clip(0.0, low, high) if share is None else np.clip(low + (high - low) * share, low, high)
        f = fractions_of(operator, at)
        for i in range(400):
            point, value = Fraction(at[i]), f[i]
            below = Fraction(float(line.lower_slope[0, 0, i])) * point
            below += 0 if line.lower_intercept is None else Fraction(float(line.lower_intercept[0, 0, i]))
            above = Fraction(float(line.upper_slope[0, 0, i])) * point + Fraction(float(line.upper_intercept[0, 0, i]))
            assert below <= value <= above, (operator, low[i], high[i], at[i])


def fractions_of(operator: Relu | LeakyRelu | Sign, x: np.ndarray) -> list[Fraction]:
    """Values in rational arithmetic."""
    exact = [Fraction(v) for v in x]
    if isinstance(operator, Sign):
        return [Fraction((v > 0) - (v < 0)) for v in exact]
    slope = Fraction(operator.slope) if isinstance(operator, LeakyRelu) else Fraction(0)
    return [v if v > 0 else slope * v for v in exact]


def test_networks_with_signs_never_above_sampled_values() -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        build = Builder()
        x = build.input((3,))
        hidden = build(Sign(), build(dense(rng, 3, 8), x))
        plan = compiled(lower(build.graph(x, build(dense(rng, 8, 2), hidden))))
        where, rows = region(rng, 3), some_rows(rng, plan)
        values = plan.forward(sample(where, rng, 500)[0])[plan.output] @ rows[0].T
        assert bool((proved(plan, where, rows)[0] <= values.amin(0) + 1e-9).all())


def test_deep_narrow_networks_are_charged_for_every_sum() -> None:
    """One neuron wide and 60 layers deep: the number of steps, not the width, decides how often a term is rounded."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        build = Builder()
        x = value = build.input((1,))
        for _ in range(60):
            value = build(Relu(), build(Dense(1 + rng.random((1, 1)) * 0.1, rng.random(1)), value))
        graph = build.graph(x, value)
        plan = compiled(graph)
        where = Region(torch.ones((1, 1), dtype=torch.float64), torch.full((1, 1), 2.0, dtype=torch.float64))
        rows = torch.tensor([[[1.0], [-1.0]]], dtype=torch.float64)
        assert not_above(proved(plan, where, rows)[0], rows[0], exactly(graph, np.array([[1.0], [2.0]])))
