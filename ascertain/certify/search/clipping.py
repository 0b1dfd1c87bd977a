"""Boxes cut with linear constraints that every unsafe input satisfies (relaxed clipping, Zhou et al. 2025), in rigorous floats.

A lower bound ``row . x + level`` of what must be <= 0 leaves of a box only the part next to the end where it is least. A
conjunction is also cut with the combination of its constraints whose minimum is about the largest. Evidence: PROVED in float64.
"""

from __future__ import annotations

import numba
import numpy as np

from ascertain.certify.rounding import DOUBLE

__all__ = ["clip"]

ROUNDS = 3
UNIT = DOUBLE.unit
TINY = DOUBLE.tiny


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _least(row, level, lower, upper):  # type: ignore[no-untyped-def]
    """Lower bound of row . x + level over a box; NaN where that overflows."""
    total, size = level, abs(level)
    for i in range(row.size):
        v = row[i]
        total += v * (lower[i] if v >= 0.0 else upper[i])
        size += abs(v) * max(abs(lower[i]), abs(upper[i]))
    return total - 2.0 * (row.size + 8) * UNIT * size - TINY


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _cut(row, value, lower, upper):  # type: ignore[no-untyped-def]
    """Keeps of a box what is within reach of the end where a row is least, ``value`` <= 0."""
    for i in range(row.size):
        v = row[i]
        room = -value / abs(v) * (1.0 + 8.0 * UNIT) + TINY
        slack = room + 4.0 * UNIT * (max(abs(lower[i]), abs(upper[i])) + room)
        if v > 0.0 and lower[i] + slack < upper[i]:
            upper[i] = lower[i] + slack
        elif v < 0.0 and upper[i] - slack > lower[i]:
            lower[i] = upper[i] - slack


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _join(row, level, new, more, lower, upper):  # type: ignore[no-untyped-def]
    """Replaces (row, level) by its convex combination with (new, more) of about the largest minimum; returns its level.

    The minimum is concave and piecewise linear in the share of the new one; its kinks are where a coefficient changes its sign.
    """
    best, share = -np.inf, 0.0
    for k in range(row.size + 2):
        t = float(k - row.size) if k >= row.size else row[k] / (row[k] - new[k])
        if not 0.0 <= t <= 1.0:
            continue
        value = (1.0 - t) * level + t * more
        for i in range(row.size):
            v = (1.0 - t) * row[i] + t * new[i]
            value += v * (lower[i] if v >= 0.0 else upper[i])
        if value > best:
            best, share = value, t
    size = (1.0 - share) * abs(level) + share * abs(more)
    for i in range(row.size):
        size += ((1.0 - share) * abs(row[i]) + share * abs(new[i])) * max(abs(lower[i]), abs(upper[i]))
        row[i] = (1.0 - share) * row[i] + share * new[i]
    # what rounding did to the coefficients is paid for on the whole box
    return (1.0 - share) * level + share * more - (2.0 * row.size + 16.0) * UNIT * size - TINY


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _clip(rows, levels, which, pairs, lower, upper, margin, out):  # type: ignore[no-untyped-def]
    joined = np.empty(lower.shape[1])
    for p in range(len(pairs)):
        b, c = pairs[p]
        kept, low, high = out[0, p], out[1, p], out[2, p]
        low[:], high[:] = lower[b], upper[b]
        kept[:] = rows[b, which[c, 0]]
        top = -np.inf
        for _ in range(ROUNDS):
            joined[:] = rows[b, which[c, 0]]
            level = levels[b, which[c, 0]]
            for s in range(which.shape[1] + 1):
                last = s == which.shape[1]
                row = joined if last else rows[b, which[c, s]]
                base = level if last else levels[b, which[c, s]]
                value = _least(row, base, low, high)
                if value > top:
                    top = value
                    kept[:] = row
                if top > 0.0:
                    break
                _cut(row, value, low, high)
                if s > 0 and not last:
                    level = _join(joined, level, row, base, low, high)
            if top > 0.0:
                break
        margin[p] = top


def clip(
    rows: np.ndarray, levels: np.ndarray, which: np.ndarray, pairs: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each pair of a box and a conjunction: what is left of the box where ``rows . x + levels <= 0`` for all of its rows.

    ``rows`` (B, U, n) and ``levels`` (B, U) bound U linear functions of the output from below on boxes ``lower, upper`` (B, n);
    conjunction c consists of those numbered ``which[c]``; pair p is ``pairs[p]``: the number of a box, and c. Returns the margins
    (P,), above 0 where nothing is left, and (3, P, n): the row of the margin, and the box that is left. NaN cuts nothing.
    """
    margin, out = np.empty(len(pairs)), np.empty((3, len(pairs), lower.shape[1]))
    _clip(rows, levels, which, pairs, lower, upper, margin, out)
    return margin, out
