"""A small independent check of certificates: the whole linear matrix inequality, in exact rationals, for small networks.

It shares no code with the search or the proof. The network is run once on symbols v = (dx, dw): every value becomes a matrix of
rationals with one row for each symbol, and every nonlinearity a new symbol. Evidence: EXACT, given the operators' ranges of slopes.
"""

from __future__ import annotations

from fractions import Fraction
from math import prod
from typing import Any

import numpy as np

from ascertain.certify.lipschitz.certificate import Certificate
from ascertain.certify.lipschitz.plant import slopes
from ascertain.errors import DataError, UnsupportedError
from ascertain.graph.graph import Graph
from ascertain.graph.passes import lower
from ascertain.operators.base import Affine, Univariate

__all__ = ["recheck"]

MOST = 400
"""Symbols above which rationals take too long."""


class _Exact(Fraction):
    """A rational that stays one beside floats, which are rationals too."""

    def __add__(self, other: Any) -> Any:
        return _Exact(Fraction.__add__(Fraction(self), Fraction(other)))

    def __mul__(self, other: Any) -> Any:
        return _Exact(Fraction.__mul__(Fraction(self), Fraction(other)))

    def __sub__(self, other: Any) -> Any:
        return _Exact(Fraction.__sub__(Fraction(self), Fraction(other)))

    def __rsub__(self, other: Any) -> Any:
        return _Exact(Fraction.__sub__(Fraction(other), Fraction(self)))

    def __neg__(self) -> Any:
        return _Exact(-Fraction(self))

    __radd__ = __add__
    __rmul__ = __mul__


def _exactly(array: Any) -> Any:
    """A float array as rationals; others as they are."""
    array = np.asarray(array)
    if array.dtype.kind != "f":
        return array
    out = np.empty(array.shape, object)
    out.reshape(-1)[:] = [_Exact(float(x)) for x in array.reshape(-1)]
    return out


def recheck(certificate: Certificate, network: Graph) -> bool:
    """Whether a certificate proves its value for a network (the part of one that it was made for), in exact arithmetic.

    Raises DataError for another network, UnsupportedError where an operator does not work on rationals or the network is too large.
    """
    if certificate.hash != network.hash:
        raise DataError("the certificate was made for another network; give the network, or the part of it, that was bounded.")
    graph = lower(network, keep=(Univariate,))
    symbols = network.input_size + sum(len(f) for f in certificate.factors)
    if symbols > MOST:
        raise UnsupportedError(f"{symbols} symbols are too many for exact rationals; at most {MOST} are checked.")
    gates, output = _symbolic(graph, symbols)
    factors = [Fraction(float(x)) for part in certificate.factors for x in part]
    if len(gates) != len(factors) or any(f < 0 for f in factors):
        return False
    weights = [Fraction(float(w)) for w in certificate.weights]
    directions = _exactly(certificate.directions)
    if len(weights) != len(directions) or not all(w > 0 for w in weights) or directions.shape[1] != network.output_size:
        return False
    diagonal = _input_weights(certificate, network.input_size, sum(1 / w for w in weights))
    return diagonal is not None and _definite(_matrix(diagonal, gates, factors, directions @ output.T, weights, symbols))


def _symbolic(graph: Graph, symbols: int) -> tuple[list[tuple[np.ndarray, Fraction, Fraction, int]], np.ndarray]:
    """Rows, slopes and symbol of every nonlinearity, and the output (symbols, n_out)."""
    values: dict[int, np.ndarray] = {graph.input: _units(symbols, 0, graph.input_size)}
    gates: list[tuple[np.ndarray, Fraction, Fraction, int]] = []
    for i, node in enumerate(graph.nodes):
        known = [values.get(j) for j in node.inputs]
        if i == graph.input or all(k is None for k in known):
            continue
        if isinstance(node.operator, Univariate):
            values[i] = _bent(known[0], slopes(node), graph.input_size + len(gates), gates, symbols)
        elif isinstance(node.operator, Affine):
            shapes = graph.shapes(node)
            parts = [_zeros(symbols, prod(s)) if k is None else k for k, s in zip(known, shapes, strict=True)]
            operator: Any = node.operator.convert(_exactly)
            try:
                image = operator.linear(*(p.reshape(symbols, *s) for p, s in zip(parts, shapes, strict=True)))
            except TypeError as error:
                raise UnsupportedError(f"node {node.name!r} ({node.operator.name}) does not work on rationals ({error}).") from None
            values[i] = np.asarray(image).reshape(symbols, -1)
            if not all(isinstance(x, (Fraction, int)) for x in values[i].reshape(-1)):
                raise UnsupportedError(f"node {node.name!r} ({node.operator.name}) rounds its numbers, it is not checked exactly.")
    return gates, values[graph.output]


