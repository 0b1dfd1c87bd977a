"""First-order method for wide networks: L-BFGS on the logarithms of the multipliers, through the storage recursion.

The storage matrix before a stage is a Schur complement; its derivative follows from the maximiser w = K y (envelope theorem), so a
gradient costs products with as many columns as the first storage matrix has large eigenvalues. The largest eigenvalue is smoothed
by a p-norm. Steps that leave the feasible set are rejected, so every iterate gives a valid bound. Runs in torch, on the CPU or a
GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ascertain.certify.lipschitz.enclosure import Enclosure
from ascertain.certify.lipschitz.plant import Plant, Stage
from ascertain.certify.lipschitz.solve import Multipliers, Variables, bound_of
from ascertain.certify.lipschitz.start import start

__all__ = ["first_order"]

_POWERS = (16.0, 64.0, 256.0, 1024.0)
_MEMORY = 20


def first_order(
    plant: Plant,
    *,
    tolerance: float = 1e-7,
    steps: int = 300,
    powers: Sequence[float] = _POWERS,
    device: str = "cpu",
    check: Callable[[], bool] = lambda: True,
) -> Multipliers | None:
    """Multipliers for l2 to l2; None where no start was found, or for stages that it cannot treat.

    At most ``steps`` for each of the ``powers`` that smooth the largest eigenvalue.

    Those are stages with a loop, and states of responses alone with slopes in [-a, a]: a storage matrix before them does not depend
    on the one after, and the optimum is on the boundary of the feasible set.
    """
    if any(s.loop is not None or (s.keep is None and not (s.low + s.high).any()) for s in plant.stages):
        return None
    turned = plant.output.shape[0] < plant.inputs
    work = _transposed(plant) if turned else plant
    first = start(work)
    if first is None:
        return None
    chain = _Chain(work, device)
    begin = torch.log(torch.as_tensor(np.concatenate(first[0]), dtype=torch.float64, device=device))
    x, count = begin, 0
    for power in powers:
        x, done = _descend(lambda x, p=power: chain(x, p), x, steps, max(tolerance, 1e-7), check)  # type: ignore[misc]
        count += done
    points = []
    for point in (x, begin):
        factors = np.exp(point.cpu().numpy())
        points.append(Variables(_turned_back(plant, factors, chain.value(point)) if turned else factors))
    return Multipliers(tuple(points), bound_of(plant, points[0].factors), np.inf, "first-order method", count)


def _transposed(plant: Plant) -> Plant:
    """The plant of the adjoint maps, whose program has the same optimum."""

    def turned(matrix: Enclosure | None) -> Enclosure | None:
        return None if matrix is None else Enclosure(np.ascontiguousarray(matrix.middle.T))

    stages: list[Stage] = []
    pending: np.ndarray | None = plant.output.middle.T
    for s in reversed(plant.stages):
        gate = np.eye(s.size) if s.feed is None else s.feed.middle.T
        keep, feed = turned(s.keep), turned(s.gate)
        if pending is not None:
            gate, keep = gate @ pending, None if keep is None else Enclosure(keep.middle @ pending)
        # A state that is linear in the responses alone is better the responses themselves.
        pending = None if keep is not None or feed is None else feed.middle
        stages.append(replace(s, gate=Enclosure(np.ascontiguousarray(gate)), keep=keep, feed=None if pending is not None else feed))
    return Plant(plant.output.shape[0], tuple(stages), Enclosure(np.eye(plant.inputs) if pending is None else pending))


def _turned_back(plant: Plant, factors: np.ndarray, square: float) -> np.ndarray:
    """Multipliers of the plant from those of its transpose: with responses scaled to slopes in [-1, 1] they are inverse."""
    half = np.concatenate([(s.high - s.low) / 2 for s in plant.stages])
    turned = np.concatenate([f for f in reversed(np.split(factors, np.cumsum([s.size for s in reversed(plant.stages)])[:-1]))])
    return np.asarray(square / (4 * turned * half**2))


@dataclass(frozen=True, eq=False)
class _Torch:
    """One stage as tensors."""

    gate: Tensor
    keep: Tensor | None
    feed: Tensor | None
    total: Tensor
    product: Tensor
    flat: bool
    """Whether all products of slopes are zero."""


class _Chain:
    """The smoothed logarithm of the largest eigenvalue of the first storage matrix, with its gradient."""

    def __init__(self, plant: Plant, device: str) -> None:
        def tensor(a: np.ndarray) -> Tensor:
            return torch.as_tensor(a, dtype=torch.float64, device=device)

        self.stages = [
            _Torch(
                tensor(s.gate.middle),
                None if s.keep is None else tensor(s.keep.middle),
                None if s.feed is None else tensor(s.feed.middle),
                tensor(s.low + s.high),
                tensor(s.low * s.high),
                not (s.low * s.high).any(),
            )
            for s in plant.stages
        ]
        self.sizes = [s.size for s in plant.stages]
        out = tensor(plant.output.middle)
        self.last = out.T @ out

    def _storage(self, lams: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]] | None:
        """The first storage matrix and the maximisers K of each stage, first stage first."""
        matrix, maps = self.last, []
        for s, lam in zip(reversed(self.stages), reversed(lams), strict=True):
            onto = matrix if s.feed is None else s.feed.T @ matrix
            last = torch.diag(2 * lam) - (onto if s.feed is None else onto @ s.feed)
            factor, fail = torch.linalg.cholesky_ex(last)
            if int(fail):
                return None
            cross = (lam * s.total).unsqueeze(1) * s.gate
            if s.keep is not None:
                cross = cross + onto @ s.keep
            half = torch.linalg.solve_triangular(factor, cross, upper=False)
            maps.append(torch.linalg.solve_triangular(factor.T, half, upper=True))
            before = half.T @ half
            if not s.flat:
                before = before - s.gate.T @ ((2 * lam * s.product).unsqueeze(1) * s.gate)
            if s.keep is not None:
                before = before + s.keep.T @ matrix @ s.keep
            matrix = (before + before.T) / 2
        return matrix, maps[::-1]

    def value(self, x: Tensor) -> float:
        """The largest eigenvalue itself."""
        found = self._storage(torch.split(torch.exp(x), self.sizes))
        return np.inf if found is None else float(torch.linalg.eigvalsh(found[0])[-1])

    def __call__(self, x: Tensor, power: float) -> tuple[float, Tensor] | None:
        lams = torch.split(torch.exp(x), self.sizes)
        found = self._storage(lams)
        if found is None:
            return None
        values, vectors = torch.linalg.eigh(found[0])
        top = float(values[-1])
        if not top > 0:
            return None
        share = (values.clamp(min=0) / top) ** power
        weight = share / share.sum() / values.clamp(min=1e-300)
        used = weight * top > 1e-14
        state = vectors[:, used] * weight[used].sqrt()
        gradient = []
        for s, lam, response in zip(self.stages, lams, found[1], strict=True):
            z, w = s.gate @ state, response @ state
            gradient.append(-2 * lam * (w * w - s.total.unsqueeze(1) * w * z + s.product.unsqueeze(1) * z * z).sum(1))
            fed = w if s.feed is None else s.feed @ w
            state = fed if s.keep is None else s.keep @ state + fed
        return float(np.log(top) + np.log(float(share.sum())) / power), torch.cat(gradient)


def _descend(
    function: Callable[[Tensor], tuple[float, Tensor] | None], x: Tensor, steps: int, tolerance: float, check: Callable[[], bool]
) -> tuple[Tensor, int]:
    """L-BFGS with backtracking; a point without a value counts as too high."""
    here = function(x)
    if here is None:
        return x, 0
    value, g = here
    pairs: list[tuple[Tensor, Tensor]] = []
    still = 0
    for count in range(steps):
        if not check() or still >= 5:
            return x, count
        direction = _direction(g, pairs)
        if float(g @ direction) >= 0:
            pairs, direction = [], -g * 0.1 / float(g.abs().max().clamp(min=1e-300))
        slope = float(g @ direction)
        step = min(1.0, 2.0 / max(float(direction.abs().max()), 1e-300))
        while True:
            there = function(x + step * direction)
            if there is not None and there[0] <= value + 1e-4 * step * slope:
                break
            step *= 0.4
            if step < 1e-8:
                return x, count
        s, y = step * direction, there[1] - g
        if float(s @ y) > 1e-14:
            pairs = [*pairs[1 - _MEMORY :], (s, y)]
        still = still + 1 if value - there[0] < tolerance else 0
        x, (value, g) = x + s, there
    return x, steps


def _direction(g: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Minus the inverse Hessian estimate times the gradient (two-loop recursion)."""
    q, kept = g.clone(), []
    for s, y in reversed(pairs):
        a = (s @ q) / (y @ s)
        kept.append(a)
        q = q - a * y
    if pairs:
        s, y = pairs[-1]
        q = q * (s @ y) / (y @ y)
    else:
        q = q * 0.3 / g.abs().max().clamp(min=1e-12)
    for (s, y), a in zip(pairs, reversed(kept), strict=True):
        q = q + s * (a - (y @ q) / (y @ s))
    return -q
