"""The public call: bad input, limits, every kind of set, case and property, and witnesses that stand a replay."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

import ascertain
from ascertain.certify import strategy
from ascertain.certify.dense import dense_form
from ascertain.certify.milp import minimum_margin
from ascertain.certify.result import Progress, Verdict, to_json
from ascertain.errors import AscertainError, DataError, ShapeError
from ascertain.evidence import Evidence
from ascertain.graph import lower
from ascertain.graph.graph import Builder, Graph
from ascertain.operators.affine import Dense
from ascertain.operators.piecewise import Relu
from ascertain.properties import Box, LpBall, Polytope, Property, equivalent, monotone, output_range, robust
from ascertain.properties.property import Atoms, Case
from tests.certify.engine import chain, graph_of
from tests.certify.random_networks import CLOSE, random_box, random_graph

ENGINES = pytest.mark.parametrize("batched", [False, True])


def engine(monkeypatch: pytest.MonkeyPatch, batched: bool) -> None:
    if batched:
        monkeypatch.setattr(strategy.Job, "_dense", lambda self, network: None)


def small(seed: int = 0) -> Graph:
    return chain(np.random.default_rng(seed), (3, 6, 5, 2))


def hard(batched: bool = False) -> tuple[Graph, Property]:
    """Far too much work for a second: a deep network, a wide box, limits between sampled values and proved bounds."""
    graph = chain(np.random.default_rng(5), (24, 60, 60, 60, 3))
    box = Box(-np.ones(24), np.ones(24))
    y = graph(box.sample(np.random.default_rng(0), 4000))
    return graph, output_range(box, upper=y.max(0) + 0.35 * (ascertain.bound(graph, box).upper - y.max(0)))


def sound(graph: Graph, prop: Property, verdict: Verdict) -> None:
    """A witness is in the set, its output is unsafe exactly, and it is what the graph computes."""
    if verdict.status == "violated":
        w = verdict.witness
        assert w is not None and verdict.evidence is Evidence.EXACT
        y = graph(w.input[None]).reshape(-1)
        np.testing.assert_array_equal(y, w.output)
        assert prop.cases[w.case].unsafe[w.conjunction].hold(w.input.reshape(-1).astype(float), y.astype(float))
        assert prop.cases[w.case].set.contains(w.input.reshape(-1).astype(float), 1e-6)
    else:
        assert verdict.witness is None


# Bad input


def test_weights_that_are_not_numbers() -> None:
    prop = output_range(Box(np.zeros(3), np.ones(3)), upper=[0.0, 0.0])
    for bad in (np.nan, np.inf):
        graph = small().convert(lambda a, bad=bad: np.where(a == a.max(), bad, a))
        with pytest.raises(DataError):
            ascertain.verify(graph, prop)
        with pytest.raises(DataError):
            ascertain.falsify(graph, prop)


def test_wrong_sizes_and_options() -> None:
    graph, prop = small(), output_range(Box(np.zeros(3), np.ones(3)), upper=[0.0, 0.0])
    with pytest.raises(ShapeError, match="4 inputs and 2 outputs"):
        ascertain.verify(graph, output_range(Box(np.zeros(4), np.ones(4)), upper=[0.0, 0.0]))
    with pytest.raises(ShapeError, match="3 outputs"):
        ascertain.verify(graph, output_range(Box(np.zeros(3), np.ones(3)), upper=[0.0, 0.0, 0.0]))
    for options in ({"timeout": 0}, {"timeout": float("nan")}, {"memory": 0}, {"memory": 2}, {"threads": 0}, {"device": "abacus"}):
        with pytest.raises(AscertainError):
            ascertain.verify(graph, prop, **options)  # type: ignore[arg-type]


@ENGINES
def test_overflow_is_never_a_proof(batched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights so large that bounds become infinite or not numbers; the property is false, so ``holds`` would be wrong."""
    engine(monkeypatch, batched)
    build = Builder()
    x = value = build.input((2,))
    for _ in range(12):
        value = build(Relu(), build(Dense(np.full((2, 2), 3e38), np.zeros(2)), value))
    graph = build.graph(x, build(Dense(np.array([[1.0, -1.0]])), value))
    prop = output_range(Box(-np.ones(2), np.ones(2)), lower=[1.0])
    try:
        verdict = ascertain.verify(graph, prop, timeout=10)
    except DataError:
        return
    assert verdict.status != "holds"


# Limits


