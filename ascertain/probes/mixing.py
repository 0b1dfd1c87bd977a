"""Whether sampling chains have forgotten where they began: R-hat and the number of independent draws."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["effective_samples", "split_r_hat"]

Array = np.ndarray[Any, np.dtype[Any]]


def split_r_hat(trace: Array) -> float:
    """Potential scale reduction of (chains, draws), each chain halved so that drift shows; 1 is mixed, NaN under 4 draws.

    Reference: Gelman et al. (2013), Bayesian Data Analysis, section 11.4.
    """
    half = trace.shape[1] // 2
    if half < 2:
        return float("nan")
    parts = np.concatenate([trace[:, :half], trace[:, -half:]])
    within = float(parts.var(1, ddof=1).mean())
    between = float(parts.mean(1).var(ddof=1))
    if within == 0.0:
        return 1.0 if between == 0.0 else float("inf")
    return float(np.sqrt((half - 1) / half + between / within))


def effective_samples(trace: Array) -> float:
    """Number of independent draws worth as much as all (chains, draws), from autocorrelations cut at the first negative pair.

    Reference: Geyer (1992), Practical Markov chain Monte Carlo, section 3.3.
    """
    chains, draws = trace.shape
    centred = trace - trace.mean()
    size = 2 ** int(np.ceil(np.log2(2 * draws)))
    power = np.abs(np.fft.rfft(centred, size)) ** 2
    covariance = np.fft.irfft(power, size)[:, :draws].mean(0) / draws
    if not covariance[0] > 0:
        return float(chains * draws)
    correlation = covariance / covariance[0]
    pairs = correlation[0 : draws - draws % 2].reshape(-1, 2).sum(1)
    last = int(np.argmax(pairs <= 0)) if (pairs <= 0).any() else len(pairs)
    time = max(2 * float(np.minimum.accumulate(pairs[:last]).sum()) - 1, 1.0)
    return float(chains * draws / time)
