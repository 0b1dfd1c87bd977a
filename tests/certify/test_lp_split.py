"""The search on linear programs: exact mixed-integer programs, replayed leaves, published instances."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from ascertain.certify.dense import DenseForm, dense_form
from ascertain.certify.linear_program import Dual, certified_bound
from ascertain.certify.milp import minimum_margin
from ascertain.certify.row_kernels import contract, tighten
from ascertain.certify.rows import conjunction_rows
from ascertain.certify.search.lp_split import Leaf, Outcome, Split, lp_split
from ascertain.graph import load, lower
from ascertain.properties import read_property
from ascertain.properties.property import Case
from ascertain.properties.sets import Polytope
from tests.certify.random_networks import compare_with_reference, comparisons, outputs, random_case, random_form


def search(form: DenseForm, case: Case, seconds: float = 30.0, **options) -> Outcome:
    def confirm(x: np.ndarray) -> bool:
        y = outputs(form, x[None])[0]
        return case.set.contains(x) and any(atoms.hold(x, y) for atoms in case.unsafe)

    return lp_split(form, case, deadline=time.monotonic() + seconds, confirm=confirm, **options)


@pytest.mark.parametrize("seed", comparisons())
def test_random_networks_agree_with_mixed_integer_programs(seed: int) -> None:
    compare_with_reference(lambda form, case: search(form, case).status, seed)


@pytest.mark.parametrize("seed", range(10))
def test_polytopes_of_inputs_agree_with_mixed_integer_programs(seed: int) -> None:
    rng = np.random.default_rng(1000 + seed)
    form = random_form(rng)
    whole = random_case(rng, form)
    row = rng.normal(size=(1, form.input_size))
    case = Case(Polytope(whole.set.box(), row, row @ whole.set.center()), whole.unsafe)
    margin, _ = minimum_margin(form, case)
    answer = search(form, case).status
    if abs(margin) > 1e-5:
        assert answer == ("violated" if margin <= 0 else "holds")


@pytest.mark.parametrize("seed", range(40))
def test_leaves_replay_and_cover(seed: int) -> None:
    """Replaying every trail from the input box closes every leaf again, and the leaves' signs form a full binary tree."""
    rng = np.random.default_rng(seed)
    form = random_form(rng)
    case = random_case(rng, form)
    leaves: list[Leaf] = []
    if search(form, case, leaves=leaves.append).status != "holds":
        return
    for k, atoms in enumerate(case.unsafe):
        rows = conjunction_rows(form, case.set, atoms)
        mine = [leaf for leaf in leaves if leaf.conjunction == k]
        assert sum(2.0 ** -sum(isinstance(s, Split) for s in leaf.trail) for leaf in mine) == 1.0
        for leaf in mine:
            lower, upper = rows.box(case.set.box().lower, case.set.box().upper)
            dirty = np.ones(len(rows.matrix.bias), dtype=bool)
            open_ = contract(rows.matrix, rows.inputs, lower, upper, dirty, 10**6) >= 0
            for step in leaf.trail:
                if isinstance(step, Split):
                    lower[step.index] = max(lower[step.index], step.point) if step.above else lower[step.index]
                    upper[step.index] = upper[step.index] if step.above else min(upper[step.index], step.point)
                else:
                    bound = certified_bound(rows, lower, upper, step)
                    tighten(rows.matrix, rows.inputs, lower, upper, bound.lower, bound.coefficient, bound.radius, dirty)
                dirty[:] = True
                open_ = open_ and contract(rows.matrix, rows.inputs, lower, upper, dirty, 10**6) >= 0
            assert not open_ or (isinstance(leaf.dual, Dual) and certified_bound(rows, lower, upper, leaf.dual).lower > 0)


def test_limits_end_the_search_with_a_reason() -> None:
    rng = np.random.default_rng(0)
    form = random_form(rng, 3)
    case = random_case(rng, form)
    late = search(form, case, seconds=-1.0)
    assert (late.status, late.reason) == ("unknown", "timeout")
    stopped = search(form, case, stop=lambda: True)
    assert (stopped.status, stopped.reason) == ("unknown", "interrupted")


def test_a_witness_that_nobody_confirms_is_not_claimed() -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        form = random_form(rng)
        case = random_case(rng, form)
        truth = search(form, case).status
        denied = lp_split(form, case, deadline=time.monotonic() + 30, confirm=lambda x: False)
        assert denied.status == ("holds" if truth == "holds" else "unknown")
        if truth != "holds":
            assert denied.reason.startswith("exhausted")


def test_progress_ends_with_everything_closed() -> None:
    rng = np.random.default_rng(4)
    form = random_form(rng, 2)
    case = random_case(rng, form)
    seen: list[float] = []
    outcome = search(form, case, progress=lambda stage, share, *_: seen.append(share))
    assert outcome.status != "holds" or seen[-1] == pytest.approx(1.0) == outcome.share
    assert all(0 <= s <= 1 for s in seen)


@pytest.mark.parametrize("name", ["sat_v40_c142", "unsat_v16_c39", "unsat_v46_c142", "sat_v100_c373"])
def test_published_satisfiability_instances(shared: Path, name: str) -> None:
    folder = shared / "vnncomp" / "2025_sat_relu"
    form = dense_form(lower(load(folder / "onnx" / f"{name}.onnx.gz")))
    assert form is not None
    prop = read_property(folder / "vnnlib" / f"{name}.vnnlib.gz")
    assert search(form, prop.cases[0], 60.0).status == ("holds" if name.startswith("unsat") else "violated")
