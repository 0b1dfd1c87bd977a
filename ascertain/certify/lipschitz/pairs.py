"""Constants of all pairs of outputs from one program: its multipliers, scaled, bound every direction of the output."""

from __future__ import annotations

import time

import numpy as np

from ascertain.certify.lipschitz.plant import Plant
from ascertain.certify.lipschitz.program import EUCLIDEAN
from ascertain.certify.lipschitz.rigorous import NotVerified, prove
from ascertain.certify.lipschitz.solve import bound_of, multipliers
from ascertain.errors import DataError

__all__ = ["pairs"]


def pairs(form: Plant, norm: float, tolerance: float, timeout: float) -> np.ndarray:
    """Proved l2 constants of output a minus output b, for all a and b."""
    if norm != 2:
        raise DataError(f"all pairs from one program are known for the norm 2 only, not {norm}; give pair=(a, b) for each.")
    deadline = time.monotonic() + timeout
    found = multipliers(form, EUCLIDEAN, tolerance=tolerance, check=lambda: time.monotonic() < deadline)
    outputs = form.output.shape[0]
    out = np.zeros((outputs, outputs))
    for a in range(outputs):
        for b in range(a):
            direction = np.eye(outputs)[a] - np.eye(outputs)[b]
            out[a, b] = out[b, a] = _directed(form.toward(direction), None if found is None else found.found[0].factors)
    return out


def _directed(form: Plant, factors: np.ndarray | None) -> float:
    """The constant of one direction from the multipliers of all, scaled."""
    if factors is None or not form.size:
        return prove(form, EUCLIDEAN, np.zeros(form.size), np.zeros(0), np.zeros(0)).value
    small = form.rotated()
    scales = 2.0 ** np.arange(-12, 5)
    best = int(np.argmin([bound_of(small, factors * s) for s in scales]))
    fine = scales[best] * 2.0 ** np.linspace(-1, 1, 17)
    order = np.argsort([bound_of(small, factors * s) for s in fine])
    for s in fine[order]:
        try:
            return prove(form, EUCLIDEAN, factors * s, np.zeros(0), np.zeros(0)).value
        except NotVerified:
            continue
    raise DataError("the multipliers of all outputs prove nothing for one direction; give pair=(a, b) for each.")
