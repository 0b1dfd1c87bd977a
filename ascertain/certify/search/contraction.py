"""Bounds of neurons on the unsafe part of a domain (after the complete clipping of Zhou et al. 2025), in rigorous floats.

Every unsafe input of a domain satisfies ``row . x + level <= 0``: the linear lower bound that the domain was left with. A neuron
is at least a linear form of the input, and so, on the unsafe part, at least the minimum of form + share * (row . x + level) over
the box, for any share >= 0; the best share is a concave problem of one variable. Tighter neurons give a tighter row, and so on,
until often nothing unsafe is left. Evidence: PROVED in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
import torch
from torch import Tensor

from ascertain.certify.bounds import Bounded
from ascertain.certify.fused import share_work
from ascertain.certify.linear import Charges, backward, charges
from ascertain.certify.plan import Plan
from ascertain.certify.region import Region
from ascertain.certify.rounding import DOUBLE

__all__ = ["Contraction", "levels"]

UNIT = DOUBLE.unit
TINY = DOUBLE.tiny
WIDER = 6
"""Times that a share is tried four times larger."""
CLOSER = 5
"""Times that the tangents at two shares are intersected."""
CHUNK = 512
"""Neurons of one backward pass."""
MOST = 1 << 20
"""Coefficients of all forms beyond which they cost more than they are worth."""


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _value(form, start, row, level, share, center, radius):  # type: ignore[no-untyped-def]
    """Minimum of form + share * constraint over the box, and its derivative by the share."""
    value, slope = 0.0, 0.0
    for i in range(form.size):
        v = form[i] + share * row[i]
        value += v * center[i] - abs(v) * radius[i]
        slope += row[i] * (center[i] - math.copysign(radius[i], v))
    return value + start + share * level, slope + level


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _largest(form, start, row, level, center, radius, first):  # type: ignore[no-untyped-def]
    """About the largest minimum over shares, and its share; -inf where a share of 0 is best."""
    value, slope = _value(form, start, row, level, 0.0, center, radius)
    best, at = -np.inf, 0.0
    if not slope > 0.0:
        return best, at
    left, left_value, left_slope = 0.0, value, slope
    right, right_value, right_slope = first, 0.0, 1.0
    for _ in range(WIDER):
        right_value, right_slope = _value(form, start, row, level, right, center, radius)
        if right_value > best:
            best, at = right_value, right
        if not right_slope > 0.0:
            break
        left, left_value, left_slope = right, right_value, right_slope
        right *= 4.0
    if right_slope > 0.0:
        return best, at
    for _ in range(CLOSER):
        share = (right_value - left_value + left_slope * left - right_slope * right) / (left_slope - right_slope)
        if not left < share < right:
            break
        value, slope = _value(form, start, row, level, share, center, radius)
        if value > best:
            best, at = value, share
        if slope > 0.0:
            left, left_value, left_slope = share, value, slope
        else:
            right, right_value, right_slope = share, value, slope
    return best, at


@numba.njit(nogil=True, cache=True, parallel=True, error_model="numpy")
def _contract(forms, starts, spreads, sizes, rows, levels, center, radius, out):  # type: ignore[no-untyped-def]
    n = center.size
    for b in numba.prange(len(rows)):
        spread, size = 0.0, abs(levels[b])
        for i in range(n):
            spread += abs(rows[b, i]) * radius[i]
            size += abs(rows[b, i]) * (abs(center[i]) + radius[i])
        for m in range(len(forms)):
            out[b, m] = -np.inf
            if spread > 0.0 and spreads[m] > 0.0:
                best, at = _largest(forms[m], starts[m], rows[b], levels[b], center, radius, 0.25 * spreads[m] / spread)
                best -= 4.0 * (n + 8) * UNIT * (sizes[m] + at * size) + TINY
                if best < np.inf:  # neither NaN nor infinite
                    out[b, m] = best


@dataclass(frozen=True, eq=False)
class Contraction:
    """Linear lower bounds of all neurons of a search, and of their negatives: ``forms`` (2 N, n), ``starts`` (2 N,)."""

    forms: np.ndarray
    starts: np.ndarray
    spreads: np.ndarray
    sizes: np.ndarray
    center: np.ndarray
    radius: np.ndarray

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
        center, radius = region.center[0].numpy(), region.radius(UNIT)[0].numpy()
        far = abs(center) + radius
        with np.errstate(all="ignore"):
            sizes = (abs(matrix) @ far + abs(offset)) * (1 + 2 * len(far) * UNIT)
            return cls(matrix, offset, abs(matrix) @ radius, sizes, center, radius)

    def __call__(self, lower: Tensor, upper: Tensor, rows: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds (B, N), tightened to where ``rows . x + level <= 0``, (B, n) and (B,). They may cross: then nothing is there."""
        found = torch.empty((len(rows), len(self.forms)), dtype=torch.float64)
        share_work(4 * found.numel() * len(self.center))
        _contract(
            self.forms,
            self.starts,
            self.spreads,
            self.sizes,
            rows.contiguous().numpy(),
            level.contiguous().numpy(),
            self.center,
            self.radius,
            found.numpy(),
        )
        below, above = found.split(lower.shape[1], 1)
        return torch.maximum(lower, below), torch.minimum(upper, -above)


def levels(plan: Plan, region: Region, rows: Tensor, constant: Tensor, charge: Charges) -> Tensor:
    """Constants (B, S) with which ``rows . x + constant`` of a backward pass is a lower bound on the whole region."""
    charged = rows.abs() @ charge.weights[plan.input]
    return constant - charged - 4 * plan.rounding.unit * (constant.abs() + (len(region.lower[0]) + 1) * charged)
