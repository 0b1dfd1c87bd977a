"""VNN-LIB 1.0: truth at points equals direct evaluation of the text; files of the benchmark set; clear errors."""

from __future__ import annotations

import gzip
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ascertain.errors import PropertyError
from ascertain.properties import Property, format_vnnlib, read_property, write_vnnlib
from ascertain.properties.vnnlib1 import parse_vnnlib1
from tests.properties.reference import parse, satisfied

HEAD = "".join(f"(declare-const {v} Real)\n" for v in ("X_0", "X_1", "Y_0", "Y_1"))
LIMITS = "(assert (and (>= X_0 -1) (<= X_0 1.0) (>= X_1 -1.0) (<= X_1 1)))\n"
DYADIC = st.sampled_from(["-1.0", "-0.5", "0", "0.25", "5e-1", "1", "(- 0.75)"])
DECIMAL = st.sampled_from(["0.1", "-0.3", "0", "1e-1", "2.5", "(- 0.7)", "0.1000000000000000055511151231257827021181583404541"])
COMPARE = st.sampled_from(["<=", ">=", "<", ">"])
TERM = st.one_of(
    st.sampled_from(["X_0", "X_1", "Y_0", "Y_1"]),
    st.builds("(* {} {})".format, st.sampled_from(["2", "-0.5", "0.1", "3.0"]), st.sampled_from(["X_0", "X_1", "Y_0", "Y_1"])),
    DYADIC,
)
ATOM = st.one_of(
    st.builds("({} {} {})".format, COMPARE, st.sampled_from(["X_0", "X_1"]), DYADIC),
    st.builds("({} {} {})".format, COMPARE, st.sampled_from(["Y_0", "Y_1"]), DECIMAL),
    st.builds("({} Y_0 Y_1)".format, COMPARE),
    st.builds("({} (+ {} {} ) (- {}\n {}))".format, COMPARE, TERM, TERM, TERM, TERM),
    st.builds("(= {} {})".format, TERM, TERM),
    st.sampled_from(["true", "false"]),
)
FORMULA = st.recursive(
    ATOM,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"(and {' '.join(parts)})"),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: "(or " + " ; remark )\n ".join(parts) + ")"),
        inner.map("(not {})".format),
        st.tuples(inner, inner).map(lambda two: f"(=> {two[0]} {two[1]})"),
    ),
    max_leaves=8,
)
INPUTS = st.sampled_from([-1.25, -1.0, -0.5, 0.0, 0.25, 0.5, 0.625, 1.0, float(np.nextafter(1.0, 2.0))])
OUTPUTS = st.sampled_from([-3.0, -0.7, -0.3, 0.0, 0.1, float(np.nextafter(0.1, 1)), float(np.nextafter(0.1, 0)), 0.25, 0.5, 2.5])
POINTS = st.lists(st.tuples(INPUTS, INPUTS, OUTPUTS, OUTPUTS), min_size=20, max_size=40)


@settings(max_examples=300)
@given(st.lists(FORMULA, min_size=1, max_size=3), POINTS)
def test_random_formulas_agree_with_direct_evaluation(formulas, points):
    text = HEAD + LIMITS + "".join(f"(assert {formula})\n" for formula in formulas)
    assertions = parse(text)
    truth = [satisfied(assertions, np.array(p[:2]), np.array(p[2:])) for p in points]
    try:
        found = parse_vnnlib1(text)
    except PropertyError as error:
        assert "no input and output satisfy" in str(error)
        assert not any(truth)
        return
    for point, expected in zip(points, truth, strict=True):
        assert (found.violated_by(np.array(point[:2]), np.array(point[2:])) is not None) == expected, (text, point)
    again = parse_vnnlib1(format_vnnlib(found))
    assert_equal(again, found)


def assert_equal(a: Property, b: Property) -> None:
    assert len(a.cases) == len(b.cases)
    for one, two in zip(a.cases, b.cases, strict=True):
        np.testing.assert_array_equal(one.set.box().lower, two.set.box().lower)
        np.testing.assert_array_equal(one.set.box().upper, two.set.box().upper)
        for name in ("matrix", "bound"):
            assert np.array_equal(getattr(one.set, name, 0), getattr(two.set, name, 0))
        for p, q in zip((*one.unsafe, one.open), (*two.unsafe, two.open), strict=True):
            if p is None or q is None:
                assert p is q
                continue
            np.testing.assert_array_equal(p.matrix, q.matrix)
            np.testing.assert_array_equal(p.bound, q.bound)
            np.testing.assert_array_equal(p.strict, q.strict)
            assert (p.input_matrix is None) == (q.input_matrix is None)
            assert p.input_matrix is None or np.array_equal(p.input_matrix, q.input_matrix)


