"""Attacks: inputs of the set with an unsafe output, found by descent on the violation and confirmed on the original model."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ascertain.certify.plan import Plan
from ascertain.certify.region import Region
from ascertain.properties.property import Atoms

__all__ = ["descend", "violation"]


def violation(outputs: Tensor, rows: Tensor, limits: Tensor) -> Tensor:
    """max over rows of (row . y - limit), ``(K, C)``, for outputs (K, n), rows (C, S, n), limits (C, S): unsafe at <= 0."""
    return (torch.einsum("kn,csn->kcs", outputs, rows) - limits).amax(-1)


def _project(points: Tensor, region: Region) -> Tensor:
    """Onto the box, after scaling into the ball."""
    ball = region.ball
    if ball is not None and ball.p != float("inf"):
        move = points - ball.center
        norm = torch.linalg.vector_norm(move, ord=ball.p, dim=-1, keepdim=True).clamp_min(1e-30)
        points = ball.center + move * (ball.radius / norm).clamp(max=1.0)
    return torch.minimum(torch.maximum(points, region.lower), region.upper)


def stack_atoms(unsafe: tuple[Atoms, ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows (C, S, n) and limits (C, S) of all conjunctions, shorter ones padded by repeating their rows."""
    count = max(len(a.bound) for a in unsafe)
    picks = [[i % len(a.bound) for i in range(count)] for a in unsafe]
    rows = np.stack([a.matrix[p] for a, p in zip(unsafe, picks, strict=True)])
    limits = np.stack([a.bound[p] for a, p in zip(unsafe, picks, strict=True)])
    return torch.as_tensor(rows, dtype=dtype, device=device), torch.as_tensor(limits, dtype=dtype, device=device)


def descend(
    plan: Plan,
    region: Region,
    unsafe: tuple[Atoms, ...],
    confirm: Callable[[Tensor], bool],
    *,
    starts: Tensor | None = None,
    restarts: int = 8,
    steps: int = 40,
    deadline: float,
    seed: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Projected sign-gradient descent (Madry et al. 2018) on every violation, from random points and ``starts`` (K, n).

    The step falls geometrically from a quarter of the widths. Returns True once ``confirm`` accepted a point.
    """
    rows, limits = stack_atoms(unsafe, plan.dtype, plan.device)
    generator = torch.Generator(device=plan.device).manual_seed(seed)
    width = region.upper - region.lower
    count = len(unsafe)
    noise = torch.rand((restarts * count, width.shape[1]), generator=generator, dtype=plan.dtype, device=plan.device)
    points = region.lower + width * noise
    points[: min(count, len(points))] = region.center
    if starts is not None:
        points = torch.cat([starts, points])
    points = _project(points, region)
    target = torch.arange(len(points), device=plan.device) % count
    scale = (limits.abs().amax(1) + 1.0)[target]
    for step in range(steps + 1):
        x = points.clone().requires_grad_(True)
        with torch.enable_grad():
            y = plan.forward(x, surrogate=True)[plan.output]
            gap = torch.einsum("kn,ksn->ks", y, rows[target]) - limits[target]
            loss = torch.where(gap > -1e-6 * scale.unsqueeze(1), gap, gap * 1e-3).sum()
        every = violation(y.detach(), rows, limits)
        good = (every <= 0).any(1)
        if bool(good.any()) and confirm(points[good][:64]):
            return True
        if step == steps or time.monotonic() > deadline or stop():
            return False
        (slope,) = torch.autograd.grad(loss, x)
        points = _project(points - 0.25 * width * 0.93**step * slope.sign(), region).detach()
    return False
