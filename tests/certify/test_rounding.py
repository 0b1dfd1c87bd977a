"""Error bounds of sums cover every order of summation, measured in rational arithmetic."""

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest

from ascertain.certify.rounding import DOUBLE, SINGLE


def test_any_order_of_a_sum_of_products_is_covered() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        a, b = rng.normal(size=5) * 10.0 ** rng.integers(-8, 8, 5), rng.normal(size=5)
        exact = sum((Fraction(x) * Fraction(y) for x, y in zip(a, b, strict=True)), Fraction(0))
        room = Fraction(DOUBLE.gamma(5)) * sum(abs(Fraction(x) * Fraction(y)) for x, y in zip(a, b, strict=True))
        for order in permutations(range(5)):
            total = 0.0
            for i in order:
                total += float(a[i] * b[i])
            assert abs(Fraction(total) - exact) <= room


def test_single_precision_and_long_sums() -> None:
    rng = np.random.default_rng(1)
    values = rng.random(20_000).astype(np.float32)
    total = np.float32(0)
    for v in values:
        total += v
    exact = sum((Fraction(float(v)) for v in values), Fraction(0))
    assert 0 < abs(Fraction(float(total)) - exact) <= Fraction(SINGLE.gamma(len(values))) * exact


def test_gamma_grows_with_the_sum_and_has_an_end() -> None:
    assert [DOUBLE.unit, SINGLE.unit] == [np.finfo(np.float64).eps / 2, np.finfo(np.float32).eps / 2]
    gammas = [DOUBLE.gamma(n) for n in (0, 1, 10, 10**6)]
    assert gammas == sorted(gammas) and gammas[0] > 0
    with pytest.raises(OverflowError):
        SINGLE.gamma(10**7)
