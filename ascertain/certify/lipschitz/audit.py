"""Is a network as flat as claimed? A proof that it is, or two inputs that say it is not."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from ascertain.certify.lipschitz.constant import Lipschitz, lipschitz, norm_of
from ascertain.errors import DataError, ShapeError, UnsupportedError
from ascertain.graph.graph import Graph

__all__ = ["Audit", "audit_lipschitz"]

STARTS = 64
STEPS = 150
LENGTHS = (1e-3, 1e-1, 1.0)
"""Distances of pairs, as shares of the size of the inputs."""


@dataclass(frozen=True, eq=False)
class Audit:
    """What was found of a claim |f(a) - f(b)| <= claim |a - b|."""

    claim: float
    norm: float
    upper: Lipschitz | None
    """The proved constant; None where the network has none that holds everywhere."""
    pair: tuple[np.ndarray, np.ndarray] | None
    """The steepest two inputs found, each (n_in,); None where the claim was proved without looking for any."""
    slope: float
    """|f(a) - f(b)| / |a - b| of the pair, PROVED from below; 0 without a pair."""
    seconds: float

    @property
    def status(self) -> str:
        """``holds``, ``violated`` or ``unknown``."""
        if self.upper is not None and self.upper.value <= self.claim:
            return "holds"
        return "violated" if self.slope > self.claim else "unknown"

    def __str__(self) -> str:
        most = "none that holds everywhere" if self.upper is None else f"{self.upper.value:.9g}"
        steep = "" if self.pair is None else f", two inputs with slope {self.slope:.9g}"
        return f"{self.status}: claimed {self.claim:g} in norm {self.norm:g}; proved constant {most}{steep} ({self.seconds:.2f} s)"


def audit_lipschitz(
    network: Graph, claim: float = 1.0, norm: float = 2, *, inputs: np.ndarray | None = None, timeout: float = 60.0, seed: int = 0
) -> Audit:
    """Decides a claimed Lipschitz constant by a proved one, or by a pair of inputs that is steeper.

    ``inputs`` (n, n_in): where the search for a pair begins; standard normal points if not given. Evidence: PROVED both ways.
    """
    started, norm = time.monotonic(), norm_of(norm)
    if not 0 <= claim < np.inf:
        raise DataError(f"a Lipschitz constant of {claim} cannot be claimed; give a finite number of at least 0.")
    points = np.random.default_rng(seed).normal(size=(STARTS, network.input_size)) if inputs is None else np.asarray(inputs, float)
    points = points.reshape(len(points), -1)[:STARTS]
    if points.shape[1] != network.input_size or len(points) == 0 or not np.isfinite(points).all():
        raise ShapeError(f"inputs of shape {points.shape} do not fit {network.input_size} coordinates, or are no numbers.")
    try:
        upper = lipschitz(network, norm, timeout=timeout)
    except UnsupportedError:
        upper = None
    if upper is not None and upper.value <= claim:
        return Audit(claim, norm, upper, None, 0.0, time.monotonic() - started)
    best: tuple[float, tuple[np.ndarray, np.ndarray] | None] = (0.0, None)
    for length in LENGTHS:
        a, b = _climb(network, points, norm, length * max(1e-6, float(abs(points).max())), seed)
        slopes = _slopes(network, a, b, norm)
        k = int(slopes.argmax())
        if slopes[k] > best[0]:
            best = float(slopes[k]), (a[k], b[k])
    return Audit(claim, norm, upper, best[1], best[0], time.monotonic() - started)


def _climb(network: Graph, points: np.ndarray, norm: float, length: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (n, n_in) at a distance, moved to where the output changes most between them."""
    import torch

    from ascertain.certify.plan import Plan
    from ascertain.graph import lower

    plan = Plan.compile(lower(network), torch.float64)
    start = torch.from_numpy(points)
    way = torch.from_numpy(np.random.default_rng(seed).normal(size=points.shape))
    x, d = start.clone().requires_grad_(True), way.requires_grad_(True)
    ascent = torch.optim.Adam([x, d], lr=0.05)
    kept, top = (start, start), torch.full((len(points),), -torch.inf, dtype=torch.float64)
    for _ in range(STEPS):
        step = length * d / torch.linalg.vector_norm(d, norm, 1, keepdim=True).clamp_min(1e-300)
        a, b = x - step / 2, x + step / 2
        rise = torch.linalg.vector_norm(plan.forward(b)[plan.output] - plan.forward(a)[plan.output], norm, 1) / length
        better = (rise.detach() > top).unsqueeze(1)
        kept = torch.where(better, a.detach(), kept[0]), torch.where(better, b.detach(), kept[1])
        top = torch.fmax(top, rise.detach())
        ascent.zero_grad()
        (-torch.log(rise.clamp_min(1e-300)).sum()).backward()
        for t in (x, d):
            t.grad = torch.zeros_like(t) if t.grad is None else torch.nan_to_num(t.grad)
        ascent.step()
    return kept[0].numpy(), kept[1].numpy()


def _slopes(network: Graph, a: np.ndarray, b: np.ndarray, norm: float) -> np.ndarray:
    """Lower bounds (n,) of |f(a) - f(b)| / |a - b|, rounding accounted for."""
    import torch

    from ascertain.certify.bounds import bound_nodes
    from ascertain.certify.plan import Plan
    from ascertain.certify.region import Region
    from ascertain.graph import lower

    plan = Plan.compile(lower(network), torch.float64)
    at = torch.from_numpy(np.concatenate([a, b]))
    low, high = (t.numpy() for t in bound_nodes(plan, Region(at, at), back=False, zonotope=False).every[plan.output])
    n = len(a)
    apart = np.maximum(np.maximum(low[:n] - high[n:], low[n:] - high[:n]), 0.0)
    size = (2 * apart.shape[1] + 8) * 2.0**-53
    rise = np.linalg.norm(apart, norm, axis=1) * (1 - size)
    run = np.linalg.norm(a - b, norm, axis=1) * (1 + (2 * a.shape[1] + 8) * 2.0**-53)
    with np.errstate(all="ignore"):
        return np.nan_to_num(np.where(run > 0, rise / run * (1 - 2.0**-52), 0.0), posinf=0.0)
