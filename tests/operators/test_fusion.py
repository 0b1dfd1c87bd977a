"""What operators say they are together equals one after the other, with parameters untouched."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from ascertain.operators import Conv, ConvTranspose, Dense, Relu, Reshape, Shift, Transpose
from ascertain.operators.base import Operator, Shape

R = np.random.default_rng(5)
CONV = Conv(R.normal(size=(3, 2, 2, 2)), None, (1, 1), ((0, 0), (0, 0)), (1, 1))
BACK = ConvTranspose(R.normal(size=(2, 3, 2, 2)), None, (1, 1), ((0, 0), (0, 0)), (1, 1), (0, 0))
IMAGE = (1, 2, 4, 3)


@pytest.mark.parametrize(
    ("first", "second", "shape"),
    [
        (Dense(R.normal(size=(3, 4))), Shift(R.normal(size=3)), (2, 4)),
        (Dense(R.normal(size=(3, 4))), Shift(R.normal(size=(1, 3))), (1, 4)),
        (Dense(R.normal(size=(3, 4))), Shift(np.array(0.5)), (2, 4)),
        (CONV, Shift(R.normal(size=(3, 1, 1))), IMAGE),
        (CONV, Shift(R.normal(size=(1, 3, 1, 1))), IMAGE),
        (BACK, Shift(R.normal(size=(1, 3, 1, 1))), IMAGE),
        (Reshape((6, 2)), Reshape((3, 4)), (12,)),
        (Transpose((2, 0, 1)), Transpose((1, 0, 2)), (2, 3, 4)),
    ],
)
def test_together_equals_one_after_the_other(first: Operator, second: Operator, shape: Shape) -> None:
    both = first.then(second, shape)
    assert both is not None
    x = R.normal(size=(5, *shape))
    assert both.infer(shape) == second.infer(first.infer(shape))
    np.testing.assert_array_equal(both.forward(x), second.forward(first.forward(x)))


@pytest.mark.parametrize(
    ("first", "second", "shape"),
    [
        (Dense(R.normal(size=(3, 4)), np.ones(3)), Shift(np.ones(3)), (2, 4)),
        (Dense(R.normal(size=(3, 4))), Shift(R.normal(size=(2, 3))), (2, 4)),
        (Dense(R.normal(size=(3, 4))), Shift(R.normal(size=(5, 1, 3))), (2, 4)),
        (Dense(R.normal(size=(3, 4))), Relu(), (2, 4)),
        (CONV, Shift(R.normal(size=(3, 3, 2))), IMAGE),
        (CONV, Shift(R.normal(size=2)), IMAGE),
        (Reshape((6, 2)), Relu(), (12,)),
    ],
)
def test_nothing_is_said_where_offsets_would_be_added_or_shapes_differ(first: Operator, second: Operator, shape: Shape) -> None:
    assert first.then(second, shape) is None


def test_dense_operators_need_no_torch() -> None:
    program = """
import sys
import numpy as np
from ascertain.operators import Concat, Dense, Relu, Reshape, Slice, Sum
x = np.ones((2, 3))
y = Relu().forward(Dense(np.ones((4, 3)), np.ones(4)).forward(x))
Dense(np.ones((4, 3))).adjoint(y, (3,))
Concat(0).forward(Slice(((0, 2, 1),)).forward(y), Reshape((4,)).forward(Sum((1.0, -1.0)).forward(y, y)))
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
