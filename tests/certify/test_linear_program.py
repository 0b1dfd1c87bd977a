"""Linear programs and certified duals, against exact rational arithmetic and enumeration."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from ascertain.certify.dense import DenseForm, DenseLayer
from ascertain.certify.linear_program import Dual, LinearProgram, certified_bound
from ascertain.certify.row_kernels import contract, plane_offsets, separate, tighten
from ascertain.certify.rows import Rows, candidate_values, conjunction_rows
from ascertain.errors import DataError, ShapeError
from ascertain.properties.property import Atoms
from ascertain.properties.sets import Box, Polytope
from tests.certify.random_networks import outputs, random_box, random_case, random_form


def exact_values(rows: Rows, x: np.ndarray) -> tuple[list[Fraction], list[Fraction]]:
    """All variables (x, z) and the atoms' left-hand sides at x, in rational arithmetic on the stored numbers."""
    m = rows.matrix
    flat = [Fraction(float(v)) for v in x]
    seen = list(flat)
    atoms = []
    for r in range(len(m.bias)):
        span = range(m.start[r], m.start[r + 1])
        total = sum((Fraction(float(m.value[t])) * seen[m.column[t]] for t in span), Fraction(float(m.bias[r])))
        if r < rows.neurons:
            flat.append(total)
            seen.append(max(total, Fraction(0)))
        else:
            atoms.append(total)
    return flat, atoms


def layer(weight: np.ndarray, bias: np.ndarray, source: int) -> DenseLayer:
    return DenseLayer((source,), (np.asarray(weight, float),), (None,), np.asarray(bias, float), np.zeros(len(bias)))


