"""The self-test covers every operator, finds nothing wrong with ours, and finds bounds that are a little too tight."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ascertain.certify import selftest
from ascertain.certify.plan import Plan
from ascertain.certify.selftest import Bounds, every_operator, examine
from ascertain.operators import LogSumExp, Product, Relu, Sigmoid, Softmax, Standardize
from ascertain.operators.base import Operator, Shape
from tests.operators.test_battery import CLASSES

OPERATORS = list(every_operator())
WRONG: list[tuple[Operator, tuple[Shape, ...]]] = [
    (Relu(), ((3,),)),
    (Sigmoid(), ((3,),)),
    (Softmax(0), ((3,),)),
    (LogSumExp(0), ((3,),)),
    (Product("a,a->a"), ((2,), (2,))),
    (Standardize((0,), 1e-5), ((4,),)),
]


def test_every_operator_is_there() -> None:
    assert {type(o) for o, _ in OPERATORS} == set(CLASSES)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_no_value_passes_a_bound(dtype: torch.dtype) -> None:
    for operator, shapes in OPERATORS:
        found = examine(operator, shapes, 800, dtype)
        assert found.violation == 0 and found.boxes == 800, found
        assert found.looseness is None or -1e-6 <= found.looseness <= 1, found


@pytest.mark.parametrize("inward", [1e-2, 1e-6])
@pytest.mark.parametrize("example", WRONG, ids=lambda e: e[0].name)
def test_bounds_that_are_too_tight_are_noticed(example: tuple[Operator, tuple[Shape, ...]], inward: float) -> None:
    """Our bounds pulled inward by a share of their size, in single precision by more than their own rounding."""

    def shrunk(plan: Plan) -> Bounds:
        ask = selftest.own_bounds(plan)
        inward_here = inward if plan.dtype == torch.float64 else max(inward, 1e-4)

        def tight(low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            least, most = ask(low, high)
            return least + inward_here * least.abs(), most - inward_here * most.abs()

        return tight

    for dtype in (torch.float64, torch.float32):
        assert examine(*example, 800, dtype, bounds=shrunk).violation > inward / 100


def test_looseness_of_known_gaps() -> None:
    """Interval bounds twice as wide as the range leave half of their width without a value."""

    def doubled(plan: Plan) -> Bounds:
        def wide(low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            least, most = low.clamp(min=0), high.clamp(min=0)
            return least - (most - least) / 2, most + (most - least) / 2

        return wide

    found = examine(Relu(), ((5,),), 800, torch.float64, bounds=doubled)
    assert found.violation == 0 and found.looseness == pytest.approx(0.5, abs=0.02)
    assert np.isfinite(found.looseness)
