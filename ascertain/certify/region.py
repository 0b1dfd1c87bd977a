"""A batch of input sets as the bound engine sees them: boxes, each optionally cut with one norm ball."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Ball", "Region"]


@dataclass(frozen=True, eq=False)
class Ball:
    """{x : ||x - center||_p <= radius}, shared by the whole batch."""

    center: Tensor
    radius: float
    p: float


@dataclass(frozen=True, eq=False)
class Region:
    """Boxes ``lower, upper`` of shape ``(B, n)``, intersected with ``ball`` when there is one."""

    lower: Tensor
    upper: Tensor
    ball: Ball | None = None

    def __len__(self) -> int:
        return len(self.lower)

    @property
    def center(self) -> Tensor:
        return self.lower + (self.upper - self.lower) / 2

    def radius(self, unit: float) -> Tensor:
        """Half widths about the float `center`, rounded outward."""
        c = self.center
        return torch.maximum(self.upper - c, c - self.lower) * (1 + 4 * unit)

    @property
    def magnitude(self) -> Tensor:
        """Largest absolute value of each coordinate over the whole batch (and its ball), ``(n,)``."""
        box = torch.maximum(self.lower.abs(), self.upper.abs()).amax(0)
        return box if self.ball is None else torch.maximum(box, self.ball.center.abs() + self.ball.radius)

    def minimum(self, rows: Tensor, unit: float) -> Tensor:
        """Minimum of ``rows`` (b, S, n), b in {1, B}, over each set, ``(B, S)``, before the rounding of the sums."""
        value = _dot(rows, self.center) - _dot(rows.abs(), self.radius(unit))
        if self.ball is None:
            return value
        return torch.maximum(value, rows @ self.ball.center - self.ball.radius * _dual_norm(rows, self.ball.p))

    def minimiser(self, rows: Tensor) -> Tensor:
        """A point of each box that minimises each row, ``(B, S, n)``; with a ball, a point of the ball clipped to the box."""
        low, high = self.lower.unsqueeze(1), self.upper.unsqueeze(1)
        corner = torch.where(rows >= 0, low, high)
        if self.ball is None:
            return corner
        c, r = self.ball.center, self.ball.radius
        if self.ball.p == 2.0:
            step = rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
            return torch.minimum(torch.maximum(c - r * step, low), high)
        if self.ball.p == 1.0:
            best = rows.abs().argmax(-1, keepdim=True)
            move = torch.zeros_like(rows).scatter_(-1, best, -r * rows.gather(-1, best).sign())
            return torch.minimum(torch.maximum(c + move, low), high)
        return corner

    def to(self, dtype: torch.dtype) -> Region:
        """The same in another precision, rounded to nearest."""
        ball = None if self.ball is None else Ball(self.ball.center.to(dtype), self.ball.radius, self.ball.p)
        return Region(self.lower.to(dtype), self.upper.to(dtype), ball)

    def __getitem__(self, index: Tensor) -> Region:
        return self if len(self.lower) == 1 else Region(self.lower[index], self.upper[index], self.ball)


def _dual_norm(rows: Tensor, p: float) -> Tensor:
    """The norm dual to the p-norm along the last axis. Dividing first keeps squares from over- and underflowing."""
    largest = rows.abs().amax(-1)
    if p == 1.0:
        return largest
    scale = largest.clamp_min(torch.finfo(rows.dtype).tiny)
    norm: Tensor = torch.linalg.vector_norm(rows / scale.unsqueeze(-1), ord=2 if p == 2.0 else 1, dim=-1)
    return scale * norm


def _dot(rows: Tensor, vectors: Tensor) -> Tensor:
    """(b, S, n) times (B, n) -> (B, S), where b or B may be 1."""
    if len(vectors) == 1:
        return rows @ vectors[0]
    if len(rows) == 1:
        return vectors @ rows[0].T
    return torch.bmm(rows, vectors.unsqueeze(-1)).squeeze(-1)
