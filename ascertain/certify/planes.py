"""Planes of steps of several variables: products (`McCormick`), and groups such as softmax (`Planes`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from ascertain.certify.lines import Pair, contract
from ascertain.certify.plan import Step
from ascertain.operators.base import Bilinear, Planar, Shape

__all__ = ["McCormick", "Planes", "flat", "grouped", "lift"]

# Products


def lift(t: Tensor, own: str, letters: str, shape: Shape) -> Tensor:
    """(B, size) as (B, 1, *sizes of all letters), with size 1 for the letters that it lacks."""
    order = sorted(range(len(own)), key=lambda i: letters.index(own[i]))
    sizes = dict(zip(own, shape, strict=True))
    return t.reshape(len(t), *shape).permute(0, *(i + 1 for i in order)).reshape(len(t), 1, *(sizes.get(c, 1) for c in letters))


def _joined(t: Tensor) -> Tensor:
    """(b, s, ...) as (b, s, size), also for a single number."""
    return t.reshape(*t.shape[:2], -1)


@dataclass(frozen=True, eq=False)
class McCormick:
    """Planes of a sum of products. ``mix`` 0 to 1 leans each plane from one pair of corners of the box to the other.

    Coefficients are kept per product: axes (b, s, one for each letter), of size 1 along letters on which they do not depend.
    """

    operator: Bilinear
    letters: str
    shapes: tuple[Shape, Shape, Shape]
    x: Pair
    y: Pair
    mix: dict[str, Tensor]
    unit: float
    terms: int
    pace: ClassVar[float] = 0.5

    @classmethod
    def on(cls, operator: Bilinear, step: Step, boxes: Sequence[Pair], unit: float) -> McCormick:
        mine, yours, out = operator.terms
        letters = out + "".join(c for c in mine if c not in out)
        x, y = (
            (lift(low, own, letters, shape), lift(high, own, letters, shape))
            for (low, high), own, shape in zip(boxes, (mine, yours), step.shapes, strict=True)
        )
        (xl, xu), (yl, yu) = x, y
        wide, high = xu - xl, yu - yl
        # the plane that varies less over the box has the better least value; the other pair of corners where both are as good
        slack = 1e-9 * wide * high
        below = (yl.abs() - yu.abs()) * wide + (xl.abs() - xu.abs()) * high <= slack
        above = (yu.abs() - yl.abs()) * wide + (xl.abs() - xu.abs()) * high <= slack
        mix = {"below": below.to(xl.dtype), "above": above.to(xl.dtype)}
        if operator.second:  # between this place and a corner nothing varies; here the plane is level in x
            divisor = torch.where(high > 0, high, 1.0)
            level = {"below": yu / divisor, "above": -yl / divisor}
            mix = {name: torch.where(wide * high > 0, level[name].clamp(0.0, 1.0), r) for name, r in mix.items()}
        return cls(operator, letters, (step.shapes[0], step.shapes[1], step.shape), x, y, mix, unit, step.longest)

    @cached_property
    def planes(self) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
        """(coefficient on x, coefficient on y, constant (b, s, size)) below and above."""
        (xl, xu), (yl, yu) = self.x, self.y
        r, q = self.mix["below"], self.mix["above"]
        below = (yu + r * (yl - yu), xu + r * (xl - xu))
        above = (yl + q * (yu - yl), xu + q * (xl - xu))
        return (*below, self._constant(*below, 1.0)), (*above, self._constant(*above, -1.0))

    def _constant(self, a: Tensor, b: Tensor, side: float) -> Tensor:
        """Sums over the products of an output of the smallest (side 1) or largest x y - a x - b y over corners; rounded outward."""
        corners = [(x * y - a * x - b * y) * side for x in self.x for y in self.y]
        least = torch.minimum(torch.minimum(corners[0], corners[1]), torch.minimum(corners[2], corners[3]))
        x, y = (torch.maximum(t[0].abs(), t[1].abs()) for t in (self.x, self.y))
        room = 8 * self.unit * (x * y + a.abs() * x + b.abs() * y) + torch.finfo(x.dtype).tiny
        out = len(self.operator.terms[2])
        least, size = least - room, least.abs() + room
        if len(self.letters) > out:
            axes = tuple(range(2 + out, 2 + len(self.letters)))
            least, size = least.sum(axes), size.sum(axes)
        return _joined((least - 2 * (self.terms + 4) * self.unit * size) * side)

    def _sum(self, a: Tensor, coefficient: Tensor, into: str) -> Tensor:
        """Rows (b, S, *out) times coefficients, summed into the letters of an operand: ``(B, S, size)``."""
        out = self.operator.terms[2]
        if coefficient.shape[1] == 1:
            return _joined(torch.einsum(f"BS{out},B{self.letters}->BS{into}", a, coefficient.squeeze(1)))
        return _joined(torch.einsum(f"BS{out},BS{self.letters}->BS{into}", a, coefficient))

    def facing(self, a: Tensor) -> McCormick:
        return self

    def pull(self, a: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        mine, yours, _ = self.operator.terms
        below, above = self.planes
        positive = a.clamp(min=0)
        negative = a - positive
        plus, minus = (t.reshape(*t.shape[:2], *self.shapes[2]) for t in (positive, negative))
        on_x = self._sum(plus, below[0], mine) + self._sum(minus, above[0], mine)
        on_y = self._sum(plus, below[1], yours) + self._sum(minus, above[1], yours)
        return (on_x, on_y), contract(positive, below[2]) + contract(negative, above[2])

    def _at(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Inputs (B, S, size) lifted to the products."""
        lifted = []
        for t, own, shape in zip(inputs, self.operator.terms[:2], self.shapes[:2], strict=True):
            flat = lift(t.reshape(-1, t.shape[-1]), own, self.letters, shape)
            lifted.append(flat.reshape(*t.shape[:2], *flat.shape[2:]))
        return lifted[0], lifted[1]

    def value(self, a: Tensor, inputs: Sequence[Tensor]) -> Tensor:
        x, y = self._at(inputs)
        axes = tuple(range(2 + len(self.shapes[2]), 2 + len(self.letters)))
        sides = []
        for on_x, on_y, constant in self.planes:
            each = on_x * x + on_y * y
            sides.append(_joined(each.sum(axes) if axes else each) + constant)
        return torch.where(a >= 0, sides[0], sides[1])

    def level(self, reach: Sequence[Tensor], after: Tensor) -> Tensor:
        sizes = [t.reshape(1, *shape) for t, shape in zip(reach, self.shapes[:2], strict=True)]
        products: Tensor = self.operator.forward(*sizes)
        return 6 * products.reshape(-1) + after

    def parameters(self) -> dict[str, Tensor]:
        full = [max(p, q) for p, q in zip(self.x[0].shape[2:], self.y[0].shape[2:], strict=True)]
        return {name: _joined(r.expand(*r.shape[:2], *full)) for name, r in self.mix.items()}

    def adjusted(self, parameters: dict[str, Tensor]) -> McCormick:
        full = [max(p, q) for p, q in zip(self.x[0].shape[2:], self.y[0].shape[2:], strict=True)]
        return replace(self, mix={name: r.reshape(*r.shape[:2], *full) for name, r in parameters.items()})

    def gradients(self, a: Tensor, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        x, y = self._at(inputs)
        (xl, xu), (yl, yu) = self.x, self.y
        positive = a.clamp(min=0)
        shape = (*a.shape[:2], *self.shapes[2], *[1] * (len(self.letters) - len(self.shapes[2])))
        plus, minus = positive.reshape(shape), (a - positive).reshape(shape)
        below = (yl - yu) * x + (xl - xu) * y + xu * yu - xl * yl
        above = (yu - yl) * x + (xl - xu) * y + xu * yl - xl * yu
        return {"below": _joined(plus * below), "above": _joined(minus * above)}

    def to(self, dtype: torch.dtype) -> McCormick:
        x, y = ((low.to(dtype), high.to(dtype)) for low, high in (self.x, self.y))
        mix = {name: r.to(dtype) for name, r in self.mix.items()}
        return replace(self, x=x, y=y, mix=mix)


# Softmax and its like


@dataclass(frozen=True, eq=False)
class Planes:
    """Affine bounds of every output of a group, leaned by ``mix`` from the constant (0) to the tangent plane (1)."""

    axis: int
    shapes: tuple[Shape, Shape]
    total: float | None
    below: Pair
    """Matrix (B, G, m, n) and offset (B, 1, G, m)."""
    above: Pair
    known: Pair
    """Range of each output, (B, 1, G, m)."""
    mix: dict[str, Tensor]
    pace: ClassVar[float] = 0.5

    @classmethod
    def on(cls, operator: Planar, step: Step, box: Pair, unit: float) -> Planes:
        axis, shapes = operator.axis, (step.shapes[0], step.shape)
        lower, upper = (grouped(t.unsqueeze(1), shapes[0], axis)[:, 0] for t in box)
        low, high = operator.grouped(lower, upper)
        below, above = operator.planes(lower, upper, lower + (upper - lower) / 2)
        n = lower.shape[-1]
        furthest = torch.maximum(lower.abs(), upper.abs()).unsqueeze(-2)
        # 64 units for the functions themselves, n for the sums
        unsure = (64 + 4 * n) * unit
        room = [unsure * ((m.abs() * furthest).sum(-1) + t.abs() + 1) for m, t in (below, above)]
        low, high = low - unsure * low.abs(), high + unsure * high.abs()
        below = _usable(below[0], below[1] - room[0], low)
        above = _usable(above[0], above[1] + room[1], high)
        parts = [t.unsqueeze(1) for t in (below[1], above[1], low, high)]
        one = torch.ones((1, 1, 1), dtype=low.dtype, device=low.device)
        mix = {"below": one, "above": one}
        return cls(axis, shapes, operator.total, (below[0], parts[0]), (above[0], parts[1]), (parts[2], parts[3]), mix)

    def _mixed(self, name: str) -> Tensor:
        r = self.mix[name]
        return r.unsqueeze(-1) if r.shape[-1] == 1 else grouped(r, self.shapes[1], self.axis)

    def facing(self, a: Tensor) -> Planes:
        return self

    def pull(self, a: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        rows = grouped(a, self.shapes[1], self.axis)
        shift = self._shift(rows)
        constant: Tensor | float = 0.0
        if shift is not None and self.total is not None:
            rows, constant = rows - shift, shift.sum((-2, -1)) * self.total
        positive = rows.clamp(min=0)
        sides = (positive, "below", self.below, self.known[0]), (rows - positive, "above", self.above, self.known[1])
        out: Tensor | float = 0.0
        for part, name, (matrix, offset), limit in sides:
            leaned = part * self._mixed(name)
            out = out + torch.einsum("BSGm,BGmn->BSGn", leaned, matrix)
            constant = constant + (leaned * offset + (part - leaned) * limit).sum((-2, -1))
        return (flat(out, self.shapes[0], self.axis),), constant  # type: ignore[arg-type, return-value]

    def _shift(self, rows: Tensor) -> Tensor | None:
        """What every coefficient of a group can lose, because the outputs have a known sum: an average, by how loose bounds are."""
        if self.total is None:
            return None
        return (rows * self._shares).sum(-1, keepdim=True)

    @cached_property
    def _shares(self) -> Tensor:
        loose = (self.known[1] - self.known[0]).clamp_min(1e-12)
        return loose / loose.sum(-1, keepdim=True)

    def _values(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The tangent planes below and above at inputs (B, S, size): ``(B, S, G, m)`` each."""
        x = grouped(inputs[0], self.shapes[0], self.axis)
        return tuple(torch.einsum("BSGn,BGmn->BSGm", x, m) + t for m, t in (self.below, self.above))  # type: ignore[return-value]

    def value(self, a: Tensor, inputs: Sequence[Tensor]) -> Tensor:
        sides = []
        for name, plane, limit in zip(("below", "above"), self._values(inputs), self.known, strict=True):
            sides.append(limit + self._mixed(name) * (plane - limit))
        rows = grouped(a, self.shapes[1], self.axis)
        shift = self._shift(rows)
        chosen = torch.where(rows >= (0.0 if shift is None else shift), sides[0], sides[1])
        if self.total is not None:  # the shift, too, depends on the coefficients
            chosen = chosen + self._shares * (self.total - chosen.sum(-1, keepdim=True))
        return flat(chosen, self.shapes[1], self.axis)

    def level(self, reach: Sequence[Tensor], after: Tensor) -> Tensor:
        # no entry of a matrix is above Planar.ENTRY, and offsets are what they leave of the value
        x = grouped(reach[0].reshape(1, 1, -1), self.shapes[0], self.axis)[0, 0].sum(-1, keepdim=True)
        own = 2 * (x + grouped(after.reshape(1, 1, -1), self.shapes[1], self.axis)[0, 0] + 1)
        if self.total is not None:  # the shift is an average of coefficients, and meets every entry of the group
            own = own + own.sum(-1, keepdim=True) + abs(self.total)
        return flat(own[None, None], self.shapes[1], self.axis)[0, 0]

    def parameters(self) -> dict[str, Tensor]:
        size = self.known[0][0].numel()
        return {name: r.expand(*r.shape[:2], size) for name, r in self.mix.items()}

    def adjusted(self, parameters: dict[str, Tensor]) -> Planes:
        return replace(self, mix=dict(parameters))

    def gradients(self, a: Tensor, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        rows = grouped(a, self.shapes[1], self.axis)
        shift = self._shift(rows)
        rows = rows if shift is None else rows - shift
        positive = rows.clamp(min=0)
        found = {}
        for name, part, plane, limit in zip(
            ("below", "above"), (positive, rows - positive), self._values(inputs), self.known, strict=True
        ):
            found[name] = flat(part * (plane - limit), self.shapes[1], self.axis)
        return found

    def to(self, dtype: torch.dtype) -> Planes:
        below, above, known = ((low.to(dtype), high.to(dtype)) for low, high in (self.below, self.above, self.known))
        return replace(self, below=below, above=above, known=known, mix={name: r.to(dtype) for name, r in self.mix.items()})


def _usable(matrix: Tensor, offset: Tensor, limit: Tensor) -> Pair:
    """Planes, or the limit where a row is no number, or has an entry above 1 by more than `Planes.level` leaves room for."""
    fine = (matrix.abs() <= Planar.ENTRY).all(-1) & torch.isfinite(offset)
    return torch.where(fine.unsqueeze(-1), matrix, 0.0), torch.where(fine, offset, limit)


def grouped(t: Tensor, shape: Shape, axis: int) -> Tensor:
    """(b, S, size) as (b, S, G, n): entries that differ in their place on an axis come together."""
    moved = t.reshape(*t.shape[:2], *shape).movedim(2 + axis, -1)
    return moved.reshape(*t.shape[:2], -1, shape[axis])


def flat(t: Tensor, shape: Shape, axis: int) -> Tensor:
    """Undoes `_grouped`."""
    rest = [n for i, n in enumerate(shape) if i != axis]
    return t.reshape(*t.shape[:2], *rest, shape[axis]).movedim(-1, 2 + axis).flatten(2)
