"""Backward linear bounds (CROWN), rigorous in float64.

Let u = 2**-53, gamma any-order summation factor, and M_j >= |v_j| on the root box. For a float row A on z = sum_j W_j v_j + b with
stored blocks off by at most E_j and stored bias off by at most e, and B_j = fl(A W_j),

    A z >= sum_j B_j v_j + A b - |A| q,    q = gamma (sum_j |W_j| M_j + |b|) + sum_j E_j M_j + e,

because each entry of B_j, a sum in any order over all rows that read layer j, is off by at most gamma times the sum of the absolute
products, and its error meets |v_j| <= M_j; the sum of bias terms A b is part of one long sum, charged by the same gamma.

ReLU, row B on v = max(z, 0), l <= z <= u < true for the domain. Where B >= 0: v >= a z for every a in [0, 1], and fl(B a) = B a'
with a' in [0, 1] as rounding is monotone: no error. Where B < 0: v <= s (z - l) for every s >= u / (u - l) (a line through (l, 0)
that is above (u, u)); fl(B s') = B s with s within u of s', and s' is raised by 2**-49: again no error in the slope, and the
intercept -l A is one product. Intercepts have one sign, so gamma times their sum bounds the rounding of that sum.
Underflow anywhere is below `TINY`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from ascertain.certify.kernels.pack import TINY, Packed

__all__ = ["ANY_ORDER", "Lines", "Rows", "add1", "add4", "backward", "concretise", "relax_layer", "rows"]

ANY_ORDER = {"contract", "reassoc", "nsz"}
"""Compiler licence that the any-order error bounds cover: reordered sums and fused multiply-add, and nothing else."""


class Lines(NamedTuple):
    """Bounds of every z over one domain, and the lines they give; by position, all (total,)."""

    lower: np.ndarray
    upper: np.ndarray
    low_slope: np.ndarray
    up_slope: np.ndarray
    drop: np.ndarray
    """-l where unstable, else 0: the upper line is up_slope (z + drop)."""


class Rows(NamedTuple):
    """Room for R backward rows at once."""

    a: np.ndarray
    """(R, total): coefficients on z of each layer."""
    b: np.ndarray
    """(R, total): coefficients on v of each layer, before its lines."""
    bias: np.ndarray
    charge: np.ndarray
    touched: np.ndarray
    """Whether the rows have reached a layer."""
    nonzero: np.ndarray
    """(total,) positions, for one row and layer at a time."""


def rows(net: Packed, count: int) -> Rows:
    """Room for ``count`` rows."""
    total = int(net.start[-1])
    return Rows(
        np.zeros((count, total)),
        np.zeros((count, total)),
        np.zeros(count),
        np.zeros(count),
        np.zeros(len(net.start), np.bool_),
        np.zeros(total, np.int64),
    )


@njit(nogil=True, cache=True, fastmath=ANY_ORDER)
def _add_bias(a: np.ndarray, bias: np.ndarray, charge: np.ndarray) -> tuple[float, float]:
    value = 0.0
    error = 0.0
    for i in range(len(a)):
        value += a[i] * bias[i]
        error += abs(a[i]) * charge[i]
    return value, error


@njit(nogil=True, cache=True, fastmath=ANY_ORDER)
def _through_lines(b: np.ndarray, a: np.ndarray, low_slope: np.ndarray, up_slope: np.ndarray, drop: np.ndarray) -> float:
    """Turns coefficients b on v into coefficients a on z; returns the (negative) sum of intercepts."""
    intercept = 0.0
    for i in range(len(b)):
        x = b[i] * (low_slope[i] if b[i] >= 0.0 else up_slope[i])
        a[i] = x
        intercept += min(x, 0.0) * drop[i]
    return intercept


@njit(nogil=True, cache=True, fastmath=ANY_ORDER)
def add1(y: np.ndarray, a0: float, x0: np.ndarray) -> None:
    for i in range(len(y)):
        y[i] += a0 * x0[i]


@njit(nogil=True, cache=True, fastmath=ANY_ORDER)
def add4(
    y: np.ndarray, a0: float, x0: np.ndarray, a1: float, x1: np.ndarray, a2: float, x2: np.ndarray, a3: float, x3: np.ndarray
) -> None:
    for i in range(len(y)):
        y[i] += (a0 * x0[i] + a1 * x1[i]) + (a2 * x2[i] + a3 * x3[i])


@njit(nogil=True, cache=True)
def _push(net: Packed, t: int, a: np.ndarray, nonzero: np.ndarray, count: int, out: np.ndarray) -> None:
    """Adds a[nonzero] @ block t to ``out``."""
    data = net.data[net.table[t, 2] :]
    n = len(out)
    if net.table[t, 1] == 1:
        pointer = net.pointer[net.table[t, 3] :]
        column = net.column[net.table[t, 4] :]
        for m in range(count):
            i = nonzero[m]
            for p in range(pointer[i], pointer[i + 1]):
                out[column[p]] += a[i] * data[p]
        return
    m = 0
    while m + 4 <= count:
        i, j, k, h = nonzero[m], nonzero[m + 1], nonzero[m + 2], nonzero[m + 3]
        add4(
            out,
            a[i],
            data[i * n : i * n + n],
            a[j],
            data[j * n : j * n + n],
            a[k],
            data[k * n : k * n + n],
            a[h],
            data[h * n : h * n + n],
        )
        m += 4
    while m < count:
        i = nonzero[m]
        add1(out, a[i], data[i * n : i * n + n])
        m += 1


@njit(nogil=True, cache=True)
def relax_layer(lines: Lines, begin: int, end: int) -> None:
    """Lines of the ReLUs at positions begin .. end from their bounds; the lower slope is the one of smaller area."""
    for i in range(begin, end):
        lower, upper = lines.lower[i], lines.upper[i]
        lines.drop[i] = 0.0
        if upper <= 0.0:
            lines.low_slope[i] = 0.0
            lines.up_slope[i] = 0.0
        elif lower >= 0.0:
            lines.low_slope[i] = 1.0
            lines.up_slope[i] = 1.0
        else:
            slope = upper / (upper - lower) * (1.0 + 2.0**-49)
            # Bounds so wide or so narrow that the quotient fails: slope 1 is above the chord as well.
            lines.up_slope[i] = slope if slope <= 1.0 else 1.0
            lines.drop[i] = -lower
            lines.low_slope[i] = 1.0 if upper > -lower else 0.0


@njit(nogil=True, cache=True)
def backward(net: Packed, lines: Lines, low_slope: np.ndarray, work: Rows, count: int, top: int) -> None:
    """Pushes ``count`` rows, given on z of layer ``top`` in ``work.a``, down to the input.

    ``work.bias`` and ``work.charge`` are set: the row is at least a x + bias - charge over the domain, before concretising.
    ``low_slope`` (total,) replaces the lower slopes of ``lines``.
    """
    start, touched = net.start, work.touched
    touched[:top] = False
    for r in range(count):
        work.bias[r] = 0.0
        work.charge[r] = 0.0
    for layer in range(top, 0, -1):
        if layer < top and not touched[layer]:
            continue
        begin, end = start[layer], start[layer + 1]
        for t in range(net.first[layer], net.first[layer + 1]):
            source = net.table[t, 0]
            if not touched[source]:
                touched[source] = True
                for r in range(count):
                    work.b[r, start[source] : start[source + 1]] = 0.0
        for r in range(count):
            a = work.a[r, begin:end]
            if layer < top:
                b, up_slope = work.b[r, begin:end], lines.up_slope[begin:end]
                intercept = _through_lines(b, a, low_slope[begin:end], up_slope, lines.drop[begin:end])
                work.bias[r] += intercept
                work.charge[r] -= net.gamma * intercept
            value, error = _add_bias(a, net.bias[begin:end], net.charge[begin:end])
            work.bias[r] += value
            work.charge[r] += error
            found = 0
            for i in range(end - begin):
                work.nonzero[found] = i
                found += a[i] != 0.0
            for t in range(net.first[layer], net.first[layer + 1]):
                source = net.table[t, 0]
                _push(net, t, a, work.nonzero, found, work.b[r, start[source] : start[source + 1]])


@njit(nogil=True, cache=True)
def concretise(net: Packed, work: Rows, r: int, lower: np.ndarray, upper: np.ndarray) -> float:
    """Rigorous lower bound of row ``r`` over the box, -inf where it is NaN."""
    value = work.bias[r]
    size = 0.0
    for i in range(len(lower)):
        x = work.b[r, i] * (lower[i] if work.b[r, i] >= 0.0 else upper[i])
        value += x
        size += abs(x)
    # The long sum of bias terms is charged term by term; these terms, and the roundings of this line, come on top.
    charge = (work.charge[r] + net.gamma * (size + abs(value))) * (1.0 + 1e-9) + TINY
    bound = value - charge
    return bound if bound > -np.inf else -np.inf
