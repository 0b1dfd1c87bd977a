"""Optimised slopes and multipliers: never worse than the start, gradients equal finite differences, every result is sound."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ascertain.certify.bounds import bound_nodes
from ascertain.certify.linear import Swept, backward
from ascertain.certify.optimize import Multipliers, optimize, selected_values
from ascertain.certify.plan import Plan
from ascertain.certify.region import Region
from ascertain.errors import ResourceError
from tests.certify.engine import KINDS, compiled, graph_of, region, sample


def setup(kind: str, seed: int, batch: int = 1, p: float | None = None) -> tuple[Plan, Region, dict, torch.Tensor, Multipliers]:
    """Random rows, slopes, signs and multipliers on a random network."""
    rng = np.random.default_rng(seed)
    plan = compiled(graph_of(kind, seed))
    where = region(rng, plan.steps[plan.input].size, batch, 1.0, p)
    lines = bound_nodes(plan, where, back=False).lines
    rows = torch.tensor(rng.normal(size=(1, 3, plan.steps[plan.output].size)))
    m = Multipliers.start(plan, lines, plan.output, batch, 3)
    for k, a in m.alpha.items():
        a.copy_(torch.tensor(rng.uniform(0.1, 0.9, a.shape)))
        m.signs[k] = torch.tensor(rng.integers(-1, 2, (batch, 1, a.shape[-1]))).double()
        m.beta[k] = torch.tensor(rng.exponential(0.2, a.shape)) * (m.signs[k] != 0)
    return plan, where, lines, rows, m


def lower(plan: Plan, where: Region, lines: dict, rows: torch.Tensor, m: Multipliers, keep: bool = False) -> Swept:
    return backward(plan, where, m.applied(lines), plan.output, rows, shift=m.shift(), keep=keep)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("p", [None, 2.0])
def test_gradients_equal_finite_differences(kind: str, p: float | None) -> None:
    plan, where, lines, rows, m = setup(kind, 3, p=p)
    if p is not None:  # far inside its box, so that the ball alone decides
        where = Region(where.lower - 10, where.upper + 10, where.ball)
    swept = lower(plan, where, lines, rows, m, keep=True)
    values = selected_values(plan, m.applied(lines), swept, plan.output, where.minimiser(swept.rows))
    rng, step, checked = np.random.default_rng(0), 1e-7, 0
    for k in m.alpha:
        gradients = {"alpha": swept.kept[k].clamp(min=0) * values[k], "beta": -m.signs[k] * values[k]}
        for name, slot in (("alpha", m.alpha[k]), ("beta", m.beta[k])):
            for _ in range(6):
                s, i = int(rng.integers(3)), int(rng.integers(slot.shape[-1]))
                if name == "beta" and m.signs[k][0, 0, i] == 0:
                    continue
                before = float(slot[0, s, i])
                slot[0, s, i] = before + step
                up = float(lower(plan, where, lines, rows, m).lower[0, s])
                slot[0, s, i] = before - step
                down = float(lower(plan, where, lines, rows, m).lower[0, s])
                slot[0, s, i] = before
                assert (up - down) / (2 * step) == pytest.approx(float(gradients[name][0, s, i]), rel=1e-4, abs=1e-5)
                checked += 1
    assert checked > 10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("batch", "p"), [(1, None), (3, None), (1, 1.0), (1, 2.0)])
def test_never_worse_than_the_start_and_reproduced_by_its_multipliers(kind: str, batch: int, p: float | None) -> None:
    for seed in range(1 if kind == "convolutional" else 3):
        plan, where, lines, rows, m = setup(kind, seed, batch, p)
        first = lower(plan, where, lines, rows, m).lower
        swept, best = optimize(plan, where, lines, plan.output, rows, m, steps=15)
        assert bool((swept.lower >= first).all())
        torch.testing.assert_close(lower(plan, where, lines, rows, best).lower, swept.lower)
        for k in best.alpha:
            assert bool(((best.alpha[k] >= 0) & (best.alpha[k] <= 1) & (best.beta[k] >= 0)).all())
            assert not bool((best.beta[k] * (best.signs[k] == 0)).any())


@pytest.mark.parametrize("seed", range(5))
def test_better_and_sound_without_splits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    plan, where, lines, rows, _ = setup("residual", seed)
    start = Multipliers.start(plan, lines, plan.output, 1, 3)
    first = lower(plan, where, lines, rows, start).lower
    swept, _ = optimize(plan, where, lines, plan.output, rows, start, steps=40)
    assert bool((swept.lower >= first).all())
    assert seed or float((swept.lower - first).max()) > 1e-3
    values = plan.forward(sample(where, rng, 500)[0])[plan.output] @ rows[0].T
    assert bool((swept.lower[0] <= values.amin(0) + 1e-9).all())


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
    first = lower(plan, where, lines, rows, m).lower
    swept, _ = optimize(plan, where, lines, plan.output, rows, m, steps=0)
    assert torch.equal(swept.lower, first)
    with pytest.raises(ValueError):
        optimize(plan, where, lines, plan.output, rows, m, steps=-1)
