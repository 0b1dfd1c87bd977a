"""Closing conjunctions on one box: rows, combinations of rows, optimised slopes, clipping."""

from __future__ import annotations

import numpy as np
from numba import njit

from ascertain.certify.kernels.backward import Rows, backward, concretise
from ascertain.certify.kernels.domain import CHUNK, Scratch, Settings, line_values
from ascertain.certify.kernels.pack import Packed

__all__ = ["close"]


MIXING = 40
"""Ascent steps on the weights of a conjunction's linear bounds."""


@njit(nogil=True, cache=True)
def _clip(work: Rows, r: int, box: np.ndarray, bound: float) -> None:
    """Shrinks a box, outward, to where row ``r`` can be <= 0; ``bound`` <= 0 is its rigorous lower bound over the box.

    The row is at least bound + |b_i| (distance of x_i from the side that minimises it), so that distance is at most -bound / |b_i|.
    """
    for i in range(box.shape[1]):
        b = work.b[r, i]
        if b == 0.0:
            continue
        step = -bound / abs(b) * (1.0 + 2.0**-50)
        if not step < box[1, i] - box[0, i]:
            continue
        if b > 0.0:
            edge = box[0, i] + step
            box[1, i] = min(box[1, i], edge + 2.0**-51 * (abs(box[0, i]) + step) + 1e-300)
        else:
            edge = box[1, i] - step
            box[0, i] = max(box[0, i], edge - 2.0**-51 * (abs(box[1, i]) + step) - 1e-300)


@njit(nogil=True, cache=True)
def _single_rows(net: Packed, s: Scratch, j: int, clip: bool) -> tuple[int, float]:
    """Bounds every row of conjunction ``j`` with plain slopes and clips ``s.trial``; returns the best row and its bound."""
    begin, end = net.start[-2], net.start[-1]
    best, bound = net.groups[j], -np.inf
    at = net.groups[j]
    while at < net.groups[j + 1]:
        count = min(CHUNK, net.groups[j + 1] - at)
        for r in range(count):
            s.work.a[r, begin:end] = 0.0
            s.work.a[r, begin + at + r] = 1.0
        backward(net, s.lines, s.slope, s.work, count, len(net.start) - 2)
        for r in range(count):
            value = concretise(net, s.work, r, s.trial[0], s.trial[1])
            s.linear[at + r, :-1] = s.work.b[r, : s.trial.shape[1]]
            s.linear[at + r, -1] = s.work.bias[r]
            if value > bound:
                best, bound = at + r, value
            if value > 0.0:
                return best, bound
            if clip:
                _clip(s.work, r, s.trial, value)
        at += count
    return best, bound


@njit(nogil=True, cache=True)
def _mix(net: Packed, s: Scratch, j: int, best: int) -> None:
    """Weights of conjunction ``j`` for which the combination of the rows' linear bounds has a large minimum on ``s.trial``.

    Multiplicative ascent on the dual of max over rows, min over the box; row ``best`` to start with.
    """
    first, last, n = net.groups[j], net.groups[j + 1], s.trial.shape[1]
    current, kept = s.weight[1], s.weight[0]
    current[first:last] = 0.5 / (last - first)
    current[best] += 0.5
    point = s.values
    top = -np.inf
    for turn in range(MIXING):
        for d in range(n):
            b = 0.0
            for r in range(first, last):
                b += current[r] * s.linear[r, d]
            point[d] = s.trial[0, d] if b >= 0.0 else s.trial[1, d]
        value, high = 0.0, 0.0
        for r in range(first, last):
            g = s.linear[r, n]
            for d in range(n):
                g += s.linear[r, d] * point[d]
            s.moment[r - first] = g
            value += current[r] * g
            high = max(high, abs(g))
        if value > top:
            top = value
            kept[first:last] = current[first:last]
        if not high > 0.0 or high == np.inf:
            break
        total = 0.0
        for r in range(first, last):
            current[r] *= np.exp(2.0 / (1.0 + 0.2 * turn) * s.moment[r - first] / high)
            total += current[r]
        for r in range(first, last):
            current[r] /= total
    current[first:last] = kept[first:last]


