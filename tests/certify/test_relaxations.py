"""Relaxations with any parameters bound their function; their gradients are those of the bound; their levels cover rounding."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from ascertain.certify.lines import Lines, Sloped
from ascertain.certify.plan import Plan, Step
from ascertain.certify.planes import McCormick, Planes
from ascertain.certify.relaxations import Relaxation, enclose, relax
from ascertain.certify.rounding import DOUBLE, SINGLE, Rounding
from ascertain.graph.graph import Builder
from ascertain.operators import LogSumExp, Product, Reshape, Slice, Softmax
from ascertain.operators.base import Operator, Shape, Univariate
from ascertain.operators.trial import reflected

FORMATS = {torch.float64: DOUBLE, torch.float32: SINGLE}
ABSTRACT = {"Balanced", "Bent", "Curve", "Dipping", "Gated", "PiecewiseLinear", "Rising", "SShaped", "Staircase", "Wave"}
Boxes = list[tuple[Tensor, Tensor]]


def below(kind: type[Operator]) -> Iterator[type[Operator]]:
    for found in kind.__subclasses__():
        yield found
        yield from below(found)


def univariate() -> list[tuple[Operator, tuple[Shape, ...]]]:
    """One example of each function of one variable in the package."""
    found = {}
    for kind in below(Univariate):
        if kind.__module__.startswith("ascertain.operators") and kind.__name__ not in ABSTRACT:
            found[kind.__name__] = next(kind.examples())
    return [found[name] for name in sorted(found)]


CURVES = univariate()
JOINT: list[tuple[Operator, tuple[Shape, ...]]] = [
    *Product.examples(),
    (Product("a,->a"), ((3,), ())),
    *Softmax.examples(),
    *LogSumExp.examples(),
]
ALL = [*CURVES, *JOINT]


def name(example: tuple[Operator, tuple[Shape, ...]]) -> str:
    return f"{example[0].name}{example[1]}".replace(" ", "")


def step_of(example: tuple[Operator, tuple[Shape, ...]], dtype: torch.dtype = torch.float64) -> Step:
    operator, shapes = example
    build = Builder()
    flat = build.input((sum(int(np.prod(s)) for s in shapes),))
    inputs, start = [], 0
    for shape in shapes:
        size = int(np.prod(shape))
        inputs.append(build(Reshape(shape), build(Slice(((start, start + size, 1),)), flat)))
        start += size
    plan = Plan.compile(build.graph(flat, build(operator, *inputs)), dtype)
    return plan.steps[plan.output]


def boxes_of(step: Step, rng: np.random.Generator, batch: int, dtype: torch.dtype, exponents: tuple[int, int] = (-20, 3)) -> Boxes:
    """Boxes of scales from ten to the first to ten to the last exponent, some a point, inside of the domain."""
    found = []
    for shape in step.shapes:
        size = (batch, int(np.prod(shape)))
        center = rng.normal(size=size) * 10.0 ** rng.integers(*exponents, size=(batch, 1))
        width = abs(rng.normal(size=size)) * 10.0 ** rng.integers(exponents[0], exponents[1], size=(batch, 1))
        width[rng.random(size) < 0.1] = 0.0
        domain = step.nonlinear.domain if isinstance(step.nonlinear, Univariate) else (-np.inf, np.inf)
        ends = reflected(center, domain), reflected(center + width, domain)
        low, high = torch.tensor(np.minimum(*ends)).to(dtype), torch.tensor(np.maximum(*ends)).to(dtype)
        found.append((low, torch.maximum(low, high)))
    return found


def points_of(boxes: Boxes, rng: np.random.Generator, count: int = 24) -> list[Tensor]:
    """Points (B, count, size) of boxes, corners among them."""
    found = []
    for low, high in boxes:
        share = torch.tensor(rng.random((len(low), count, low.shape[1]))).to(low.dtype)
        share[:, : count // 3] = share[:, : count // 3].round()
        x = low.unsqueeze(1) * (1 - share) + high.unsqueeze(1) * share
        found.append(torch.minimum(torch.maximum(x, low.unsqueeze(1)), high.unsqueeze(1)))
    return found


def values_of(step: Step, points: list[Tensor]) -> Tensor:
    batch, count = points[0].shape[:2]
    y = step.operator.forward(*(p.reshape(-1, *s) for p, s in zip(points, step.shapes, strict=True)))
    return y.reshape(batch, count, -1)


def varied(line: Relaxation, rng: np.random.Generator, batch: int, rows: int) -> Relaxation:
    """The relaxation with random parameters, one in four of them 0 or 1."""
    chosen = {}
    for key, p in line.parameters().items():
        r = rng.random((batch, rows, p.shape[-1]))
        r = np.where(rng.random(r.shape) < 0.25, np.round(r), r)
        chosen[key] = torch.tensor(r).to(p.dtype)
    return line.adjusted(chosen)


def bound(line: Relaxation, a: Tensor, points: list[Tensor]) -> Tensor:
    """What pulled rows (B, S, m) are worth at points (B, S, n): (B, S)."""
    parts, constant = line.pull(a)
    return sum(((g * x).sum(-1) for g, x in zip(parts, points, strict=True)), constant)


def charge(step: Step, line: Relaxation, boxes: Boxes, rounding: Rounding) -> Tensor:
    """What one coefficient is charged for rounding, as `charges` does it."""
    reach = [torch.maximum(low.abs(), high.abs()).amax(0) for low, high in boxes]
    low, high = enclose(step, boxes, rounding.unit, rounding.tiny)
    after = torch.maximum(low.abs(), high.abs()).amax(0)
    return rounding.gamma(step.size + 4 + step.longest) * line.level(reach, after) + rounding.tiny


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("example", ALL, ids=name)
def test_any_parameters_bound_the_function(example: tuple[Operator, tuple[Shape, ...]], dtype: torch.dtype) -> None:
    """On boxes of all scales; the charge, taken box by box, is the room for evaluating the planes here."""
    rng, rounding = np.random.default_rng(0), FORMATS[dtype]
    step = step_of(example, dtype)
    for round_ in range(30):
        boxes = boxes_of(step, rng, 1, dtype, ((-20, 3) if dtype == torch.float64 else (-6, 3)))
        low, high = enclose(step, boxes, rounding.unit, rounding.tiny)
        line = relax(step, boxes, rounding.unit)
        points = points_of(boxes, rng)
        y = values_of(step, points)
        room = charge(step, line, boxes, rounding)
        assert bool((y >= low.unsqueeze(1) - room).all() and (y <= high.unsqueeze(1) + room).all())
        some = line if round_ % 3 == 0 else varied(line, rng, 1, 24)
        for _ in range(3):
            a = torch.tensor(rng.normal(size=y.shape)).to(dtype)
            a[torch.tensor(rng.random(a.shape)) < 0.3] = 0.0
            found, true = bound(some, a, points), (a * y).sum(-1)
            assert not bool((found > true + 2 * a.abs() @ room + 2 * rounding.gamma(step.size) * (a * y).abs().sum(-1)).any())


@pytest.mark.parametrize("example", ALL, ids=name)
def test_gradients_equal_finite_differences(example: tuple[Operator, tuple[Shape, ...]]) -> None:
    """With respect to parameters, and to coefficients: the values that the chosen maps take are the derivative there."""
    rng = np.random.default_rng(1)
    step = step_of(example)
    boxes = boxes_of(step, rng, 3, torch.float64, (-1, 1))
    line = varied(relax(step, boxes, DOUBLE.unit), rng, 3, 4)
    points = points_of(boxes, rng, 12)
    points = [p[:, 8:] for p in points]
    a = torch.tensor(rng.normal(size=(3, 4, step.size)))
    h = 1e-6
    values = line.value(a, points)
    for i in range(step.size):
        move = torch.zeros_like(a)
        move[..., i] = h
        slope = (bound(line, a + move, points) - bound(line, a - move, points)) / (2 * h)
        slope = torch.where(torch.isfinite(slope), slope, values[..., i])  # a pole: no bound, no derivative
        torch.testing.assert_close(slope, values[..., i].expand_as(slope), rtol=1e-4, atol=1e-6)
    parameters, gradients = line.parameters(), line.gradients(a, points)
    assert parameters.keys() == gradients.keys()
    for key, p in parameters.items():
        for i in range(p.shape[-1]):
            # one-sided at the ends of the range, centred elsewhere; at a kink of the bound the two differ
            up, down = p.clone(), p.clone()
            up[..., i], down[..., i] = (p[..., i] + h).clamp(max=1), (p[..., i] - h).clamp(min=0)
            run = (up - down)[..., i]
            rise = bound(line.adjusted(parameters | {key: up}), a, points) - bound(
                line.adjusted(parameters | {key: down}), a, points
            )
            close = torch.isclose(rise / run, gradients[key][..., i], rtol=1e-3, atol=1e-5) | ~torch.isfinite(rise)
            assert bool(close.float().mean() >= 0.75), (key, i, rise / run, gradients[key][..., i])


def raised(line: Relaxation) -> Relaxation:
    """The same single-precision numbers in double precision."""
    if isinstance(line, Lines):
        floor = None if line.lower_intercept is None else line.lower_intercept.double()
        return Lines(line.lower_slope.double(), line.upper_slope.double(), line.upper_intercept.double(), floor)
    up = line.to(torch.float64)
    if isinstance(line, McCormick):
        up.__dict__["planes"] = tuple(tuple(t.double() for t in side) for side in line.planes)
    elif isinstance(line, Planes):
        up.__dict__["_shares"] = line._shares.double()
    return up


@pytest.mark.parametrize("example", [e for e in ALL if isinstance(e[0], Univariate) and not e[0].rectifier], ids=name)
def test_lines_of_one_side_are_those_of_both(example: tuple[Operator, tuple[Shape, ...]]) -> None:
    rng, step = np.random.default_rng(5), step_of(example)
    boxes = boxes_of(step, rng, 4, torch.float64, (-1, 2))
    line = varied(relax(step, boxes, DOUBLE.unit), rng, 4, 6)
    assert isinstance(line, Sloped)
    a = torch.tensor(rng.normal(size=(4, 6, step.size)))
    below, above = (line.curve.flattest + line.curve.span * p for p in (line.below, line.above))
    both = line.curve.sloped(below, above)
    for found, expected in zip((*line.pull(a)[0], line.pull(a)[1]), (*both.pull(a)[0], both.pull(a)[1]), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    points = points_of(boxes, rng, 6)
    torch.testing.assert_close(line.value(a, points), both.value(a, points), rtol=1e-13, atol=1e-13)
    mine, theirs = line.gradients(a, points), both.gradients(a, points)
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("example", ALL, ids=name)
def test_levels_cover_rounding(example: tuple[Operator, tuple[Shape, ...]]) -> None:
    """The same planes applied in single and in double precision differ by less than what is charged."""
    rng = np.random.default_rng(2)
    step = step_of(example, torch.float32)
    worst = 0.0
    for _ in range(20):
        boxes = boxes_of(step, rng, 1, torch.float32, (-3, 2))
        line = varied(relax(step, boxes, SINGLE.unit), rng, 1, 24)
        points = points_of(boxes, rng)
        a = torch.tensor(rng.normal(size=(1, 24, step.size)) * 10.0 ** rng.integers(-2, 3, size=(1, 24, step.size))).float()
        line = line.facing(a)
        parts, constant = line.pull(a)
        if not bool(torch.isfinite(constant).all()):
            continue
        exact = bound(raised(line), a.double(), [p.double() for p in points])
        rough = sum(((g.double() * x.double()).sum(-1) for g, x in zip(parts, points, strict=True)), constant.double())
        allowed = a.double().abs() @ charge(step, line, boxes, SINGLE).double()
        assert bool(((rough - exact).abs() <= allowed).all())
        worst = max(worst, float(((rough - exact).abs() / allowed).max()))
    assert worst < 1


@pytest.mark.parametrize("example", ALL, ids=name)
def test_a_point_is_exact(example: tuple[Operator, tuple[Shape, ...]]) -> None:
    rng = np.random.default_rng(3)
    step = step_of(example)
    boxes = [(low, low) for low, _ in boxes_of(step, rng, 5, torch.float64, (-3, 1))]
    y = values_of(step, [low.unsqueeze(1) for low, _ in boxes])
    line = relax(step, boxes, DOUBLE.unit)
    inputs = [low.unsqueeze(1) for low, _ in boxes]
    for a in (torch.ones_like(y), -torch.ones_like(y)):
        if isinstance(step.operator, Softmax):  # equal coefficients are left to the known sum
            a[..., ::2] = 0
        torch.testing.assert_close(bound(line, a, inputs), (a * y).sum(-1), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("example", ALL, ids=name)
@pytest.mark.parametrize(
    "ends", [(-np.inf, None), (None, np.inf), (-np.inf, np.inf), (np.nan, None), (None, np.nan), (-1e308, 1e308)]
)
def test_infinite_boxes_give_no_wrong_number(example: tuple[Operator, tuple[Shape, ...]], ends: tuple[float | None, ...]) -> None:
    rng = np.random.default_rng(4)
    step = step_of(example)
    inside = boxes_of(step, rng, 6, torch.float64, (-1, 2))
    wide = []
    for low, high in inside:
        at = torch.tensor(rng.random(low.shape)) < 0.6
        wide.append(tuple(t if e is None else torch.where(at, e, t) for t, e in zip((low, high), ends, strict=True)))
    y = values_of(step, points := points_of(inside, rng))
    low, high = enclose(step, wide, DOUBLE.unit, DOUBLE.tiny)
    room = 1e-12 * (1 + y.abs())
    line = relax(step, wide, DOUBLE.unit)
    for some in (line, varied(line, rng, 6, 24)):
        for sign in (1.0, -1.0):
            a = sign * torch.tensor(rng.random(y.shape)).round()
            found = bound(some, a, points)
            wrong = found > (a * y).sum(-1) + (a.abs() * room).sum(-1)
            assert not bool(wrong.any())
    assert not bool((low.unsqueeze(1) > y + room).any() or (high.unsqueeze(1) < y - room).any())


# Against exact and extended arithmetic


def fractions(t: Tensor) -> np.ndarray:
    return np.vectorize(Fraction, otypes=[object])(t.double().numpy())


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("example", list(Product.examples()), ids=name)
def test_planes_of_products_in_rational_arithmetic(example: tuple[Operator, tuple[Shape, ...]], dtype: torch.dtype) -> None:
    rng, rounding = np.random.default_rng(5), FORMATS[dtype]
    step = step_of(example, dtype)
    operator = step.operator
    assert isinstance(operator, Product)
    for _ in range(10):
        boxes = boxes_of(step, rng, 1, dtype, (-8, 8))
        line = varied(relax(step, boxes, rounding.unit), rng, 1, 1)
        assert isinstance(line, McCormick)
        low, high = (fractions(t).reshape(-1) for t in enclose(step, boxes, rounding.unit, rounding.tiny))
        mine, yours, out = operator.terms
        (ax, ay, c), (bx, by, d) = line.planes
        for x, y in zip(*(p[0] for p in points_of(boxes, rng, 12)), strict=True):
            exact = [fractions(t).reshape(s) for t, s in zip((x, y), step.shapes, strict=True)]
            lifted = [np.einsum(f"{own}->{own}", e) for e, own in zip(exact, (mine, yours), strict=True)]
            sums = {}
            for key, (on_x, on_y) in {"true": (None, None), "below": (ax, ay), "above": (bx, by)}.items():
                sums[key] = total(
                    line,
                    out,
                    lifted,
                    None if on_x is None else fractions(on_x[0, 0]),
                    None if on_y is None else fractions(on_y[0, 0]),
                )
            assert (sums["below"] + fractions(c).reshape(-1) <= sums["true"]).all()
            assert (sums["true"] <= sums["above"] + fractions(d).reshape(-1)).all()
            assert (low <= sums["true"]).all() and (sums["true"] <= high).all()


def total(line: McCormick, out: str, pair: list[np.ndarray], on_x: np.ndarray | None, on_y: np.ndarray | None) -> np.ndarray:
    """Sums over products of x y, or of coefficients times x and y: one rational number for each output."""
    x, y = (lifted(e, own, line.letters) for e, own in zip(pair, line.operator.terms[:2], strict=True))
    each = x * y if on_x is None or on_y is None else on_x * x + on_y * y
    full = np.broadcast_to(each, np.broadcast_shapes(each.shape, (x * y).shape))
    return np.asarray(full.reshape(*full.shape[: len(out)], -1).sum(-1), dtype=object).reshape(-1)


def lifted(e: np.ndarray, own: str, letters: str) -> np.ndarray:
    order = sorted(range(len(own)), key=lambda i: letters.index(own[i]))
    sizes = dict(zip(own, e.shape, strict=True))
    return e.transpose(order).reshape([sizes.get(c, 1) for c in letters])


@pytest.mark.parametrize("kind", [Softmax, LogSumExp])
@pytest.mark.parametrize("scale", [1e-8, 1e-2, 1.0, 10.0, 100.0, 1e4, 1e8])
def test_groups_in_extended_precision(kind: type[Softmax] | type[LogSumExp], scale: float) -> None:
    """Ranges and planes; entries far apart, entries that nearly cancel the logarithm of their number."""
    rng = np.random.default_rng(6)
    for n in (1, 2, 5):
        step = step_of((kind(0), ((n,),)))
        center = rng.normal(size=(60, n)) * scale
        center[:20] = -np.log(n) + rng.normal(size=(20, n)) * 1e-3 * rng.integers(0, 2, size=(20, 1))
        width = abs(rng.normal(size=(60, n))) * scale * rng.choice([0.0, 1e-9, 0.1, 1.0], size=(60, 1))
        boxes = [(torch.tensor(center - width), torch.tensor(center + width))]
        low, high = (t.numpy().astype(np.longdouble)[:, None] for t in enclose(step, boxes, DOUBLE.unit, DOUBLE.tiny))
        line = varied(relax(step, boxes, DOUBLE.unit), rng, 60, 1)
        assert isinstance(line, Planes)
        points = points_of(boxes, rng)[0].numpy().astype(np.longdouble)
        top = points.max(-1, keepdims=True)
        e = np.exp(points - top)
        y = e / e.sum(-1, keepdims=True) if kind is Softmax else top + np.log(e.sum(-1, keepdims=True))
        assert (low <= y).all() and (y <= high).all()
        for key, (matrix, offset), side in (("below", line.below, 1), ("above", line.above, -1)):
            plane = np.einsum("bkn,bmn->bkm", points, matrix[:, 0].numpy().astype(np.longdouble)) + offset[:, 0].numpy()
            assert (side * plane <= side * y).all(), key
