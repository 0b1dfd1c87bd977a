"""The contract of an operator: a pure function of arrays that states facts about itself.

Methods (bounds, search, Lipschitz, checking) are written once on the facts of the families below; an operator is one class.

Conventions
-----------
- An operator is a frozen dataclass. Its array fields are numpy arrays in a loaded graph and torch tensors of one dtype and
  device in a compiled plan (`Operator.convert` maps them). ``forward`` accepts numpy arrays with numpy parameters, and torch
  tensors with torch parameters; it computes in the dtype of its inputs.
- Shapes in a graph are those of the model file, its own batch axis included (fixed to 1). Every array handed to an operator
  has ONE MORE leading axis B, over which the operator is applied independently: input i has shape ``(B, *shape_i)``. An operator
  never mixes the entries of that axis.
- Nothing here imports torch at module level: `ascertain` starts without it, and small dense networks never need it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np

__all__ = [
    "Affine",
    "Array",
    "Bilinear",
    "Composite",
    "Emit",
    "Operator",
    "Planar",
    "Ref",
    "Shape",
    "Univariate",
    "is_numpy",
    "namespace",
    "side",
]

Array = Any
"""numpy.ndarray or torch.Tensor."""
Shape = tuple[int, ...]


def is_numpy(x: Array) -> bool:
    """Whether an array is numpy's (else it is torch's)."""
    return isinstance(x, (np.ndarray, np.generic))


def namespace(x: Array) -> Any:
    """The module, numpy or torch, whose functions apply to an array."""
    if is_numpy(x):
        return np
    import torch

    return torch


def side(above: Array | bool, like: Array) -> Array | float:
    """-1 where a line is above, 1 where it is below."""
    if isinstance(above, bool):
        return -1.0 if above else 1.0
    xp = namespace(like)
    one = xp.ones((), dtype=like.dtype)
    return xp.where(above, -one, one)


@dataclass(frozen=True)
class Ref:
    """A value inside a graph under construction: the node that makes it, and its shape."""

    index: int
    shape: Shape


class Emit(Protocol):
    """Adds a node that applies an operator to values and returns the new value."""

    def __call__(self, operator: Operator, *inputs: Ref) -> Ref: ...


@dataclass(frozen=True, eq=False)
class Operator:
    """A function of one or more arrays with fixed attributes."""

    def infer(self, *shapes: Shape) -> Shape:
        """Shape of the output for given input shapes (without the leading axis); raises ShapeError when they do not fit."""
        raise NotImplementedError

    def forward(self, *inputs: Array) -> Array:
        """The value: inputs ``(B, *shape_i)`` to ``(B, *shape)``."""
        raise NotImplementedError

    def then(self, after: Operator, *shapes: Shape) -> Operator | None:
        """The operator equal to ``after`` applied to this one's output, given this one's input shapes; None where none is known.

        Its coefficients are exact, or rounded with a relative error that its own ``terms`` count. Offsets are added up only where
        `magnitude` keeps the size of what was added: the sum may cancel.
        """
        return None

    def preserves_order(self, *shapes: Shape) -> bool:
        """Whether flat output and input of these shapes compare alike: y_i <= y_j exactly where x_i <= x_j, in real numbers."""
        return False

    def arrays(self) -> dict[str, Array]:
        """The array fields by name, for hashing and saving."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in found.items() if hasattr(value, "dtype") and getattr(value, "ndim", 0) >= 0}

    def convert(self, function: Callable[[Array], Array]) -> Self:
        """A copy whose array fields went through a function (to torch, to another dtype, to a device)."""
        changed = {name: function(value) for name, value in self.arrays().items()}
        return replace(self, **changed) if changed else self

    @property
    def name(self) -> str:
        """The name shown to people."""
        return type(self).__name__

    @classmethod
    def examples(cls) -> Iterator[tuple[Operator, tuple[Shape, ...]]]:
        """Instances with input shapes on which the public battery `check_operator` runs."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Affine(Operator):
    """y = sum_i L_i x_i + b, with L_i linear. Movement operators are affine maps whose entries are 0 and 1.

    ``forward`` and ``adjoint`` are all that most operators write; interval, zonotope, backward bounds and Lipschitz follow.
    Rounding: one application of ``forward``, ``linear`` or ``adjoint`` in floating point errs by at most
    gamma(terms) times the same application of `magnitude` to absolute values, where gamma(n) = n u / (1 - n u).
    """

    def linear(self, *inputs: Array) -> Array:
        """``forward`` without the offset b."""
        raise NotImplementedError

    def adjoint(self, gradient: Array, *shapes: Shape) -> tuple[Array, ...]:
        """Transposed maps: ``(R, *shape)`` to one ``(R, *shape_i)`` for each input, given the input shapes."""
        raise NotImplementedError

    def magnitude(self) -> Affine:
        """The operator with every coefficient and the offset replaced by a bound on its absolute value."""
        return self

    def restrict(self, index: Array, *shapes: Shape) -> Array | None:
        """The rows ``(len(index), *shape_0)`` of the single matrix L_0 at flat output positions, where they need no computing."""
        return None

    def torus(self, *shapes: Shape) -> tuple[Array, Shape] | None:
        """A kernel ``(O, C, *K)`` and a size whose circular convolution this map is a part of; None for other maps."""
        return None

    def terms(self, *shapes: Shape) -> int:
        """Rounded operations in the longest sum of ``forward`` or ``adjoint``; 0 where no rounding can happen (pure movement)."""
        return 0


@dataclass(frozen=True, eq=False)
class Univariate(Operator):
    """y_i = f(x_i). States f, its derivative, kinks, stationary points of f(x) - slope x, and the range of f'.

    The tightest sound intercepts of a line of ANY slope on [l, u] follow: the extrema of f(x) - slope x are attained on
    {l, u, kinks, stationary(slope)}. The interval bound is slope 0. Slopes are free, so they can be chosen and optimised anywhere.
    """

    rectifier: ClassVar[bool] = False
    """Whether f(x) = max(x, 0), whose lines and splits have closed forms."""
    kinks: ClassVar[tuple[float, ...]] = ()
    """Points where f is not differentiable (an operator that jumps overrides `candidates` and gives both one-sided values)."""
    third: ClassVar[float] = np.inf
    """Above |f'''| everywhere, for the lines of f'; infinite where f' has kinks of its own, or nothing is known."""
    domain: ClassVar[tuple[float, float]] = (-np.inf, np.inf)
    """The numbers between which f is defined, from where the battery draws; single poles inside are left to `defined`."""

    def infer(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def f(self, x: Array) -> Array:
        """The scalar function, elementwise."""
        raise NotImplementedError

    def forward(self, *inputs: Array) -> Array:
        return self.f(inputs[0])

    def derivative(self, x: Array) -> Array:
        """f'(x), elementwise; either one-sided value at a kink. Needs no more than a few correct digits: it only places lines."""
        raise NotImplementedError

    def kink_points(self) -> tuple[Array, ...]:
        """Kinks, as scalars or as arrays that broadcast against the input (for per-channel parameters)."""
        return self.kinks

    def stationary(self, slope: Array, lower: Array, upper: Array) -> tuple[Array, ...]:
        """Candidates x with f'(x) = slope; NaN or outside [lower, upper] where there is none.

        Together with ends and kinks they must hold every place where f(x) - slope x can be largest or smallest on the box.
        """
        return ()

    def surrogate(self, x: Array) -> Array | None:
        """A smooth function like f whose gradient attacks follow instead; None where f's own gradient leads somewhere."""
        return None

    def slope_range(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Smallest and largest derivative (one-sided at kinks) on [lower, upper]; infinite where f jumps or is not defined."""
        raise NotImplementedError

    def slack(self, lower: Array, upper: Array) -> Array | float:
        """A proven bound on the error of ``f`` and ``stationary`` in this arithmetic, added outward.

        0 where f errs by at most 4 units in the last place of its value and misplaced candidates cost no more.
        """
        return 0.0

    def defined(self, lower: Array, upper: Array) -> Array | bool:
        """Where f is defined and finite on all of [lower, upper]: elsewhere (a pole, the log of 0) bounds are infinite."""
        return True

    def candidates(self, lower: Array, upper: Array, slope: Array) -> Iterator[tuple[Array, Array]]:
        """Points of the box and values of f there, among which the extrema of f(x) - slope x are."""
        xp = namespace(lower)
        yield lower, self.f(lower)
        yield upper, self.f(upper)
        for point in (*self.kink_points(), *self.stationary(slope, lower, upper)):
            p = point + xp.zeros_like(lower)
            p = xp.where((p >= lower) & (p <= upper), p, lower)
            yield p, self.f(p)

    def support(self, lower: Array, upper: Array, slope: Array, above: Array | bool) -> tuple[Array, Array]:
        """Offset t of the line slope x + t that touches f on the box from below, or from ``above``; and a point where it does.

        Before rounding; infinite where f is not defined on the whole box or overflows.
        """
        xp = namespace(lower)
        sign = side(above, lower)
        best, at = xp.full_like(lower, np.inf), lower
        for p, value in self.candidates(lower, upper, slope):
            rest = sign * (value - slope * p)
            better = (rest < best) | (rest != rest)  # no comparison moves a NaN
            best, at = xp.where(better, rest, best), xp.where(better, p, at)
        best = best - self.slack(lower, upper)
        # neither NaN nor an overflow to the wrong side is a bound
        return sign * xp.where(self.defined(lower, upper) & (best < np.inf), best, -np.inf), at

    def intercepts(self, lower: Array, upper: Array, slope: Array) -> tuple[Array, Array]:
        """Largest tl and smallest tu with slope x + tl <= f(x) <= slope x + tu on [lower, upper] (before rounding)."""
        return self.support(lower, upper, slope, False)[0], self.support(lower, upper, slope, True)[0]

    def curved(self, lower: Array, upper: Array) -> Array:
        """Where f is not affine on [lower, upper], so that tighter bounds of its input would help."""
        return lower < upper

    def interval(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Range of f on [lower, upper] (before rounding); ends may be infinite."""
        xp = namespace(lower)
        values = [v for _, v in self.candidates(lower, upper, xp.zeros_like(lower))]
        low = high = values[0]
        for v in values[1:]:
            low, high = xp.minimum(low, v), xp.maximum(high, v)
        slack, known = self.slack(lower, upper), self.defined(lower, upper)
        low, high = low - slack, high + slack
        return xp.where(known & (low < np.inf), low, -np.inf), xp.where(known & (high > -np.inf), high, np.inf)


@dataclass(frozen=True, eq=False)
class Bilinear(Operator):
    """z = sum over the letters that the output lacks of x * y: an einsum of two values.

    ``subscripts`` such as ``"hik,hkj->hij"`` names the axes of x, y and z (without the leading axis B). Every letter stands
    once in an operand, every letter of z in x or y, and one that z lacks in both. Planes follow from McCormick (1976): for any a, b
    the tightest c with x y >= a x + b y + c on a box is attained at one of its four corners.
    """

    subscripts: str
    known: tuple[float, float] | None = None
    """A range that every entry of z is known to lie in, whatever the boxes of x and y say."""
    second: bool = False
    """Whether planes should follow y rather than x wherever that leaves them as tight on the box: x is a slope, y a gradient."""

    @property
    def terms(self) -> tuple[str, str, str]:
        """The letters of x, y and z."""
        inputs, out = self.subscripts.split("->")
        x, y = inputs.split(",")
        return x, y, out


@dataclass(frozen=True, eq=False)
class Planar(Operator):
    """A function of each group of entries that differ in their place on one axis, with affine bounds of its own.

    Arrays here are grouped: ``(B, G, n)``, for n entries in each of G groups; outputs ``(B, G, m)``.
    """

    axis: int
    total: ClassVar[float | None] = None
    """What the m outputs of a group sum up to, where that is known."""
    ENTRY: ClassVar[float] = 1.01
    """Largest entry of a plane: no output grows faster than its inputs, and rounding may add a little."""

    def grouped(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Range of every output (before rounding)."""
        raise NotImplementedError

    def planes(self, lower: Array, upper: Array, at: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """(matrix, offset) below and above, on the box, placed to be tight near ``at`` (a point of the box).

        ``matrix`` (B, G, m, n), ``offset`` (B, G, m): matrix x + offset bounds the outputs, before rounding. A plane with an entry
        above ENTRY in absolute value, or that is no number, is not used: nothing is known there.
        """
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Composite(Operator):
    """An operator that equals a small graph of simpler ones."""

    def expand(self, emit: Emit, *inputs: Ref) -> Ref:
        """Writes the equal graph and returns its value. The rewriting is exact in real arithmetic."""
        raise NotImplementedError