def split_at(
    rows: Rows, lower: np.ndarray, upper: np.ndarray, x: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A domain around x: some signs fixed as they are at x."""
    z = rows.evaluate(x[None])[0][0]
    low, high = lower.copy(), upper.copy()
    n = rows.inputs
    fixed = rng.random(rows.neurons) < 0.5
    low[n:][fixed & (z > 0)] = np.maximum(low[n:][fixed & (z > 0)], 0.0)
    high[n:][fixed & (z < 0)] = np.minimum(high[n:][fixed & (z < 0)], 0.0)
    return low, high


@given(st.integers(0, 10**6), st.sampled_from([1e-3, 1.0, 1e3, 1e8]))
def test_any_dual_vector_gives_a_valid_bound(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    form = random_form(rng)
    case = random_case(rng, form)
    rows = conjunction_rows(form, case.set, case.unsafe[0])
    lower, upper = rows.box(case.set.lower, case.set.upper)
    x = case.set.sample(rng, 1)[0]
    low, high = split_at(rows, lower, upper, x, rng)
    q = rng.normal(size=rows.neurons) * scale
    q[rng.random(rows.neurons) < 0.3] = np.nan
    weights = np.abs(rng.normal(size=rows.atoms))
    dual = Dual(q, weights)
    if seed % 2:
        dual = Dual(q, weights, np.abs(rng.normal(size=rows.neurons)) * scale, rng.normal(size=len(rows.matrix.value)))
    bound = certified_bound(rows, low, high, dual)
    for point in (x, *case.set.sample(rng, 10)):
        flat, atoms = exact_values(rows, point)
        if all(Fraction(float(a)) <= v <= Fraction(float(b)) for a, v, b in zip(low, flat, high, strict=True)):
            value = sum((Fraction(float(w)) * a for w, a in zip(weights, atoms, strict=True)), Fraction(0))
            assert Fraction(bound.lower) <= value


@given(st.integers(0, 10**6))
def test_bound_of_one_input_is_below_the_exact_minimum(seed: int) -> None:
    """One input, one layer: the exact minimum is at an end or a kink; with all pieces fixed the program attains it."""
    rng = np.random.default_rng(seed)
    width = int(rng.integers(1, 6))
    w, b, c = rng.normal(size=width), rng.normal(size=width), rng.normal(size=width)
    form = DenseForm(1, (layer(w[:, None], b, 0), layer(c[None], np.zeros(1), 1)), ((0, width),))
    box = Box(np.array([-1.5]), np.array([2.0]))
    rows = conjunction_rows(form, box, Atoms(np.eye(1), np.zeros(1)))
    lower, upper = rows.box(box.lower, box.upper)
    kinks = sorted({-1.5, 2.0, *(float(k) for k in -b / w if -1.5 < k < 2.0)})
    exact = [exact_values(rows, np.array([k]))[1][0] for k in kinks]
    program = LinearProgram(rows, lower, upper)
    relaxed = program.solve(lower, upper, cutoff=1e30)
    assert Fraction(certified_bound(rows, lower, upper, relaxed.dual).lower) <= min(exact)
    for (left, right), ends in zip(pairwise(kinks), pairwise(exact), strict=True):
        z = w * (left + right) / 2 + b
        low, high = lower.copy(), upper.copy()
        low[1:][z > 0], high[1:][z <= 0] = np.maximum(low[1:][z > 0], 0), np.minimum(high[1:][z <= 0], 0)
        relaxed = program.solve(low, high, cutoff=1e30)
        bound = certified_bound(rows, low, high, relaxed.dual).lower
        assert bound <= float(min(ends)) + 1e-12
        assert bound == pytest.approx(float(min(ends)), abs=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_program_equals_an_independent_triangle_relaxation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    form = random_form(rng)
    case = random_case(rng, form)
    rows = conjunction_rows(form, case.set, case.unsafe[0])
    lower, upper = rows.box(case.set.lower, case.set.upper)
    relaxed = LinearProgram(rows, lower, upper).solve(lower, upper, cutoff=1e30)
    n, k = rows.inputs, rows.neurons
    value, matrix, bias = np.zeros((len(rows.matrix.bias), n + k)), rows.matrix, rows.matrix.bias
    for r in range(len(bias)):
        span = slice(matrix.start[r], matrix.start[r + 1])
        value[r, matrix.column[span]] = matrix.value[span]
    a, b = [], []
    for r in range(k):
        unit, low, high = np.eye(n + k)[n + r], lower[n + r], upper[n + r]
        a.append(value[r] - unit)
        b.append(-bias[r])
        slope = high / (high - low) if low < 0 < high else float(low >= 0)
        a.append(unit - slope * value[r])
        b.append(slope * bias[r] - min(slope * low, 0.0) if slope < 1 else bias[r])
    a = [*(np.append(row, 0) for row in a), *(np.append(row, -1) for row in value[k:])]
    limits = [*zip(lower[:n], upper[:n], strict=True), *((max(v, 0), max(w, 0)) for v, w in zip(lower[n:], upper[n:], strict=True))]
    answer = linprog(np.eye(n + k + 1)[-1], A_ub=np.array(a), b_ub=[*b, *-bias[k:]], bounds=[*limits, (None, None)])
    assert relaxed.value == pytest.approx(answer.fun, abs=1e-6, rel=1e-6)
    assert certified_bound(rows, lower, upper, relaxed.dual).lower == pytest.approx(answer.fun, abs=1e-5, rel=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_cut_program_equals_the_envelope_over_the_corners(seed: int) -> None:
    """For y = -relu(w x + b) the cut program attains the exact minimum; its planes are envelopes, exact at every corner."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 7))
    weight, bias = np.round(rng.normal(size=(3, n)), 2), np.round(rng.normal(size=3), 2)
    form = DenseForm(n, (layer(weight, bias, 0), layer(-np.ones((1, 3)), np.zeros(1), 1)), ((0, 3),))
    box = random_box(rng, n)
    rows = conjunction_rows(form, box, Atoms(np.eye(1), np.zeros(1)))
    lower, upper = rows.box(box.lower, box.upper)
    program = LinearProgram(rows, lower, upper)
    relaxed = program.solve(lower, upper, cutoff=1e30)
    first = relaxed.value
    while program.cut(lower, upper, relaxed):
        relaxed = program.solve(lower, upper, cutoff=1e30)
    corners = np.array(list(product(*zip(box.lower, box.upper, strict=True))))
    values = np.maximum(corners @ weight.T + bias, 0)
    weights = linprog(-values.sum(axis=1), A_eq=np.ones((1, len(corners))), b_eq=[1.0]).fun
    bound = certified_bound(rows, lower, upper, relaxed.dual).lower
    assert first - 1e-9 <= relaxed.value <= weights + 1e-7
    assert bound <= weights and bound == pytest.approx(relaxed.value, abs=1e-6)
    for r in range(3):
        if lower[n + r] < 0 < upper[n + r]:
            slopes = np.zeros((1, n))
            columns = rows.matrix.column[rows.matrix.start[r] : rows.matrix.start[r + 1]]
            for corner, value in zip(corners, values[:, r], strict=True):
                at = separate(rows.matrix, np.array([r]), n, lower, upper, np.append(corner, np.zeros(3)), slopes)[0]
                assert at == pytest.approx(value, abs=1e-9)
                offset = plane_offsets(rows.matrix, np.array([r]), n, lower, upper, slopes)[0]
                assert (corners[:, columns] @ slopes[0, : len(columns)] + offset >= values[:, r]).all()


@given(st.integers(0, 10**6))
def test_contraction_and_tightening_keep_every_unsafe_point(seed: int) -> None:
    rng = np.random.default_rng(seed)
    form = random_form(rng)
    case = random_case(rng, form)
    atoms = case.unsafe[0]
    x = case.set.sample(rng, 1)[0]
    loose = Atoms(atoms.matrix, atoms.matrix @ outputs(form, x[None])[0] + rng.choice([1e-9, 0.1, 1.0]))
    rows = conjunction_rows(form, case.set, loose)
    lower, upper = split_at(rows, *rows.box(case.set.lower, case.set.upper), x, rng)
    flat, values = exact_values(rows, x)
    assert max(values) <= 0
    dirty = np.ones(len(rows.matrix.bias), dtype=bool)
    for _ in range(3):
        assert contract(rows.matrix, rows.inputs, lower, upper, dirty, 1000) >= 0
        q = np.where(rng.random(rows.neurons) < 0.5, np.nan, rng.normal(size=rows.neurons))
        bound = certified_bound(rows, lower, upper, Dual(q, np.abs(rng.normal(size=rows.atoms))))
        assert bound.lower <= 0
        tighten(rows.matrix, rows.inputs, lower, upper, bound.lower, bound.coefficient, bound.radius, dirty)
        assert all(Fraction(float(a)) <= v <= Fraction(float(b)) for a, v, b in zip(lower, flat, upper, strict=True))


def test_contraction_is_exact_on_whole_numbers() -> None:
    """relu(1 - a) + relu(b) <= 0 over the unit square means a = 1, b = 0 without a bit of slack."""
    form = DenseForm(
        2, (layer(np.array([[-1, 0], [0, 1]]), np.array([1, 0]), 0), layer(np.ones((1, 2)), np.zeros(1), 1)), ((0, 2),)
    )
    box = Box(np.zeros(2), np.ones(2))
    rows = conjunction_rows(form, box, Atoms(np.eye(1), np.zeros(1)))
    lower, upper = rows.box(box.lower, box.upper)
    assert contract(rows.matrix, 2, lower, upper, np.ones(3, dtype=bool), 100) >= 0
    assert lower[:2].tolist() == upper[:2].tolist() == [1.0, 0.0]


def test_infeasible_domain_is_certified_from_the_ray() -> None:
    """z1 = x >= 0 and z2 = -x - 1 >= 0 exclude each other."""
    form = DenseForm(
        1, (layer(np.array([[1.0], [-1.0]]), np.array([0.0, -1.0]), 0), layer(np.ones((1, 2)), np.zeros(1), 1)), ((0, 2),)
    )
    box = Box(np.array([-3.0]), np.array([3.0]))
    rows = conjunction_rows(form, box, Atoms(np.eye(1), np.zeros(1)))
    lower, upper = rows.box(box.lower, box.upper)
    program = LinearProgram(rows, lower, upper)
    low = np.maximum(lower, [-3.0, 0.0, 0.0])
    relaxed = program.solve(low, upper)
    assert relaxed.value > 0 and relaxed.dual is not None
    assert certified_bound(rows, low, upper, relaxed.dual).lower > 0


def test_weight_errors_are_charged() -> None:
    """A weight of 1 that may be off by 0.1 moves the bound of x over [1, 2] from 1 to 0.8 at most."""
    uncertain = DenseLayer((0,), (np.ones((1, 1)),), (np.full((1, 1), 0.1),), np.zeros(1), np.full(1, 0.05))
    box = Box(np.ones(1), np.full(1, 2.0))
    rows = conjunction_rows(DenseForm(1, (uncertain,), ()), box, Atoms(np.eye(1), np.zeros(1)))
    bound = certified_bound(rows, box.lower, box.upper, Dual(np.zeros(0), np.ones(1))).lower
    assert 0.7 <= bound <= 1 - 0.1 - 0.05


@pytest.mark.parametrize("size", [1e-300, 1e-160, 1e160, 1e290])
def test_huge_and_tiny_scales_stay_valid(size: float) -> None:
    rng = np.random.default_rng(3)
    form = DenseForm(
        2, (layer(rng.normal(size=(3, 2)) * size, rng.normal(size=3), 0), layer(rng.normal(size=(1, 3)), np.zeros(1), 1)), ((0, 3),)
    )
    box = Box(-np.ones(2), np.ones(2))
    rows = conjunction_rows(form, box, Atoms(np.eye(1), np.zeros(1)))
    lower, upper = rows.box(box.lower, box.upper)
    for q in (np.full(3, np.nan), np.full(3, -size), np.full(3, 1.0 / size), np.full(3, np.inf)):
        bound = certified_bound(rows, lower, upper, Dual(q, np.ones(1))).lower
        for x in box.sample(rng, 20):
            assert bound == -np.inf or Fraction(bound) <= exact_values(rows, x)[1][0]


@pytest.mark.parametrize("weights", [np.array([np.nan, 0.0]), np.array([-1.0, -5.0]), np.array([np.inf, 1.0])])
def test_useless_weights_prove_nothing(weights: np.ndarray) -> None:
    form = DenseForm(1, (layer(np.ones((2, 1)), np.array([9.0, 9.0]), 0),), ())
    box = Box(np.zeros(1), np.ones(1))
    rows = conjunction_rows(form, box, Atoms(np.eye(2), np.zeros(2)))
    assert certified_bound(rows, box.lower, box.upper, Dual(np.zeros(0), weights)).lower <= 0


def test_polytope_and_input_atoms_become_rows() -> None:
    form = DenseForm(2, (layer(np.eye(2), np.zeros(2), 0),), ())
    box = Box(-np.ones(2), np.ones(2))
    cut = Polytope(box, np.array([[1.0, 1.0]]), np.array([-0.5]))
    rows = conjunction_rows(form, cut, Atoms(np.eye(2)[:1], np.zeros(1), input_matrix=np.array([[0.0, 2.0]])))
    assert rows.atoms == 2 and rows.elastic.tolist() == [True, False]
    np.testing.assert_allclose(rows.evaluate(np.array([[0.25, -1.0]]))[1], [[-1.75, -0.25]])


def test_rows_evaluate_like_the_form() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        form = random_form(rng)
        box = random_box(rng, form.input_size)
        size = len(form.layers[-1].bias)
        rows = conjunction_rows(form, box, Atoms(np.eye(size), np.zeros(size)))
        x = box.sample(rng, 7)
        np.testing.assert_allclose(rows.evaluate(x)[1], outputs(form, x), atol=1e-12)
        np.testing.assert_allclose(candidate_values(rows, x), outputs(form, x).max(axis=1), atol=1e-12)


def test_bad_numbers_and_sizes_are_refused() -> None:
    box = Box(np.zeros(1), np.ones(1))
    with pytest.raises(DataError, match="not finite"):
        conjunction_rows(DenseForm(1, (layer(np.array([[np.nan]]), np.zeros(1), 0),), ()), box, Atoms(np.eye(1), np.zeros(1)))
    with pytest.raises(ShapeError, match="1 inputs and 2 outputs"):
        conjunction_rows(DenseForm(1, (layer(np.ones((1, 1)), np.zeros(1), 0),), ()), box, Atoms(np.eye(2), np.zeros(2)))
    huge = DenseForm(1, (layer(np.full((1, 1), 1e308), np.full(1, 1e308), 0), layer(np.ones((1, 1)), np.zeros(1), 1)), ((0, 1),))
    with pytest.raises(DataError, match="overflow"):
        conjunction_rows(huge, box, Atoms(np.eye(1), np.zeros(1))).box(np.zeros(1), np.full(1, 2.0))
