"""Compiled kernels on sparse rows: interval enclosure, constraint propagation, and certified bounds from multipliers.

Arithmetic is float64 round-to-nearest without fused operations. Sums in the first two carry a running error from error-free
transformations (Ogita, Rump and Oishi 2005), so that sums which happen to be exact (integers, say) cost nothing; the last one
charges gamma_n of the magnitudes.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = ["certify", "contract", "enclose", "lookahead", "plane_offsets", "separate", "tighten"]

_jit = numba.njit(cache=True, nogil=True)
_UNIT = 2.0**-53
_TINY = 1e-250
_ROOM = 1.0 + 1e-9


@_jit
def _rest(a: float, b: float, product: float) -> float:
    """Bound of |a * b - product|: exact by Dekker's splitting, an over-estimate near underflow, NaN near overflow."""
    if a == 0.0 or b == 0.0:
        return 0.0
    if abs(product) < _TINY:
        return abs(product) * 1e-15 + 1e-300
    s = a * 134217729.0
    ah = s - (s - a)
    al = a - ah
    s = b * 134217729.0
    bh = s - (s - b)
    bl = b - bh
    return abs(al * bl - (((product - ah * bh) - al * bh) - ah * bl))


@_jit
def _sum_rest(a: float, b: float, total: float) -> float:
    """|a + b - total| exactly (Knuth)."""
    part = total - a
    return abs((a - (total - part)) + (b - part))


@_jit
def _down(value: float, error: float) -> float:
    return value if error == 0.0 else np.nextafter(value - error * _ROOM, -np.inf)


@_jit
def _up(value: float, error: float) -> float:
    return value if error == 0.0 else np.nextafter(value + error * _ROOM, np.inf)


@_jit
def _range(i: int, inputs: int, lower: np.ndarray, upper: np.ndarray) -> tuple[float, float]:
    """Range of variable i as rows see it: an input, or the ReLU of a pre-activation."""
    if i < inputs:
        return lower[i], upper[i]
    return max(lower[i], 0.0), max(upper[i], 0.0)


@_jit
def _activity(m: Any, r: int, inputs: int, lower: np.ndarray, upper: np.ndarray) -> tuple[float, float, float, float]:
    """Smallest and largest value of row r, each with a bound of its error."""
    low = high = m.bias[r]
    low_error = high_error = m.bias_error[r]
    for t in range(m.start[r], m.start[r + 1]):
        a, b = _range(m.column[t], inputs, lower, upper)
        w = m.value[t]
        if w < 0.0:
            a, b = b, a
        p, q = w * a, w * b
        s, h = low + p, high + q
        if m.error[t] != 0.0:
            extra = m.error[t] * max(abs(a), abs(b)) * _ROOM
            low_error += extra
            high_error += extra
        low_error += _rest(w, a, p) + _sum_rest(low, p, s)
        high_error += _rest(w, b, q) + _sum_rest(high, q, h)
        low, high = s, h
    return low, low_error, high, high_error


@_jit
def enclose(m: Any, inputs: int, lower: np.ndarray, upper: np.ndarray) -> None:
    """Intersects the bounds of all neurons with interval arithmetic, in order of the layers."""
    for r in range(len(lower) - inputs):
        low, low_error, high, high_error = _activity(m, r, inputs, lower, upper)
        lower[inputs + r] = max(lower[inputs + r], _down(low, low_error))
        upper[inputs + r] = min(upper[inputs + r], _up(high, high_error))


@_jit
def _touch(m: Any, i: int, inputs: int, dirty: np.ndarray) -> None:
    if i >= inputs:
        dirty[i - inputs] = True
    for t in range(m.use_start[i], m.use_start[i + 1]):
        dirty[m.use_row[t]] = True


@_jit
def _lower_to(i: int, value: float, lower: np.ndarray, upper: np.ndarray) -> bool:
    """Raises a lower bound; True where that is worth propagating."""
    old = lower[i]
    if not value > old:
        return False
    lower[i] = value
    return bool(value - old > 0.01 * (upper[i] - old) or (old < 0.0 <= value) or value >= upper[i])


@_jit
def _upper_to(i: int, value: float, lower: np.ndarray, upper: np.ndarray) -> bool:
    """Reduces an upper bound; True where that is worth propagating."""
    old = upper[i]
    if not value < old:
        return False
    upper[i] = value
    return bool(old - value > 0.01 * (old - lower[i]) or (value <= 0.0 < old) or value <= lower[i])


@_jit
def _value_from(i: int, inputs: int, value: float, lower: np.ndarray, upper: np.ndarray) -> bool:
    """Raises the lower bound of variable i as rows see it: for the ReLU of a neuron only a positive one says something."""
    return (i < inputs or value > 0.0) and _lower_to(i, value, lower, upper)


