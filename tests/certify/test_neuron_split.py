"""The search over neuron signs agrees with exact programs; its leaves cover the tree and prove themselves again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import ascertain
from ascertain.certify import deep, strategy
from ascertain.certify.bounds import bound_nodes
from ascertain.certify.dense import DenseForm, dense_form
from ascertain.certify.falsify import stack_atoms
from ascertain.certify.linear import backward, charges
from ascertain.certify.milp import minimum_margin
from ascertain.certify.plan import Plan
from ascertain.certify.reduce import Reduced
from ascertain.certify.region import Region
from ascertain.certify.relaxations import relax
from ascertain.certify.search.neuron_split import NeuronSearch, _rounded
from ascertain.errors import ResourceError
from ascertain.graph import lower
from ascertain.graph.graph import Graph
from ascertain.properties.property import Atoms, Case, Property
from ascertain.properties.sets import Box
from tests.certify.engine import KINDS, chain, curved, graph_of, sample
from tests.certify.random_networks import CLOSE, compare_with_reference, comparisons, random_box, random_graph


def started(graph: Graph, case: Case, kind: type[NeuronSearch] = NeuronSearch, **options: object) -> NeuronSearch:
    """A search on a whole network, whose witnesses are points that the compiled plan finds unsafe."""
    plan, fast = Plan.compile(graph, torch.float64), Plan.compile(graph, torch.float32)
    box = case.set.box()
    where = Region(torch.tensor(box.lower).unsqueeze(0), torch.tensor(box.upper).unsqueeze(0))
    rows, limits = stack_atoms(case.unsafe, torch.float64, plan.device)

    def confirm(points: torch.Tensor) -> bool:
        x = np.clip(points.double().numpy(), box.lower, box.upper)
        y = plan.forward(torch.tensor(x))[plan.output].numpy()
        return any(a.hold(p, v) for p, v in zip(x, y, strict=True) for a in case.unsafe)

    return kind(plan, fast, where, bound_nodes(plan, where), rows, limits, confirm, **options)  # type: ignore[arg-type]


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


# The tree


def until(seconds: float) -> Callable[[], None]:
    """A check that ends a search."""
    deadline = time.monotonic() + seconds

    def check() -> None:
        if time.monotonic() > deadline:
            raise ResourceError("timeout")

    return check


class Recorded(NeuronSearch):
    """A search that keeps the domains it closed, one by one, as it saw them when it did."""

    def _settle(self, batch: Any, margins: torch.Tensor) -> None:
        for i in torch.nonzero(margins > 0).flatten():
            self.__dict__.setdefault("leaves", []).append(batch.select(i.unsqueeze(0)))
        super()._settle(batch, margins)


def where_cut(search: NeuronSearch, leaf: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Bounds (N,) of every neuron in a domain: its cuts one after the other."""
    low, high = search.neurons.lower[0].clone(), search.neurons.upper[0].clone()
    for i, sign, point in zip(leaf.index[0].tolist(), leaf.sign[0].tolist(), leaf.point[0].tolist(), strict=True):
        if sign > 0:
            low[i] = max(float(low[i]), point)
        elif sign < 0:
            high[i] = min(float(high[i]), point)
    return low, high


def proves_itself(search: NeuronSearch, leaf: Any) -> float:
    """The margin of a domain of a rectifier network from its own cuts, slopes and multipliers, on the root's bounds."""
    plan, n = search.exact, search.neurons
    low, high = where_cut(search, leaf) if leaf.box is None else (leaf.box[0][0], leaf.box[1][0])
    if bool((low > high).any()):
        return float((low - high).max())  # nothing unsafe is there
    lines, shift, level = {}, {}, torch.zeros(search.count, dtype=torch.float64)
    alpha = dict(zip([k for k, *_ in n.free], leaf.alpha[0].double().split([size for *_, size in n.free], 1), strict=True))
    for k in plan.nonlinear:
        z = plan.steps[k].inputs[0]
        own_low, own_high = low[n.place[z]], high[n.place[z]]
        line = relax(plan.steps[k], [(own_low[None], own_high[None])], plan.rounding.unit)
        free = (own_low < 0) & (own_high > 0) & ~torch.isnan(alpha[k])
        lines[k] = line.adjusted({"below": torch.where(free, alpha[k], line.parameters()["below"][0])[None]})
        shift[z] = torch.zeros((1, search.count, plan.steps[z].size), dtype=torch.float64)
        for i, sign, point, beta in zip(*(c[0].tolist() for c in (leaf.index, leaf.sign, leaf.point, leaf.beta)), strict=True):
            if n.place[z].start <= i < n.place[z].stop:
                assert beta >= 0
                shift[z][0, :, i - n.place[z].start] -= sign * beta
                level += sign * beta * point
    charge = charges(plan, search.region, search.bounded.boxes, search.bounded.lines, plan.output)
    rows = search.rows[leaf.conjunction]
    swept = backward(plan, search.region, lines, plan.output, rows, charge=charge, shift=shift)
    return float((swept.lower[0] + level - search.limits[leaf.conjunction[0]]).max())


def closed(graph: Graph, case: Case, contract: bool) -> tuple[NeuronSearch, list[Any]] | None:
    """A search that ended with holds, and its leaves; None where it ended otherwise."""
    search = started(graph, case, kind=Recorded, check=until(3))
    search.contraction = search.contraction if contract else None
    return (search, search.__dict__["leaves"]) if search.run().status == "holds" else None


def assert_cover(search: NeuronSearch, mine: list[Any]) -> int:
    """Shares sum up to the whole, and any two leaves lie on two sides of one point of one neuron. Returns the greatest depth."""
    assert sum(float(leaf.share) for leaf in mine) * len(search.rows) == 1.0
    boxes = [where_cut(search, leaf) for leaf in mine]
    for i, (low, high) in enumerate(boxes):
        assert all(bool(((high <= other_low) | (other_high <= low)).any()) for other_low, other_high in boxes[:i])
    return max(int((leaf.sign != 0).sum()) for leaf in mine)