@njit(nogil=True, cache=True)
def _combination(net: Packed, s: Scratch, j: int, clip: bool) -> float:
    """Bounds the combination of the rows of conjunction ``j`` by current weights and slopes; clips ``s.trial``."""
    begin, end = net.start[-2], net.start[-1]
    s.work.a[0, begin:end] = 0.0
    for r in range(net.groups[j], net.groups[j + 1]):
        s.work.a[0, begin + r] = s.weight[1, r]
    backward(net, s.lines, s.slope, s.work, 1, len(net.start) - 2)
    value = concretise(net, s.work, 0, s.trial[0], s.trial[1])
    if clip and not value > 0.0:
        _clip(s.work, 0, s.trial, value)
    return value


@njit(nogil=True, cache=True)
def _ascend_slopes(s: Scratch, unstable: int, rate: float) -> None:
    """One step on slopes: d bound / d slope_i = max(b_i, 0) z_i, with z along the row's lines at its minimising corner."""
    b = s.work.b[0]
    top = 0.0
    for m in range(unstable):
        i = s.unstable[m]
        top = max(top, max(b[i], 0.0) * abs(s.moment[i]))
    if not top > 0.0:
        return
    for m in range(unstable):
        i = s.unstable[m]
        gain = max(b[i], 0.0) * s.moment[i] / (1e-2 * top)
        s.slope[i] = min(1.0, max(0.0, s.slope[i] + rate * min(1.0, max(-1.0, gain))))


@njit(nogil=True, cache=True)
def _ascend_weights(net: Packed, s: Scratch, j: int, rate: float) -> None:
    """One step on weights: d bound / d weight_r = value of row r along the lines; products keep weights positive and sum 1."""
    first, last, begin = net.groups[j], net.groups[j + 1], net.start[-2]
    high, total = 0.0, 0.0
    for r in range(first, last):
        high = max(high, abs(s.values[begin + r]))
    for r in range(first, last):
        if high > 0.0:
            s.weight[1, r] = max(s.weight[1, r], 1e-2) * np.exp(2.0 * rate * s.values[begin + r] / high)
        total += s.weight[1, r]
    for r in range(first, last):
        s.weight[1, r] /= total


@njit(nogil=True, cache=True)
def close(net: Packed, s: Scratch, j: int, settings: Settings, unstable: int) -> float:
    """Best rigorous bound of conjunction ``j`` over ``s.trial`` (> 0: excluded), which is clipped on the way.

    Row 0 of ``s.work`` is left with the row evaluated last; ``s.weight[0]`` and ``s.best_slope`` give the best one.
    """
    first, last = net.groups[j], net.groups[j + 1]
    s.slope[:] = s.lines.low_slope
    s.best_slope[:] = s.slope
    bound = -np.inf
    best = first
    if last - first > 1:
        best, bound = _single_rows(net, s, j, settings.clip)
    s.weight[:, first:last] = 0.0
    s.weight[:, best] = 1.0
    if bound > 0.0:
        return bound
    if last - first > 1:
        _mix(net, s, j, best)
    rate = 0.5
    for step in range(settings.steps):
        value = _combination(net, s, j, settings.clip)
        if value > bound:
            bound = value
            s.best_slope[:] = s.slope
            s.weight[0, first:last] = s.weight[1, first:last]
        if value > 0.0 or step == settings.steps - 1:
            break
        for i in range(s.trial.shape[1]):
            s.values[i] = s.trial[0, i] if s.work.b[0, i] >= 0.0 else s.trial[1, i]
        line_values(net, s)
        _ascend_slopes(s, unstable, rate)
        if last - first > 1:
            _ascend_weights(net, s, j, rate)
        rate *= 0.7
    return bound