@_jit
def _room(slack: float, weight: float, error: float) -> float:
    """The quotient slack / (|weight| - error), rounded up."""
    w = abs(weight)
    if error != 0.0:
        w = np.nextafter(w - error, -np.inf)
        if not w > 0.0:
            return np.inf
    q = slack / w
    back = q * w
    return q if back == slack and _rest(q, w, back) == 0.0 else np.nextafter(q, np.inf)


@_jit
def _push(m: Any, r: int, slack: float, side: float, inputs: int, lower: np.ndarray, upper: np.ndarray, dirty: np.ndarray) -> None:
    """Bounds every variable of row r, whose term may exceed its minimum (side 1) or fall below its maximum (side -1) by slack."""
    for t in range(m.start[r], m.start[r + 1]):
        i = m.column[t]
        w = m.value[t]
        a, b = _range(i, inputs, lower, upper)
        if not a < b or not abs(w) * (b - a) > slack * (1.0 - 1e-12):
            continue
        room = _room(slack, w, m.error[t])
        if not room < b - a:
            continue
        if (w > 0.0) == (side > 0.0):
            edge = a + room
            changed = _upper_to(i, _up(edge, _sum_rest(a, room, edge)), lower, upper)
        else:
            edge = b - room
            changed = _value_from(i, inputs, _down(edge, _sum_rest(b, -room, edge)), lower, upper)
        if changed:
            _touch(m, i, inputs, dirty)


@_jit
def contract(m: Any, inputs: int, lower: np.ndarray, upper: np.ndarray, dirty: np.ndarray, limit: int) -> int:
    """Tightens all bounds in place by forward and backward interval propagation of the dirty rows until little changes.

    Keeps every point that satisfies all rows and the given bounds (PROVED). Returns -1 when no point does, else rows visited.
    """
    neurons = len(lower) - inputs
    rows = len(m.bias)
    visited = 0
    active = True
    while active and visited < limit:
        active = False
        for r in range(rows):
            if not dirty[r]:
                continue
            dirty[r] = False
            active = True
            visited += 1
            low, low_error, high, high_error = _activity(m, r, inputs, lower, upper)
            ceiling = 0.0
            if r < neurons:
                i = inputs + r
                changed = _lower_to(i, _down(low, low_error), lower, upper)
                changed = _upper_to(i, _up(high, high_error), lower, upper) or changed
                if lower[i] > upper[i]:
                    return -1
                if changed:
                    _touch(m, i, inputs, dirty)
                    dirty[r] = False
                ceiling = upper[i]
            gap = ceiling - low
            slack = _up(gap, low_error + _sum_rest(ceiling, -low, gap))
            if slack < 0.0:
                return -1
            _push(m, r, slack, 1.0, inputs, lower, upper, dirty)
            if r < neurons:
                gap = high - lower[inputs + r]
                slack = _up(gap, high_error + _sum_rest(high, -lower[inputs + r], gap))
                if slack < 0.0:
                    return -1
                _push(m, r, slack, -1.0, inputs, lower, upper, dirty)
    return visited


@_jit
def _tightness(low: float, high: float, floor: float, ceiling: float, largest: float) -> float:
    """2^-(terms of the largest size that fit into the slack), for each side of a row that its terms can violate."""
    value = 0.0
    if high > ceiling + 1e-9 * largest:
        value += 2.0 ** (-(ceiling - low) / largest)
    if low < floor - 1e-9 * largest:
        value += 2.0 ** (-(high - floor) / largest)
    return value


@_jit
def _potentials(m: Any, inputs: int, lower: np.ndarray, upper: np.ndarray, out: np.ndarray) -> None:
    """Tightness of every row; plain floats, for branching only."""
    for r in range(len(out)):
        low = high = m.bias[r]
        largest = 0.0
        for t in range(m.start[r], m.start[r + 1]):
            a, b = _range(m.column[t], inputs, lower, upper)
            w = m.value[t]
            low += min(w * a, w * b)
            high += max(w * a, w * b)
            largest = max(largest, abs(w) * (b - a))
        neuron = r < len(lower) - inputs
        floor = lower[inputs + r] if neuron else -np.inf
        ceiling = upper[inputs + r] if neuron else 0.0
        out[r] = _tightness(low, high, floor, ceiling, largest) if largest > 0.0 else 0.0


