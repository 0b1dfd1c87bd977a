"""Views are drawn from numbers that fit them, or refused with what is wrong."""

from dataclasses import replace

import numpy as np
import pytest

from ascertain.analyze import Kind, Measured, View, figure_of
from ascertain.errors import InputError
from ascertain.evidence import Evidence
from tests.runs.test_store import result

ARRAYS = {
    "scalar": np.array(0.25),
    "word": np.array("<script>{x}"),
    "three": np.arange(3.0),
    "other3": np.arange(3.0) + 1,
    "four": np.arange(4.0),
    "names3": np.array(["a", "b", "c"]),
    "names4": np.array(list("abcd")),
    "map": np.ones((3, 4)),
    "images": np.ones((3, 5, 6)),
    "colours": np.ones((3, 5, 6, 3)),
    "edges": np.array([[0, 1], [1, 2]]),
    "lost": np.array([[0, 3]]),
    "no_edges": np.zeros((0, 2), int),
    "two": np.arange(2.0),
}


@pytest.fixture(scope="module")
def record():
    values = {name: Measured(array, Evidence.BOUNDED) for name, array in ARRAYS.items()}
    values["sure"] = Measured(np.arange(3.0), Evidence.EXACT)
    values["guess"] = Measured(np.ones(3), Evidence.ESTIMATED, "", np.zeros(3), np.full(3, 2.0))
    return replace(result(), values=values)


@pytest.mark.parametrize(
    ("kind", "channels"),
    [
        (Kind.TABLE, {"name": "names3", "value": "three"}),
        (Kind.HEATMAP, {"z": "map"}),
        (Kind.HEATMAP, {"z": "map", "rows": "names3", "columns": "names4"}),
        (Kind.LINE, {"x": "three", "a": "other3", "b": "guess"}),
        (Kind.LINE, {"a": "four"}),
        (Kind.BAR, {"label": "names3", "a": "three"}),
        (Kind.HISTOGRAM, {"a": "map", "b": "three"}),
        (Kind.IMAGE, {"image": "images", "difference": "images", "title": "names3"}),
        (Kind.IMAGE, {"image": "colours"}),
        (Kind.GRAPH, {"node": "names3", "edge": "edges", "weight": "two", "group": "names3"}),
        (Kind.GRAPH, {"node": "names3", "edge": "no_edges"}),
    ],
)
def test_figures_that_fit(record, kind, channels):
    figure = figure_of(View(kind, "It", channels), record)
    assert figure["kind"] == kind and all(np.array_equal(figure["channels"][c], record[n]) for c, n in channels.items())
    assert figure["evidence"] == ("ESTIMATED" if "guess" in channels.values() else "BOUNDED")
    assert set(figure["intervals"]) == {c for c, n in channels.items() if n == "guess"}


@pytest.mark.parametrize(
    ("kind", "channels", "words"),
    [
        (Kind.TABLE, {"a": "three", "b": "four"}, "one length"),
        (Kind.TABLE, {"a": "map"}, "one length"),
        (Kind.TABLE, {}, "one length"),
        (Kind.HEATMAP, {"z": "three"}, "1 axes"),
        (Kind.HEATMAP, {"rows": "names3"}, "z is missing"),
        (Kind.HEATMAP, {"z": "map", "rows": "names4"}, "rows do not fit"),
        (Kind.LINE, {"x": "three"}, "one length"),
        (Kind.BAR, {"a": "three"}, "label is missing"),
        (Kind.HISTOGRAM, {}, "no series"),
        (Kind.IMAGE, {"image": "map"}, "shape"),
        (Kind.IMAGE, {"image": "images", "b": "colours"}, "b does not fit"),
        (Kind.IMAGE, {"image": "images", "title": "names4"}, "title does not fit"),
        (Kind.GRAPH, {"node": "names3", "edge": "lost"}, "leads to no node"),
        (Kind.GRAPH, {"node": "names3", "edge": "three"}, "edge"),
        (Kind.GRAPH, {"node": "names3", "edge": "edges", "weight": "three"}, "weight"),
        (Kind.TEXT, {}, "says nothing"),
        (Kind.LINE, {"a": "absent"}, "measured no 'absent'"),
    ],
)
def test_figures_that_do_not_fit(record, kind, channels, words):
    with pytest.raises(InputError, match=words):
        figure_of(View(kind, "It", channels), record)


def test_sentences(record):
    figure = figure_of(View(Kind.TEXT, "It", text="{scalar:.0%} of {word}", finding=True), record)
    assert figure["text"] == "25% of <script>{x}" and figure["evidence"] == "BOUNDED" and figure["finding"]
    for text, words in (("{three}", "no scalar"), ("{scalar.__class__}", "no name"), ("{0}", "no name"), ("{}", "no name")):
        with pytest.raises(InputError, match=words):
            figure_of(View(Kind.TEXT, "It", text=text), record)
    assert figure_of(View(Kind.LINE, "It", {"a": "sure"}, "at {scalar}"), record)["evidence"] == "BOUNDED"
