"""Properties: exact membership, validation, builders and product networks against direct evaluation."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ascertain.errors import DataError, PropertyError, ShapeError
from ascertain.graph.graph import Builder, Graph
from ascertain.operators.affine import Dense
from ascertain.operators.piecewise import Relu
from ascertain.properties import (
    Atoms,
    Box,
    Case,
    LpBall,
    Property,
    equivalent,
    join,
    monotone,
    output_range,
    read_property,
    robust,
    write_vnnlib,
)


def network(seed: int, sizes: tuple[int, ...] = (3, 8, 2)) -> Graph:
    r = np.random.default_rng(seed)
    builder = Builder()
    x = value = builder.input((1, sizes[0]))
    for i, (a, b) in enumerate(pairwise(sizes)):
        value = builder(Dense(r.normal(size=(b, a)), r.normal(size=b)), value)
        value = builder(Relu(), value) if i + 2 < len(sizes) else value
    return builder.graph(x, value)


def test_ties_are_decided_exactly():
    atoms = Atoms([[0.1, 0.2, -0.3]], [0.0])
    # In rational arithmetic the float64 numbers 0.1 + 0.2 exceed 0.3; in floating point the order of summing decides.
    assert not atoms.hold(np.zeros(1), np.ones(3))
    assert Atoms([[-0.1, -0.2, 0.3]], [0.0]).hold(np.zeros(1), np.ones(3))
    assert Atoms([[1.0, -1.0]], [0.0]).hold(np.zeros(1), np.array([1e300, 1e300]))
    assert not Atoms([[1.0, -1.0]], [0.0], [True]).hold(np.zeros(1), np.array([1e300, 1e300]))
    assert Atoms([[1.0]], [1.0], np.zeros(1, dtype=bool), [[-1.0, 0.0]]).hold(np.array([2.0, 0.0]), np.array([3.0]))


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, np.inf]), st.booleans())
def test_robust_means_that_another_class_is_at_least_as_large(seed, norm, clipped):
    r = np.random.default_rng(seed)
    x, label = r.random((2, 2)), int(r.integers(3))
    found = robust(x, 0.3, norm, label=label, classes=3, clip=Box(np.zeros(4), np.ones(4)) if clipped else None)
    assert (found.n_inputs, found.n_outputs, len(found.cases[0].unsafe)) == (4, 3, 2)
    y = r.integers(0, 3, size=3).astype(np.float32)
    wrong = any(y[j] >= y[label] for j in range(3) if j != label)
    assert (found.violated_by(x, y) is not None) == wrong
    outside = x.ravel() + 0.3 * np.array([1.01, 0, 0, 0])
    assert found.violated_by(outside, np.eye(3)[(label + 1) % 3]) is None


def test_output_range_is_violated_only_outside():
    found = output_range(Box([0], [1]), [0.0, -np.inf], [1.0, 2.0])
    assert len(found.cases[0].unsafe) == 3
    for y, wrong in (((0, 2), False), ((1, -9), False), ((-1e-30, 0), True), ((0, np.nextafter(2, 3)), True)):
        assert (found.violated_by([0.5], np.array(y)) is not None) == wrong
    assert output_range(Box([0], [1]), upper=[1.0]).violated_by([1], [2]) == (0, 0)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.booleans())
def test_monotone_agrees_with_two_evaluations(seed, increasing):
    graph, r = network(seed), np.random.default_rng(seed)
    both, found = monotone(graph, Box([-1.0] * 3, [1.0] * 3), 1, 0, increasing, tolerance=1e-3)
    for _ in range(20):
        z = r.uniform(-1, 1, 4)
        raised = z[:3].copy()
        raised[1] = z[3]
        low, high = (graph(v.reshape(1, 1, 3)).ravel() for v in (z[:3], raised))
        y = both(z[None])[0]
        np.testing.assert_allclose(y, [*low, *high])
        drop = (low - high)[0] if increasing else (high - low)[0]
        assert (found.violated_by(z, y) is not None) == (z[1] <= z[3] and drop >= 1e-3)


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_equivalent_agrees_with_two_evaluations(seed):
    first, second, r = network(seed), network(seed + 1, (3, 5, 2)), np.random.default_rng(seed)
    both, found = equivalent(first, second, LpBall(np.zeros(3), 1.0, 2), 0.5)
    for x in found.cases[0].set.sample(r, 10):
        a, b = (graph(x.reshape(1, 1, 3)).ravel() for graph in (first, second))
        y = both(x[None])[0]
        np.testing.assert_allclose(y, [*a, *b])
        assert (found.violated_by(x, y) is not None) == bool(np.max(np.abs(a - b)) > 0.5)
    same, found = equivalent(first, first, Box([-1.0] * 3, [1.0] * 3), 1e-9)
    assert found.violated_by(np.zeros(3), same(np.zeros((1, 3)))) is None


TWO = """(vnnlib-version <2.0>)
(declare-network f (declare-input X float32 [1,3]) (declare-output Y float32 [2]))
(declare-network g (isomorphic-to f) (declare-input U float32 [1,3]) (declare-output V float32 [2]))
(assert (and (<= X[0,0] 1.0) (>= X[0,0] -1.0) (<= X[0,1] 1.0) (>= U[0,1] -1.0) (<= X[0,2] 0.1) (>= X[0,2] 0.1)))
(assert (and (== X[0,0] U[0,0]) (== X[0,1] U[0,1]) (== U[0,2] X[0,2])))
(assert (or (> (- Y[0] V[0]) 0.5) (and (!= Y[1] 0.25) (<= (* 2.0 V[1]) (- Y[1] 0.75)))))
"""


def test_vnnlib2_over_two_networks_with_one_input(tmp_path):
    path = tmp_path / "two.vnnlib"
    path.write_text(TWO)
    found = read_property(path)
    assert [(n.name, n.inputs, n.outputs, n.isometric_to) for n in found.networks] == [
        ("f", (0, 3), (0, 2), ""),
        ("g", (0, 3), (2, 4), "f"),
    ]
    graphs = {"f": network(1), "g": network(2)}
    both, r = join(found, graphs), np.random.default_rng(0)
    for x in found.cases[0].set.sample(r, 50):
        y = both(x[None])[0]
        a, b = y[:2], y[2:]
        np.testing.assert_allclose(a, graphs["f"](x.reshape(1, 1, 3)).ravel())
        expected = a[0] - b[0] > 0.5 or (a[1] != 0.25 and 2 * b[1] <= a[1] - 0.75)
        assert (found.violated_by(x, y) is not None) == expected
    assert found.violated_by([0, 0, 0.1], [0, 0.25, 0, -1]) is None
    assert found.violated_by([0, 0, 0.1], [0, 0.75, 0, 0.0]) is not None
    with pytest.raises(PropertyError, match="network g"):
        join(found, {"f": graphs["f"]})
    with pytest.raises(ShapeError, match="network g"):
        join(found, {"f": graphs["f"], "g": network(1, (3, 3))})


def test_vnnlib2_networks_with_different_inputs_are_concatenated(tmp_path):
    path = tmp_path / "apart.vnnlib"
    text = TWO.replace("(== X[0,0] U[0,0])", "(<= U[0,0] X[0,0]) (>= U[0,0] -2.0) (<= U[0,0] 1.0)")
    more = "(>= X[0,1] -1.0) (<= U[0,1] 1.0) (<= U[0,2] 1.0) (>= U[0,2] 0.0)"
    path.write_text(text.replace("(>= X[0,2] 0.1)", f"(>= X[0,2] 0.1) {more}"))
    found = read_property(path)
    assert found.n_inputs == 6
    assert found.networks[1].inputs == (3, 6)
    assert found.violated_by([0, 0, 0.1, -1, 0, 0.1], [9, 0, 0, 0]) == (0, 0)
    assert found.violated_by([0, 0, 0.1, 0.5, 0, 0.1], [9, 0, 0, 0]) is None
    assert join(found, {"f": network(1), "g": network(2)}).input_size == 6


BAD2 = [
    (TWO.replace("X[0,1] 1.0", "X[0,3] 1.0"), r":4: Index out of bounds for variable \(X\[0,3\]\)"),
    (TWO.replace("(assert (or", "(assert (xor"), ":6:9: syntax error"),
    (TWO.replace("0.75", "7.5e-1"), ":6: '7.5e' is no number"),
    (TWO.replace("(* 2.0 V[1])", "(* Y[0] V[1])"), ":6: .*not linear"),
    (TWO.replace("(== X[0,0] U[0,0])", "(<= Y[0] Y[0])"), r"no lower bound is given for X\[0,1\], U\[0,0\]"),
    (
        TWO.replace(" (isomorphic-to f)", "").replace("float32 [2]))", "float32 [2]) (declare-output W float32 [2]))", 1),
        "2 outputs",
    ),
    (TWO[: TWO.index("(assert")], ":3:100: syntax error"),
    (TWO.replace("float32 [1,3]", "int8 [1,3]"), "Type mismatch"),
    (TWO + "(" * 100000, "nested deeper"),
]


@pytest.mark.parametrize(("text", "words"), BAD2, ids=range(len(BAD2)))
def test_bad_vnnlib2_names_the_line(text, words, tmp_path):
    path = tmp_path / "bad.vnnlib"
    path.write_text(text)
    with pytest.raises(PropertyError, match=words) as caught:
        read_property(path)
    assert str(caught.value).startswith(str(path))


BOX = Box([0.0], [1.0])
SAFE = Atoms([[1.0]], [0.0])


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (lambda: Atoms([[np.nan]], [0.0]), DataError, r"matrix\[0, 0\]"),
        (lambda: Atoms([[1.0]], [np.inf]), DataError, r"bound\[0\]"),
        (lambda: Atoms([1.0], [0.0]), ShapeError, r"\(m, outputs\)"),
        (lambda: Atoms([[1.0]], [0.0], np.zeros(1, dtype=bool), [[1.0], [1.0]]), ShapeError, "input matrix"),
        (lambda: Case(BOX, ()), PropertyError, "no unsafe outputs"),
        (lambda: Case(BOX, (SAFE, Atoms([[1.0, 2.0]], [0.0]))), ShapeError, "one number of columns"),
        (lambda: Property(()), PropertyError, "no case"),
        (lambda: Property((Case(BOX, (SAFE,)), Case(Box([0, 0], [1, 1]), (SAFE,)))), ShapeError, "one size"),
        (lambda: Property((Case(BOX, (SAFE,)),)).violated_by([0], [np.nan]), DataError, "not finite"),
        (lambda: Property((Case(BOX, (SAFE,)),)).violated_by([0, 1], [0]), ShapeError, "2 inputs"),
        (lambda: robust([0.5], 0.1, label=3, classes=3), PropertyError, "label 3"),
        (lambda: robust([np.nan], 0.1, label=1, classes=3), DataError, r"center\[0\]"),
        (lambda: robust([0.5], -0.1, label=1, classes=3), DataError, "radius"),
        (lambda: output_range(BOX), PropertyError, "neither"),
        (lambda: output_range(BOX, [0.0], [-1.0]), DataError, "output 0"),
        (lambda: output_range(BOX, [np.nan]), DataError, "output 0"),
        (lambda: output_range(BOX, [np.inf]), DataError, "output 0"),
        (lambda: output_range(BOX, [0.0], [1.0, 2.0]), ShapeError, "1 lower and 2 upper"),
        (lambda: monotone(network(0), BOX, 0, 0), ShapeError, "1 coordinates"),
        (lambda: monotone(network(0), Box([0] * 3, [1] * 3), 3, 0), PropertyError, "input 3"),
        (lambda: monotone(network(0), Box([0] * 3, [1] * 3), 0, 0, tolerance=0), DataError, "positive"),
        (lambda: equivalent(network(0), network(0, (3, 3)), Box([0] * 3, [1] * 3), 1), ShapeError, "compared"),
        (lambda: equivalent(network(0), network(0), Box([0] * 3, [1] * 3), 0), DataError, "positive"),
        (lambda: write_vnnlib(robust([0.5], 0.1, 2, label=1, classes=3), "/nowhere"), PropertyError, "l2 ball"),
    ],
)
def test_bad_properties_are_refused(build, error, words):
    with pytest.raises(error, match=words):
        build()


def test_conjunction_without_atoms_is_violated_by_every_input(tmp_path):
    found = Property((Case(BOX, (Atoms(np.zeros((0, 2)), []),)),))
    assert found.violated_by([0.5], [1, 2]) == (0, 0)
    assert "unsafe if always" in str(found)
    write_vnnlib(found, tmp_path / "p.vnnlib")
    assert read_property(tmp_path / "p.vnnlib").violated_by([0.5], [1, 2]) == (0, 0)