@_jit
def lookahead(m: Any, inputs: int, lower: np.ndarray, upper: np.ndarray, neurons: np.ndarray, limit: int) -> np.ndarray:
    """How much fixing each neuron's sign (row 0: z <= 0, row 1: z >= 0) tightens other rows by propagation; inf: it empties."""
    rows = len(m.bias)
    before, after = np.zeros(rows), np.zeros(rows)
    _potentials(m, inputs, lower, upper, before)
    gain = np.zeros((2, len(neurons)))
    dirty = np.zeros(rows, dtype=np.bool_)
    for k in range(len(neurons)):
        i = inputs + neurons[k]
        for side in range(2):
            low, high = lower.copy(), upper.copy()
            if side == 0:
                high[i] = min(high[i], 0.0)
            else:
                low[i] = max(low[i], 0.0)
            dirty[:] = False
            _touch(m, i, inputs, dirty)
            if contract(m, inputs, low, high, dirty, limit) < 0:
                gain[side, k] = np.inf
                continue
            _potentials(m, inputs, low, high, after)
            gain[side, k] = np.maximum(after - before, 0.0).sum()
    return gain


@_jit
def _charge(m: Any, r: int, q: float, coefficient: np.ndarray, mass: np.ndarray, extra: np.ndarray) -> None:
    """Adds q times row r to the coefficients."""
    for t in range(m.start[r], m.start[r + 1]):
        i = m.column[t]
        p = q * m.value[t]
        coefficient[i] += p
        mass[i] += abs(p)
        extra[i] += abs(q) * m.error[t]


@_jit
def _plane_offset(m: Any, r: int, inputs: int, lower: np.ndarray, upper: np.ndarray, slope: np.ndarray) -> float:
    """The least c, rounded up, with relu(z_r) <= slope @ v + c over the box of row r's variables.

    relu(z) is max(z, 0), so c is the larger of two maxima of linear functions over a box.
    """
    active = m.bias[r]
    size = abs(active)
    inactive = error = 0.0
    first = m.start[r]
    for t in range(first, m.start[r + 1]):
        a, b = _range(m.column[t], inputs, lower, upper)
        s = slope[t - first]
        w = m.value[t] - s
        reach = max(abs(a), abs(b))
        active += max(w * a, w * b)
        inactive += max(-s * a, -s * b)
        size += (abs(m.value[t]) + abs(s)) * reach
        error += m.error[t] * reach
    error += m.bias_error[r] + 1.1 * _UNIT * (m.start[r + 1] - first + 8) * size
    return float(max(active, inactive) + error * _ROOM + _TINY)