def points_of(found: Property, rng: np.random.Generator, n: int):
    """Inputs inside, on and off the boundary with outputs at random, tied, and at the bounds or one step beside them."""
    for _ in range(n):
        case = found.cases[rng.integers(len(found.cases))]
        box = case.set.box()
        inside = box.sample(rng, 1)[0]
        corner = np.where(rng.random(box.size) < 0.5, box.lower, box.upper)
        x = [inside, box.lower, box.upper, box.center(), corner][rng.integers(5)]
        if rng.random() < 0.2:
            x = x.copy()
            i = rng.integers(box.size)
            x[i] = [np.nextafter(box.upper[i], np.inf), np.nextafter(box.lower[i], -np.inf), x[i] + 1][rng.integers(3)]
        atoms = case.unsafe[rng.integers(len(case.unsafe))]
        y = rng.normal(size=found.n_outputs) * (0 if rng.random() < 0.2 else 1) + rng.normal()
        for row, bound in zip(atoms.matrix, atoms.bound, strict=True):
            used = np.flatnonzero(row)
            if len(used) == 1:
                exact = bound / row[used[0]]
                beside = [exact, np.nextafter(exact, np.inf), np.nextafter(exact, -np.inf), exact - row[used[0]]]
                y[used[0]] = beside[rng.integers(4)]
            elif rng.random() < 0.7:
                y[used[row[used] < 0]] = y[used].max() + rng.integers(2)
        yield x, y


def compare_with_reference(path: Path, n: int) -> int:
    found = read_property(path)
    with gzip.open(path, "rt") as stream:
        assertions = parse(stream.read())
    positive = 0
    for x, y in points_of(found, np.random.default_rng(0), n):
        expected = satisfied(assertions, x, y)
        assert (found.violated_by(x, y) is not None) == expected, path
        positive += expected
    return positive


def test_benchmark_files_agree_with_direct_evaluation(shared):
    smallest: dict[Path, Path] = {}
    for path in sorted((shared / "vnncomp").rglob("*.vnnlib.gz"), key=lambda p: (p.stat().st_size, str(p))):
        smallest.setdefault(path.parent, path)
    assert len(smallest) >= 30
    assert sum(compare_with_reference(path, 20) for path in smallest.values()) > 100


def test_every_benchmark_file_is_read(shared):
    paths = sorted((shared / "vnncomp").rglob("*.vnnlib.gz"))
    assert len(paths) == 320
    for path in paths:
        found = read_property(path)
        assert found.n_inputs > 0
        assert str(found).startswith(f"property {path.name.removesuffix('.vnnlib.gz')}:")


def test_benchmark_files_survive_writing(shared, tmp_path):
    for name in ("2024_acasxu_2023", "2023_nn4sys", "2024_lsnc", "2022_mnist_fc"):
        path = min((shared / "vnncomp" / name).rglob("*.vnnlib.gz"), key=lambda p: (p.stat().st_size, str(p)))
        found = read_property(path)
        write_vnnlib(found, tmp_path / "again.vnnlib")
        assert_equal(read_property(tmp_path / "again.vnnlib"), found)


def test_decimals_are_rounded_so_that_proofs_cover_the_file():
    found = parse_vnnlib1(
        HEAD + "(assert (>= X_0 0.1))(assert (<= X_0 0.3))(assert (>= X_1 0.5))(assert (<= X_1 5e-1))"
        "(assert (<= Y_0 0.3))(assert (>= Y_1 0.1))"
    )
    box, atoms = found.cases[0].set.box(), found.cases[0].unsafe[0]
    assert Fraction(float(box.lower[0])) < Fraction("0.1") < Fraction(float(np.nextafter(box.lower[0], 1)))
    assert Fraction(float(box.upper[0])) >= Fraction("0.3") > Fraction(float(np.nextafter(box.upper[0], 0)))
    assert box.lower[1] == box.upper[1] == 0.5
    assert Fraction(float(atoms.bound[0])) >= Fraction("0.3")
    assert Fraction(float(atoms.bound[1])) >= -Fraction("0.1")


def test_disjuncts_with_one_input_set_become_one_case():
    found = parse_vnnlib1(
        HEAD + LIMITS + "(assert (or (and (<= X_0 0) (<= Y_0 1)) (and (>= X_0 0.5) (<= Y_0 2)) (and (<= X_0 0) (>= Y_1 3))"
        " (and (<= X_0 -2) (<= Y_0 4)) (and (<= X_0 0) (<= Y_0 1))))"
    )
    assert [len(case.unsafe) for case in found.cases] == [2, 1]
    assert found.violated_by([0, 0], [1, 0]) == (0, 0)
    assert found.violated_by([0, 0], [1.5, 3]) == (0, 1)
    assert found.violated_by([0.5, 0], [2, 0], case=0) is None
    assert found.violated_by([0.5, 0], [2, 0], case=1) == (1, 0)


