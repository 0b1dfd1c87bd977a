"""Confidence intervals of the estimates that analyzers share."""

from __future__ import annotations

import numpy as np

from ascertain.analyze.result import Measured
from ascertain.errors import DataError
from ascertain.evidence import Evidence

__all__ = ["mean_interval", "share"]

_Z = 1.959963984540054
"""Quantile of the normal distribution for two-sided 95 %."""


def mean_interval(rows: np.ndarray, about: str) -> Measured:
    """Means of rows (R, N) of N independent samples each, with 95 % intervals of Student's t; infinite for one sample."""
    from scipy.stats import t

    count = rows.shape[1]
    mean = rows.mean(1)
    if count < 2:
        return Measured(mean, Evidence.ESTIMATED, about, np.full_like(mean, -np.inf), np.full_like(mean, np.inf))
    half = t.ppf(0.975, count - 1) * rows.std(1, ddof=1) / np.sqrt(count)
    return Measured(mean, Evidence.ESTIMATED, about, mean - half, mean + half)


def share(hits: int, count: int, about: str) -> Measured:
    """A share of independent samples with its 95 % interval (Wilson 1927)."""
    if not 0 <= hits <= count or count < 1:
        raise DataError(f"{hits} of {count} samples is no share; give at least one sample.")
    p, z2 = hits / count, _Z**2
    middle = (p + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z / (1 + z2 / count) * np.sqrt(p * (1 - p) / count + z2 / (4 * count**2))
    low, high = max(0.0, min(p, float(middle - half))), min(1.0, max(p, float(middle + half)))
    return Measured(np.array(p), Evidence.ESTIMATED, about, np.array(low), np.array(high))
