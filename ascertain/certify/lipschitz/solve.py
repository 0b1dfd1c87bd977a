"""Finds multipliers: which method, from where to start, and for how long. Nothing here needs to be right, only good."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ascertain.certify.lipschitz.generic import SOLVERS, generic
from ascertain.certify.lipschitz.plant import Plant
from ascertain.certify.lipschitz.program import EUCLIDEAN, Norms, program
from ascertain.certify.lipschitz.start import float_storage, start
from ascertain.errors import UnsupportedError

__all__ = ["Multipliers", "Variables", "bound_of", "multipliers"]

MOST = 3000
"""Inputs and nonlinearities together above which the interior point leaves the field to the first-order method."""

DEEP = 8
"""Stages from which the interior point begins where the first-order method ends: from one number for each it takes too long."""

WIDEST = 5000
"""Values of one layer above which no program is solved."""


@dataclass(frozen=True, eq=False)
class Variables:
    """A feasible point."""

    factors: np.ndarray
    """(N,) one for each nonlinearity."""
    input: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """(n0,) tau for an input in the maximum norm; empty for l2."""
    output: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """(n_out,) mu for an output in l1; empty for l2."""


@dataclass(frozen=True, eq=False)
class Multipliers:
    """What a solver hands to the proof."""

    found: tuple[Variables, ...]
    """Best first; later ones are further inside the feasible set, so that they are easier to prove."""
    value: float
    """The bound that they give, in floats."""
    gap: float
    """How far the bound is above the optimum of the program, relative; infinite where it is not known."""
    method: str
    steps: int


def multipliers(
    plant: Plant,
    norms: Norms = EUCLIDEAN,
    *,
    layers: bool = False,
    method: str = "auto",
    tolerance: float = 1e-8,
    check: Callable[[], bool] = lambda: True,
) -> Multipliers | None:
    """Multipliers of a plant with nonlinearities for input norm 2 or inf and output norm 2 or 1; None where no start was found."""
    _affordable(plant)
    if norms.input == 2:
        plant = plant.rotated()
    first = start(plant)
    if first is None or method in SOLVERS:
        return _generic(plant, norms, "clarabel" if first is None else method, layers)
    if method == "auto":
        method = "first-order" if norms == EUCLIDEAN and not layers and plant.inputs + plant.size > MOST else "interior"
    if method == "interior" and plant.inputs + plant.size > 3 * MOST:
        raise UnsupportedError(f"{plant.size} nonlinearities are too many for the interior point method; use method='product'.")
    if method == "first-order":
        from ascertain.certify.lipschitz.first_order import first_order

        found = first_order(plant, tolerance=tolerance, check=check)
        if found is not None:
            return found
    near = None
    if method == "interior" and norms == EUCLIDEAN and not layers and len(plant.stages) >= DEEP:
        near = _near(plant, check)
    if near is not None:
        begin, storage = near
        found = _interior(plant, norms, (list(plant.split(begin.found[0].factors)), storage), layers, tolerance, check)
        if found is not None:
            return min(found, begin, key=lambda f: f.value)
    return _interior(plant, norms, first, layers, tolerance, check)


def _near(plant: Plant, check: Callable[[], bool]) -> tuple[Multipliers, np.ndarray] | None:
    """Multipliers near the optimum, and the first storage matrix that they give."""
    from ascertain.certify.lipschitz.first_order import first_order

    found = first_order(plant, tolerance=1e-5, steps=150, powers=(16.0, 64.0), check=check)
    storage = None if found is None else float_storage(plant, list(plant.split(found.found[0].factors)))
    return None if found is None or storage is None or not np.isfinite(storage).all() else (found, storage)


def _affordable(plant: Plant) -> None:
    """Raises UnsupportedError for stages whose factorisation would take minutes each."""
    widest = max((max(s.size, s.gate.shape[1]) for s in plant.stages), default=0)
    if widest > WIDEST:
        raise UnsupportedError(f"a layer of {widest} values is too wide for the semidefinite bound; use method='product'.")


def _generic(plant: Plant, norms: Norms, solver: str, layers: bool) -> Multipliers | None:
    """Multipliers from cvxpy, from as they are to well inside, whichever the proof accepts."""
    found = generic(plant, norms, solver, layers)
    if found is None:
        return None
    diagonal, factors, value = found
    outputs = plant.output.shape[0] if norms.output == 1 else 0
    k = len(diagonal) - outputs
    least = 1e-12 * float(factors.max(initial=1e-300))
    points = []
    for room in (1e-9, 1e-7, 1e-5, 1e-3):
        tau = diagonal[:k] * (1 + room) if norms.input == np.inf else np.zeros(0)
        points.append(Variables(np.maximum(factors, least) * (1 + room), tau, diagonal[k:] * (1 + room)))
    return Multipliers(tuple(points), value / 2 if outputs else float(np.sqrt(max(value, 0.0))), np.inf, f"cvxpy with {solver}", 0)


def _interior(
    plant: Plant,
    norms: Norms,
    first: tuple[list[np.ndarray], np.ndarray],
    layers: bool,
    tolerance: float,
    check: Callable[[], bool],
) -> Multipliers | None:
    """The interior point from a start; None where that is not strictly feasible in floats."""
    from ascertain.certify.lipschitz.interior import interior

    lam, storage = first
    problem = program(plant, norms, layers)
    t = _input_weights(storage, norms)
    outputs = plant.output.shape[0] if norms.output == 1 else 0
    mu = np.zeros(0)
    scale = 1.0
    if outputs:
        scale = float(np.sqrt(t.sum() / outputs))
        mu = np.full(outputs, 1.05 * scale)
    begin = np.concatenate([t / scale, mu])
    factors = np.array([x[0] for x in lam if len(x)]) if layers else np.concatenate([np.zeros(0), *lam])
    try:
        found = interior(problem, begin, factors / scale, tolerance=tolerance, check=check)
    except ValueError:
        return None
    value = found.value / 2 if outputs else float(np.sqrt(found.value))
    k = len(begin) - outputs

    def variables(diagonal: np.ndarray, factors: np.ndarray) -> Variables:
        tau = diagonal[:k] if norms.input == np.inf else np.zeros(0)
        return Variables(factors[problem.gate_group], tau, diagonal[k:])

    points = tuple(variables(*p) for p in ((found.diagonal, found.factors), *found.path))
    gap = found.gap if found.residual < 1e-5 else np.inf
    name = "interior point, one multiplier for each stage" if layers else "interior point"
    return Multipliers(points, value, gap if outputs else gap / 2, name, found.steps)


def _input_weights(storage: np.ndarray, norms: Norms) -> np.ndarray:
    """Diagonal variables above a storage matrix."""
    if norms.input == 2:
        return np.array([1.5 * float(np.linalg.eigvalsh(storage)[-1])])
    rows = abs(storage).sum(1)
    return np.asarray(1.5 * (rows + 0.01 * rows.max()))


def bound_of(plant: Plant, factors: np.ndarray) -> float:
    """The l2 bound that multipliers give, in floats; infinite where they give none."""
    storage = float_storage(plant, list(plant.split(factors)))
    return np.inf if storage is None else float(np.sqrt(max(np.linalg.eigvalsh(storage)[-1], 0.0)))