@pytest.mark.parametrize("contract", [False, True])
def test_leaves_cover_the_tree_and_prove_themselves(contract: bool) -> None:
    deepest = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        graph = lower(chain(rng, (3, 6, 4, 2)))
        found = closed(graph, near_case(rng, graph, random_box(rng, 3), 0.1), contract)
        if found is None:
            continue
        search, leaves = found
        for c in range(len(search.rows)):
            mine = [leaf for leaf in leaves if int(leaf.conjunction) == c]
            deepest = max(deepest, assert_cover(search, mine))
            assert all(proves_itself(search, leaf) > 0 for leaf in mine)
    assert deepest >= (2 if contract else 3)


@pytest.mark.parametrize("contract", [False, True])
def test_leaves_of_curved_networks_cover_the_tree_and_hold_no_witness(contract: bool) -> None:
    """Where cuts lie anywhere: in the part of the input set that a leaf stands for, no sampled point is unsafe."""
    deepest = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        graph, center = lower(curved(rng)), rng.normal(size=3)
        found = closed(graph, near_case(rng, graph, Box(center - 0.5, center + 0.5), 0.3), contract)
        if found is None:
            continue
        search, leaves = found
        values = search.exact.forward(sample(search.region, rng, 4000)[0])
        flat = torch.cat([values[z] for z in search.neurons.nodes], 1)
        margins = (values[search.exact.output] @ search.rows.transpose(1, 2) - search.limits.unsqueeze(1)).amax(2)
        for c in range(len(search.rows)):
            mine = [leaf for leaf in leaves if int(leaf.conjunction) == c]
            deepest = max(deepest, assert_cover(search, mine))
            count = torch.zeros(len(flat))
            for leaf in mine:
                low, high = where_cut(search, leaf)
                inside = ((flat >= low) & (flat <= high)).all(1)
                count += inside
                assert bool((margins[c, inside] > 0).all())
            assert bool((count >= 1).all()), "a point of the input set lies in no leaf"
    assert deepest >= (2 if contract else 3)


def test_stored_boxes_are_rounded_outward() -> None:
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(4, 2000)) * 10.0 ** rng.integers(-320, 300, size=(4, 2000))
    numbers[:, :4] = 0.0, np.inf, -np.inf, 2.5
    box = torch.tensor(numbers), torch.tensor(numbers[:, ::-1].copy())
    low, high = _rounded(box)
    assert low.dtype == high.dtype == torch.float32
    assert bool((low.double() <= box[0]).all()) and bool((high.double() >= box[1]).all())
    assert bool((low[:, [0, 2, 3]].double() == box[0][:, [0, 2, 3]]).all()), "what single precision can say stays"
    usual = (box[0].abs() > 1e-37) & (box[0].abs() < 1e38)
    assert bool(((box[0] - low.double())[usual] <= 2**-23 * box[0].abs()[usual]).all())


@pytest.mark.parametrize("make", [chain, curved])
def test_children_share_their_parent(make: Callable[[np.random.Generator], Graph]) -> None:
    """The child below keeps what is below the point and the one above the rest; the same neuron may be cut again and again."""
    rng = np.random.default_rng(0)
    graph = lower(make(rng))
    search = started(graph, near_case(rng, graph, Box(-np.ones(3), np.ones(3)), 0.1))
    seen: list[Any] = []
    search._settle = lambda batch, margins: seen.append(batch)  # type: ignore[method-assign]
    search.run(0)
    batch = seen[0]  # the root
    for _ in range(6):
        low, high = search.neurons.cut(batch.index, batch.sign, batch.point)
        wide = torch.nonzero(high[0] > low[0]).flatten()
        neuron = wide[torch.tensor(rng.integers(len(wide), size=len(batch)))]
        pick = torch.arange(len(batch))
        point = (low + (high - low) * 0.3)[pick, neuron]
        children = search._children(batch, neuron, point)
        new_low, new_high = search.neurons.cut(children.index, children.sign, children.point)
        assert torch.equal(new_low[0::2], low) and torch.equal(new_high[1::2], high)
        assert torch.equal(new_high[0::2][pick, neuron], point) and torch.equal(new_low[1::2][pick, neuron], point)
        others = torch.ones_like(low, dtype=torch.bool)
        others[pick, neuron] = False
        assert torch.equal(new_high[0::2][others], high[others]) and torch.equal(new_low[1::2][others], low[others])
        assert torch.equal(children.share[0::2] + children.share[1::2], batch.share)
        batch = children


def test_limits_end_the_search_with_a_reason() -> None:
    """Whenever a check ends the search, nothing of the input set is lost: what is closed and what is open sum up to the whole."""
    rng = np.random.default_rng(1)
    graph = lower(chain(rng, (3, 20, 20, 2)))
    case = near_case(rng, graph, Box(-2 * np.ones(3), 2 * np.ones(3)), 0.02)
    late = started(graph, case, check=until(-1))
    late.confirm = lambda points: False
    assert (found := late.run()).status == "unknown" and found.reason == "timeout"
    for calls in (1, 5, 50, 90, 130):
        left = [calls]

        def check(left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise ResourceError("interrupted")

        stopped = started(graph, case, check=check)
        stopped.confirm = lambda points: False
        found = stopped.run()
        assert found.status == "unknown" and found.reason == "interrupted"
        open_ = sum(float(d.batch.share[d.index]) for _, _, d in stopped.heap)
        assert open_ + stopped.closed == pytest.approx(1.0, abs=1e-12)


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
