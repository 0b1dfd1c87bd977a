"""Optimised slopes and multipliers: never worse than the start, gradients equal finite differences, every result is sound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ascertain.certify.bounds import bound_nodes
from ascertain.certify.linear import Swept, backward
from ascertain.certify.optimize import Multipliers, Splits, optimize, selected_values
from ascertain.certify.plan import Plan
from ascertain.certify.region import Region
from ascertain.errors import ResourceError
from tests.certify.engine import KINDS, SMOOTH, compiled, graph_of, region, sample


def setup(kind: str, seed: int, batch: int = 1, p: float | None = None) -> tuple[Plan, Region, dict, torch.Tensor, Multipliers]:
    """Random rows, parameters, cuts and multipliers on a random network; some neurons are cut twice, some cuts are void."""
    rng = np.random.default_rng(seed)
    plan = compiled(graph_of(kind, seed))
    where = region(rng, plan.steps[plan.input].size, batch, 1.0, p)
    bounded = bound_nodes(plan, where, back=False)
    rows = torch.tensor(rng.normal(size=(1, 3, plan.steps[plan.output].size)))
    m = Multipliers.start(plan, bounded.lines, plan.output, batch, 3)
    for a in m.alpha.values():
        a.copy_(torch.tensor(rng.uniform(0.1, 0.9, a.shape)))
    nodes = tuple(sorted({z for k in plan.nonlinear for z in plan.steps[k].inputs}))
    sizes = tuple(plan.steps[z].size for z in nodes)
    low, high = (torch.cat([bounded.boxes[z][i].expand(batch, -1) for z in nodes], 1) for i in (0, 1))
    index = torch.tensor(rng.integers(sum(sizes), size=(batch, 12)))
    point = (low + (high - low) * torch.tensor(rng.random(low.shape))).gather(1, index)
    sign = torch.tensor(rng.integers(-1, 2, index.shape)).double()
    m.splits = Splits(nodes, sizes, index, sign, point)
    m.beta = torch.tensor(rng.exponential(0.2, (batch, 3, 12))) * (sign != 0).unsqueeze(1)
    return plan, where, bounded.lines, rows, m


def swept(plan: Plan, where: Region, lines: dict, rows: torch.Tensor, m: Multipliers) -> Swept:
    found = backward(plan, where, m.applied(lines), plan.output, rows, shift=m.shift(), keep=True)
    return replace(found, lower=found.lower + m.level())


def lower(plan: Plan, where: Region, lines: dict, rows: torch.Tensor, m: Multipliers) -> torch.Tensor:
    return swept(plan, where, lines, rows, m).lower


@pytest.mark.parametrize("kind", [*KINDS, *SMOOTH])
@pytest.mark.parametrize("p", [None, 2.0])
def test_gradients_equal_finite_differences(kind: str, p: float | None) -> None:
    plan, where, lines, rows, m = setup(kind, 3, p=p)
    assert m.beta is not None and m.splits is not None
    if p is not None:  # far inside its box, so that the ball alone decides
        where = Region(where.lower - 10, where.upper + 10, where.ball)
    found = swept(plan, where, lines, rows, m)
    values = selected_values(plan, found, plan.output, where.minimiser(found.rows), m.splits.nodes)
    gradients = {(-1, "beta"): m.splits.gradient(values, m.beta.shape)}
    for k, a in found.kept.items():
        own = found.lines[k].gradients(a, [values[z] for z in plan.steps[k].inputs])
        gradients |= {(k, name): own[name] for name in own}
    rng, step, checked = np.random.default_rng(0), 1e-6, 0
    for key, slot in (*m.alpha.items(), ((-1, "beta"), m.beta)):
        for _ in range(12):
            s, i = int(rng.integers(3)), int(rng.integers(slot.shape[-1]))
            if key[0] < 0 and m.splits.sign[0, i] == 0:
                continue
            before = float(slot[0, s, i])
            slot[0, s, i] = before + step
            up = float(lower(plan, where, lines, rows, m)[0, s])
            slot[0, s, i] = before - step
            down = float(lower(plan, where, lines, rows, m)[0, s])
            slot[0, s, i] = before
            assert (up - down) / (2 * step) == pytest.approx(float(gradients[key][0, s, i]), rel=1e-4, abs=1e-5), (key, s, i)
            checked += 1
    assert checked > 10


@pytest.mark.parametrize("kind", [*KINDS, *SMOOTH])
@pytest.mark.parametrize(("batch", "p"), [(1, None), (3, None), (1, 1.0), (1, 2.0)])
def test_never_worse_than_the_start_and_reproduced_by_its_multipliers(kind: str, batch: int, p: float | None) -> None:
    for seed in range(1 if kind == "convolutional" else 3):
        plan, where, lines, rows, m = setup(kind, seed, batch, p)
        first = lower(plan, where, lines, rows, m)
        found, best = optimize(plan, where, lines, plan.output, rows, m, steps=15)
        assert bool((found.lower >= first).all())
        torch.testing.assert_close(lower(plan, where, lines, rows, best), found.lower)
        assert all(bool(((a >= 0) & (a <= 1)).all()) for a in best.alpha.values())
        assert best.beta is not None and best.splits is not None and bool((best.beta >= 0).all())
        assert not bool((best.beta * (best.splits.sign == 0).unsqueeze(1)).any())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["residual", *SMOOTH])
def test_better_and_sound_without_splits(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    plan, where, lines, rows, _ = setup(kind, seed)
    start = Multipliers.start(plan, lines, plan.output, 1, 3)
    first = lower(plan, where, lines, rows, start)
    found, _ = optimize(plan, where, lines, plan.output, rows, start, steps=40)
    assert bool((found.lower >= first).all())
    assert seed or float((found.lower - first).max()) > 1e-3
    values = plan.forward(sample(where, rng, 500)[0])[plan.output] @ rows[0].T
    assert bool((found.lower[0] <= values.amin(0) + 1e-9).all())


def test_enough_and_check_end_early() -> None:
    plan, where, lines, rows, m = setup("chain", 1)
    calls: list[int] = []
    optimize(plan, where, lines, plan.output, rows, m, steps=30, enough=torch.full((1, 3), -1e9), check=lambda: calls.append(1))
    assert len(calls) == 1

    def stop() -> None:
        raise ResourceError("interrupted")

    with pytest.raises(ResourceError):
        optimize(plan, where, lines, plan.output, rows, m, steps=30, check=stop)


def test_no_steps_is_one_pass() -> None:
    plan, where, lines, rows, m = setup("residual", 1)
    first = lower(plan, where, lines, rows, m)
    found, _ = optimize(plan, where, lines, plan.output, rows, m, steps=0)
    assert torch.equal(found.lower, first)
    with pytest.raises(ValueError):
        optimize(plan, where, lines, plan.output, rows, m, steps=-1)
