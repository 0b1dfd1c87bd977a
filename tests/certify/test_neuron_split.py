"""The search over neuron signs agrees with exact programs; its leaves cover the tree and prove themselves again."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

import ascertain
from ascertain.certify import deep, strategy
from ascertain.certify.bounds import Bounded, bound_nodes
from ascertain.certify.dense import DenseForm, dense_form
from ascertain.certify.falsify import stack_atoms
from ascertain.certify.linear import backward, charges, relax
from ascertain.certify.milp import minimum_margin
from ascertain.certify.optimize import Multipliers
from ascertain.certify.plan import Plan
from ascertain.certify.reduce import Reduced
from ascertain.certify.region import Region
from ascertain.certify.search.neuron_split import Leaf, NeuronSearch
from ascertain.graph import lower
from ascertain.graph.graph import Graph
from ascertain.properties.property import Atoms, Case, Property
from ascertain.properties.sets import Box
from tests.certify.engine import KINDS, chain, graph_of
from tests.certify.random_networks import CLOSE, compare_with_reference, comparisons, random_box, random_graph


def started(graph: Graph, case: Case, **options: object) -> NeuronSearch:
    """A search on a whole network, whose witnesses are points that the compiled plan finds unsafe."""
    plan, fast = Plan.compile(graph, torch.float64), Plan.compile(graph, torch.float32)
    box = case.set.box()
    where = Region(torch.tensor(box.lower).unsqueeze(0), torch.tensor(box.upper).unsqueeze(0))
    rows, limits = stack_atoms(case.unsafe, torch.float64, plan.device)

    def confirm(points: torch.Tensor) -> bool:
        x = np.clip(points.double().numpy(), box.lower, box.upper)
        y = plan.forward(torch.tensor(x))[plan.output].numpy()
        return any(a.hold(p, v) for p, v in zip(x, y, strict=True) for a in case.unsafe)

    return NeuronSearch(plan, fast, where, bound_nodes(plan, where), rows, limits, confirm, time.monotonic() + 60, **options)  # type: ignore[arg-type]


def near_case(rng: np.random.Generator, graph: Graph, box: Box, shift: float) -> Case:
    """Two conjunctions whose limits lie ``shift`` spreads below the smallest sampled margin."""
    y = graph(box.sample(rng, 500).reshape(-1, *graph.input_shape)).reshape(500, -1)
    unsafe = []
    for count in (1, 2):
        matrix = np.round(rng.normal(size=(count, y.shape[1])), 2)
        values = y @ matrix.T
        spread = values.max(0) - values.min(0) + 1e-3
        unsafe.append(Atoms(matrix, values[np.argmin(values.max(1))] - shift * spread))
    return Case(box, tuple(unsafe))


def forced(monkeypatch: pytest.MonkeyPatch, *, neurons: bool, whole: bool = False) -> None:
    """Everything through the batched engine: also small networks, few inputs; ``whole``: without reducing them first."""
    monkeypatch.setattr(strategy.Job, "_dense", lambda self, network: None)
    if neurons:
        monkeypatch.setattr(deep, "FEW_INPUTS", -1)
    if whole:
        monkeypatch.setattr(deep, "reduce_plan", lambda *args, **options: None)


@pytest.mark.parametrize("seed", comparisons())
@pytest.mark.parametrize("way", ["default", "inputs", "neurons"])
def test_random_networks_agree_with_mixed_integer_programs(way: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if way != "default":
        forced(monkeypatch, neurons=way == "neurons")

    def decide(form: DenseForm, case: Case) -> str:
        graph = random_graph(np.random.default_rng(seed))
        tie = abs(minimum_margin(form, case)[0]) <= CLOSE  # nothing is expected, and a search could go on for ever
        return str(ascertain.verify(graph, Property((case,)), threads=1, timeout=1 if tie else 60).status)

    compare_with_reference(decide, seed)


@pytest.mark.parametrize("seed", range(40))
def test_neuron_signs_alone_are_never_wrong(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the whole network and without linear programs at the end, where ``exhausted`` is a fair answer."""
    forced(monkeypatch, neurons=True, whole=True)

    def decide(form: DenseForm, case: Case) -> str:
        graph = random_graph(np.random.default_rng(seed))
        verdict = ascertain.verify(graph, Property((case,)), threads=1)
        if verdict.status == "unknown":
            assert verdict.reason.startswith("exhausted")
            margin, _ = minimum_margin(form, case)
            return "violated" if margin <= 0 else "holds"
        return str(verdict.status)

    compare_with_reference(decide, seed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("neurons", [False, True])
def test_networks_of_all_kinds_agree_with_mixed_integer_programs(kind: str, neurons: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    forced(monkeypatch, neurons=neurons)
    seen = set()
    for seed in range(4):
        rng = np.random.default_rng(seed)
        graph = graph_of(kind, seed)
        center = rng.normal(size=graph.input_size)
        radius = (0.5 if kind != "convolutional" else 0.3) * rng.random(graph.input_size)
        case = near_case(rng, graph, Box(center - radius, center + radius), [-0.3, 0.02, 0.3, 2.0][seed])
        form = dense_form(lower(graph))
        assert form is not None
        margin, _ = minimum_margin(form, case)
        verdict = ascertain.verify(graph, Property((case,)), threads=1, timeout=60)
        if abs(margin) > CLOSE:
            assert verdict.status == ("violated" if margin <= 0 else "holds"), f"seed {seed}, margin {margin}: {verdict}"
        seen.add(str(verdict.status))
    assert seen == {"holds", "violated"}


# Leaves


def proves_itself(search: NeuronSearch, bounded: Bounded, leaf: Leaf) -> float:
    """The margin of a leaf from its own signs, slopes and multipliers, on the root's bounds."""
    plan, where = search.exact, search.region
    signs = torch.tensor(leaf.signs).unsqueeze(0)
    sizes = [plan.steps[k].size for k in plan.nonlinear]
    parts = zip(plan.nonlinear, signs.split(sizes, 1), torch.tensor(leaf.alpha).double().split(sizes, 1), strict=True)
    betas = torch.tensor(leaf.beta).double().split(sizes)
    lines, m = {}, Multipliers({}, {}, {})
    for (k, sign, alpha), beta in zip(parts, betas, strict=True):
        low, high = bounded.boxes[plan.steps[k].inputs[0]]
        low, high = torch.where(sign > 0, low.clamp(min=0), low), torch.where(sign < 0, high.clamp(max=0), high)
        lines[k] = relax(plan.steps[k], low, high, plan.rounding.unit)
        crossing = (low < 0) & (high > 0)
        m.alpha[k] = torch.where(crossing, alpha, lines[k].lower_slope[0]).unsqueeze(0)
        m.beta[k], m.signs[k] = beta.reshape(1, 1, -1), sign.double().unsqueeze(0)
    charge = charges(plan, where, bounded.boxes, plan.output)
    rows = search.rows[leaf.conjunction].unsqueeze(0)
    swept = backward(plan, where, m.applied(lines), plan.output, rows, charge=charge, shift=m.shift())
    return float((swept.lower[0] - search.limits[leaf.conjunction]).max())


def test_leaves_cover_the_tree_and_prove_themselves() -> None:
    deepest = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        graph = lower(chain(rng, (3, 6, 4, 2)))
        case = near_case(rng, graph, random_box(rng, 3), 0.1)
        leaves: list[Leaf] = []
        search = started(graph, case, leaves=leaves.append)
        if search.run().status != "holds":
            continue
        for c in range(len(case.unsafe)):
            mine = [leaf for leaf in leaves if leaf.conjunction == c]
            assert sum(2.0 ** -np.count_nonzero(leaf.signs) for leaf in mine) == 1.0
            for i, a in enumerate(mine):
                assert proves_itself(search, search.bounded, a) > 0
                # two leaves differ in the sign of some neuron that both have split
                assert all((a.signs * b.signs < 0).any() for b in mine[:i])
                deepest = max(deepest, int(np.count_nonzero(a.signs)))
    assert deepest >= 3


def test_limits_end_the_search_with_a_reason() -> None:
    rng = np.random.default_rng(1)
    graph = lower(chain(rng, (3, 20, 20, 2)))
    case = near_case(rng, graph, Box(-2 * np.ones(3), 2 * np.ones(3)), 0.02)
    late, stopped = started(graph, case), started(graph, case, stop=lambda: True)
    late.deadline = time.monotonic() - 1
    late.confirm = stopped.confirm = lambda points: False
    assert (found := late.run()).status == "unknown" and found.reason == "timeout"
    assert (found := stopped.run()).status == "unknown" and found.reason == "interrupted"


def test_nobody_confirms_a_witness() -> None:
    """Without a confirmed witness a violated case ends unknown: every neuron is split."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        graph = lower(chain(rng, (2, 4, 2)))
        case = near_case(rng, graph, random_box(rng, 2), -0.5)
        search = started(graph, case)
        search.confirm = lambda points: False
        found = search.run()
        assert found.status == "unknown" and found.reason.startswith("exhausted")


def test_networks_without_neurons() -> None:
    rng = np.random.default_rng(0)
    graph = lower(chain(rng, (3, 2)))
    box = Box(-np.ones(3), np.ones(3))
    assert started(graph, near_case(rng, graph, box, 5.0)).run().status == "holds"
    assert started(graph, near_case(rng, graph, box, -0.5)).run().status == "violated"


def test_reduced_networks_are_what_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the other tests: forcing reaches the reduction and the search over signs."""
    forced(monkeypatch, neurons=True)
    seen: list[Reduced | None] = []
    true = deep.reduce_plan
    monkeypatch.setattr(deep, "reduce_plan", lambda *a, **k: seen.append(true(*a, **k)) or seen[-1])
    ways = set()
    for seed in range(10):
        rng = np.random.default_rng(seed)
        graph = chain(rng, (3, 8, 8, 2))
        verdict = ascertain.verify(graph, Property((near_case(rng, graph, random_box(rng, 3), 0.05),)), threads=1)
        ways.add(verdict.strategy)
    assert any(r is not None for r in seen) and any("neuron split" in w for w in ways)
