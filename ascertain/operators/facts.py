"""How the battery tries to falsify the facts of each family."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from math import prod

import numpy as np

from ascertain.operators.base import Affine, Array, Bilinear, Composite, Operator, Planar, Ref, Shape, Univariate
from ascertain.operators.trial import Trial, reflected

__all__ = ["affine_facts", "bilinear_facts", "composite_facts", "order_facts", "planar_facts", "univariate_facts"]

_SINGLE, _DOUBLE = 2.0**-24, 2.0**-53
_TINY = 1e-290


def gamma(terms: int, unit: float) -> float:
    """n u / (1 - n u)."""
    return terms * unit / (1 - terms * unit)


def order_facts(trial: Trial, operator: Operator, inputs: list[Array]) -> None:
    """Outputs compare as inputs do, ties included; on small whole numbers, so that rounding makes no ties of its own."""
    (x,) = (np.clip(np.round(v), -8, 8).reshape(len(v), -1) for v in inputs)
    y = operator.forward(x.reshape(inputs[0].shape)).reshape(x.shape)
    before, after = (v[:, :, None] - v[:, None, :] for v in (x, y))
    after = np.where(abs(after) <= 1e-12 * abs(y).max(), 0.0, after)
    trial.holds("order", bool((np.sign(before) == np.sign(after)).all()), "two outputs compare otherwise than their inputs")


# Affine


def affine_facts(trial: Trial, single: Affine, double: Affine, shapes: tuple[Shape, ...]) -> None:
    """Linearity, the transpose, the magnitude, restriction to rows, and the rounding of every application."""
    zeros = [np.zeros((1, *s)) for s in shapes]
    offset = double.forward(*zeros)
    inputs = [trial.numbers((4, *s)) for s in shapes]
    size = _size(double, inputs)
    trial.within("linear", abs(double.forward(*inputs) - double.linear(*inputs) - offset), 1e-12 * size)
    others = [trial.numbers((4, *s)) for s in shapes]
    mixed = double.linear(*(2 * x - 3 * y for x, y in zip(inputs, others, strict=True)))
    both = _size(double, inputs) * 2 + _size(double, others) * 3
    trial.within("linear", abs(mixed - 2 * double.linear(*inputs) + 3 * double.linear(*others)), 1e-12 * both)
    matrices = list(_matrices(double, shapes))
    _adjoint(trial, double, shapes, matrices)
    _magnitude(trial, double, shapes, matrices, offset)
    _restriction(trial, double, shapes, matrices)
    for values in _hard_inputs(trial, shapes):
        _rounding(trial, single, double, values, shapes)
        _exact(trial, double, values, shapes, matrices, offset)


def _size(operator: Affine, inputs: list[Array]) -> np.ndarray:
    """The magnitude map on absolute values: the scale of the numbers that an application adds up."""
    return np.asarray(operator.magnitude().forward(*(abs(x) for x in inputs)))


def _matrices(operator: Affine, shapes: tuple[Shape, ...]) -> Iterator[np.ndarray]:
    """Each L_i as ``(size_i, *shape)``, by unit vectors."""
    for i, shape in enumerate(shapes):
        n = prod(shape)
        yield operator.linear(*(np.eye(n).reshape(n, *s) if j == i else np.zeros((n, *s)) for j, s in enumerate(shapes)))


def _adjoint(trial: Trial, operator: Affine, shapes: tuple[Shape, ...], matrices: list[np.ndarray]) -> None:
    """<L x, g> = <x, L^T g>, entry by entry against the dense matrix."""
    g = trial.numbers((3, *operator.infer(*shapes)))
    pulled = operator.adjoint(g, *shapes)
    trial.holds("adjoint", len(pulled) == len(shapes), f"gives {len(pulled)} gradients for {len(shapes)} inputs")
    for got, matrix, shape in zip(pulled, matrices, shapes, strict=True):
        trial.holds("adjoint", got.shape == (3, *shape), f"gives shape {got.shape[1:]} for an input of shape {shape}")
        flat = matrix.reshape(len(matrix), -1)
        expected, scale = g.reshape(3, -1) @ flat.T, abs(g).reshape(3, -1) @ abs(flat).T
        trial.within("adjoint", abs(got.reshape(3, -1) - expected), 1e-12 * scale)


def _magnitude(trial: Trial, operator: Affine, shapes: tuple[Shape, ...], matrices: list[np.ndarray], offset: Array) -> None:
    """The magnitude is affine, has no negative entry, and dominates."""
    above = operator.magnitude()
    zeros = [np.zeros((1, *s)) for s in shapes]
    top = above.forward(*zeros)
    trial.within("magnitude", abs(offset) - top, 1e-15 * abs(top), "offset")
    for matrix, larger in zip(matrices, _matrices(above, shapes), strict=True):
        trial.within("magnitude", abs(matrix) - larger, 1e-15 * abs(larger), "coefficients")
    x = [abs(trial.numbers((3, *s))) for s in shapes]
    trial.within("magnitude", abs(above.forward(*x) - above.linear(*x) - top), 1e-12 * above.forward(*x), "not affine")
    g = abs(trial.numbers((3, *operator.infer(*shapes))))
    for a, b in zip(operator.adjoint(g, *shapes), above.adjoint(g, *shapes), strict=True):
        trial.within("magnitude", abs(a) - b, 1e-12 * abs(b), "adjoint")


def _restriction(trial: Trial, operator: Affine, shapes: tuple[Shape, ...], matrices: list[np.ndarray]) -> None:
    """Rows taken without computing are the rows of the matrix."""
    flat = matrices[0].reshape(len(matrices[0]), -1)
    index = trial.random.integers(0, max(flat.shape[1], 1), size=3)
    rows = operator.restrict(index, *shapes) if len(shapes) == 1 else None
    if rows is not None:
        trial.within("restrict", abs(rows.reshape(3, -1) - flat.T[index]), 0.0)


def _hard_inputs(trial: Trial, shapes: tuple[Shape, ...]) -> Iterator[list[np.ndarray]]:
    """Numbers whose sums round badly: mixed signs, one sign, one large number with many that its unit swallows; all float32."""
    flat = sum(prod(s) for s in shapes)
    large = np.full(flat, 0.5 * _SINGLE * (1 + 2.0**-20))
    large[0] = 1.0
    several = (trial.numbers((flat,)), abs(trial.numbers((flat,))), large, large[::-1], np.full(flat, 1.0 + 2.0**-23))
    for values in several:
        cuts = np.cumsum([prod(s) for s in shapes])[:-1]
        parts = np.split(values.astype(np.float32).astype(np.float64), cuts)
        yield [p.reshape(1, *s) for p, s in zip(parts, shapes, strict=True)]


def _rounding(trial: Trial, single: Affine, double: Affine, x: list[np.ndarray], shapes: tuple[Shape, ...]) -> None:
    """float32 results differ from float64 ones by at most gamma(terms) times the magnitude."""
    relative = gamma(double.terms(*shapes), _SINGLE)
    narrow = [v.astype(np.float32) for v in x]
    pairs = [(single.forward(*narrow), double.forward(*x), _size(double, x))]
    nothing = double.magnitude().forward(*(v * 0 for v in x))
    pairs.append((single.linear(*narrow), double.linear(*x), _size(double, x) - nothing))
    g = np.resize(np.concatenate([v.reshape(-1) for v in x]), (1, *double.infer(*shapes)))
    above = double.magnitude().adjoint(abs(g), *shapes)
    pairs += zip(single.adjoint(g.astype(np.float32), *shapes), double.adjoint(g, *shapes), above, strict=True)
    for rough, fine, size in pairs:
        # float64 itself errs by a 2^29 times smaller amount
        trial.within("rounding", abs(rough - fine), relative * size * (1 + 1e-6), "float32 against float64")


def _exact(
    trial: Trial, double: Affine, x: list[np.ndarray], shapes: tuple[Shape, ...], matrices: list[np.ndarray], offset: Array
) -> None:
    """float64 results against rational arithmetic, on the coefficients that unit vectors show (rounded twice at most: means)."""
    rows = np.concatenate([m.reshape(len(m), -1) for m in matrices])
    if rows.size > 3000:
        return
    values = [Fraction(v) for part in x for v in part.reshape(-1).tolist()]
    y, size = double.forward(*x).reshape(-1), _size(double, x).reshape(-1)
    errors = []
    for j, b in enumerate(offset.reshape(-1).tolist()):
        true = sum((Fraction(c) * v for c, v in zip(rows[:, j].tolist(), values, strict=True) if c), Fraction(b))
        errors.append(float(abs(true - Fraction(float(y[j])))))
    terms = double.terms(*shapes)
    trial.within(
        "rounding", np.array(errors), (gamma(terms, _DOUBLE) + (2 * _DOUBLE if terms else 0)) * size, "float64 against rationals"
    )


# Univariate


@np.errstate(all="ignore")
def univariate_facts(trial: Trial, operator: Univariate, shape: Shape, given: tuple[np.ndarray, np.ndarray] | None) -> None:
    """Lines of any slope contain the function and touch it, derivatives lie in the stated range, NaN stays NaN."""
    for lower, upper in _boxes(trial, operator, shape, given):
        points = _points(operator, lower, upper)
        f = operator.f(points)
        smallest, largest = operator.slope_range(lower, upper)
        trial.holds("slopes", bool((smallest <= largest).all()), "the smallest derivative is above the largest")
        for slope in _slopes(trial, lower, smallest, largest):
            low, high = operator.intercepts(lower, upper, slope)
            above = trial.random.uniform(size=lower.shape) < 0.5
            mixed, _ = operator.support(lower, upper, slope, above)
            same = (mixed == np.where(above, high, low)) | np.isnan(slope)
            trial.holds("sides", bool(same.all()), "lines of both kinds differ from those of one kind")
            _lines(trial, points, f, slope, low, high)
            _tight(trial, operator, points, f, slope, low, high)
        low, high = operator.interval(lower, upper)
        _lines(trial, points, f, lower * 0, low, high, "interval")
        _derivatives(trial, points, f, smallest, largest)
        _curvature(trial, operator, lower, upper, points, f)
    nan, one = np.full((1, *shape), np.nan), np.ones((1, *shape))
    for lower, upper in ((nan, one), (-one, nan), (nan, nan)):
        ends = operator.interval(lower, upper)
        trial.holds("nan", not any(np.isfinite(e).any() for e in ends), "an interval with a NaN end has finite bounds")
    for end, inward in zip(operator.domain, (1.0, -1.0), strict=True):
        if np.isfinite(end):
            lower, upper = (end - inward * one, end + inward * one)[:: int(inward)]
            bounds = (*operator.interval(lower, upper), *operator.intercepts(lower, upper, one))
            trial.holds("domain", not any(np.isfinite(b).any() for b in bounds), "a box that leaves the domain has finite bounds")


def _boxes(
    trial: Trial, operator: Univariate, shape: Shape, given: tuple[np.ndarray, np.ndarray] | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Boxes of all scales, also of no width, of one unit's width, and ending on kinks, on whole numbers and on halves."""
    full = (7, *shape)
    kinks = [np.broadcast_to(np.asarray(k, float), full) for k in operator.kink_points()]
    if given is not None:
        yield given
    for exponent in range(-30, 31, 3):
        centre = trial.random.normal(size=full) * 10.0**exponent
        width = abs(trial.random.normal(size=full)) * 10.0 ** trial.random.integers(-40, exponent + 3, size=full)
        centre = reflected(centre, operator.domain)
        ends = (centre, reflected(centre + width, operator.domain))
        yield np.minimum(*ends), np.maximum(*ends)
        yield centre, centre
        yield centre, np.nextafter(centre, operator.domain[1])
        for kink in kinks:
            yield kink - width, kink
            yield kink, kink + width
            yield kink - width, kink + abs(centre)
    # half a unit inside the domain, which may be open
    first, last = (reflected(np.round(6 * trial.random.normal(size=full)) / 2, operator.domain) + 0.5 for _ in range(2))
    yield np.minimum(first, last), np.maximum(first, last)
    for kink in kinks:
        yield kink, kink
        yield np.nextafter(kink, -np.inf), np.nextafter(kink, np.inf)


