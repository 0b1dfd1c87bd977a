"""Contracted bounds hold every unsafe value, and are what a linear program finds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from ascertain.certify.bounds import bound_nodes
from ascertain.certify.plan import Plan
from ascertain.certify.region import Region
from ascertain.certify.search.contraction import Contraction
from ascertain.certify.search.neurons import Neurons
from ascertain.graph import lower
from ascertain.graph.graph import Graph
from tests.certify.engine import chain, curved, joint

Make = Callable[[np.random.Generator], Graph]


def started(make: Make, seed: int, scale: float = 1.0) -> tuple[Plan, Region, Neurons, Contraction]:
    rng = np.random.default_rng(seed)
    plan = Plan.compile(lower(make(rng)), torch.float64)
    center, radius = rng.normal(size=3) * scale, rng.random(3) * scale
    region = Region(torch.tensor(center - radius).unsqueeze(0), torch.tensor(center + radius).unsqueeze(0))
    bounded = bound_nodes(plan, region)
    neurons = Neurons(plan, bounded)
    found = Contraction.of(plan, region, bounded, neurons.nodes)
    assert found is not None
    return plan, region, neurons, found


def constraints(rng: np.random.Generator, region: Region, count: int) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Rows and levels that leave between nothing and all of the box, and which share of its spread each leaves."""
    low, high = region.lower[0].numpy(), region.upper[0].numpy()
    rows = rng.normal(size=(count, len(low))) * 10.0 ** rng.integers(-3, 4, size=(count, 1))
    least = np.where(rows > 0, rows * low, rows * high).sum(1)
    most = np.where(rows > 0, rows * high, rows * low).sum(1)
    share = np.linspace(0.02, 0.98, count)
    return torch.tensor(rows), torch.tensor(-(least + share * (most - least))), share


@pytest.mark.parametrize("make", [chain, curved, joint])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_unsafe_values_stay_inside(make: Make, scale: float) -> None:
    for seed in range(6):
        plan, region, neurons, contraction = started(make, seed, scale)
        rng = np.random.default_rng(seed)
        rows, level, _ = constraints(rng, region, 9)
        x = region.lower + torch.tensor(rng.random((3000, 3))) * (region.upper - region.lower)
        values = plan.forward(x)
        flat = torch.cat([values[z] for z in neurons.nodes], 1)
        low, high = contraction(neurons.lower.expand(9, -1), neurons.upper.expand(9, -1), rows, level)
        assert bool((low >= neurons.lower).all()) and bool((high <= neurons.upper).all())
        for k in range(9):
            unsafe = flat[x @ rows[k] + level[k] <= 0]
            room = 1e-13 * (1 + unsafe.abs())
            assert bool((unsafe >= low[k] - room).all() and (unsafe <= high[k] + room).all())


def test_as_tight_as_linear_programs() -> None:
    compared = 0
    for seed in range(6):
        _, region, neurons, contraction = started(chain, seed)
        rng = np.random.default_rng(seed)
        rows, level, _ = constraints(rng, region, 5)
        open_ = torch.full((5, neurons.lower.shape[1]), torch.inf, dtype=torch.float64)
        low, high = contraction(-open_, open_, rows, level)
        found = torch.cat([low, -high], 1).numpy()
        box = list(zip(region.lower[0].tolist(), region.upper[0].tolist(), strict=True))
        for k in range(5):
            for m, (form, start) in enumerate(zip(contraction.forms, contraction.starts, strict=True)):
                plain = linprog(form, bounds=box).fun + start
                best = linprog(form, A_ub=[rows[k].numpy()], b_ub=[-float(level[k])], bounds=box).fun + start
                spread = 2 * contraction.spreads[m]
                assert found[k, m] <= best + 1e-9 * (1 + abs(best))
                if best > plain + 1e-6 * spread:  # the constraint matters here
                    assert found[k, m] >= best - 0.02 * spread
                    compared += 1
    assert compared > 300


def test_nothing_is_left_where_the_constraint_cannot_hold() -> None:
    for seed in range(5):
        _, region, neurons, contraction = started(curved, seed)
        rows, *_ = constraints(np.random.default_rng(seed), region, 4)
        least = (rows.clamp(min=0) * region.lower + rows.clamp(max=0) * region.upper).sum(1)
        spread = rows.abs() @ (region.upper - region.lower)[0]
        low, high = contraction(neurons.lower.expand(4, -1), neurons.upper.expand(4, -1), rows, -least + 0.2 * spread)
        assert bool((low > high).any(1).all())
        low, high = contraction(neurons.lower.expand(4, -1), neurons.upper.expand(4, -1), rows, -least - 0.2 * spread)
        assert not bool((low > high).any())


@pytest.mark.parametrize(("row", "level"), [(0.0, 0.0), (0.0, -1.0), (np.nan, 0.0), (1.0, np.nan), (1.0, -np.inf), (np.inf, 0.0)])
def test_what_says_nothing_changes_nothing(row: float, level: float) -> None:
    _, _, neurons, contraction = started(chain, 0)
    rows, levels = torch.full((1, 3), row, dtype=torch.float64), torch.tensor([level], dtype=torch.float64)
    low, high = contraction(neurons.lower, neurons.upper, rows, levels)
    assert torch.equal(low, neurons.lower) and torch.equal(high, neurons.upper)


def test_constraints_that_leave_much_of_many_inputs_are_left_out() -> None:
    """What they would gain is small; what does not change is sound."""
    rng, size, count = np.random.default_rng(0), 64, 200
    half = np.full(size, 0.5)
    contraction = Contraction(rng.normal(size=(count, size)), np.zeros(count), half, half)
    region = Region(torch.zeros((1, size)).double(), torch.ones((1, size)).double())
    rows, level, share = constraints(rng, region, 40)
    infinite = torch.full((40, count // 2), torch.inf, dtype=torch.float64)
    low, high = contraction(-infinite, infinite, rows, level)
    known = torch.isfinite(low).any(1) | torch.isfinite(high).any(1)
    assert known[share < 0.44].all() and not known[share > 0.46].any()
    for k in np.nonzero(share > 0.46)[0][:3]:
        for form in contraction.forms[:20]:
            best = linprog(form, A_ub=[rows[k].numpy()], b_ub=[-float(level[k])], bounds=[(0, 1)] * size).fun
            assert best - np.minimum(form, 0).sum() <= 0.05 * abs(form).sum()


def test_large_forms_are_not_kept() -> None:
    plan, region, neurons, _ = started(chain, 0)
    wide = Region(torch.zeros((1, 6_000_000), dtype=torch.float64), torch.ones((1, 6_000_000), dtype=torch.float64))
    assert Contraction.of(plan, wide, bound_nodes(plan, region), neurons.nodes) is None
