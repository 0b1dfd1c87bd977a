"""Forward zonotope (DeepZ) of one box, rigorous in float64, over the neurons that are not dead.

A value v_i is c_i + sum_g Z_ig e_g + r_i e'_i with every e in [-1, 1]. A row w on values and bias b gives the float center and
generators of w v + b, and the radius sum_j |w_j| t_j + gamma |b| + carry with t_j = r_j + gamma (|c_j| + sum_g |Z_jg|): each float
sum is off by at most gamma times the sum of the absolute products. ReLU with l <= z <= u unstable and any a in [0, 1]:
relu(z) - a z is in [0, max(-a l, (1 - a) u)], which becomes a new generator; scaling by a and adding charge a few roundings to r.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from ascertain.certify.kernels.backward import ANY_ORDER, Lines, add1, add4
from ascertain.certify.kernels.pack import TINY, Packed

__all__ = ["Zonotope", "apply_relu", "enter_box", "enter_layer", "zonotope"]


class Zonotope(NamedTuple):
    """Values of one domain by position; generators are columns."""

    center: np.ndarray
    radius: np.ndarray
    total: np.ndarray
    """t of the module's formula: what a consumer multiplies by |w|."""
    spread: np.ndarray
    """sum_g |Z_ig|."""
    matrix: np.ndarray
    """(total, G); columns that existed when the layer was entered."""
    own: np.ndarray
    """Column of the generator that the neuron's ReLU (or the input) added, -1 without; its coefficient is in ``size``."""
    size: np.ndarray
    width: np.ndarray
    """Columns in use by each layer."""
    alive: np.ndarray
    """Positions within the layer of neurons that are not dead, in the first ``living[layer]`` places of the layer's range."""
    living: np.ndarray


def zonotope(net: Packed, columns: int) -> Zonotope:
    """Room for one domain with at most ``columns`` generators."""
    total, layers = int(net.start[-1]), len(net.start)
    return Zonotope(
        np.zeros(total),
        np.zeros(total),
        np.zeros(total),
        np.zeros(total),
        np.zeros((total, columns)),
        np.full(total, -1),
        np.zeros(total),
        np.zeros(layers, np.int64),
        np.zeros(total, np.int64),
        np.zeros(layers, np.int64),
    )


@njit(nogil=True, cache=True, fastmath=ANY_ORDER)
def _absolute_sum(row: np.ndarray) -> float:
    value = 0.0
    for x in row:
        value += abs(x)
    return value


@njit(nogil=True, cache=True)
def enter_box(net: Packed, zono: Zonotope, lower: np.ndarray, upper: np.ndarray) -> int:
    """The box as a zonotope; returns the number of generators, one for each coordinate of positive width."""
    used = 0
    columns = zono.matrix.shape[1]
    for i in range(len(lower)):
        center = lower[i] + (upper[i] - lower[i]) * 0.5
        reach = max(upper[i] - center, center - lower[i]) * (1.0 + 2.0**-50)
        zono.center[i] = center
        zono.own[i] = -1
        zono.radius[i] = 0.0
        zono.size[i] = 0.0
        if reach > 0.0 and used < columns:
            zono.own[i] = used
            zono.size[i] = reach
            used += 1
        elif reach > 0.0:
            zono.radius[i] = reach
        zono.total[i] = zono.radius[i] + net.gamma * (abs(center) + reach)
        zono.alive[i] = i
    zono.width[0] = 0
    zono.living[0] = len(lower)
    return used


@njit(nogil=True, cache=True)
def _absorb_dense(net: Packed, zono: Zonotope, t: int, i: int, row: np.ndarray, source: int) -> tuple[float, float]:
    """Adds the part of neuron ``i`` that comes through dense block ``t``; returns (center, radius)."""
    begin = net.start[source]
    n = net.start[source + 1] - begin
    weights = net.data[net.table[t, 2] + i * n : net.table[t, 2] + (i + 1) * n]
    center = 0.0
    radius = 0.0
    living, wide = zono.living[source], zono.width[source]
    head = row[:wide]
    matrix = zono.matrix[:, :wide]
    for m in range(living):
        j = zono.alive[begin + m]
        w = weights[j]
        center += w * zono.center[begin + j]
        radius += abs(w) * zono.total[begin + j]
        if zono.own[begin + j] >= 0:
            row[zono.own[begin + j]] += w * zono.size[begin + j]
    if wide == 0:
        return center, radius
    m = 0
    while m + 4 <= living:
        j, k, h, g = zono.alive[begin + m], zono.alive[begin + m + 1], zono.alive[begin + m + 2], zono.alive[begin + m + 3]
        add4(
            head,
            weights[j],
            matrix[begin + j],
            weights[k],
            matrix[begin + k],
            weights[h],
            matrix[begin + h],
            weights[g],
            matrix[begin + g],
        )
        m += 4
    while m < living:
        j = zono.alive[begin + m]
        add1(head, weights[j], matrix[begin + j])
        m += 1
    return center, radius


