"""A dense network with its property rows as flat arrays, and the charges that make float64 bounds rigorous."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ascertain.certify.dense import DenseForm, gamma
from ascertain.errors import DataError, ShapeError
from ascertain.properties.property import Atoms

__all__ = ["SPARSE", "TINY", "Packed", "pack"]

SPARSE = 0.2
"""Blocks with a smaller share of nonzero entries are stored by rows (CSR)."""
TINY = 1e-200
"""Above the sum of all underflow errors: at most 1e12 operations, each off by 2**-1074 times a magnitude of at most 1e100."""


class Packed(NamedTuple):
    """Layers 0 (input), 1..P-2 (ReLU), P-1 (output), P (property rows: matrix @ y + input_matrix @ x - bound).

    Neuron i of layer k has position ``start[k] + i``. Block t of layer k, ``first[k] <= t < first[k+1]``, is row-major at
    ``data[table[t, 2]:]``; with ``table[t, 1] = 1`` it is CSR with row pointers at ``pointer[table[t, 3]:]``, counted from there,
    and columns at ``column[table[t, 4]:]``. ``table[t, 0]`` is its source layer.
    """

    start: np.ndarray
    first: np.ndarray
    table: np.ndarray
    data: np.ndarray
    column: np.ndarray
    pointer: np.ndarray
    bias: np.ndarray
    charge: np.ndarray
    """q of a backward step, see `kernels.backward`."""
    carry: np.ndarray
    """Error of the stored block and bias itself over the root box, charged by the forward pass."""
    groups: np.ndarray
    """Rows of conjunction j are groups[j] .. groups[j+1] of layer P."""
    gamma: float
    unused: np.ndarray
    """Neurons that nothing reads, by position; their value may be replaced by 0."""

    @property
    def hidden(self) -> tuple[int, int]:
        """First and past-the-last position of the ReLU neurons."""
        return int(self.start[1]), int(self.start[-3])


Blocks = list[tuple[int, np.ndarray, np.ndarray | None]]


def pack(form: DenseForm, unsafe: tuple[Atoms, ...], lower: np.ndarray, upper: np.ndarray) -> Packed:
    """Flattens a network and the conjunctions of a case for boxes inside ``lower``, ``upper``.

    Raises ShapeError when the sizes differ, DataError for numbers that are not finite or magnitudes above 1e100.
    """
    if lower.shape != (form.input_size,) or upper.shape != (form.input_size,):
        raise ShapeError(f"the box has shape {lower.shape}, the network takes {form.input_size} inputs; give one bound for each.")
    if not (np.isfinite(lower).all() and np.isfinite(upper).all() and (lower <= upper).all()):
        raise DataError("the box has an infinite or NaN bound or a lower bound above its upper bound; correct it.")
    layers: list[tuple[Blocks, np.ndarray, np.ndarray]] = []
    for layer in form.layers:
        layers.append((list(zip(layer.sources, layer.blocks, layer.errors, strict=True)), layer.bias, layer.bias_error))
    layers.append(_rows(form, unsafe))
    sizes = [form.input_size, *(len(bias) for _, bias, _ in layers)]
    feeds = [0] * len(sizes)
    for blocks, bias, _ in layers:
        for s, _, _ in blocks:
            feeds[s] += len(bias)
    # A backward step sums over every row that reads a layer, a forward step over what a row reads, a bias over all rows.
    factor = gamma(2 * sum(sizes) + max(feeds) + 16)
    magnitude = [np.maximum(abs(lower), abs(upper))]
    charge, carry = [np.zeros(form.input_size)], [np.zeros(form.input_size)]
    used = [np.ones(form.input_size, bool), *(np.zeros(n, bool) for n in sizes[1:])]
    for k, (blocks, bias, bias_error) in enumerate(layers):
        reach, error = abs(bias), bias_error
        for s, block, block_error in blocks:
            reach = reach + abs(block) @ magnitude[s]
            used[s] |= block.any(axis=0)
            if block_error is not None:
                error = error + block_error @ magnitude[s]
                used[s] |= block_error.any(axis=0)
        carry.append(error * (1.0 + 1e-9))
        charge.append((factor * reach + error) * (1.0 + 1e-9))
        magnitude.append((reach + error) * (1.0 + 1e-9))
        if not magnitude[-1].max(initial=0.0) <= 1e100:
            raise DataError(f"values of layer {k + 1} may exceed 1e100 on the box; scale the network or the box.")
    return _flatten(layers, sizes, charge, carry, used, unsafe, factor)


def _rows(form: DenseForm, unsafe: tuple[Atoms, ...]) -> tuple[Blocks, np.ndarray, np.ndarray]:
    """The property as one more affine layer, whose rows are positive where an atom fails."""
    outputs = form.layers[-1].size
    if any(a.matrix.shape[1] != outputs for a in unsafe):
        raise ShapeError(f"the property is about {unsafe[0].matrix.shape[1]} outputs, the network has {outputs}.")
    bound = np.concatenate([a.bound for a in unsafe])
    blocks: Blocks = [(len(form.layers), np.concatenate([a.matrix for a in unsafe]), None)]
    if any(a.input_matrix is not None for a in unsafe):
        parts = [np.zeros((len(a.bound), form.input_size)) if a.input_matrix is None else a.input_matrix for a in unsafe]
        blocks.append((0, np.concatenate(parts), None))
    return blocks, -bound, np.zeros(len(bound))


def _flatten(
    layers: list[tuple[Blocks, np.ndarray, np.ndarray]],
    sizes: list[int],
    charge: list[np.ndarray],
    carry: list[np.ndarray],
    used: list[np.ndarray],
    unsafe: tuple[Atoms, ...],
    factor: float,
) -> Packed:
    first, table = [0, 0], []
    data, column, pointer = [np.zeros(1)], [np.zeros(1, np.int64)], [np.zeros(1, np.int64)]
    filled = columns = pointers = 1
    for blocks, _, _ in layers:
        for s, block, _ in blocks:
            sparse = np.count_nonzero(block) < SPARSE * block.size
            table.append((s, int(sparse), filled, pointers, columns))
            values = block.ravel()
            if sparse:
                row, places = np.nonzero(block)
                values = block[row, places]
                pointer.append(np.searchsorted(row, np.arange(len(block) + 1)))
                column.append(places)
                pointers, columns = pointers + len(block) + 1, columns + len(places)
            data.append(values)
            filled += len(values)
        first.append(len(table))
    return Packed(
        start=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        first=np.array(first, np.int64),
        table=np.array(table, np.int64).reshape(-1, 5),
        data=np.concatenate(data),
        column=np.concatenate(column).astype(np.int64),
        pointer=np.concatenate(pointer).astype(np.int64),
        bias=np.concatenate([np.zeros(sizes[0]), *(bias for _, bias, _ in layers)]),
        charge=np.concatenate(charge),
        carry=np.concatenate(carry),
        groups=np.concatenate([[0], np.cumsum([len(a.bound) for a in unsafe])]).astype(np.int64),
        gamma=factor,
        unused=~np.concatenate(used),
    )
