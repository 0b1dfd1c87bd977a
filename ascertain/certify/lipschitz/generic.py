"""The same program through cvxpy: a cross-check of our own solvers, and for small cases that they have no start for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from ascertain.certify.lipschitz.plant import Plant
from ascertain.certify.lipschitz.program import Norms, program
from ascertain.errors import DataError

__all__ = ["SOLVERS", "generic"]

SOLVERS = ("clarabel", "scs", "mosek")


def generic(plant: Plant, norms: Norms, solver: str, layers: bool = False) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Diagonal variables, multipliers of all nonlinearities, and the value of the program, in floats and as the solver left them.

    None where the solver found nothing. Raises DataError for a solver that is not installed.
    """
    cp: Any = import_module("cvxpy")  # takes long to import

    name = solver.upper()
    if name not in cp.installed_solvers():
        raise DataError(f"the solver {solver} is not installed; use clarabel or scs.")
    p = program(plant, norms, layers)
    n, count = p.size, len(p.gate)
    scale = float(abs(p.constant).max()) or 1.0
    diagonal, factors = cp.Variable(len(p.cost)), cp.Variable(int(p.gate_group.max()) + 1 if count else 1, nonneg=True)
    places, terms = np.zeros((n, len(p.diagonal))), np.zeros((n, count))
    places[p.diagonal, np.arange(len(p.diagonal))] = 1.0
    terms[np.arange(p.where.start, p.where.stop), np.arange(count)] = 1.0
    matrix = places @ cp.diag(diagonal[p.diagonal_group]) @ places.T - p.constant / scale
    if count:
        pairs = (terms - p.gate.T * p.low) @ cp.diag(factors[p.gate_group]) @ (terms - p.gate.T * p.high).T
        matrix = matrix + pairs + pairs.T
    problem = cp.Problem(cp.Minimize(p.cost @ diagonal), [(matrix + matrix.T) / 2 >> 0])
    try:
        problem.solve(solver=name)
    except cp.SolverError:
        return None
    if diagonal.value is None or (count and factors.value is None):
        return None
    found = factors.value[p.gate_group] if count else np.zeros(0)
    return diagonal.value * scale, np.maximum(found, 0.0) * scale, float(problem.value) * scale
