"""Where to cut the range of a neuron, and how much that tightens the lines of what it feeds.

The lines of a function on a box are taken as the pair that leaves the smallest area. A cut is worth the area that it removes, and
the best point removes most, over all functions that read the neuron (Shi et al. 2025, "Neural Network Verification with
Branch-and-Bound for General Nonlinearities", who tabulate it; here every box gets its own).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ascertain.certify.supports import supporting_slopes
from ascertain.operators.base import Univariate

__all__ = ["cut_points", "gains"]

PLACES = 17


def _areas(operator: Univariate, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Integrals over the box of its best line below and above."""
    at = lower + (upper - lower) / 2
    below, above = supporting_slopes(operator, lower, upper, at)
    low = operator.support(lower, upper, below, False)[0] + below * at
    high = operator.support(lower, upper, above, True)[0] + above * at
    return low * (upper - lower), high * (upper - lower)


def cut_points(operators: Sequence[Univariate], lower: Tensor, upper: Tensor) -> Tensor:
    """The point of each box that leaves the smallest area between lines, summed over operators; the middle where none is better."""
    middle = lower + (upper - lower) / 2
    if not operators:
        return middle
    share = torch.linspace(0, 1, PLACES + 2, dtype=lower.dtype, device=lower.device)[1:-1].reshape(-1, *[1] * lower.ndim)
    kinks = [torch.as_tensor(k, dtype=lower.dtype, device=lower.device) for o in operators for k in o.kink_points()]
    points = [lower + share * (upper - lower)] + [
        torch.minimum(torch.maximum(k, lower), upper).expand_as(lower)[None] for k in kinks
    ]
    p = torch.cat(points)
    left, right = lower.expand_as(p), upper.expand_as(p)
    total = torch.zeros_like(p)
    for operator in operators:
        for a, b in ((left, p), (p, right)):
            low, high = _areas(operator, a, b)
            total = total + (high - low)
    inside = (p > left) & (p < right)
    total = torch.where(inside, torch.nan_to_num(total, nan=torch.inf), torch.inf)
    best = total.argmin(0, keepdim=True)
    found = p.gather(0, best)[0]
    # the middle wins ties, so that nothing is cut near an end for rounding's sake
    centre = total[PLACES // 2]
    keep = (centre <= total.gather(0, best)[0] * (1 + 1e-6)) | ~inside.any(0) | ~torch.isfinite(found)
    return torch.where(keep, middle, found)


def gains(operator: Univariate, lower: Tensor, upper: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    """By how much a cut lifts the lower line, and sinks the upper line, on average over the box."""
    width = (upper - lower).clamp_min(torch.finfo(lower.dtype).tiny)
    low, high = _areas(operator, lower, upper)
    for a, b in ((lower, point), (point, upper)):
        part_low, part_high = _areas(operator, a, b)
        low, high = low - part_low, high - part_high
    return tuple(torch.nan_to_num(t / width, nan=0.0, posinf=0.0, neginf=0.0).clamp(min=0) for t in (-low, high))  # type: ignore[return-value]