@ENGINES
def test_a_tiny_timeout_is_unknown_quickly(batched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, prop = hard()
    engine(monkeypatch, batched)
    verdict = ascertain.verify(graph, prop, timeout=0.001)
    assert (verdict.status, verdict.reason, verdict.evidence) == ("unknown", "timeout", Evidence.ESTIMATED)


def test_a_search_ends_at_its_timeout() -> None:
    graph, prop = hard()
    verdict = ascertain.verify(graph, prop, timeout=3.0)
    assert (verdict.status, verdict.reason) == ("unknown", "timeout")


@ENGINES
def test_stop_interrupts(batched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, prop = hard()
    engine(monkeypatch, batched)
    verdict = ascertain.verify(graph, prop, stop=lambda: True)
    assert (verdict.status, verdict.reason) == ("unknown", "interrupted")


def test_stop_during_the_search() -> None:
    graph, prop = hard()
    started = time.monotonic()
    verdict = ascertain.verify(graph, prop, stop=lambda: time.monotonic() > started + 2.0)
    assert (verdict.status, verdict.reason) == ("unknown", "interrupted")


@ENGINES
def test_ctrl_c_is_a_clean_answer(batched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, prop = hard()
    engine(monkeypatch, batched)

    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    verdict = ascertain.verify(graph, prop, progress=interrupt)
    assert (verdict.status, verdict.reason) == ("unknown", "interrupted")
    assert 0 <= verdict.share < 1 and "interrupted" in str(verdict)


def python_full() -> None:
    raise MemoryError


def torch_full() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


def device_full() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize("full", [python_full, torch_full, device_full])
def test_no_memory_is_an_answer(full: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy.Job, "_solve", lambda *_: full())
    verdict = ascertain.verify(small(), output_range(Box(np.zeros(3), np.ones(3)), upper=[0.0, 0.0]))
    assert verdict.status == "unknown" and verdict.reason.startswith("memory")


def test_other_errors_are_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("sizes differ")

    monkeypatch.setattr(strategy.Job, "_solve", broken)
    with pytest.raises(RuntimeError, match="sizes differ"):
        ascertain.verify(small(), output_range(Box(np.zeros(3), np.ones(3)), upper=[0.0, 0.0]))


def test_progress_is_told() -> None:
    graph, prop = hard()
    seen: list[Progress] = []
    ascertain.verify(graph, prop, timeout=3.0, progress=seen.append)
    assert seen and all(0 <= p.share <= 1 and p.timeout == 3.0 for p in seen)
    assert [p.seconds for p in seen] == sorted(p.seconds for p in seen)


# Sets, cases and atoms


@ENGINES
@pytest.mark.parametrize("p", [1, 2, np.inf])
def test_balls(batched: bool, p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """At small radii the label holds, at large ones it does not; what is proved is not refuted by samples."""
    engine(monkeypatch, batched)
    graph, x = small(3), np.array([0.3, -0.2, 0.5])
    label = int(graph(x[None])[0].argmax())
    seen = []
    for eps in (1e-4, 1e-2, 0.1, 1.0, 20.0):
        prop = robust(x, eps, p, label=label, classes=2)
        verdict = ascertain.verify(graph, prop, timeout=10, threads=1)
        sound(graph, prop, verdict)
        if verdict.status == "holds":
            y = graph(prop.cases[0].set.sample(np.random.default_rng(0), 500))
            assert (y.argmax(1) == label).all()
        seen.append(str(verdict.status))
    assert seen[0] == "holds" and "violated" in seen and seen.index("violated") > len(seen) - 1 - seen[::-1].index("holds")


@ENGINES
@pytest.mark.parametrize("seed", range(8))
def test_polytopes_are_never_wrong(batched: bool, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    engine(monkeypatch, batched)
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    box = random_box(rng, graph.input_size)
    row = rng.normal(size=(1, graph.input_size))
    where = Polytope(box, row, row @ box.center())
    y = graph(where.sample(rng, 200))
    prop = output_range(where, upper=y.max(0) + rng.choice([-0.1, 0.3], size=y.shape[1]))
    form = dense_form(lower(graph))
    assert form is not None
    margin, _ = minimum_margin(form, prop.cases[0])
    verdict = ascertain.verify(graph, prop, timeout=10, threads=1)
    sound(graph, prop, verdict)
    if abs(margin) > CLOSE:
        assert verdict.status == ("violated" if margin <= 0 else "holds")


@ENGINES
@pytest.mark.parametrize("seed", range(8))
def test_atoms_on_inputs_and_outputs(batched: bool, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    engine(monkeypatch, batched)
    rng = np.random.default_rng(seed)
    graph = graph_of("chain", seed)
    box = random_box(rng, 3)
    matrix, inputs = rng.normal(size=(2, 2)), rng.normal(size=(2, 3))
    x = box.sample(rng, 300)
    values = graph(x) @ matrix.T + x @ inputs.T
    bound = values[values.max(1).argmin()] + rng.choice([-0.3, 0.1])
    prop = Property((Case(box, (Atoms(matrix, bound, input_matrix=inputs), Atoms(matrix, bound - 50))),))
    form = dense_form(graph)
    assert form is not None
    margin, _ = minimum_margin(form, prop.cases[0])
    verdict = ascertain.verify(graph, prop, timeout=20, threads=1)
    sound(graph, prop, verdict)
    if abs(margin) > CLOSE:
        assert verdict.status == ("violated" if margin <= 0 else "holds")


@ENGINES
def test_a_conjunction_without_atoms_is_always_unsafe(batched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    engine(monkeypatch, batched)
    prop = Property((Case(Box(np.zeros(3), np.ones(3)), (Atoms(np.zeros((0, 2)), np.zeros(0)),)),))
    verdict = ascertain.verify(small(), prop)
    assert verdict.status == "violated"
    sound(small(), prop, verdict)


@ENGINES
def test_several_cases(batched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    engine(monkeypatch, batched)
    graph = small()
    box = Box(np.zeros(3), np.ones(3))
    high = ascertain.bound(graph, box).upper
    safe = output_range(box, upper=high + 1).cases[0]
    bad = output_range(box, upper=graph(np.full((1, 3), 0.5))[0] - 0.01).cases[0]
    assert ascertain.verify(graph, Property((safe, safe))).status == "holds"
    verdict = ascertain.verify(graph, Property((safe, bad)))
    assert verdict.status == "violated" and verdict.witness is not None and verdict.witness.case == 1
    assert verdict.share == 0.5


@ENGINES
def test_a_box_that_is_a_point(batched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    engine(monkeypatch, batched)
    for seed in range(5):
        graph = small(seed)
        x = np.random.default_rng(seed).normal(size=3).astype(np.float32).astype(float)
        y = graph(x[None])[0]
        assert ascertain.verify(graph, output_range(Box(x, x), upper=y + 1e-3)).status == "holds"
        assert ascertain.verify(graph, output_range(Box(x, x), upper=y - 1e-3)).status == "violated"


# Builders


@ENGINES
def test_monotone(batched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    engine(monkeypatch, batched)
    build = Builder()
    x = build.input((2,))
    hidden = build(Relu(), build(Dense(np.array([[1.0, 0.5], [2.0, -1.0], [-1.0, 0.2]]), np.array([0.1, -0.2, 0.3])), x))
    graph = build.graph(x, build(Dense(np.array([[1.0, 0.5, -0.2]])), hidden))
    box = Box(-np.ones(2), np.ones(2))
    for index, increasing, expected in ((0, True, "holds"), (0, False, "violated"), (1, True, "violated")):
        product, prop = monotone(graph, box, index, 0, increasing, 1e-3)
        verdict = ascertain.verify(product, prop, timeout=20)
        assert verdict.status == expected, (index, increasing, str(verdict))
        sound(product, prop, verdict)


@ENGINES
def test_equivalent(batched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    engine(monkeypatch, batched)
    first = small(1)
    near = first.convert(lambda a: a + 1e-6)
    box = Box(-0.5 * np.ones(3), 0.5 * np.ones(3))
    same, prop = equivalent(first, near, box, 1e-1)
    assert ascertain.verify(same, prop, timeout=30).status == "holds"
    apart, prop = equivalent(first, small(2), box, 1e-1)
    verdict = ascertain.verify(apart, prop)
    assert verdict.status == "violated"
    sound(apart, prop, verdict)


# Answers


def test_answers_print_and_turn_into_json() -> None:
    graph = small()
    prop = output_range(Box(np.zeros(3), np.ones(3)), upper=graph(np.full((1, 3), 0.5))[0] - 0.01)
    verdict = ascertain.verify(graph, prop)
    found = to_json(verdict)
    assert found["status"] == "violated" and found["evidence"].lower() == "exact" and len(found["witness"]["input"]) == 3
    assert found["worst"] is None or isinstance(found["worst"], float)
    assert "violated" in str(verdict) and "replayed in graph" in str(verdict)


def test_radius_lies_between_proof_and_witness() -> None:
    graph, x = small(3), np.array([0.3, -0.2, 0.5])
    label = int(graph(x[None])[0].argmax())
    found = ascertain.radius(graph, x, label, limit=20.0, tolerance=0.05, timeout=60)
    assert 0 < found.lower < found.upper < 20 and found.upper - found.lower <= 0.05 * found.upper
    assert ascertain.verify(graph, robust(x, found.lower, label=label, classes=2)).status == "holds"
    with pytest.raises(DataError):
        ascertain.radius(graph, x, label, limit=-1.0)


def test_the_same_seed_gives_the_same_answer() -> None:
    graph = small(4)
    box = Box(-np.ones(3), np.ones(3))
    prop = output_range(box, upper=graph(box.sample(np.random.default_rng(0), 100)).max(0) - 0.05)
    first, second = (ascertain.verify(graph, prop, seed=7, threads=1) for _ in range(2))
    assert first.witness is not None and second.witness is not None
    np.testing.assert_array_equal(first.witness.input, second.witness.input)


def test_balls_of_every_norm_are_about_the_ball() -> None:
    """A corner of the box violates, the ball does not: the proof uses the ball, and no witness outside it is claimed."""
    build = Builder()
    x = build.input((4,))
    graph = build.graph(x, build(Dense(np.ones((1, 4))), build(Relu(), x)))
    for p, largest in ((1, 1.0), (2, 2.0), (np.inf, 4.0)):
        where = LpBall(np.zeros(4), 1.0, p)
        assert ascertain.verify(graph, output_range(where, upper=[4.001])).status == "holds"
        verdict = ascertain.verify(graph, output_range(where, upper=[0.9 * largest]), timeout=5)
        assert verdict.status == "violated"
        assert ascertain.verify(graph, output_range(where, upper=[1.01 * largest]), timeout=20).status == "holds"