@_jit
def plane_offsets(m: Any, neurons: np.ndarray, inputs: int, lower: np.ndarray, upper: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Offsets of many planes, one row of ``slopes`` per neuron."""
    offsets = np.zeros(len(neurons))
    for k in range(len(neurons)):
        offsets[k] = _plane_offset(m, neurons[k], inputs, lower, upper, slopes[k])
    return offsets


@_jit
def _separate(m: Any, r: int, inputs: int, lower: np.ndarray, upper: np.ndarray, point: np.ndarray, slope: np.ndarray) -> float:
    """The upper plane of relu(z_r) over its box that is lowest at a point, and its value there (plain floats).

    On the corners of the box relu(z) is supermodular in the directions that raise z, so that its concave envelope is the Lovasz
    extension: sort the coordinates by how far they are raised (Tjandraatmadja et al. 2020 reach the same planes by duality).
    """
    first, last = m.start[r], m.start[r + 1]
    count = last - first
    raised, width = np.zeros(count), np.zeros(count)
    z = m.bias[r]
    for k in range(count):
        i, w = m.column[first + k], m.value[first + k]
        a, b = _range(i, inputs, lower, upper)
        z += min(w * a, w * b)
        width[k] = abs(w) * (b - a)
        if width[k] > 0.0:
            raised[k] = (point[i] - a) / (b - a) if w > 0.0 else (b - point[i]) / (b - a)
    slope[:count] = 0.0
    for k in np.argsort(-raised):
        if width[k] > 0.0:
            slope[k] = m.value[first + k] * (max(z + width[k], 0.0) - max(z, 0.0)) / width[k]
            z += width[k]
    value = _plane_offset(m, r, inputs, lower, upper, slope)
    for k in range(count):
        value += slope[k] * point[m.column[first + k]]
    return value


@_jit
def separate(
    m: Any, neurons: np.ndarray, inputs: int, lower: np.ndarray, upper: np.ndarray, point: np.ndarray, slopes: np.ndarray
) -> np.ndarray:
    """Fills in the lowest upper plane of every neuron at a point; returns the planes' values there."""
    values = np.zeros(len(neurons))
    for k in range(len(neurons)):
        values[k] = _separate(m, neurons[k], inputs, lower, upper, point, slopes[k])
    return values


@_jit
def _charge_plane(m: Any, r: int, weight: float, plane: np.ndarray, coefficient: np.ndarray, mass: np.ndarray) -> None:
    """Subtracts weight times the upper plane of row r from the coefficients."""
    for t in range(m.start[r], m.start[r + 1]):
        p = weight * plane[t]
        coefficient[m.column[t]] -= p
        mass[m.column[t]] += abs(p)


@_jit
def certify(
    m: Any,
    inputs: int,
    lower: np.ndarray,
    upper: np.ndarray,
    q: np.ndarray,
    weights: np.ndarray,
    cut: np.ndarray,
    plane: np.ndarray,
    radius: np.ndarray,
) -> tuple[float, np.ndarray]:
    """Certified lower bound of a combination of the atoms, and its coefficients; see `linear_program.certified_bound`."""
    neurons = len(q)
    count = len(weights)
    coefficient, mass, extra = np.zeros(len(lower)), np.zeros(len(lower)), np.zeros(len(lower))
    total = size = error = 0.0
    for k in range(count):
        g = weights[k]
        if g > 0.0:
            r = neurons + k
            total += g * m.bias[r]
            size += abs(g * m.bias[r])
            error += g * m.bias_error[r]
            _charge(m, r, g, coefficient, mass, extra)
    for r in range(neurons - 1, -1, -1):
        i = inputs + r
        low, high, p, s = lower[i], upper[i], coefficient[i], q[r]
        constant = 0.0
        if high <= 0.0:
            s = 0.0 if np.isnan(s) else s
            constant = -max(s * low, s * high)
        else:
            if np.isnan(s):
                s = p if low >= 0.0 else (p * high / (high - low) if p < 0.0 else (p if high > -low else 0.0))
            own = -s
            if low < 0.0 and s < 0.0:
                own = -s * ((high - low) / high)
                constant = -s * low
                extra[i] += 4.0 * _UNIT * own
            coefficient[i] += own
            mass[i] += abs(own)
            if low < 0.0 and len(cut) > 0 and cut[r] > 0.0:
                coefficient[i] += cut[r]
                mass[i] += cut[r]
                offset = cut[r] * _plane_offset(m, r, inputs, lower, upper, plane[m.start[r] : m.start[r + 1]])
                total -= offset
                size += 2.0 * abs(offset)
                _charge_plane(m, r, cut[r], plane, coefficient, mass)
        if s != 0.0:
            total += constant + s * m.bias[r]
            size += 2.0 * abs(constant) + abs(s * m.bias[r])
            error += abs(s) * m.bias_error[r]
            _charge(m, r, s, coefficient, mass, extra)
    error += 1.1 * _UNIT * (4 * neurons + len(lower) + 2 * count + 8) * size
    for i in range(len(lower)):
        a, b = _range(i, inputs, lower, upper)
        c = coefficient[i]
        radius[i] = (1.1 * _UNIT * (2 * (m.use_start[i + 1] - m.use_start[i]) + 8) * mass[i] + extra[i]) * _ROOM
        term = min(c * a, c * b)
        total += term
        # The last sum runs over all variables: charge its rounding with the terms' magnitudes.
        error += (radius[i] + _TINY) * max(abs(a), abs(b)) + 1.1 * _UNIT * (len(lower) + 8) * abs(term)
    bound = total - (error * _ROOM + _TINY)
    return (bound if np.isfinite(bound) else -np.inf), coefficient


@_jit
def tighten(
    m: Any,
    inputs: int,
    lower: np.ndarray,
    upper: np.ndarray,
    bound: float,
    coefficient: np.ndarray,
    radius: np.ndarray,
    dirty: np.ndarray,
) -> int:
    """Reduced-cost tightening in place; returns how many bounds it moved much.

    With a certified bound L <= 0, a point that satisfies all rows lies within -L / |c_i| of the end of its range that the bound
    chose, for every variable i.
    """
    moved = 0
    for i in range(len(lower)):
        a, b = _range(i, inputs, lower, upper)
        c = coefficient[i]
        safe = abs(c) - radius[i]
        if not (safe > 0.5 * abs(c) and a < b):
            continue
        room = -bound / safe * _ROOM
        if not room < b - a:
            continue
        if c > 0.0:
            changed = _upper_to(i, np.nextafter(a + room, np.inf), lower, upper)
        else:
            changed = _value_from(i, inputs, np.nextafter(b - room, -np.inf), lower, upper)
        if changed:
            moved += 1
            _touch(m, i, inputs, dirty)
    return moved
