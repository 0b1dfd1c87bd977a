"""Looking for a violating point inside one box by signed gradient steps; estimates that prove nothing."""

from __future__ import annotations

import numpy as np
from numba import njit

from ascertain.certify.kernels.backward import backward
from ascertain.certify.kernels.domain import Batch, Scratch, network_values
from ascertain.certify.kernels.pack import Packed

__all__ = ["descend", "try_point"]


@njit(nogil=True, cache=True)
def try_point(net: Packed, s: Scratch, result: Batch, k: int) -> int:
    """Evaluates the network at ``s.values[:n]`` and keeps the point when it is the most violating one of box ``k``.

    Returns the open conjunction whose largest row is smallest there.
    """
    network_values(net, s.values, s.lines)
    begin = net.start[-2]
    found, nearest = np.inf, -1
    for j in range(len(net.groups) - 1):
        if result.open[k, j]:
            high = -np.inf
            for r in range(net.groups[j], net.groups[j + 1]):
                high = max(high, s.values[begin + r])
            if high < found:
                found, nearest = high, j
    if found < result.value[k]:
        result.value[k] = found
        result.point[k] = s.values[: result.point.shape[1]]
    return nearest


@njit(nogil=True, cache=True)
def descend(net: Packed, s: Scratch, result: Batch, k: int, steps: int) -> None:
    """Signed gradient steps on the violated rows of the nearest conjunction, from the best point of box ``k``, inside the box."""
    n = s.box.shape[1]
    begin, end = net.start[-2], net.start[-1]
    hidden = net.start[-3]
    s.values[:n] = result.point[k]
    reach = 0.25
    for _ in range(steps):
        j = try_point(net, s, result, k)
        if result.value[k] <= 0.0 or j < 0:
            return
        for at in range(net.start[1], hidden):
            s.pattern.low_slope[at] = 1.0 if s.values[at] > 0.0 else 0.0
            s.pattern.up_slope[at] = s.pattern.low_slope[at]
        s.work.a[0, begin:end] = 0.0
        for r in range(net.groups[j], net.groups[j + 1]):
            s.work.a[0, begin + r] = 1.0 if s.values[begin + r] > 0.0 else 0.0
        backward(net, s.pattern, s.pattern.low_slope, s.work, 1, len(net.start) - 2)
        moved = False
        for d in range(n):
            g = s.work.b[0, d]
            step = reach * (result.upper[k, d] - result.lower[k, d])
            x = s.values[d] - (step if g > 0.0 else (-step if g < 0.0 else 0.0))
            x = min(max(x, result.lower[k, d]), result.upper[k, d])
            moved = moved or x != s.values[d]
            s.values[d] = x
        if not moved:
            return
        reach *= 0.8
