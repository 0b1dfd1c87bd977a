"""A search that is divided answers as the whole one does, covers the whole box, and goes on where it stopped."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from ascertain import load, verify
from ascertain.analyze.result import Measured, Result
from ascertain.analyze.verdict import Verify
from ascertain.evidence import Evidence
from ascertain.graph import Builder
from ascertain.operators import Dense, Relu
from ascertain.properties import read_property
from ascertain.runs import Store, Workers, combine, run_item, run_suite
from ascertain.runs.division import children
from ascertain.runs.items import Item, ModelSource, PropertySource
from tests.cli.conftest import distance, query  # noqa: F401  (fixtures)


@pytest.fixture
def item(distance, query):  # noqa: F811
    """Whether |x0 - x1| stays below a limit on the unit square, as an item that may be halved four times."""

    def make(limit, halvings=4):
        bare = Item(Verify(), (ModelSource("distance", distance),), None, PropertySource("p", query(limit)), halvings=halvings)
        return replace(bare, inputs=bare.context().hashes)

    return make


def told(status, reason):
    """The values of an answer."""
    return {name: Measured(np.array(word), Evidence.EXACT) for name, word in (("status", status), ("reason", reason))}


def impatient(decided):
    """Workers that run out of time on boxes of an area above ``decided``."""

    def hurried(item):
        record = run_item(item)
        (case,) = item.property.read().cases
        box = case.set.box()
        return replace(record, values=told("unknown", "timeout")) if np.prod(box.upper - box.lower) > decided else record

    executor = ThreadPoolExecutor(2)
    return Workers(lambda i: executor.submit(hurried, i), 2, lambda kill: executor.shutdown())


@pytest.mark.parametrize(("limit", "status"), [(1.5, "holds"), (0.9, "violated"), (0.2, "violated")])
def test_the_parts_answer_together(tmp_path, item, limit, status):
    asked = item(limit)
    assert verify(load(asked.models[0].file), asked.property.read()).status == status
    with Store(tmp_path / "s") as store:
        run_suite([asked], store, impatient(0.25))
        whole = combine(asked, store)
        assert (str(whole.status), whole.share, whole.parts) == (status, 1.0, 7)
        assert len(store) == 7 and run_suite([asked], store, impatient(0.25)).stored == 0


def test_too_few_halvings_leave_it_open_and_more_go_on(tmp_path, item):
    with Store(tmp_path / "s") as store:
        run_suite([item(1.5, 2)], store, impatient(0.1))
        assert len(store) == 7 and str(combine(item(1.5, 2), store).status) == "unknown"
        again = run_suite([item(1.5, 4)], store, impatient(0.1))
        whole = combine(item(1.5, 4), store)
        assert (str(whole.status), whole.share, whole.parts) == ("holds", 1.0, 31)
        assert (again.skipped, again.stored) == (7, 24)


def test_halves_cover_the_box_exactly(item):
    asked = item(1.5, 6)
    head = run_item(asked)
    assert isinstance(head, Result)
    unknown = told("unknown", "timeout")
    leaves = [asked]
    for _ in range(6):
        leaves = [c for leaf in leaves for c in children(leaf, replace(head, values=unknown))]
    assert len(leaves) == 64 and len({leaf.key for leaf in leaves}) == 64
    assert not children(leaves[0], replace(head, values=unknown)), "no halving left"
    boxes = [leaf.property.read().cases[0].set for leaf in leaves]
    assert sum(float(np.prod(b.upper - b.lower)) for b in boxes) == 1.0
    points = np.random.default_rng(0).uniform(0, 1, (500, 2))
    assert all(any(b.contains(p) for b in boxes) for p in points)
    whole = read_property(asked.property.file)
    assert all(leaf.property.read().cases[0].unsafe[0].bound == whole.cases[0].unsafe[0].bound for leaf in leaves)


def test_only_time_divides(item):
    asked = item(1.5)
    head = run_item(asked)
    for status, reason in (("holds", ""), ("violated", ""), ("unknown", "unsupported: x"), ("unknown", "interrupted")):
        assert children(asked, replace(head, values=told(status, reason))) == ()
    assert children(asked, asked.failure("ValueError", "no")) == ()


def test_the_coordinate_that_matters_is_halved():
    from ascertain.properties import Box
    from ascertain.runs.division import _widest

    build = Builder()
    x = build.input((1, 3))
    graph = build.graph(x, build(Relu(), build(Dense(np.array([[1.0, 5.0, 100.0]])), x)))
    assert _widest(graph, Box(np.zeros(3), np.array([4.0, 1.0, 0.0]))) == 1
    assert _widest(graph, Box(np.zeros(3), np.ones(3))) == 2
    assert _widest(graph, Box(np.ones(3), np.ones(3))) is None
    assert _widest(graph, Box(np.ones(3), np.nextafter(np.ones(3), 2))) is None
