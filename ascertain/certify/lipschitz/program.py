"""The semidefinite program of a plant in one vector of differences v = (dx, dw), in floats: nothing here needs to be right.

Minimise cost' (t, lambda) over t, lambda with lambda >= 0 and

    Z = sum_d t_{group(d)} e_d e_d' + sum_i 2 lambda_{group(i)} sym((e_i - low_i g_i)(e_i - high_i g_i)') - C  positive
    semidefinite.

For l2 to l2 the first sum is rho times the identity on dx and C = F'F. Whatever multipliers come out are verified afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ascertain.certify.lipschitz.plant import Plant

__all__ = ["EUCLIDEAN", "Norms", "Program", "compose", "program"]


@dataclass(frozen=True)
class Norms:
    """Norms of input and output differences: 1, 2 or inf."""

    input: float = 2.0
    output: float = 2.0


EUCLIDEAN = Norms()


@dataclass(frozen=True, eq=False)
class Program:
    """``gate`` (N, n) holds the rows g_i, ``where`` (N,) the coordinates e_i; ``blocks`` cut N and n into stages for sparsity."""

    gate: np.ndarray
    constant: np.ndarray
    """(n, n): C."""
    low: np.ndarray
    high: np.ndarray
    where: slice
    """Coordinates of the responses."""
    diagonal: np.ndarray
    """(D,) coordinates of the diagonal terms."""
    diagonal_group: np.ndarray
    """(D,) the variable of each, 0..K-1."""
    gate_group: np.ndarray
    """(N,) the variable of each nonlinearity, 0..M-1."""
    cost: np.ndarray
    """(K,) of the diagonal variables; multipliers cost nothing."""
    spans: tuple[tuple[slice, slice], ...]
    """For each stage its rows of ``gate`` and the columns outside of which those are zero."""

    @property
    def size(self) -> int:
        return len(self.constant)

    def matrix(self, diagonal: np.ndarray, factors: np.ndarray, constant: bool = True) -> np.ndarray:
        """Z for variables of each term; without C it is the linear part."""
        z = -self.constant if constant else np.zeros_like(self.constant)
        at = np.arange(self.where.start, self.where.stop)
        product = self.low * self.high
        for rows, columns in self.spans:
            lam, gate = factors[rows], self.gate[rows, columns]
            cross = (lam * (self.low[rows] + self.high[rows]))[:, None] * gate
            z[at[rows], columns] -= cross
            z[columns, at[rows]] -= cross.T
            if product[rows].any():
                z[columns, columns] += gate.T @ ((2 * lam * product[rows])[:, None] * gate)
        z[at, at] += 2 * factors
        z[self.diagonal, self.diagonal] += diagonal
        return z

    def images(self, matrix: np.ndarray) -> np.ndarray:
        """matrix gate' (n, N)."""
        out = np.empty((len(matrix), len(self.gate)))
        for rows, columns in self.spans:
            out[:, rows] = matrix[:, columns] @ self.gate[rows, columns].T
        return out

    def gated(self, images: np.ndarray) -> np.ndarray:
        """gate images (N, N)."""
        out = np.empty((len(self.gate), images.shape[1]))
        for rows, columns in self.spans:
            out[rows] = self.gate[rows, columns] @ images[columns]
        return out


def compose(plant: Plant) -> tuple[np.ndarray, np.ndarray, tuple[tuple[slice, slice], ...]]:
    """Gates (N, n) and outputs (n_out, n) in v, and for each stage its rows and the columns outside of which they are zero."""
    n0, n = plant.inputs, plant.inputs + plant.size
    state, gates, spans = np.eye(n0, n), np.zeros((plant.size, n)), []
    at = 0
    for stage in plant.stages:
        rows, own = slice(at, at + stage.size), slice(n0 + at, n0 + at + stage.size)
        gates[rows] = stage.gate.middle @ state
        if stage.loop is not None:
            gates[rows, own] += stage.loop.middle
        unit = np.eye(stage.size, n, n0 + at)
        fed = unit if stage.feed is None else stage.feed.middle @ unit
        state = fed if stage.keep is None else stage.keep.middle @ state + fed
        used = np.flatnonzero(gates[rows].any(0))
        spans.append((rows, slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 0)))
        at += stage.size
    return gates, plant.output.middle @ state, tuple(spans)


def program(plant: Plant, norms: Norms = EUCLIDEAN, layers: bool = False) -> Program:
    """The program of a plant; ``layers``: one multiplier for each stage (LipSDP-Layer)."""
    gate, out, spans = compose(plant)
    n0, n, m = plant.inputs, plant.inputs + plant.size, len(out)
    constant = out.T @ out
    diagonal, group = np.arange(n0), np.zeros(n0, int) if norms.input == 2 else np.arange(n0)
    cost = np.ones(1 if norms.input == 2 else n0)
    if norms.output == 1:
        constant = np.block([[np.zeros((n, n)), out.T], [out, np.zeros((m, m))]])
        gate = np.hstack([gate, np.zeros((len(gate), m))])
        diagonal = np.concatenate([diagonal, np.arange(n, n + m)])
        group, cost = np.concatenate([group, len(cost) + np.arange(m)]), np.concatenate([cost, np.ones(m)])
    sizes = [s.size for s in plant.stages]
    shared = np.repeat(np.cumsum([n > 0 for n in sizes], dtype=int) - 1, np.array(sizes, int)) if layers else np.arange(plant.size)
    low = np.concatenate([s.low for s in plant.stages] or [np.zeros(0)])
    high = np.concatenate([s.high for s in plant.stages] or [np.zeros(0)])
    return Program(gate, constant, low, high, slice(n0, n), diagonal, group, shared, cost, spans)
