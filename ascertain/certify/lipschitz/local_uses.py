"""What local constants are good for: certified radii, monotonicity, and how much of its Lipschitz constant a network needs."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from ascertain.certify.lipschitz.constant import Lipschitz, lipschitz, lipschitz_pairs, norm_of
from ascertain.certify.lipschitz.jacobian import Jacobian, graph_bounds, jacobian
from ascertain.errors import DataError, ShapeError, UnsupportedError
from ascertain.evidence import Evidence
from ascertain.graph.graph import Graph
from ascertain.properties.sets import Box, InputSet, LpBall

__all__ = ["Budget", "Monotonicity", "Radii", "certified_radii", "lipschitz_budget", "monotonicity"]


@dataclass(frozen=True, eq=False)
class Monotonicity:
    """Where each output rises or falls with each input on a set; every array is (n_out, n_in)."""

    lower: np.ndarray
    """Bounds of the Jacobian's entries, PROVED."""
    upper: np.ndarray
    least: np.ndarray
    """The smallest and the largest entry attained at a point of the set, enclosed with its rounding: PROVED, too."""
    most: np.ndarray
    evidence: Evidence
    seconds: float

    @property
    def signs(self) -> np.ndarray:
        """1 where proved never to fall, -1 never to rise, 0 where it does both, NaN where that is open."""
        up, down, both = self.lower >= 0, self.upper <= 0, (self.least < 0) & (self.most > 0)
        return np.where(up, 1.0, np.where(down, -1.0, np.where(both, 0.0, np.nan)))


def monotonicity(network: Graph, sets: InputSet, *, samples: int = 1000, seed: int = 0) -> Monotonicity:
    """The signs of all partial derivatives on a set, proved by bounds of the Jacobian or refuted by points. Evidence: PROVED."""
    import torch

    from ascertain.certify.bounds import bound_nodes
    from ascertain.certify.plan import Plan
    from ascertain.certify.region import Region

    _fits(network, sets.size)
    started = time.monotonic()
    found = jacobian(network, np.eye(network.output_size))
    shape = network.output_size, network.input_size
    low, high = (v.reshape(shape) for v in graph_bounds(found, sets))
    plan = Plan.compile(found.graph)
    points = torch.from_numpy(sets.sample(np.random.default_rng(seed), samples))
    below, above = bound_nodes(plan, Region(points, points), back=False, zonotope=False).every[plan.output]
    least = above.amin(0).numpy().reshape(shape)
    most = below.amax(0).numpy().reshape(shape)
    return Monotonicity(low, high, least, most, Evidence.PROVED, time.monotonic() - started)


@dataclass(frozen=True)
class Radii:
    """No input nearer than these has another label."""

    local: float
    """By margins and Lipschitz constants on the ball itself."""
    general: float
    """By constants that hold everywhere; 0 where none is known."""
    margin: float
    """The smallest margin at the input."""
    evidence: Evidence
    seconds: float

    @property
    def value(self) -> float:
        """The larger of the two."""
        return max(self.local, self.general)


def certified_radii(
    network: Graph,
    x: np.ndarray,
    label: int,
    norm: float = np.inf,
    *,
    limit: float = 1.0,
    steps: int = 12,
    everywhere: bool = True,
) -> Radii:
    """Radii, up to ``limit``, within which Lipschitz constants keep ``label`` the largest output.

    A radius r is certified where each margin at x is larger than r times the Lipschitz constant of that margin on the ball of
    radius r; the largest such r is found by bisection in ``steps`` steps. ``everywhere``: also by global constants in l2, which
    serve other norms through the ratio of norms. Evidence: PROVED.
    """
    import torch

    from ascertain.certify.bounds import bound_nodes
    from ascertain.certify.plan import Plan
    from ascertain.certify.region import Region

    started = time.monotonic()
    norm, point = norm_of(norm), np.asarray(x, np.float64).reshape(-1)
    _fits(network, point.size)
    outputs = network.output_size
    if not 0 <= label < outputs or outputs < 2:
        raise ShapeError(f"label {label} is none of {outputs} outputs; give 0 <= label < outputs, of at least 2.")
    if not 0 < limit < np.inf or steps < 1 or not np.isfinite(point).all():
        raise DataError("radii need a finite input, a positive finite limit and at least one step; correct the options.")
    others = [b for b in range(outputs) if b != label]
    rows = np.eye(outputs)[label] - np.eye(outputs)[others]
    found = jacobian(network, rows, head={1.0: "absolute", 2.0: "squares"}.get(norm, "rows"))
    plan = Plan.compile(found.graph)
    at = torch.from_numpy(point[None])
    low, high = (t[0].numpy() for t in bound_nodes(plan, Region(at, at), back=False, zonotope=False).every[found.network.output])
    margins = (low[label] - high[others]) * (1 - 1e-15) - 1e-300
    margin = float(margins.min())
    if margin <= 0:
        return Radii(0.0, 0.0, margin, Evidence.PROVED, time.monotonic() - started)

    def holds(r: float) -> bool:
        slopes = _row_constants(found, LpBall(point, r, norm), norm, len(rows))
        return bool((r * slopes * (1 + 1e-15) < margins).all())

    local, above = 0.0, _start(found, point, norm, margins, limit)
    for k in range(steps):
        probe = above if k == 0 else (local + above) / 2
        if holds(probe):
            local = probe
            if k == 0:
                break
        else:
            above = probe
    return Radii(
        local,
        _general(network, norm, label, others, margins, limit) if everywhere else 0.0,
        margin,
        Evidence.PROVED,
        time.monotonic() - started,
    )


