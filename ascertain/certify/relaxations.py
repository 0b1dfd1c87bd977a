"""Linear relaxations of nonlinear steps: lines of functions of one variable, planes of products and of softmax-like groups.

A relaxation maps coefficients on a step's output to coefficients on its inputs and a constant, so that the bound stays one: through
what bounds the step from below where a coefficient is positive, from above where it is negative. Its parameters, all in [0, 1], are
free: every choice is sound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ascertain.certify.lines import Pair, lines_of
from ascertain.certify.plan import Step
from ascertain.certify.planes import McCormick, Planes, flat, grouped, lift
from ascertain.operators.base import Bilinear, Planar, Univariate

__all__ = ["Relaxation", "enclose", "relax"]


class Relaxation(Protocol):
    """What `linear.backward` and `optimize` need to know of a nonlinear step. Rows (b, S, size), b in {1, B}."""

    @property
    def pace(self) -> float:
        """How far parameters should move at a time, as a share of what suits the slope of a rectifier."""
        ...

    def facing(self, a: Tensor) -> Relaxation:
        """The same, where only coefficients of these signs will be asked for."""
        ...

    def pull(self, a: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Coefficients on the inputs, and the constant ``(B, S)``."""
        ...

    def value(self, a: Tensor, inputs: Sequence[Tensor]) -> Tensor:
        """The bounding map that `pull` selects for the coefficients at inputs (B, S, size_i)."""
        ...

    def level(self, reach: Sequence[Tensor], after: Tensor) -> Tensor:
        """What the error of a coefficient on the output is multiplied with at most, (size,), for values within reach."""
        ...

    def parameters(self) -> dict[str, Tensor]:
        """Free parameters in [0, 1], each ``(b, s, n)``."""
        ...

    def adjusted(self, parameters: dict[str, Tensor]) -> Relaxation:
        """The same with other parameters."""
        ...

    def gradients(self, a: Tensor, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Derivative of the bound with respect to each parameter, at the values of the inputs in the minimising point."""
        ...

    def to(self, dtype: torch.dtype) -> Relaxation:
        """The same in another precision."""
        ...


def relax(step: Step, boxes: Sequence[Pair], unit: float) -> Relaxation:
    """A sound relaxation of a nonlinear step on bounds of its inputs."""
    operator = step.nonlinear
    if isinstance(operator, Univariate):
        lower, upper = boxes[0]
        return lines_of(operator, step.shape, lower, upper, unit)
    if isinstance(operator, Bilinear):
        return McCormick.on(operator, step, boxes, unit)
    if isinstance(operator, Planar):
        return Planes.on(operator, step, boxes[0], unit)
    raise TypeError("only nonlinear steps are relaxed")


def enclose(step: Step, boxes: Sequence[Pair], unit: float, tiny: float) -> Pair:
    """Bounds ``(B, size)`` of a nonlinear step on bounds of its inputs, rounded outward."""
    operator = step.nonlinear
    if isinstance(operator, Univariate):
        lower, upper = boxes[0]
        low, high = (t.flatten(1) for t in operator.interval(lower.reshape(-1, *step.shape), upper.reshape(-1, *step.shape)))
        if operator.rectifier:
            return low, high
        return low - (8 * unit * low.abs() + tiny), high + (8 * unit * high.abs() + tiny)  # 4 units in the last place
    if isinstance(operator, Bilinear):
        return _product_range(operator, step, boxes, unit, tiny)
    if isinstance(operator, Planar):
        lower, upper = (grouped(t.unsqueeze(1), step.shapes[0], operator.axis)[:, 0] for t in boxes[0])
        room = (64 + 4 * lower.shape[-1]) * unit
        low, high = operator.grouped(lower, upper)
        low, high = low - (room * low.abs() + tiny), high + (room * high.abs() + tiny)
        return tuple(flat(t.unsqueeze(1), step.shape, operator.axis)[:, 0] for t in (low, high))  # type: ignore[return-value]
    raise TypeError("only nonlinear steps are enclosed")


def _product_range(operator: Bilinear, step: Step, boxes: Sequence[Pair], unit: float, tiny: float) -> Pair:
    """Sums of the extreme products of every term."""
    mine, yours, out = operator.terms
    letters = out + "".join(c for c in mine if c not in out)
    x, y = ([lift(t, own, letters, shape) for t in box] for box, own, shape in zip(boxes, (mine, yours), step.shapes, strict=True))
    corners = torch.stack([a * b for a in x for b in y])
    low, high = corners.amin(0), corners.amax(0)
    size = torch.maximum(low.abs(), high.abs())
    axes = tuple(range(2 + len(out), 2 + len(letters)))
    if axes:
        low, high, size = low.sum(axes), high.sum(axes), size.sum(axes)
    room = (2 * step.longest + 8) * unit * size + tiny
    low, high = (low - room).flatten(1), (high + room).flatten(1)
    if operator.known is None:
        return low, high
    first, last = (low.new_tensor(k) for k in operator.known)  # rounded to this precision
    return torch.fmax(low, first - 2 * unit * first.abs()), torch.fmin(high, last + 2 * unit * last.abs())
