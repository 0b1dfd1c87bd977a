"""Products merge with batch norm, and the roundings of that stay within what is stated, also where offsets cancel."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal, localcontext

import numpy as np
import pytest

from ascertain.certify.dense import FEW
from ascertain.errors import ShapeError
from ascertain.operators import BatchNorm, Conv, ConvTranspose, Dense, Relu, Shift
from ascertain.operators.base import Affine, Array, Shape
from ascertain.operators.battery import check_operator
from ascertain.operators.facts import gamma
from ascertain.operators.normalization import MERGED

R = np.random.default_rng(7)
UNIT = 2.0**-53


def norm(channels: int, r: np.random.Generator = R) -> BatchNorm:
    scale, bias, mean = r.normal(size=(3, channels)).astype(np.float32)
    return BatchNorm(scale, bias, mean, r.uniform(0.01, 3, size=channels).astype(np.float32), 1e-5)


def weights(*shape: int) -> np.ndarray:
    return R.normal(size=shape).astype(np.float32)


def double(array: Array) -> Array:
    return array.astype(np.float64)


ONES = ((1, 1), (0, 2))
PRODUCTS = [
    (Dense(weights(3, 4)), (2, 4)),
    (Dense(weights(3, 4), weights(3)), (1, 4)),
    (Conv(weights(3, 2, 2, 2), None, (1, 2), ONES, (1, 1)), (2, 2, 4, 3)),
    (Conv(weights(3, 2, 2, 2), weights(3), (1, 2), ONES, (2, 1)), (1, 2, 4, 3)),
    (Conv(weights(6, 2, 2), weights(6), (1,), ((0, 0),), (1,), groups=3), (1, 6, 4)),
    (ConvTranspose(weights(2, 3, 2, 2), None, (2, 1), ONES, (1, 1), (1, 0)), (1, 2, 4, 3)),
    (ConvTranspose(weights(4, 3, 2), weights(6), (2,), ((0, 1),), (1,), (0,), groups=2), (2, 4, 5)),
]


@pytest.mark.parametrize(("first", "shape"), PRODUCTS)
def test_together_equals_one_after_the_other(first: Affine, shape: Shape) -> None:
    out = first.infer(shape)
    after = norm(out[1])
    both = first.then(after, shape)
    assert isinstance(both, type(first)) and both.infer(shape) == out
    assert both.then(after, shape) is None, "roundings would add up beyond what is stated"
    assert both.then(Shift(np.ones(out[1:])), shape) is None
    x = R.normal(size=(5, *shape))
    one, other = first.convert(double), after.convert(double)
    expected = other.forward(one.forward(x))
    size = other.magnitude().forward(one.magnitude().forward(abs(x)))
    assert (abs(both.forward(x) - expected) <= 1e-14 * size).all()
    assert (both.magnitude().forward(abs(x)) >= size * (1 - 1e-12)).all(), "the size of what was added up is kept"
    check_operator(both, (shape,))


def true_slopes(after: BatchNorm) -> list[Decimal]:
    epsilon = Decimal(after.epsilon)
    pairs = zip(after.scale.tolist(), after.variance.tolist(), strict=True)
    return [Decimal(s) / (Decimal(v) + epsilon).sqrt() for s, v in pairs]


def assert_honest(first: Dense, after: BatchNorm) -> None:
    """Coefficients and offsets are within MERGED roundings of their own size and of the margin, in 80 digits."""
    both = first.then(after, (1, first.weight.shape[1]))
    assert isinstance(both, Dense) and both.bias is not None and both.margin is not None
    allowed = Decimal(gamma(MERGED, UNIT))
    with localcontext() as context:
        context.prec = 80
        for c, slope in enumerate(true_slopes(after)):
            for before, stored in zip(first.weight[c].tolist(), both.weight[c].tolist(), strict=True):
                assert abs(Decimal(before) * slope - Decimal(stored)) <= allowed * abs(Decimal(stored))
            bias = Decimal(0 if first.bias is None else float(first.bias[c]))
            offset = (bias - Decimal(float(after.mean[c]))) * slope + Decimal(float(after.bias[c]))
            assert abs(offset - Decimal(float(both.bias[c]))) <= allowed * Decimal(float(both.margin[c]))


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("biased", [False, True])
def test_roundings_are_as_stated(scale: float, biased: bool) -> None:
    r = np.random.default_rng(1)
    bias = r.normal(size=300) * scale if biased else None
    assert_honest(Dense(r.normal(size=(300, 3)) * scale, bias), norm(300, r))


def test_offsets_that_cancel_are_charged_with_what_was_added_up() -> None:
    r = np.random.default_rng(2)
    plain = norm(400, r)
    slope = plain.scale.astype(np.float64) / np.sqrt(plain.variance.astype(np.float64) + plain.epsilon)
    weight, bias = r.normal(size=(400, 1)), r.normal(size=400)
    # bias and mean all but equal; then a shift that takes back the rest, in float64 to the last digit
    near = replace(plain, mean=bias * (1 + r.normal(size=400) * 1e-15), bias=np.zeros(400))
    assert_honest(Dense(weight, bias), near)
    gone = replace(plain, mean=r.normal(size=400))
    gone = replace(gone, bias=-((bias - gone.mean) * slope))
    assert_honest(Dense(weight, bias), gone)
    both = Dense(weight, bias).then(gone, (1, 1))
    assert isinstance(both, Dense) and not both.bias.any(), "the case is the one that the margin is for"
    assert (both.magnitude().forward(np.zeros((1, 1, 1))) > 0.9 * abs(gone.bias)).all()


@pytest.mark.parametrize(("first", "shape"), PRODUCTS)
def test_few_roundings_of_one_coefficient_are_counted(first: Affine, shape: Shape) -> None:
    """What is charged for a single coefficient or offset: the merging, and one rounding in which parameters are off before it."""
    both = first.then(norm(first.infer(shape)[1]), shape)
    assert isinstance(both, Affine)
    assert min(both.terms(shape), FEW) > MERGED and both.terms(shape) == first.terms(shape) + MERGED
    small = Conv(weights(1, 1, 1), None, (1,), ((0, 0),), (1,)).then(norm(1), (1, 1, 1))
    assert isinstance(small, Conv) and small.terms((1, 1, 1)) > MERGED


@pytest.mark.parametrize(
    "changed",
    [
        {"scale": np.array([1.0, 1e-30])},
        {"scale": np.array([1.0, 1e-320])},
        {"scale": np.array([1.0, 1e300])},
        {"mean": np.array([1.0, 1e200])},
        {"bias": np.array([np.nan, 1.0])},
        {"variance": np.array([1.0, np.inf])},
        {"variance": np.array([1.0, -1.0])},
    ],
)
def test_numbers_that_lose_digits_are_not_merged(changed: dict[str, np.ndarray]) -> None:
    plain = BatchNorm(np.ones(2), np.ones(2), np.ones(2), np.ones(2), 0.0)
    product = Dense(np.full((2, 1), 1e-15))
    assert product.then(plain, (1, 1)) is not None
    assert product.then(replace(plain, **changed), (1, 1)) is None


def test_channels_without_effect_merge() -> None:
    """Channels switched off, and statistics that training let decay below the normal numbers of float32."""
    after = BatchNorm(np.zeros(2), np.zeros(2), np.array([1e-45, 0.0]), np.array([1e-45, 0.0]), 1e-5)
    both = Dense(np.ones((2, 3))).then(after, (1, 3))
    assert isinstance(both, Dense) and not both.weight.any() and (both.margin == 2.0**-126).all()


def test_nothing_is_said_of_other_axes_and_operators() -> None:
    assert Dense(weights(3, 4)).then(norm(2), (1, 2, 4)) is None
    assert Dense(weights(3, 4)).then(Relu(), (1, 4)) is None
    with pytest.raises(ShapeError, match="2 channels"):
        Dense(weights(3, 4)).then(norm(2), (1, 4))


def test_margins_follow_conversion() -> None:
    both = Dense(weights(3, 4)).then(norm(3), (1, 4))
    assert isinstance(both, Dense) and set(both.arrays()) == {"weight", "bias", "margin"}
    single = both.convert(lambda a: a.astype(np.float32))
    assert single.margin is not None and single.margin.dtype == np.float32 and single.terms((1, 4)) == both.terms((1, 4))
