"""The battery passes every operator of the package, and fails each kind of wrong one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

import ascertain.operators as operators
from ascertain.errors import DataError, ShapeError
from ascertain.operators import Abs, Clip, Conv, Dense, LeakyRelu, Reduce, Relu, Shift, Softmax, Sum
from ascertain.operators.base import Affine, Array, Bilinear, Composite, Emit, Operator, Planar, Ref, Shape, Univariate, namespace
from ascertain.operators.battery import BatteryFailure, check_operator
from ascertain.operators.boxes import check_box

FAMILIES = {Operator, Affine, Bilinear, Planar, Univariate, Composite, operators.piecewise.PiecewiseLinear} | {
    operators.curves.Curve,
    operators.gated.Balanced,
    operators.gated.Dipping,
    operators.gated.Gated,
    operators.sigmoidal.Rising,
    operators.sigmoidal.SShaped,
    operators.smooth.Bent,
    operators.periodic.Wave,
    operators.steps.Staircase,
}


def below(kind: type[Operator]) -> Iterator[type[Operator]]:
    for found in kind.__subclasses__():
        yield found
        yield from below(found)


CLASSES = sorted(
    {k for k in below(Operator) if k.__module__.startswith("ascertain.operators") and k not in FAMILIES}, key=lambda k: k.__name__
)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda k: k.__name__)
def test_operator_survives(kind: type[Operator]) -> None:
    examples = list(kind.examples())
    assert examples
    for seed, (operator, shapes) in enumerate(examples):
        report = check_operator(operator, shapes, seed=seed)
        assert all(n > 0 for n in report.counts.values()) and max(report.worst.values()) <= 1
        assert report.operator in str(report)


def test_every_class_is_exported() -> None:
    assert {k.__name__ for k in CLASSES} <= set(operators.__all__)


W = np.random.default_rng(3).normal(size=(4, 40))


class WrongAdjoint(Dense):
    def adjoint(self, gradient: Array, *shapes: Shape) -> tuple[Array, ...]:
        return (gradient @ abs(self.weight),)


class SmallMagnitude(Dense):
    def magnitude(self) -> Affine:
        return Dense(0.999 * abs(self.weight), None if self.bias is None else abs(self.bias))


class NoOffsetMagnitude(Dense):
    def magnitude(self) -> Affine:
        return Dense(abs(self.weight))


class FewTerms(Dense):
    def terms(self, *shapes: Shape) -> int:
        return 0


class NoTerms(Reduce):
    def terms(self, *shapes: Shape) -> int:
        return 1


class WrongRows(Dense):
    def restrict(self, index: Array, *shapes: Shape) -> Array | None:
        return self.weight[index[::-1]].reshape(-1, *shapes[0])


class NotLinear(Dense):
    def linear(self, *inputs: Array) -> Array:
        return super().linear(*inputs) + self.bias

    def forward(self, *inputs: Array) -> Array:
        return self.linear(*inputs)


class MixesBatch(Dense):
    def forward(self, *inputs: Array) -> Array:
        return super().forward(inputs[0] - inputs[0].mean(0))


class WrongShape(Dense):
    def infer(self, *shapes: Shape) -> Shape:
        return (*super().infer(*shapes), 1)


class Widens(Dense):
    def forward(self, *inputs: Array) -> Array:
        return super().forward(*inputs) + namespace(inputs[0]).zeros((1,), dtype=namespace(inputs[0]).float64)


class WrongOrder(Softmax):
    def preserves_order(self, *shapes: Shape) -> bool:
        return True


@dataclass(frozen=True, eq=False)
class Power(Univariate):
    """x ** 4, by what each subclass says of it."""

    def f(self, x: Array) -> Array:
        return x * x * (x * x)

    def stationary(self, slope: Array, lower: Array, upper: Array) -> tuple[Array, ...]:
        xp = namespace(slope)
        return (xp.sign(slope) * abs(slope / 4) ** (1 / 3),)

    def slope_range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        return 4 * lower**3, 4 * upper**3


class EvenPowerWithoutZero(Power):
    """The bug of a leading library: the interval of an even power from its end points alone."""

    def interval(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        xp = namespace(lower)
        return xp.minimum(self.f(lower), self.f(upper)), xp.maximum(self.f(lower), self.f(upper))


class NoStationaryPoint(Power):
    def stationary(self, slope: Array, lower: Array, upper: Array) -> tuple[Array, ...]:
        return ()


class LooseLines(Power):
    def support(self, lower: Array, upper: Array, slope: Array, above: Array | bool) -> tuple[Array, Array]:
        level, at = super().support(lower, upper, slope, above)
        return level - (1 - np.asarray(above, float)) * 0.3 * (upper - lower), at


class NarrowSlopes(LeakyRelu):
    def slope_range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        return lower * 0 + 0.5, lower * 0 + 1.0


class NeverCurved(Abs):
    def curved(self, lower: Array, upper: Array) -> Array:
        return lower != lower


class FalseRectifier(Abs):
    rectifier = True


class NoKink(Relu):
    kinks = ()


class HidesNan(Relu):
    def f(self, x: Array) -> Array:
        xp = namespace(x)
        return xp.where(x > 0, x, x * 0 if xp is not np else np.zeros_like(x))


class HidesNanEnds(Relu):
    def interval(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        return np.fmax(lower, 0), np.fmax(upper, 0)


class WrongExpansion(Abs):
    def expand(self, emit: Emit, *inputs: Ref) -> Ref:
        return emit(Sum((2.0, 1.0)), emit(Relu(), inputs[0]), inputs[0])


WRONG = [
    (WrongAdjoint(W), (40,), "adjoint"),
    (SmallMagnitude(W), (40,), "magnitude"),
    (NoOffsetMagnitude(W, np.ones(4)), (40,), "magnitude"),
    (FewTerms(W), (40,), "rounding"),
    (NoTerms((0,), False, mean=True), (40,), "rounding"),
    (WrongRows(W), (40,), "restrict"),
    (NotLinear(W, np.ones(4)), (40,), "linear"),
    (MixesBatch(W), (40,), "batch"),
    (WrongShape(W), (40,), "shape"),
    (Widens(W), (40,), "dtype"),
    (EvenPowerWithoutZero(), (3,), "interval"),
    (NoStationaryPoint(), (3,), "lines"),
    (LooseLines(), (3,), "tightness"),
    (NarrowSlopes(0.25), (3,), "slopes"),
    (NeverCurved(), (3,), "curved"),
    (FalseRectifier(), (3,), "rectifier"),
    (NoKink(), (3,), "lines"),
    (HidesNan(), (3,), "nan"),
    (HidesNanEnds(), (3,), "nan"),
    (WrongExpansion(), (3,), "expansion"),
    (WrongOrder(1), (2, 3), "order"),
]


@pytest.mark.parametrize(("operator", "shape", "fact"), WRONG, ids=lambda v: type(v).__name__ if isinstance(v, Operator) else None)
def test_wrong_operator_fails(operator: Operator, shape: Shape, fact: str) -> None:
    with pytest.raises(BatteryFailure, match=rf"^{operator.name}: {fact}: "):
        check_operator(operator, (shape,))


def test_right_power_survives() -> None:
    check_operator(Power(), ((3,),))


def test_reference() -> None:
    single = W.astype(np.float32).astype(float)
    check_operator(Dense(W, W[:, 0]), ((40,),), reference=lambda x: np.einsum("bi,oi->bo", x, single) + single[:, 0])
    with pytest.raises(BatteryFailure, match="reference"):
        check_operator(Shift(np.ones(3)), ((3,),), reference=lambda x: x + 1.001)


def test_given_boxes() -> None:
    class OnlyWrongNearSeven(Clip):
        def interval(self, lower: Array, upper: Array) -> tuple[Array, Array]:
            low, high = super().interval(lower, upper)
            return low, np.where((lower > 6.9) & (upper < 7.1), low - 1, high)

    operator = OnlyWrongNearSeven(0.0, 10.0)
    check_operator(operator, ((2,),))
    with pytest.raises(BatteryFailure, match="interval"):
        check_operator(operator, ((2,),), boxes=(np.full((1, 2), 6.95), np.full((1, 2), 7.05)))


@pytest.mark.parametrize("torch_too", [False, True])
def test_check_box(torch_too: bool) -> None:
    def made(*values: float) -> Array:
        if not torch_too:
            return np.array(values)
        import torch

        return torch.tensor(values, dtype=torch.float64)

    check_box(made(0, 1), made(0, 2))
    for lower, upper in ((made(np.nan), made(1)), (made(0), made(np.inf)), (made(-np.inf), made(0)), (made(1), made(0))):
        with pytest.raises(DataError, match=r"^x has"):
            check_box(lower, upper, "x")
    with pytest.raises(ShapeError):
        check_box(made(0), made(0, 1))


def test_wrong_shapes_raise() -> None:
    for operator, shapes in (
        (Dense(W), ((39,),)),
        (Dense(W), ((),)),
        (Conv(np.ones((1, 2, 3)), None, (1,), ((0, 0),), (1,)), ((1, 3, 5),)),
        (Conv(np.ones((1, 2, 3)), None, (1,), ((0, 0),), (1,)), ((1, 2, 2),)),
        (Shift(np.ones(3)), ((2,),)),
        (Sum((1.0, 1.0)), ((2,), (3,))),
        (Sum((1.0,)), ((2,), (2,))),
        (operators.Reshape((3,)), ((2,),)),
        (operators.Transpose((0, 0)), ((2, 2),)),
        (operators.Concat(0), ((2, 1), (2, 2))),
        (operators.Gather(0, np.array([2])), ((2,),)),
        (operators.Slice(((0, 3, 1),)), ((2,),)),
        (operators.Pad((1,), (-1,)), ((2,),)),
        (operators.MaxPool((2,), (1,), ((2, 0),), (1,)), ((1, 1, 3),)),
        (operators.AveragePool((2,), (1,), ((2, 0),), (1,)), ((1, 1, 3),)),
        (operators.GroupSort(0, 2), ((3,),)),
        (operators.BatchNorm(np.ones(2), np.ones(2), np.ones(2), np.ones(2), 0.0), ((1, 3),)),
    ):
        with pytest.raises(ShapeError):
            operator.infer(*shapes)
