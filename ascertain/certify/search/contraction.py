"""Bounds of neurons on the unsafe part of a domain (after the complete clipping of Zhou et al. 2025), in rigorous floats.

Every unsafe input of a domain satisfies ``row . x + level <= 0``: the linear lower bound that the domain was left with. A neuron
is at least a linear form of the input, and so, on the unsafe part, at least the minimum of form + share * (row . x + level) over
the box, for any share >= 0; the best share is a concave problem of one variable. Tighter neurons give a tighter row, and so on,
until often nothing unsafe is left. Evidence: PROVED in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numba
import numpy as np
import torch
from torch import Tensor

from ascertain.certify.bounds import Bounded
from ascertain.certify.fused import share_work
from ascertain.certify.linear import backward, charges, levels
from ascertain.certify.plan import Plan
from ascertain.certify.region import Region
from ascertain.certify.rounding import DOUBLE

__all__ = ["Contraction"]

UNIT = DOUBLE.unit
TINY = DOUBLE.tiny
WIDER = 6
"""Times that a share is tried four times larger."""
CLOSER = 2
"""Times that the tangents at two shares are intersected (4 times were no better)."""
LARGE = 0.45
"""Constraints that leave more of their own range than this share are not tried (at 0.4 neurons shrink by about a hundredth),"""
MANY = 16
"""where there are so many inputs that hardly any form is parallel to a constraint."""
CHUNK = 512
"""Neurons of one backward pass."""
MOST = 1 << 24
"""Coefficients of all forms beyond which they cost more than they are worth."""


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _value(form, start, row, level, share, center, radius):  # type: ignore[no-untyped-def]
    """Minimum of form + share * constraint over the box, and its derivative by the share."""
    value, slope = form.dtype.type(0.0), form.dtype.type(0.0)  # in the precision of the form
    for i in range(form.size):
        v = form[i] + share * row[i]
        value += v * center[i] - abs(v) * radius[i]
        slope += row[i] * (center[i] - (radius[i] if v >= 0 else -radius[i]))
    return value + start + share * level, slope + level


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _share(form, start, row, level, center, radius, plain, slope, first):  # type: ignore[no-untyped-def]
    """About the share >= 0 of the largest minimum; ``plain`` and ``slope`` > 0 are its value and derivative at 0."""
    best, at = -np.inf, 0.0
    left, left_value, left_slope = 0.0, plain, slope
    right, right_value, right_slope = first, 0.0, 1.0
    for _ in range(WIDER):
        right_value, right_slope = _value(form, start, row, level, np.float32(right), center, radius)
        if right_value > best:
            best, at = right_value, right
        if not right_slope > 0.0:
            break
        left, left_value, left_slope = right, right_value, right_slope
        right *= 4.0
    if right_slope > 0.0:
        return at
    for _ in range(CLOSER):
        share = (right_value - left_value + left_slope * left - right_slope * right) / (left_slope - right_slope)
        if not left < share < right:
            break
        value, slope = _value(form, start, row, level, np.float32(share), center, radius)
        if value > best:
            best, at = value, share
        if slope > 0.0:
            left, left_value, left_slope = share, value, slope
        else:
            right, right_value, right_slope = share, value, slope
    return at


@numba.njit(nogil=True, cache=True, parallel=True, error_model="numpy")
def _contract(exact, fast, plain, slopes, out):  # type: ignore[no-untyped-def]
    """The search for shares is done in single precision, and its result evaluated in double, with a charge for rounding."""
    forms, starts, spreads, sizes, rows, levels, center, radius = exact
    forms_, starts_, rows_, levels_, center_, radius_ = fast
    n = center.size
    for b in numba.prange(len(rows)):
        spread, size, middle = 0.0, abs(levels[b]), levels[b]
        for i in range(n):
            spread += abs(rows[b, i]) * radius[i]
            size += abs(rows[b, i]) * (abs(center[i]) + radius[i])
            middle += rows[b, i] * center[i]
        worthwhile = spread > 0.0 and (n < MANY or spread - middle < 2.0 * LARGE * spread)
        for m in range(len(forms)):
            out[b, m] = -np.inf
            if worthwhile and spreads[m] > 0.0 and slopes[b, m] > 0.0:
                box, first = (center_, radius_), 0.25 * spreads[m] / spread
                at = _share(forms_[m], starts_[m], rows_[b], levels_[b], *box, plain[m], slopes[b, m], first)
                best, _ = _value(forms[m], starts[m], rows[b], levels[b], at, center, radius)
                best -= 4.0 * (n + 8) * UNIT * (sizes[m] + at * size) + TINY
                if best < np.inf:  # neither NaN nor infinite
                    out[b, m] = best


@dataclass(frozen=True, eq=False)
class Contraction:
    """Linear lower bounds of all neurons of a search, and of their negatives: ``forms`` (2 N, n), ``starts`` (2 N,)."""

    forms: np.ndarray
    starts: np.ndarray
    center: np.ndarray
    radius: np.ndarray

    @cached_property
    def _sizes(self) -> np.ndarray:
        """Above |form . x| + |start| on the box."""
        with np.errstate(all="ignore"):
            total = abs(self.forms) @ (abs(self.center) + self.radius) + abs(self.starts)
        return np.asarray(total * (1 + 2 * len(self.center) * UNIT))

    @cached_property
    def spreads(self) -> np.ndarray:
        """Half of the range of each form on the box."""
        with np.errstate(all="ignore"):
            return np.asarray(abs(self.forms) @ self.radius)

    @cached_property
    def _single(self) -> tuple[np.ndarray, np.ndarray]:
        """Forms in single precision, and the corners where forms are least."""
        forms = self.forms.astype(np.float32)
        return forms, (self.center - np.copysign(self.radius, self.forms)).astype(np.float32)

    @classmethod
    def of(cls, plan: Plan, region: Region, bounded: Bounded, nodes: tuple[int, ...]) -> Contraction | None:
        """From one set's bounds; None where forms are too large, or not on the processor."""
        count = sum(plan.steps[z].size for z in nodes)
        if plan.device.type != "cpu" or count == 0 or 2 * count * region.lower.shape[1] > MOST:
            return None
        sides: list[tuple[list[np.ndarray], list[np.ndarray]]] = [([], []), ([], [])]
        for z in nodes:
            charge = charges(plan, region, bounded.boxes, bounded.lines, z, bounded.charge)
            for part in torch.arange(plan.steps[z].size).split(CHUNK):
                rows = torch.zeros((1, len(part), plan.steps[z].size), dtype=plan.dtype)
                rows[0, torch.arange(len(part)), part] = 1.0
                for (forms, starts), sign in zip(sides, (1.0, -1.0), strict=True):
                    swept = backward(plan, region, bounded.lines, z, sign * rows, charge=charge)
                    forms.append(swept.rows[0].expand(len(part), -1).numpy())
                    starts.append(levels(plan, region, swept.rows, swept.constant, charge)[0].numpy())
        matrix, offset = (np.concatenate([*sides[0][k], *sides[1][k]]) for k in (0, 1))
        return cls(matrix, offset, region.center[0].numpy(), region.radius(UNIT)[0].numpy())

    def __call__(self, lower: Tensor, upper: Tensor, rows: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds (B, N), tightened to where ``rows . x + level <= 0``, (B, n) and (B,). They may cross: then nothing is there."""
        found = torch.empty((len(rows), len(self.forms)), dtype=torch.float64)
        share_work(4 * found.numel() * len(self.center))
        a, c = rows.contiguous().numpy(), level.contiguous().numpy()
        forms, corners = self._single
        starts, few, ends, center, radius = (t.astype(np.float32) for t in (self.starts, a, c, self.center, self.radius))
        with np.errstate(all="ignore"):
            slopes, plain = few @ corners.T + ends[:, None], self.starts + (forms * corners).sum(1)
        exact = (self.forms, self.starts, self.spreads, self._sizes, a, c, self.center, self.radius)
        _contract(exact, (forms, starts, few, ends, center, radius), plain.astype(np.float64), slopes, found.numpy())
        below, above = found.split(lower.shape[1], 1)
        return torch.maximum(lower, below), torch.minimum(upper, -above)
