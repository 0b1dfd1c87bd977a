"""A dense form and one conjunction of atoms as rows of one sparse matrix, the form of the linear programs and their kernels.

Variables are numbered flat: inputs first, then the neurons of every ReLU layer. Row r < neurons says z_r = row @ v + bias for
neuron r, where v holds the inputs and v = relu(z) of earlier neurons; every later row says row @ v + bias <= 0, an atom of the
conjunction. Stored entries are float64; ``error`` bounds |true entry - stored entry|.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from ascertain.certify.dense import DenseForm, DenseLayer
from ascertain.certify.row_kernels import enclose
from ascertain.errors import DataError, ShapeError
from ascertain.properties.property import Atoms
from ascertain.properties.sets import InputSet, Polytope

__all__ = ["Rows", "Sparse", "candidate_values", "conjunction_rows"]


class Sparse(NamedTuple):
    """Compressed rows, plus for every variable the rows that use it."""

    start: np.ndarray
    column: np.ndarray
    value: np.ndarray
    error: np.ndarray
    bias: np.ndarray
    bias_error: np.ndarray
    use_start: np.ndarray
    use_row: np.ndarray


@dataclass(frozen=True, eq=False)
class Rows:
    """``inputs`` and ``neurons`` count variables, ``atoms`` the rows of the conjunction; ``elastic`` marks atoms on outputs."""

    matrix: Sparse
    inputs: int
    neurons: int
    atoms: int
    elastic: np.ndarray
    layers: tuple[int, ...]
    """First neuron row of each ReLU layer, and ``neurons`` at the end."""

    def box(self, lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of all variables over an input box: pre-activations by interval arithmetic, rounded outward (PROVED)."""
        low = np.concatenate([lower, np.full(self.neurons, -np.inf)])
        high = np.concatenate([upper, np.full(self.neurons, np.inf)])
        enclose(self.matrix, self.inputs, low, high)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise DataError("bounds of a neuron overflow float64; scale the weights or the input set down.")
        return low, high

    def evaluate(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pre-activations and atoms' left-hand sides of inputs (B, n), in plain floats: (B, neurons), (B, atoms)."""
        m = self.matrix
        v = np.zeros((len(x), self.inputs + self.neurons))
        v[:, : self.inputs] = x
        z = np.zeros((len(x), self.neurons))
        for a, b, block in self.blocks:
            if a < self.neurons:
                z[:, a:b] = v @ block.T + m.bias[a:b]
                v[:, self.inputs + a : self.inputs + b] = np.maximum(z[:, a:b], 0.0)
        _, _, last = self.blocks[-1]
        return z, v @ last.T + m.bias[self.neurons :]

    @cached_property
    def blocks(self) -> tuple[tuple[int, int, csr_array], ...]:
        """(first row, end, the rows) of every layer, the atoms last."""
        m = self.matrix
        shape = (len(m.bias), self.inputs + self.neurons)
        whole = csr_array((m.value, m.column, m.start), shape=shape)
        edges = (*self.layers, self.neurons + self.atoms)
        return tuple((a, b, whole[a:b]) for a, b in pairwise(edges))


def conjunction_rows(form: DenseForm, input_set: InputSet, atoms: Atoms) -> Rows:
    """Rows of a form and one conjunction; the linear constraints of a polytope of inputs join the conjunction.

    Raises ShapeError where sizes disagree and DataError for entries that are not finite.
    """
    last = form.layers[-1]
    if atoms.matrix.shape[1] != len(last.bias) or input_set.size != form.input_size:
        raise ShapeError(
            f"the property is about {input_set.size} inputs and {atoms.matrix.shape[1]} outputs, the network has {form.input_size} "
            f"and {len(last.bias)}; check that they belong together."
        )
    layers = [*form.layers[:-1], _atom_layer(last, atoms)]
    elastic = np.abs(atoms.matrix).any(axis=1)
    if isinstance(input_set, Polytope):
        bound = -input_set.bound
        layers.append(DenseLayer((0,), (input_set.matrix,), (None,), bound, np.zeros_like(bound)))
        elastic = np.concatenate([elastic, np.zeros(len(bound), dtype=bool)])
    sizes = [len(layer.bias) for layer in form.layers[:-1]]
    firsts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    offsets = [0, *(form.input_size + firsts[:-1])]
    matrix = _sparse(layers, offsets, form.input_size + int(firsts[-1]))
    return Rows(matrix, form.input_size, int(firsts[-1]), len(elastic), elastic, tuple(int(f) for f in firsts))


def _atom_layer(last: DenseLayer, atoms: Atoms) -> DenseLayer:
    """The atoms as a layer on the last layer's sources: matrix @ (blocks @ v + bias) + input_matrix @ x - bound."""
    blocks, errors = [], []
    for block, error in zip(last.blocks, last.errors, strict=True):
        product, rounding = _product(atoms.matrix, block, np.zeros((len(atoms.bound), block.shape[1])))
        inherited = 0.0 if error is None else np.abs(atoms.matrix) @ error * (1 + 1e-9)
        blocks.append(product)
        errors.append(rounding + inherited)
    bias, bias_error = _product(atoms.matrix, last.bias[:, None], -atoms.bound[:, None])
    bias_error = bias_error[:, 0] + np.abs(atoms.matrix) @ last.bias_error * (1 + 1e-9)
    sources = last.sources
    if atoms.input_matrix is not None:
        sources, blocks, errors = (*sources, 0), [*blocks, atoms.input_matrix], [*errors, np.zeros_like(atoms.input_matrix)]
    return DenseLayer(sources, tuple(blocks), tuple(errors), bias[:, 0], bias_error)


def _product(a: np.ndarray, b: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sum start + a @ b and a bound of its rounding, which is zero where every step was exact (error-free transformations)."""
    total, error = start.copy(), np.zeros_like(start)
    for k in np.flatnonzero(np.abs(a).any(axis=0)):
        term = a[:, k, None] * b[None, k]
        rest = _product_rest(a[:, k, None], b[None, k], term)
        added = total + term
        part = added - total
        error += np.abs(rest) + np.abs((total - (added - part)) + (term - part))
        total = added
    return total, error * (1 + 1e-9)


def _product_rest(a: np.ndarray, b: np.ndarray, product: np.ndarray) -> np.ndarray:
    """The rest a * b - product exactly (Dekker 1971); a safe over-estimate where the parts would under- or overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        ah, bh = _upper_half(a), _upper_half(b)
        al, bl = a - ah, b - bh
        rest = al * bl - (((product - ah * bh) - al * bh) - ah * bl)
    size = np.abs(product)
    unsure = ~(np.isfinite(rest) & ((size > 1e-250) | (a == 0) | (b == 0)))
    return np.asarray(np.where(unsure, size * 1e-15 + 1e-300, rest))


def _upper_half(a: np.ndarray) -> np.ndarray:
    scaled = a * 134217729.0
    return np.asarray(scaled - (scaled - a))


def _sparse(layers: list[DenseLayer], offsets: list[int], variables: int) -> Sparse:
    start, columns, values, errors = [np.zeros(1, np.int64)], [], [], []
    total = 0
    for layer in layers:
        block, error, place = _merged(layer, offsets)
        keep = (block != 0) | (error != 0)
        columns.append(place[np.nonzero(keep)[1]])
        values.append(block[keep])
        errors.append(error[keep])
        start.append(total + np.cumsum(keep.sum(axis=1)))
        total = int(start[-1][-1]) if len(start[-1]) else total
    bias = np.concatenate([layer.bias for layer in layers])
    bias_error = np.concatenate([layer.bias_error for layer in layers])
    value, error, column = np.concatenate(values), np.concatenate(errors), np.concatenate(columns).astype(np.int64)
    for array in (value, error, bias, bias_error):
        if not np.isfinite(array).all():
            raise DataError("a weight, a bias or its error bound is not finite; the network or the property cannot be used.")
    starts = np.concatenate(start)
    rows = np.repeat(np.arange(len(bias)), np.diff(starts))
    order = np.argsort(column, kind="stable")
    use_start = np.concatenate([[0], np.cumsum(np.bincount(column, minlength=variables))]).astype(np.int64)
    return Sparse(starts, column, value, error, bias, bias_error, use_start, rows[order])


def _merged(layer: DenseLayer, offsets: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A layer as one matrix over its distinct sources: entries, error bounds, variable of each column."""
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for source, part, uncertain in zip(layer.sources, layer.blocks, layer.errors, strict=True):
        error = np.zeros_like(part) if uncertain is None else uncertain
        if source in found:  # two blocks on one source: charge the rounding of their sum
            part = found[source][0] + part
            error = found[source][1] + error + np.abs(part) * 2.0**-52
        found[source] = part, error
    order = sorted(found)
    empty = np.zeros((len(layer.bias), 0))
    place = np.concatenate([[], *(offsets[s] + np.arange(found[s][0].shape[1]) for s in order)]).astype(np.int64)
    return np.hstack([empty, *(found[s][0] for s in order)]), np.hstack([empty, *(found[s][1] for s in order)]), place


def candidate_values(rows: Rows, points: np.ndarray) -> np.ndarray:
    """The largest left-hand side of the conjunction at each point, (B,): at most 0 for a witness, up to rounding."""
    return np.asarray(rows.evaluate(points)[1].max(axis=1))
