"""One box: intermediate bounds of all neurons, and values of the network or of its linear relaxation at a point."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from ascertain.certify.kernels.backward import ANY_ORDER, Lines, Rows, backward, concretise, relax_layer, rows
from ascertain.certify.kernels.forward import Zonotope, apply_relu, enter_box, enter_layer, zonotope
from ascertain.certify.kernels.pack import Packed

__all__ = ["CHUNK", "Batch", "Scratch", "Settings", "line_values", "network_values", "scratch", "tighten"]

CHUNK = 16
"""Backward rows pushed together."""


class Settings(NamedTuple):
    """How much work a box gets."""

    steps: int
    """Evaluations of each open conjunction, or gradient steps of an attack."""
    clip: bool
    """Whether boxes are shrunk to where the open conjunctions can be satisfied."""


class Batch(NamedTuple):
    """Boxes, what is known about them, and what bounding them found; first axis: the box."""

    lower: np.ndarray
    """(B, n): in; clipped to where the open conjunctions can be satisfied: out."""
    upper: np.ndarray
    neuron_lower: np.ndarray
    """(B, H) float32, outward: bounds of all ReLU inputs, those known before and then those found."""
    neuron_upper: np.ndarray
    open: np.ndarray
    """(B, J) bool: conjunctions that are not excluded yet."""
    worst: np.ndarray
    """(B,): lower bound, over the box and the conjunctions that were open, of the largest row of each."""
    point: np.ndarray
    """(B, n): the most violating point met."""
    value: np.ndarray
    """(B,): the smallest over conjunctions of their largest row at ``point`` (<= 0: violated)."""
    score: np.ndarray
    """(B, n): worth of splitting each coordinate."""
    weight: np.ndarray
    """(B, rows): weights of the rows that excluded each conjunction or came closest."""
    slope: np.ndarray
    """(B or 0, J, H): lower slopes used for it."""
    done: np.ndarray
    """(B,) bool: bounded before the search was cancelled."""
    excluded: np.ndarray
    """(B, J) bool: conjunctions that this bounding excluded."""


class Scratch(NamedTuple):
    """Everything one thread needs beside the network. (total,) unless said otherwise."""

    lines: Lines
    zono: Zonotope
    work: Rows
    pattern: Lines
    """The linear piece of the network at a point, as lines."""
    slope: np.ndarray
    best_slope: np.ndarray
    values: np.ndarray
    moment: np.ndarray
    """z of every ReLU along the lines of a row."""
    unstable: np.ndarray
    """Positions of the unstable neurons."""
    box: np.ndarray
    """(2, n)"""
    trial: np.ndarray
    """(2, n): the box clipped for one conjunction."""
    hull: np.ndarray
    """(2, n): the smallest box around all clipped ones."""
    linear: np.ndarray
    """(rows, n + 1): linear lower bounds of the property rows, constant last."""
    weight: np.ndarray
    """(2, rows): best and current weights of property rows."""


def scratch(net: Packed, columns: int) -> Scratch:
    """Room for one thread, with at most ``columns`` generators."""
    total, n = int(net.start[-1]), int(net.start[1])
    zeros = np.zeros(total)
    lines = Lines(zeros.copy(), zeros.copy(), np.ones(total), np.ones(total), zeros.copy())
    return Scratch(
        lines,
        zonotope(net, columns),
        rows(net, CHUNK),
        Lines(zeros.copy(), zeros.copy(), np.ones(total), np.ones(total), zeros.copy()),
        np.ones(total),
        np.ones(total),
        zeros.copy(),
        zeros.copy(),
        np.zeros(total, np.int64),
        np.zeros((2, n)),
        np.zeros((2, n)),
        np.zeros((2, n)),
        np.zeros((int(net.groups[-1]), n + 1)),
        np.zeros((2, int(net.groups[-1]))),
    )


@njit(nogil=True, cache=True)
def _tighten_backward(net: Packed, lines: Lines, zono: Zonotope, work: Rows, layer: int, box: np.ndarray) -> None:
    """Back-substitutes one side of the neurons of a layer that the zonotope left unstable."""
    begin, end = net.start[layer], net.start[layer + 1]
    queue = np.empty(CHUNK, np.int64)
    sign = np.empty(CHUNK)
    m = 0
    while m < zono.living[layer]:
        count = 0
        while m < zono.living[layer] and count < CHUNK:
            i = zono.alive[begin + m]
            m += 1
            if lines.lower[begin + i] >= 0.0 or lines.upper[begin + i] <= 0.0:
                continue
            queue[count] = i
            # The bound nearer to 0 is the one that may make the neuron stable.
            sign[count] = 1.0 if lines.upper[begin + i] > -lines.lower[begin + i] else -1.0
            work.a[count, begin:end] = 0.0
            work.a[count, begin + i] = sign[count]
            count += 1
        if count == 0:
            return
        backward(net, lines, lines.low_slope, work, count, layer)
        for q in range(count):
            at = begin + queue[q]
            bound = concretise(net, work, q, box[0], box[1])
            if sign[q] > 0.0:
                lines.lower[at] = max(lines.lower[at], bound)
            else:
                lines.upper[at] = min(lines.upper[at], -bound)


@njit(nogil=True, cache=True)
def tighten(net: Packed, s: Scratch, cancel: np.ndarray) -> None:
    """Bounds and lines of all ReLUs over ``s.box``: zonotope first, back-substitution for what stays unstable."""
    lines = s.lines
    columns = enter_box(net, s.zono, s.box[0], s.box[1])
    for layer in range(1, len(net.start) - 3):
        if cancel[0]:
            return
        enter_layer(net, s.zono, lines, layer, columns)
        deep = False
        for t in range(net.first[layer], net.first[layer + 1]):
            deep = deep or net.table[t, 0] > 0
        if deep:
            _tighten_backward(net, lines, s.zono, s.work, layer, s.box)
        relax_layer(lines, net.start[layer], net.start[layer + 1])
        columns = apply_relu(net, s.zono, lines, layer, columns)


@njit(nogil=True, cache=True, fastmath=ANY_ORDER)
def _dot(x: np.ndarray, y: np.ndarray) -> float:
    value = 0.0
    for i in range(len(x)):
        value += x[i] * y[i]
    return value


@njit(nogil=True, cache=True)
def _affine(net: Packed, values: np.ndarray, lines: Lines, layer: int) -> None:
    """Sets z of a layer from the values before it, 0 for dead neurons; an estimate that proves nothing."""
    start = net.start
    for i in range(start[layer + 1] - start[layer]):
        at = start[layer] + i
        if layer < len(start) - 3 and lines.upper[at] <= 0.0:
            values[at] = 0.0
            continue
        z = net.bias[at]
        for t in range(net.first[layer], net.first[layer + 1]):
            begin = start[net.table[t, 0]]
            size = start[net.table[t, 0] + 1] - begin
            if net.table[t, 1] == 1:
                pointer = net.pointer[net.table[t, 3] :]
                for p in range(pointer[i], pointer[i + 1]):
                    z += net.data[net.table[t, 2] + p] * values[begin + net.column[net.table[t, 4] + p]]
            else:
                z += _dot(net.data[net.table[t, 2] + i * size : net.table[t, 2] + (i + 1) * size], values[begin : begin + size])
        values[at] = z


@njit(nogil=True, cache=True)
def network_values(net: Packed, values: np.ndarray, lines: Lines) -> None:
    """Values of all layers of the network from the input in ``values[:n]``."""
    for layer in range(1, len(net.start) - 1):
        _affine(net, values, lines, layer)
        if layer < len(net.start) - 3:
            for at in range(net.start[layer], net.start[layer + 1]):
                values[at] = max(values[at], 0.0)


@njit(nogil=True, cache=True)
def line_values(net: Packed, s: Scratch) -> None:
    """Values of all layers along the lines that row 0 of ``s.work`` selects; the ReLU inputs go to ``s.moment``."""
    b, lines = s.work.b[0], s.lines
    for layer in range(1, len(net.start) - 1):
        _affine(net, s.values, lines, layer)
        if layer < len(net.start) - 3:
            for at in range(net.start[layer], net.start[layer + 1]):
                z = s.values[at]
                s.moment[at] = z
                s.values[at] = s.slope[at] * z if b[at] >= 0.0 else lines.up_slope[at] * (z + lines.drop[at])
