"""Proofs of positive definiteness never accept what exact arithmetic rejects."""

from fractions import Fraction

import numpy as np
import pytest

from ascertain.certify.lipschitz.enclosure import Enclosure, congruence, definite_margin, positive_definite
from ascertain.certify.lipschitz.rigorous import NotVerified, largest_eigenvalue


def test_slightly_indefinite_matrices_are_refused_where_plain_cholesky_is_not():
    rng = np.random.default_rng(1)
    accepted = 0
    for _ in range(400):
        q, _ = np.linalg.qr(rng.standard_normal((40, 40)))
        w = np.abs(rng.standard_normal(40))
        w[0] = -5e-16 * rng.random()
        a = (q * w) @ q.T
        a = (a + a.T) / 2
        assert not positive_definite(Enclosure(a))
        try:
            np.linalg.cholesky(a)
            accepted += 1
        except np.linalg.LinAlgError:
            pass
    assert accepted > 0


def exactly_positive(a):
    m = [[Fraction(float(x)) for x in row] for row in a]
    for k in range(len(m)):
        if m[k][k] <= 0:
            return False
        for i in range(k + 1, len(m)):
            f = m[i][k] / m[k][k]
            m[i] = [x - f * y for x, y in zip(m[i], m[k], strict=True)]
    return True


def test_accepted_matrices_are_positive_in_rationals():
    rng = np.random.default_rng(0)
    kinds = {True: 0, False: 0}
    for _ in range(300):
        n = int(rng.integers(1, 6))
        a = rng.standard_normal((n, n))
        a = a @ a.T + 10.0 ** rng.integers(-6, 1) * rng.standard_normal() * np.eye(n)
        scale = 2.0 ** rng.integers(-40, 40, size=n)
        a = (a + a.T) / 2 * scale[:, None] * scale
        said = positive_definite(Enclosure(a))
        kinds[said] += 1
        assert not said or exactly_positive(a)
    assert min(kinds.values()) > 10


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_number_no_proof(bad):
    a = np.eye(3)
    a[1, 1] = bad
    assert not positive_definite(Enclosure(a))
    assert not positive_definite(Enclosure(np.eye(3), np.where(np.isfinite(a), 0.0, np.nan)))
    with pytest.raises(NotVerified):
        largest_eigenvalue(a)


def test_radius_counts():
    assert positive_definite(Enclosure(np.eye(4), np.full((4, 4), 0.24)))
    assert not positive_definite(Enclosure(np.eye(4), np.full((4, 4), 0.26)))
    assert positive_definite(Enclosure(np.zeros((0, 0))))


def test_largest_eigenvalue_is_above_and_near():
    rng = np.random.default_rng(0)
    for n in (1, 3, 30):
        a = rng.standard_normal((n, n))
        a = a + a.T
        truth = np.linalg.eigvalsh(a)[-1]
        if truth > 0:
            assert truth <= largest_eigenvalue(a) <= truth * (1 + 1e-9)


def test_sums_and_products_contain_the_rational_result():
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = (rng.standard_normal((3, 3)) * 10.0 ** rng.integers(-3, 3, (3, 3)) for _ in range(2))
        ra, rb = (abs(rng.standard_normal((3, 3))) * 1e-12 for _ in range(2))
        corner = rng.choice([-1.0, 1.0], (3, 3))
        for enclosed, exact in (
            (Enclosure(a, ra) @ Enclosure(b, rb), product(shifted(a, ra * corner), shifted(b, rb * corner.T))),
            (Enclosure(a, ra) @ Enclosure(b), product(shifted(a, ra * corner), shifted(b, 0 * rb))),
            (Enclosure(a) @ Enclosure(b, rb), product(shifted(a, 0 * ra), shifted(b, rb * corner))),
            (Enclosure(a, ra) + Enclosure(b, rb), plus(shifted(a, ra * corner), shifted(b, rb * corner))),
            (-Enclosure(a, ra).T, shifted(-a.T, ra.T * corner)),
            (
                Enclosure(a, ra).rows(b[0]),
                product(
                    [[Fraction(float(v)) if i == j else 0 for j in range(3)] for i, v in enumerate(b[0])], shifted(a, ra * corner)
                ),
            ),
        ):
            for i in range(3):
                for j in range(3):
                    assert abs(exact[i][j] - Fraction(float(enclosed.middle[i, j]))) <= Fraction(float(enclosed.radius[i, j]))


def shifted(a, d):
    return [[Fraction(float(x)) + Fraction(float(y)) for x, y in zip(r, s, strict=True)] for r, s in zip(a, d, strict=True)]


def product(a, b):
    return [[sum(x * b[k][j] for k, x in enumerate(row)) for j in range(len(b[0]))] for row in a]


def plus(a, b):
    return [[x + y for x, y in zip(r, s, strict=True)] for r, s in zip(a, b, strict=True)]


def test_congruences():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 2)), rng.standard_normal((2, 3))
    assert congruence(Enclosure(b), Enclosure(a)).middle == pytest.approx(b.T @ a @ b)


def test_the_margin_can_be_taken_off():
    rng = np.random.default_rng(0)
    for _ in range(40):
        n = int(rng.integers(1, 5))
        a = rng.standard_normal((n, n))
        scale = 2.0 ** rng.integers(-20, 20, size=n)
        a = (a @ a.T + 1e-3 * np.eye(n)) * scale[:, None] * scale
        a = (a + a.T) / 2
        margin, d = definite_margin(Enclosure(a))
        assert margin > 0 and exactly_positive(a - np.diag(margin * (1 - 1e-9) / d**2))