def _points(operator: Univariate, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Samples ``(K, *box)`` in rising order: a grid, and both sides of each kink."""
    grid = np.linspace(0.0, 1.0, 65).reshape(-1, *[1] * lower.ndim)
    samples = [lower * (1 - grid) + upper * grid]
    for kink in operator.kink_points():
        k = np.broadcast_to(np.asarray(kink, float), lower.shape)
        samples.append(np.stack([k, np.nextafter(k, -np.inf), np.nextafter(k, np.inf)]))
    return np.sort(np.clip(np.concatenate([lower[None], upper[None], *samples]), lower, upper), axis=0)


def _slopes(trial: Trial, lower: np.ndarray, smallest: np.ndarray, largest: np.ndarray) -> Iterator[np.ndarray]:
    top = np.clip(largest, -1e3, 1e3)
    bottom = np.clip(smallest, -1e3, 1e3)
    yield bottom
    yield top
    yield bottom + (top - bottom) * trial.random.uniform(size=lower.shape)
    yield trial.random.normal(size=lower.shape) * 3


def _error(f: np.ndarray, product: np.ndarray) -> np.ndarray:
    """Room for the rounding of f(x) - slope x, here and in the operator; none where they overflow."""
    return np.asarray(8 * _DOUBLE * _finite(abs(f) + abs(product)) + _TINY)


def _finite(x: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(x), x, 0.0)


def _above(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """By how much a is above b; nothing where both are the same infinity."""
    return np.where(a == b, 0.0, a - b)


def _lines(trial: Trial, x: Array, f: Array, slope: Array, low: Array, high: Array, fact: str = "lines") -> None:
    # the operator evaluated f(p) - slope p at points p of its own, perhaps much further from 0 than x
    elsewhere = 8 * _DOUBLE * abs(slope) * np.maximum(abs(x[0]), abs(x[-1]))
    residual, room = f - slope * x, _error(f, slope * x) + elsewhere
    trial.within(fact, _above(low, residual), room + 8 * _DOUBLE * _finite(abs(low)), "a sample lies below the lower line")
    trial.within(fact, _above(residual, high), room + 8 * _DOUBLE * _finite(abs(high)), "a sample lies above the upper line")


def _tight(trial: Trial, operator: Univariate, x: Array, f: Array, slope: Array, low: Array, high: Array) -> None:
    """Both lines come as close to the samples as the largest derivative between two of them explains."""
    smallest, largest = operator.slope_range(x[0], x[-1])
    steep = np.maximum(abs(largest - slope), abs(smallest - slope))
    known = np.isfinite(steep)
    step = (x[1:] - x[:-1]).max(0)
    residual, room = f - slope * x, _error(f, slope * x).max(0)
    allowed = np.where(known, steep, 0.0) * step + 4 * room + 2 * np.asarray(operator.slack(x[0], x[-1]))
    trial.within("tightness", np.where(known, _above(residual.min(0), low), 0.0), allowed, "the lower line is loose")
    trial.within("tightness", np.where(known, _above(high, residual.max(0)), 0.0), allowed, "the upper line is loose")


def _derivatives(trial: Trial, x: Array, f: Array, smallest: Array, largest: Array) -> None:
    run, rise = x[1:] - x[:-1], f[1:] - f[:-1]
    room = 8 * _DOUBLE * _finite(abs(f[1:]) + abs(f[:-1]) + _finite(abs(largest) + abs(smallest)) * abs(x[1:])) + _TINY
    apart = (run > 0) & np.isfinite(rise)
    above, below = rise - largest * run, smallest * run - rise
    trial.within("slopes", np.where(apart, above, 0.0), room, "a chord is steeper than the largest derivative")
    trial.within("slopes", np.where(apart, below, 0.0), room, "a chord is flatter than the smallest derivative")


def _curvature(trial: Trial, operator: Univariate, lower: Array, upper: Array, x: Array, f: Array) -> None:
    """Where the operator says that it is affine on a box, chords are."""
    flat = ~np.asarray(operator.curved(lower, upper)) & np.isfinite(f).all(0)
    share = np.divide(x - lower, upper - lower, out=np.zeros(x.shape), where=upper > lower)
    error = abs(f - (f[0] * (1 - share) + f[-1] * share))
    slope = abs(f[-1] - f[0]) / np.where(upper > lower, upper - lower, 1.0)
    room = 16 * _DOUBLE * _finite(abs(f).max(0) + slope * np.maximum(abs(lower), abs(upper))) + _TINY
    trial.within("curved", np.where(flat, error, 0.0), room, "it bends where it is said to be affine")
    if operator.rectifier:
        trial.within("rectifier", abs(f - np.maximum(x, 0)), 0.0)


# Bilinear


def bilinear_facts(trial: Trial, single: Bilinear, double: Bilinear, shapes: tuple[Shape, ...]) -> None:
    """The letters describe a sum of products, which is what comes out, as exactly as a sum of that length can be."""
    x, y, out = double.terms
    once = all(len(set(t)) == len(t) for t in (x, y, out))
    trial.holds("letters", once and set(out) == (set(x) | set(y)) - (set(x) & set(y) - set(out)), f"{double.subscripts} is no sum")
    sizes = dict(zip(x + y, (*shapes[0], *shapes[1]), strict=True))
    terms = prod(n for letter, n in sizes.items() if letter not in out)
    exactly = np.vectorize(Fraction, otypes=[object])
    for a, b in _hard_inputs(trial, shapes):
        got, size = double.forward(a, b), double.forward(abs(a), abs(b))
        true = np.asarray(np.einsum(f"{x},{y}->{out}", exactly(a[0]), exactly(b[0])), dtype=object).reshape(-1)
        error = [float(abs(t - Fraction(float(g)))) for t, g in zip(true, got.reshape(-1), strict=True)]
        trial.within("rounding", np.array(error), gamma(terms, _DOUBLE) * size.reshape(-1), "float64 against rationals")
        rough = single.forward(a.astype(np.float32), b.astype(np.float32))
        trial.within("rounding", abs(rough - got), gamma(terms, _SINGLE) * size * (1 + 1e-6), "float32 against float64")


# Planar


@np.errstate(all="ignore")
def planar_facts(trial: Trial, operator: Planar) -> None:
    """Ranges and planes contain the function on groups of all sizes and scales, and touch it on points."""
    grouped = replace(operator, axis=1)
    for n in (1, 2, 5):
        for exponent in range(-30, 31, 3):
            centre = trial.random.normal(size=(6, 2, n)) * 10.0**exponent
            if trial.random.random() < 0.3:  # where the logarithm of their number cancels entries
                centre = centre * 1e-3 - np.log(n)
            width = abs(trial.random.normal(size=(6, 1, 1))) * 10.0 ** trial.random.integers(-40, exponent + 3)
            for lower, upper in ((centre, centre + width * trial.random.uniform(size=centre.shape)), (centre, centre)):
                _group(trial, grouped, lower, upper)
        one, nan = np.ones((1, 2, n + 1)), np.full((1, 2, n + 1), np.nan)
        for lower, upper in ((nan, one), (-one, nan), (nan, nan)):
            low, high = grouped.grouped(lower, upper)
            finite = np.isfinite(low).any() and np.isfinite(high).any()
            trial.holds("nan", not finite, "a box with NaN ends has finite bounds on both sides")


def _group(trial: Trial, operator: Planar, lower: np.ndarray, upper: np.ndarray) -> None:
    n, extended = lower.shape[-1], np.longdouble
    share = trial.random.uniform(size=(16, *lower.shape))
    share[:8] = np.round(share[:8])
    points = np.clip(lower * (1 - share) + upper * share, lower, upper).astype(extended)
    y = operator.forward(points.reshape(-1, *lower.shape[1:])).reshape(16, *lower.shape[:2], -1)
    if operator.total is not None:
        trial.within("total", abs(y.sum(-1) - operator.total), 1e-15 * n)
    unsure = (64 + 4 * n) * _DOUBLE  # what `grouped` and `planes` may err by
    low, high = operator.grouped(lower, upper)
    trial.within("range", low - y, unsure * abs(low) + _TINY, "a value lies below the range")
    trial.within("range", y - high, unsure * abs(high) + _TINY, "a value lies above the range")
    furthest = np.maximum(abs(lower), abs(upper))[..., None, :]
    sides = operator.planes(lower, upper, lower + (upper - lower) / 2)
    for (matrix, offset), sign in zip(sides, (1, -1), strict=True):
        fine = (abs(matrix) <= Planar.ENTRY).all(-1) & np.isfinite(offset)
        trial.holds("planes", bool(fine[furthest[..., 0, :].max(-1) < 1e3].all()), "an entry of an ordinary matrix is above 1")
        rows, rest = np.where(fine[..., None], matrix, 0.0), np.where(fine, offset, low if sign > 0 else high)
        plane = np.einsum("kbgn,bgmn->kbgm", points, rows.astype(extended)) + rest
        room = unsure * ((np.abs(rows) * furthest).sum(-1) + np.abs(rest) + 1)
        trial.within("planes", sign * (plane - y), room, "a value lies outside of a plane")
        if (lower == upper).all():
            trial.within("planes", abs(plane - y), 4 * room, "a plane misses the value at a point")


# Composite


class _Tape:
    """Evaluates what an operator emits, composites written out in turn."""

    def __init__(self, inputs: list[Array]) -> None:
        self.values = list(inputs)
        self.refs = [Ref(i, tuple(int(n) for n in x.shape[1:])) for i, x in enumerate(inputs)]

    def __call__(self, operator: Operator, *inputs: Ref) -> Ref:
        if isinstance(operator, Composite):
            return operator.expand(self, *inputs)
        shape = operator.infer(*(r.shape for r in inputs))
        self.values.append(operator.forward(*(self.values[r.index] for r in inputs)))
        return Ref(len(self.values) - 1, shape)


def composite_facts(trial: Trial, operator: Composite, shapes: tuple[Shape, ...], inputs: list[Array]) -> None:
    """The expansion has the same shape and values."""
    ties = [np.round(x) for x in inputs]
    for values in (inputs, ties, [x * 0 for x in inputs], [x * 1e6 for x in inputs]):
        tape = _Tape(values)
        result = operator.expand(tape, *tape.refs)
        trial.holds(
            "expansion", result.shape == operator.infer(*shapes), f"has shape {result.shape}, infer gives {operator.infer(*shapes)}"
        )
        expected = operator.forward(*values)
        scale = 1 + max(float(abs(v).max()) for v in (*values, expected))
        trial.within("expansion", abs(tape.values[result.index] - expected), 1e-14 * scale)
