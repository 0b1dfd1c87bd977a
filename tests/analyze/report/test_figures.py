"""Pictures, diagrams and charts against plain references."""

import base64
import struct
import zlib

import numpy as np
import pytest

from ascertain.analyze import Kind, View, figure_of
from ascertain.analyze.report import charts
from ascertain.analyze.report.diagrams import diagram
from ascertain.analyze.report.numbers import cells, short
from ascertain.analyze.report.pictures import RAMP, TWO_SIDED, colours, gallery, png
from tests.analyze.report.everything import Everything, everything


def decode(address):
    """Pixels (H, W, 3) of a PNG whose rows are unfiltered."""
    data = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        name, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert zlib.crc32(name + body) == struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0]
        chunks[name] = body
        at += 12 + size
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + 3 * width)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, 3)


def test_png_round_trip():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    assert np.array_equal(decode(png(pixels)), pixels)


def test_colours_reach_both_ends():
    found = colours(np.array([-np.inf, 0.0, 0.5, 1.0, np.inf]), 0.0, 1.0, ("#000000", "#ffffff"))
    assert found[:, 0].tolist() == [0, 0, 128, 255, 255] and (found == found[:, :1]).all()
    assert colours(np.array(3.0), 3.0, 3.0, RAMP).tolist() == [0xF4, 0xF1, 0xE8]


def test_companions_of_an_image_share_its_scale_where_they_are_alike():
    images = np.random.default_rng(0).random((30, 4, 4))
    images[0, 0, 0], images[0, 0, 1] = 0.0, 1.0
    difference = np.zeros_like(images)
    difference[0, 0, 0], difference[0, 1, 1] = -0.2, 0.1
    found = gallery({"image": images, "broken": images + difference, "difference": difference})
    original, broken, moved = (decode(p["source"]) for p in found["items"][0]["pictures"])
    same = difference[0] == 0
    assert np.array_equal(original[same], broken[same]) and original[0, 1].tolist() == [255, 255, 255]
    assert moved[0, 0].tolist() == [int(TWO_SIDED[0][k : k + 2], 16) for k in (1, 3, 5)]
    assert found["notes"] == ["difference: red −0.2, white 0, blue 0.2"] and found["left"] == 6


def test_layers_are_longest_paths():
    random = np.random.default_rng(1)
    edges = np.array([(i, j) for j in range(1, 14) for i in range(j) if random.random() < 0.25])
    found = diagram({"node": np.array([f"n{i}" for i in range(14)]), "edge": edges})

    def depth(j):
        return max((depth(i) + 1 for i, k in edges if k == j), default=0)

    heights = [n["y"] for n in found["nodes"]]
    assert heights == [4 + 68 * depth(j) for j in range(14)] and found["layered"]
    places = {(n["x"], n["y"]) for n in found["nodes"]}
    assert len(places) == 14 and all(0 <= n["x"] <= found["width"] - 190 for n in found["nodes"])


@pytest.mark.parametrize("edges", [[(0, 1), (1, 0)], [(0, 0)]])
def test_circles_are_drawn_by_forces(edges):
    found = diagram({"node": np.array(["a", "b"]), "edge": np.array(edges)})
    assert not found["layered"] and np.isfinite([n["x"] + n["y"] for n in found["nodes"]]).all()


def test_weighted_circuits_stand_in_rows_that_are_named_once():
    names = np.array([f"layer {k} {i}" for k in "abc" for i in range(4)])
    # Nodes 5 and 11 have no edges; 6 has no source.
    edges = np.array([(0, 4), (1, 4), (2, 7), (3, 7), (4, 8), (6, 9), (7, 10)])
    found = diagram({"node": names, "edge": edges, "weight": np.arange(7.0), "group": np.array(["x", "y"] * 6)})
    assert [n["y"] for n in found["nodes"]] == [26.0] * 4 + [146.0] * 4 + [266.0] * 4
    assert [r["name"] for r in found["rows"]] == ["layer a", "layer b", "layer c"]
    assert [n["short"] for n in found["nodes"]] == ["0", "1", "2", "3"] * 3
    first, second, third, fourth = (n["x"] for n in found["nodes"][:4])
    assert first < third < second < fourth, "modules side by side"
    assert found["edges"][0]["strength"] == 0.16 and found["edges"][-1]["strength"] == 0.88


def test_too_many_nodes_are_not_drawn_and_strong_edges_are():
    many = diagram({"node": np.array([str(i) for i in range(700)]), "edge": np.zeros((0, 2), int)})
    assert not many["nodes"] and "700" in many["note"]
    edges = np.random.default_rng(0).integers(0, 90, (4000, 2))
    weights = np.arange(4000.0)
    dense = diagram({"node": np.array([str(i) for i in range(90)]), "edge": edges, "weight": weights})
    assert len(dense["edges"]) == 3000 and "3000 of 4000" in dense["note"] and dense["edges"][-1]["strength"] > 0.7
    empty = diagram({"node": np.array([], str), "edge": np.zeros((0, 2), int), "weight": np.zeros(0)})
    assert not empty["nodes"]


def drawn(view):
    return charts.chart(figure_of(view, everything()))


@pytest.mark.parametrize(
    "view", [v for v in Everything().views(None) if v.kind in charts.DRAWN], ids=lambda v: f"{v.kind}-{v.title[:6]}"
)
def test_charts_compile_and_leave_words_to_the_data(view):
    spec, _ = drawn(view)
    assert charts.still(spec).startswith("data:image/")
    names = {"s", "p", "v", "l", "h", "n", "a", "b", "r", "c"}
    assert all(set(row) <= names for row in spec["data"]["values"])
    text = str(spec)
    assert not any(word in text for word in ("'expr'", "labelExpr", "calculate", "'url'", "'href'", "'signal'"))


def test_what_is_not_drawn_is_said():
    spec, notes = drawn(View(Kind.LINE, "It", {"a": "far"}))
    assert len(spec["data"]["values"]) == everything()["far"].size - 1 and notes == ["1 infinite value not drawn."]
    assert drawn(View(Kind.HEATMAP, "It", {"z": "large"}))[1] == ["Every 2th row and every 1th column is drawn."]


def test_histograms_count_every_number():
    rows = drawn(View(Kind.HISTOGRAM, "It", {"a": "many", "b": "map", "c": "constant"}))[0]["data"]["values"]
    counts = {s: sum(r["n"] for r in rows if r["s"] == s) for s in "abc"}
    assert counts == {s: everything()[n].size for s, n in (("a", "many"), ("b", "map"), ("c", "constant"))}


def test_numbers_as_people_read_them():
    told = [short(v) for v in (True, np.int64(-1234567), 0.00012345, float("-inf"), np.float64(3), "<b>", np.str_("x"))]
    assert told == ["yes", "−1\u202f234\u202f567", "0.0001234", "−∞", "3", "<b>", "x"]


def test_columns_have_equal_decimals_where_nothing_is_lost():
    assert cells(np.array([0.9433, 0.08333, 0.5]))[0] == ["0.9433", "0.0833", "0.5000"]
    assert cells(np.array([12.5, -3.0, np.inf]))[0] == ["12.50", "−3.00", "∞"]
    assert cells(np.array([8.978, 4.127e-09]))[0] == ["8.978", "4.127·10⁻⁹"]
    assert cells(np.array([2.0e8, 1.0]))[0] == ["2·10⁸", "1"] and cells(np.zeros(2))[0] == ["0", "0"]
    assert cells(np.array([3, 1200]))[0] == ["3", "1 200"]
