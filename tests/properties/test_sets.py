"""Sets against brute force: membership, projection, support and refusal of bad numbers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from ascertain.errors import DataError, PropertyError, ShapeError
from ascertain.properties import Box, LpBall, Polytope

SCALES = st.sampled_from([1e-12, 1e-3, 1.0, 1e6])


def make(kind: str, seed: int, n: int, scale: float):
    r = np.random.default_rng(seed)
    middle = r.normal(size=n) * scale
    around = Box(middle - scale * r.random(n), middle + scale * r.random(n))
    if kind == "box":
        return around
    if kind == "polytope":
        matrix = r.normal(size=(3, n))
        return Polytope(around, matrix, matrix @ around.sample(r, 1)[0] + scale * r.random(3) * 0.1)
    clip = None if "clip" not in kind else Box(around.lower + 0.1 * scale * r.random(n), around.upper + 0.1 * scale)
    return LpBall(middle, scale * r.random(), {"1": 1, "2": 2, "i": np.inf}[kind[1]], clip)


KINDS = ["box", "l1", "l2", "li", "l1clip", "l2clip", "liclip", "polytope"]


@settings(max_examples=120)
@given(st.sampled_from(KINDS), st.integers(0, 10**6), st.integers(1, 6), SCALES)
def test_samples_projections_and_center_are_members_and_support_is_below_them(kind, seed, n, scale):
    try:
        points = make(kind, seed, n, scale)
    except DataError:
        return
    r = np.random.default_rng(seed)
    samples = points.sample(r, 30)
    far = [points.project(points.box().center() + 3 * scale * r.normal(size=n)) for _ in range(10)]
    assert samples.shape == (30, n)
    for x in [*samples, *far, points.center()]:
        assert points.contains(x)
        assert points.box().contains(x)
    rows = r.normal(size=(4, n))
    assert np.all(points.support(rows) <= np.min(np.array([*samples, *far]) @ rows.T, axis=0))


@settings(max_examples=60)
@given(st.sampled_from(["box", "l1", "l2", "li"]), st.integers(0, 10**6), st.integers(1, 5))
def test_support_is_attained_and_projection_is_nearest(kind, seed, n):
    points, r = make(kind, seed, n, 1.0), np.random.default_rng(seed)
    row = r.normal(size=n)
    attained = points.project(points.center() - 1e7 * row)
    if kind == "l1":
        i = np.argmax(np.abs(row))
        attained = points.project(points.center() - 10 * np.sign(row[i]) * np.eye(n)[i])
    assert points.support(row[None])[0] == pytest.approx(row @ attained, abs=1e-6)
    outside = points.center() + 2 * r.normal(size=n)
    near = points.project(outside)
    rivals = points.sample(r, 200)
    assert np.linalg.norm(near - outside) <= np.min(np.linalg.norm(rivals - outside, axis=1)) + 1e-12
    # Variational inequality: at the nearest point no member lies further in the direction of the outside point.
    assert np.max((rivals - near) @ (outside - near)) <= 1e-9


def test_polytope_support_equals_linear_program_and_clipped_ball_projection_equals_optimiser():
    r = np.random.default_rng(3)
    points = make("polytope", 3, 5, 1.0)
    rows = r.normal(size=(6, 5))
    for row, bound in zip(rows, points.support(rows), strict=True):
        limits = list(zip(points.around.lower, points.around.upper, strict=True))
        exact = linprog(row, A_ub=points.matrix, b_ub=points.bound, bounds=limits).fun
        assert bound <= exact + 1e-12
        assert bound == pytest.approx(exact, abs=1e-7)
    ball = LpBall(np.zeros(4), 1.0, 2, Box(np.full(4, -0.3), np.full(4, 0.9)))
    outside = np.array([3.0, 0.4, -2.0, 0.1])
    best = minimize(
        lambda x: np.sum((x - outside) ** 2),
        ball.center(),
        bounds=[(-0.3, 0.9)] * 4,
        constraints={"type": "ineq", "fun": lambda x: 1 - x @ x},
    )
    np.testing.assert_allclose(ball.project(outside), best.x, atol=1e-4)


@settings(max_examples=80)
@given(st.sampled_from([1, 2]), st.integers(0, 10**6), st.integers(1, 4))
def test_ball_membership_is_exact_at_the_boundary(p, seed, n):
    r = np.random.default_rng(seed)
    center, gap = r.normal(size=n), r.normal(size=n)
    x = center + gap
    length = np.linalg.norm(x - center, ord=p)
    for radius in (np.nextafter(length, 0), length, np.nextafter(length, np.inf)):
        exact = sum(abs(Fraction(a) - Fraction(b)) ** p for a, b in zip(x.tolist(), center.tolist(), strict=True))
        assert LpBall(center, radius, p).contains(x) == (exact <= Fraction(radius) ** p)


def test_box_of_a_ball_is_rounded_outward():
    ball = LpBall([0.1, 1e16], 0.2)
    for i, c in enumerate((0.1, 1e16)):
        assert Fraction(float(ball.box().lower[i])) <= Fraction(c) - Fraction(0.2)
        assert Fraction(float(ball.box().upper[i])) >= Fraction(c) + Fraction(0.2)
    exact = LpBall([0.5], 0.25).box()
    assert (exact.lower[0], exact.upper[0]) == (0.25, 0.75)


@pytest.mark.parametrize("p", [1, 2, np.inf])
def test_degenerate_sets_are_points(p):
    point = np.array([0.1, -2.0, 1e20])
    for points in (LpBall(point, 0.0, p), Box(point, point), LpBall(point, 0.0, p, Box(point - 1, point + 1))):
        assert points.contains(point)
        assert not points.contains(point + np.array([1e-16, 0, 0]))
        np.testing.assert_array_equal(points.project(point + 1), point)
        assert points.support(np.eye(3))[0] <= 0.1


def test_ball_that_touches_its_clip_in_one_point():
    ball = LpBall([0.0, 0.0], 1.0, 2, Box([1.0, -1.0], [2.0, 1.0]))
    np.testing.assert_array_equal(ball.project([5.0, 5.0]), [1.0, 0.0])
    with pytest.raises(DataError, match="coordinate 0"):
        LpBall([0.0, 0.0], np.nextafter(1.0, 0), 2, Box([1.0, -1.0], [2.0, 1.0]))


def test_polytope_emptiness_is_proved_not_guessed():
    box = Box([0.0, 0.0], [1.0, 1.0])
    with pytest.raises(PropertyError, match="no solution"):
        Polytope(box, [[1.0, 1.0]], [-1e-6])
    assert Polytope(box, [[1.0, 1.0]], [0.0]).contains([0.0, 0.0])
    assert not Polytope(box, [[1.0, 1.0], [-1.0, -1.0]], [0.1, -0.1]).contains([0.05, 0.06])
    point = Box([0.5, 0.125], [0.5, 0.125])
    assert Polytope(point, [[1.0, 1.0]], [0.625]).contains([0.5, 0.125])
    with pytest.raises(PropertyError, match="no solution"):
        Polytope(point, [[1.0, 1.0]], [0.6249999])
    line = Polytope(box, [[1.0, -1.0], [-1.0, 1.0]], [0.0, 0.0])
    assert line.contains([0.3, 0.3])
    assert line.support([[1.0, -1.0]])[0] == pytest.approx(0, abs=1e-9)
    assert np.all(Polytope(box, np.zeros((0, 2)), []).support(np.eye(2)) <= 0)


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (lambda: Box([0, np.nan], [1, 1]), DataError, r"lower\[1\]"),
        (lambda: Box([0, 0], [1, np.inf]), DataError, r"upper\[1\]"),
        (lambda: Box([0, 2], [1, 1]), DataError, r"lower\[1\] = 2.0 is above"),
        (lambda: Box([0, 0], [1]), ShapeError, "2 lower and 1 upper"),
        (lambda: Box([], []), ShapeError, "no coordinates"),
        (lambda: LpBall([0], -1), DataError, "radius"),
        (lambda: LpBall([0], np.nan), DataError, "radius"),
        (lambda: LpBall([np.inf], 1), DataError, r"center\[0\]"),
        (lambda: LpBall([0], 1, 3), PropertyError, "1, 2 or inf"),
        (lambda: LpBall([0], 1, 2, Box([0, 0], [1, 1])), ShapeError, "clipped"),
        (lambda: LpBall([0.0, 9.0], 1, 2, Box([0, 0], [1, 1])), DataError, "coordinate 1"),
        (lambda: Polytope(Box([0], [1]), [[1.0, 2.0]], [0.0]), ShapeError, "1, 1"),
        (lambda: Polytope(Box([0], [1]), [[np.nan]], [0.0]), DataError, r"matrix\[0, 0\]"),
        (lambda: Box([0], [1]).project([np.nan]), DataError, "coordinate 0"),
        (lambda: Box([0], [1]).contains([1, 2]), ShapeError, "2 numbers"),
        (lambda: Box([0], [1]).support([[np.nan]]), DataError, "rows"),
    ],
)
def test_bad_sets_are_refused(build, error, words):
    with pytest.raises(error, match=words):
        build()


def test_support_survives_extreme_numbers():
    with np.errstate(all="ignore"):
        huge = Box([-1e308] * 3, [1e308] * 3).support(np.full((1, 3), 1e10))
    assert huge[0] == -np.inf
    tiny = LpBall(np.zeros(2), 1.0, 2).support(np.full((1, 2), 1e-200))
    assert tiny[0] <= -1.4e-200
    assert not Box([0.0], [1.0]).contains([np.nan])