BAD = [
    (HEAD + "(assert (<= X_7 1.0))", r"f.vnnlib:5:13: X_7 is not declared"),
    (HEAD + "(assert (<= X_0 1.0)", r"f.vnnlib:5:21: expected '\)' after an assertion, found the end of the file"),
    (HEAD + "(assert (<= X_0 1.0)))", r":5:22: expected '\(declare-const' or '\(assert', found '\)'"),
    (HEAD + "(assert (<= X_0))", r":5:16: expected X_i, Y_i, a number"),
    (HEAD + "(assert (<= X_0 1 2))", r":5:19: expected '\)' after the two operands of '<='"),
    (HEAD + "(assert (xor (<= X_0 1)))", "unknown operator 'xor'"),
    (HEAD + "(assert (<= x_0 1))", "unknown variable 'x_0'"),
    (HEAD + "(assert (<= X_00 1))", "unknown variable 'X_00'"),
    (HEAD + "(assert (<= X_0 1.0a))", "unknown variable '1.0a'"),
    (HEAD + "(assert (<= X_0 nan))", "unknown variable 'nan'"),
    (HEAD + "(assert (<= X_0 1e999))", "beyond the range"),
    (HEAD + "(assert (<= (+ X_0 1e999999999) 1))", "exponent is out of range"),
    (HEAD + f"(assert (<= X_0 {'1' * 2000}))", "2000 characters"),
    (HEAD + "(assert (<= (* X_0 Y_0) 1))", "not linear"),
    (HEAD + "(assert (<= (* X_0 " + "1e1000 " * 100 + ") 1))", "beyond the range"),
    (HEAD + "(assert (<= (+ (* X_0 1e500) X_1) 1))", "beyond the range"),
    (HEAD + "(assert (<= (+ (* X_0 1e-500) X_1) 1))", "below the range"),
    (
        HEAD
        + LIMITS
        + "(assert (or "
        + "(and "
        + "(or (<= Y_0 1) (<= Y_1 1)) " * 17
        + ") " * 1
        + "(and "
        + "(or (<= Y_0 1) (<= Y_1 1)) " * 17
        + ")))",
        "multiplied out",
    ),
    (HEAD + "(assert (<= (/ X_0 0) 1))", "division by zero"),
    (HEAD + "(assert (and))", "'and' has no operands"),
    (HEAD + "(assert X_0)", "expected a formula"),
    (HEAD + "(declare-const X_0 Real)", ":5:16: X_0 is declared twice"),
    (HEAD + "(declare-const X_3 Real)(assert (<= X_0 1))", "X_3 is declared but X_2 is not"),
    (HEAD + "(declare-const Z_3 Real)", "expected a variable X_i or Y_i"),
    (HEAD + "(declare-const X_2 Int)", "expected the type 'Real'"),
    (HEAD + "(check-sat)", "unknown command 'check-sat'"),
    (HEAD, "no assertion"),
    ("", "no input X_0"),
    ("(declare-const X_0 Real)(assert (<= X_0 1))", "no output Y_0"),
    (HEAD + "(assert (and (<= X_0 1) (>= X_0 0) (<= X_1 0) (<= Y_0 1)))", "no lower bound is given for X_1"),
    (HEAD + LIMITS + "(assert (>= X_1 2))", "the bounds of X_1 exclude each other"),
    (HEAD + LIMITS + "(assert (>= (+ X_0 X_1) 2.5))", "linear constraints on the inputs exclude"),
    (HEAD + "(assert " + "(and " * 300 + "(<= X_0 1)" + ")" * 301, "nested deeper"),
    (HEAD + LIMITS + "(assert (and " + "(or (<= Y_0 1) (<= Y_1 1) (<= Y_0 Y_1)) " * 20 + "))", "multiplied out"),
    (HEAD + "\x00", "expected '\\(declare-const'"),
]


@pytest.mark.parametrize(("text", "words"), BAD, ids=range(len(BAD)))
def test_bad_text_names_the_place(text, words):
    with pytest.raises(PropertyError, match=words) as caught:
        parse_vnnlib1(text, "f.vnnlib")
    assert str(caught.value).startswith("f.vnnlib:")


def test_bad_files(tmp_path):
    whole = gzip.compress((HEAD + LIMITS + "(assert (<= Y_0 1))").encode())
    for content, words in ((whole[:-9], "damaged"), (whole[:20] + b"xxxx" + whole[24:], "damaged"), (b"\xff\xfe", "no UTF-8")):
        (tmp_path / "p.vnnlib.gz").write_bytes(content)
        with pytest.raises(PropertyError, match=words):
            read_property(tmp_path / "p.vnnlib.gz")
    with pytest.raises(PropertyError, match="cannot be opened"):
        read_property(tmp_path / "absent.vnnlib")
    with pytest.raises(PropertyError, match="cannot be opened"):
        read_property(tmp_path)
    (tmp_path / "plain.gz").write_bytes((HEAD + LIMITS + "(assert (<= Y_0 1))").encode())
    assert read_property(tmp_path / "plain.gz").n_inputs == 2
