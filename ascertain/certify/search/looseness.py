"""By how much halving an input of a box would tighten the relaxations that a bound of the output rests on: an estimate."""

from __future__ import annotations

import torch
from torch import Tensor

from ascertain.certify.bounds import Bounded
from ascertain.certify.plan import Plan
from ascertain.operators.base import Bilinear, Univariate

__all__ = ["gains"]


def gains(plan: Plan, bounded: Bounded, rows: dict[int, Tensor], box: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """For each box lower, upper (K, n) and input: the sum of |coefficient| times what every relaxation loses in gap, ``(K, n)``.

    ``rows[k]`` (K, size) are the coefficients of a bound on nonlinear node k; ``bounded`` belongs to the batch in which box i has
    the number ``box[i]``. The gap between the planes at the middle (the range, for groups) goes with the product of the widths
    of the factors (a function of one variable counts as its square), and a width falls by half the part that comes from the input:
    central differences.
    """
    count, n = lower.shape
    middle, step = lower + (upper - lower) / 2, torch.diag_embed((upper - lower) / 2)
    points = torch.cat([middle.unsqueeze(1) + step, middle.unsqueeze(1) - step], 1).flatten(0, 1)
    values = plan.forward(points)
    parts: dict[int, Tensor] = {}

    def part(z: int) -> Tensor:
        """Part of the width of a node's value that comes from each input, (K, n, size)."""
        if z not in parts:
            low, high = bounded.boxes[z]
            width = (high - low)[box] if len(low) > 1 else high - low
            above, below = values[z].reshape(count, 2, n, -1).unbind(1)
            moved = (above - below).abs() / width.clamp_min(torch.finfo(width.dtype).tiny).unsqueeze(1)
            parts[z] = torch.nan_to_num(moved, nan=0.0).clamp(max=1.0)
        return parts[z]

    total = torch.zeros_like(lower)
    for k, a in rows.items():
        s = plan.steps[k]
        if isinstance(s.nonlinear, (Univariate, Bilinear)):
            centres = [(low + (high - low) / 2).unsqueeze(1) for low, high in (bounded.boxes[i] for i in s.inputs)]
            line = bounded.lines[k]
            one = torch.ones_like(a[:1]).unsqueeze(1)
            gap = (line.value(-one, centres) - line.value(one, centres))[:, 0]
        else:
            gap = bounded.every[k][1] - bounded.every[k][0]
        weight = a.abs() * (gap[box] if len(gap) > 1 else gap)
        kept = torch.ones((), dtype=a.dtype, device=a.device)
        for z in s.inputs * 2 if isinstance(s.nonlinear, Univariate) else s.inputs:
            own = part(z)
            kept = kept * (1 - (own if own.shape[2] == a.shape[1] else own.mean(2, keepdim=True)) / 2)
        total = total + torch.nan_to_num(weight.unsqueeze(1) * (1 - kept)).clamp(min=0).sum(2)
    return total