@njit(nogil=True, cache=True)
def _absorb_sparse(net: Packed, zono: Zonotope, lines: Lines, t: int, i: int, row: np.ndarray, source: int) -> tuple[float, float]:
    """`_absorb_dense` for a CSR block."""
    begin = net.start[source]
    wide = zono.width[source]
    head = row[:wide]
    center = 0.0
    radius = 0.0
    pointer = net.pointer[net.table[t, 3] :]
    for p in range(pointer[i], pointer[i + 1]):
        j = begin + net.column[net.table[t, 4] + p]
        if source > 0 and lines.upper[j] <= 0.0:
            continue
        w = net.data[net.table[t, 2] + p]
        center += w * zono.center[j]
        radius += abs(w) * zono.total[j]
        if zono.own[j] >= 0:
            row[zono.own[j]] += w * zono.size[j]
        add1(head, w, zono.matrix[j, :wide])
    return center, radius


@njit(nogil=True, cache=True)
def enter_layer(net: Packed, zono: Zonotope, lines: Lines, layer: int, columns: int) -> None:
    """Values z of a layer over ``columns`` generators, and `lines.lower`, `lines.upper` of the unstable ones tightened."""
    begin = net.start[layer]
    living = 0
    zono.width[layer] = columns
    for i in range(net.start[layer + 1] - begin):
        at = begin + i
        if lines.upper[at] <= 0.0:
            continue
        row = zono.matrix[at, :columns]
        row[:] = 0.0
        center = net.bias[at]
        radius = net.gamma * abs(center) + net.carry[at]
        for t in range(net.first[layer], net.first[layer + 1]):
            source = net.table[t, 0]
            if net.table[t, 1] == 1:
                c, r = _absorb_sparse(net, zono, lines, t, i, row, source)
            else:
                c, r = _absorb_dense(net, zono, t, i, row, source)
            center += c
            radius += r
        spread = _absolute_sum(row)
        radius = radius * (1.0 + 1e-9) + TINY
        zono.center[at], zono.radius[at], zono.spread[at] = center, radius, spread
        if not lines.lower[at] >= 0.0:
            reach = (spread + radius) * (1.0 + 1e-12) + net.gamma * (spread + abs(center))
            lines.lower[at] = max(lines.lower[at], center - reach)
            lines.upper[at] = min(lines.upper[at], center + reach)
            if lines.upper[at] <= 0.0:
                continue
        zono.alive[begin + living] = i
        living += 1
    zono.living[layer] = living


@njit(nogil=True, cache=True)
def apply_relu(net: Packed, zono: Zonotope, lines: Lines, layer: int, columns: int) -> int:
    """Turns z of a layer into v = max(z, 0), given its final bounds; returns the new number of generators."""
    begin = net.start[layer]
    wide = zono.width[layer]
    kept = 0
    for m in range(zono.living[layer]):
        at = begin + zono.alive[begin + m]
        lower, upper = lines.lower[at], lines.upper[at]
        if upper <= 0.0:
            continue
        zono.alive[begin + kept] = zono.alive[begin + m]
        kept += 1
        zono.own[at] = -1
        extra = 0.0
        if not lower >= 0.0:
            slope = lines.up_slope[at]
            half = 0.5 * max(-slope * lower, (1.0 - slope) * upper) * (1.0 + 2.0**-50)
            zono.center[at] = slope * zono.center[at] + half
            zono.matrix[at, :wide] *= slope
            zono.spread[at] *= slope
            zono.radius[at] = slope * zono.radius[at] + 1e-15 * (abs(zono.center[at]) + zono.spread[at] + 2.0 * half) + TINY
            extra = half
            if columns < zono.matrix.shape[1]:
                zono.own[at] = columns
                zono.size[at] = half
                columns += 1
            else:
                zono.radius[at] += half
        zono.total[at] = (zono.radius[at] + net.gamma * (abs(zono.center[at]) + zono.spread[at] + extra)) * (1.0 + 1e-12)
    zono.living[layer] = kept
    return columns