def _row_constants(found: Jacobian, ball: LpBall, norm: float, rows: int) -> np.ndarray:
    """Proved dual norms of each row of the Jacobian on a ball."""
    high = np.maximum(graph_bounds(found, ball)[1], 0.0)
    if norm == 1:
        return np.asarray(high.reshape(rows, -1).max(1))
    return np.asarray(np.nextafter(np.sqrt(high), np.inf)) if norm == 2 else high


def _start(found: Jacobian, point: np.ndarray, norm: float, margins: np.ndarray, limit: float) -> float:
    """A radius that can hardly be exceeded: with the constants at the point itself, or the limit."""
    slopes = _row_constants(found, LpBall(point, 0.0, norm), norm, len(margins))
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(min(limit, np.min(np.where(slopes > 0, margins / slopes, np.inf))))


def _general(network: Graph, norm: float, label: int, others: list[int], margins: np.ndarray, limit: float) -> float:
    try:
        slopes = lipschitz_pairs(network)[label, others] * (np.sqrt(network.input_size) * (1 + 1e-15) if norm == np.inf else 1.0)
    except UnsupportedError:
        return 0.0
    with np.errstate(divide="ignore"):
        radius = float(np.min(np.where(slopes > 0, margins / slopes, np.inf)))
    return min(limit, radius * (1 - 1e-15))


@dataclass(frozen=True, eq=False)
class Budget:
    """How steep data force a function through them to be, and how steep the network is: max(chord, attained) <= L <= upper."""

    forced: float
    """Steepest chord between two inputs and their targets: no interpolating function is flatter. NaN without targets."""
    chord: float
    """Steepest chord of the network between two of the inputs. BOUNDED."""
    attained: float
    """Norm of the Jacobian at ``witness``, inside the box of the data. PROVED."""
    witness: np.ndarray
    upper: Lipschitz
    """The proved constant."""
    norm: float
    lines: dict[str, float]
    """What theory expects of n inputs in d dimensions for p parameters, up to constants."""
    seconds: float

    def __str__(self) -> str:
        lines = ", ".join(f"{name} {value:.4g}" for name, value in self.lines.items())
        forced = "" if np.isnan(self.forced) else f"data force {self.forced:.6g}; "
        known = f"chord {self.chord:.6g}, attained {self.attained:.6g} <= L <= {self.upper.value:.6g}"
        return f"{forced}{known}; up to constants: {lines}"


def lipschitz_budget(
    network: Graph, inputs: np.ndarray, targets: np.ndarray | None = None, norm: float = 2, *, timeout: float = 60.0
) -> Budget:
    """The Lipschitz constant that data force on any function through them, beside the network's own, attained and proved.

    ``inputs`` (n, n_in), ``targets`` (n, n_out). Lines: sqrt(n d / p) (Bubeck and Sellke 2021), sqrt(n / p) and n^(1 / d)
    (Wu, Huang and Zhang 2023) for p parameters.
    """
    from ascertain.certify.deep import region_of
    from ascertain.certify.lipschitz.local_search import LocalBounds, LocalSearch
    from ascertain.certify.plan import Plan

    started = time.monotonic()
    norm = norm_of(norm)
    x = np.asarray(inputs, np.float64).reshape(len(inputs), -1)
    _fits(network, x.shape[1])
    if len(x) < 2 or not np.isfinite(x).all():
        raise DataError("a budget needs at least two inputs of finite numbers; give more data or clean it.")
    y = network(x.reshape(-1, *network.input_shape)).reshape(len(x), -1)
    rows = np.eye(network.output_size)
    single = norm != 2 or len(rows) == 1
    found = jacobian(network, rows, head={1.0: "columns", 2.0: "squares" if single else "matrix"}.get(norm, "rows"))
    plan = Plan.compile(found.graph)
    box = Box(x.min(0), x.max(0))
    region = region_of(box, plan.dtype, plan.device)
    search = LocalSearch(LocalBounds(found, norm, plan, single), box, region, 1e-6, started + timeout / 2)
    search.raise_to(x)
    search.climb()
    forced = np.nan if targets is None else _chord(x, np.asarray(targets, np.float64).reshape(len(x), -1), norm)
    upper = lipschitz(network, norm, timeout=timeout)
    weights = sum(a.size for node in network.nodes for a in node.operator.arrays().values())
    n, d = x.shape
    lines = {"sqrt(n d / p)": np.sqrt(n * d / weights), "sqrt(n / p)": np.sqrt(n / weights), "n^(1/d)": n ** (1 / d)}
    seconds = time.monotonic() - started
    return Budget(
        forced,
        _chord(x, y, norm),
        search.lower,
        search.witness,
        upper,
        norm,
        {name: float(value) for name, value in lines.items()},
        seconds,
    )


def _chord(x: np.ndarray, y: np.ndarray, norm: float) -> float:
    """The largest |y_i - y_j| / |x_i - x_j|; infinite where equal inputs have different targets."""
    steepest = 0.0
    for i in range(len(x) - 1):
        run = np.linalg.norm(x[i + 1 :] - x[i], ord=norm, axis=1)
        rise = np.linalg.norm(y[i + 1 :] - y[i], ord=norm, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            steepest = max(steepest, float(np.max(np.where(rise > 0, rise / run, 0.0))))
    return steepest


def _fits(network: Graph, size: int) -> None:
    if size != network.input_size:
        raise ShapeError(f"{size} coordinates are given, the network takes {network.input_size}; give one for each input.")