def _zeros(symbols: int, size: int) -> np.ndarray:
    return _exactly(np.zeros((symbols, size)))  # type: ignore[no-any-return]


def _units(symbols: int, first: int, size: int) -> np.ndarray:
    return _exactly(np.eye(symbols, size, -first))  # type: ignore[no-any-return]


def _bent(
    rows: np.ndarray | None,
    ranges: tuple[np.ndarray, np.ndarray],
    first: int,
    gates: list[tuple[np.ndarray, Fraction, Fraction, int]],
    symbols: int,
) -> np.ndarray:
    """The outputs of a nonlinear node: new symbols, or a multiple of the input where there is one slope or the input is fixed."""
    if rows is None:
        raise TypeError("a nonlinear node has an input")
    out = _zeros(symbols, rows.shape[1])
    for k, (low, high) in enumerate(zip(*ranges, strict=True)):
        row = rows[:, k]
        if low == high or not row.any():
            out[:, k] = [x * float(low) for x in row]
        elif first < symbols:
            gates.append((row, Fraction(float(low)), Fraction(float(high)), first))
            out[first, k] = _Exact(1)
            first += 1
        else:  # more nonlinearities than multipliers
            gates.append((row, Fraction(0), Fraction(0), -1))
    return out


def _input_weights(certificate: Certificate, size: int, total: Fraction | int) -> list[Fraction] | None:
    """The diagonal on dx that gives the value: |dy|^2 <= total * (dx' diag dx) in the output's norm."""
    square = Fraction(certificate.value) ** 2 / (total if certificate.output_norm == 1 else 1)
    if certificate.output_norm not in (1, 2) or (certificate.output_norm == 2 and any(certificate.weights != 1)):
        return None
    if certificate.input_norm == 2:
        return [square] * size
    tau = [Fraction(float(t)) for t in certificate.tau]
    return tau if certificate.input_norm == np.inf and len(tau) == size and sum(tau) <= square else None


def _matrix(
    diagonal: list[Fraction],
    gates: list[tuple[np.ndarray, Fraction, Fraction, int]],
    factors: list[Fraction],
    output: np.ndarray,
    weights: list[Fraction],
    symbols: int,
) -> list[list[Fraction]]:
    """diag + sum lambda ((e - low g)(e - high g)' + transposed) - sum weight f f'."""
    matrix = [[Fraction(0)] * symbols for _ in range(symbols)]
    for i, d in enumerate(diagonal):
        matrix[i][i] += d
    for (row, low, high, own), factor in zip(gates, factors, strict=True):
        left, right = ([-slope * Fraction(x) for x in row] for slope in (low, high))
        left[own] += 1
        right[own] += 1
        used = [i for i in range(symbols) if left[i] or right[i]]
        for i in used:
            for j in used:
                matrix[i][j] += factor * (left[i] * right[j] + right[i] * left[j])
    for row, weight in zip(output, weights, strict=True):
        used = [i for i in range(symbols) if row[i]]
        for i in used:
            for j in used:
                matrix[i][j] -= weight * Fraction(row[i]) * Fraction(row[j])
    return matrix


def _definite(matrix: list[list[Fraction]]) -> bool:
    """Whether a symmetric matrix of rationals is positive definite: all pivots of elimination are positive."""
    size = len(matrix)
    for k in range(size):
        pivot = matrix[k][k]
        if pivot <= 0:
            return False
        for i in range(k + 1, size):
            if matrix[i][k]:
                share = matrix[i][k] / pivot
                for j in range(k + 1, i + 1):
                    matrix[i][j] -= share * matrix[j][k]
        for i in range(k + 1, size):
            for j in range(k + 1, i):
                matrix[j][i] = matrix[i][j]
    return True
