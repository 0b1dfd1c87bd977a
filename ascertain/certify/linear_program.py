"""Linear programs of piecewise-linear networks: the triangle relaxation of a domain, and bounds certified from any dual vector."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import highspy
import numpy as np

from ascertain.certify.row_kernels import certify, plane_offsets, separate
from ascertain.certify.rows import Rows

__all__ = ["CertifiedBound", "Dual", "LinearProgram", "Relaxed", "certified_bound"]

_Status = highspy.HighsModelStatus
_INFINITE = highspy.kHighsInf


@dataclass(frozen=True, eq=False)
class Dual:
    """Multipliers of the rows: ``neurons`` (N,) of any sign, NaN where `certified_bound` may choose; ``atoms`` (m,) >= 0.

    ``cuts`` (N,) >= 0 multiply upper planes of unstable neurons, ``planes`` (entries of the rows,) are the planes' slopes; both
    are empty where there are none.
    """

    neurons: np.ndarray
    atoms: np.ndarray
    cuts: np.ndarray = field(default_factory=lambda: np.zeros(0))
    planes: np.ndarray = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True, eq=False)
class CertifiedBound:
    """``lower`` bounds ``atoms @ left-hand sides`` over a domain (PROVED); the rest feeds `row_kernels.tighten`."""

    lower: float
    coefficient: np.ndarray
    radius: np.ndarray


def certified_bound(rows: Rows, lower: np.ndarray, upper: np.ndarray, dual: Dual) -> CertifiedBound:
    """A lower bound of sum_i g_i (a_i v + b_i) over a domain, valid for EVERY dual vector (g = max(atoms, 0), q = neurons).

    A domain is all points with lower <= (x, z) <= upper. A bound above zero proves that no point of it satisfies every atom
    a_i v + b_i <= 0. Proof. To the sum add for every neuron, with v = relu(z), z = w v + b in [l, u], a term that is never
    positive on the domain:

    - u <= 0:             q z - max(q l, q u),             and v = 0
    - l >= 0:             q (z - v)                        which is 0
    - l < 0 < u, q >= 0:  q (z - v)                        as v >= z
    - l < 0 < u, q < 0:  q (z - l) - q (u - l) / u * v    as (u - l) v <= u (z - l), the chord

    and, for l < 0 < u with multiplier g >= 0, g (v - s @ v_source - c), where c is the maximum over the box of
    relu(z) - s @ v_source, a maximum of two linear functions: an upper plane of any slope s, tighter than the chord off the
    box's diagonal. What results is at most the sum, and affine in (x, v) once z is replaced by w v + b; its minimum over the
    box x in [l, u], v in [max(l, 0), max(u, 0)] is a sum of products. This is weak duality with the reduced costs charged to
    the box (Neumaier and Shcherbina 2004), written so that one free number per neuron remains. Rounding: each coefficient is
    off by at most radius = gamma_n sum |q w| + sum |q| error, charged as radius * max |v|; constants are summed with gamma_n of
    their magnitudes, c is rounded up; a result that is not finite becomes -inf. Multipliers that are NaN are chosen as in
    back-substitution (q = coefficient of v so far, times u / (u - l) or the adaptive slope where unstable). Evidence PROVED.
    """
    radius = np.zeros_like(lower)
    parts = rows.matrix, rows.inputs, lower, upper
    value, coefficient = certify(*parts, dual.neurons, dual.atoms, dual.cuts, dual.planes, radius)
    return CertifiedBound(float(value), coefficient, radius)


@dataclass(frozen=True, eq=False)
class Relaxed:
    """What the solver says about a domain; only `certified_bound` of ``dual`` proves anything."""

    value: float
    """Optimum of the elastic program (inf: infeasible; NaN: the solver failed)."""
    dual: Dual | None
    x: np.ndarray | None
    gap: np.ndarray | None
    """min(relu(z), relu(-z)) in the solution, (N,): zero where the relaxation is exact."""
    v: np.ndarray | None = None
    """Values of the unstable neurons in the solution."""


class LinearProgram:
    """One HiGHS model of a conjunction, warm-started from domain to domain.

    Columns: inputs x, and for every neuron that is unstable over the input box v = relu(z) and p = relu(-z); t last. Rows:
    z - v + p = 0 and the chord u p - l v <= -l u, both per neuron; atoms a v + b <= t on outputs, a v + b <= 0 on inputs only.
    Minimises t; a domain is excluded when the optimum is above zero. Fixing a sign is v = 0 or p = 0, so domains differ in bounds
    only. ``lower, upper``: bounds that follow from the input box alone; neurons stable by them are substituted away.
    """

    def __init__(self, rows: Rows, lower: np.ndarray, upper: np.ndarray) -> None:
        self.rows = rows
        n = rows.inputs
        low, high = lower[n:], upper[n:]
        self.unstable = np.flatnonzero((low < 0) & (high > 0))
        k = len(self.unstable)
        self.v, self.p, self.t = n + np.arange(k), n + k + np.arange(k), n + 2 * k
        self.low, self.high = low[self.unstable].copy(), high[self.unstable].copy()
        self.root = self.low.copy(), self.high.copy()
        expressions, constants = self._expressions(low)
        self.model: Any = highspy.Highs()  # type: ignore[no-untyped-call]
        for name, value in (("output_flag", False), ("threads", 1), ("presolve", "off"), ("solver", "simplex")):
            self.model.setOptionValue(name, value)
        self._fill(expressions, constants, lower[:n], upper[:n])
        self.columns = np.arange(n + 2 * k, dtype=np.int32)
        self.iterations = 0
        m = rows.matrix
        lengths = np.diff(m.start)[self.unstable]
        direct = [(m.column[m.start[r] : m.start[r + 1]] < n).all() for r in self.unstable]
        self.direct = np.flatnonzero(direct)
        """Positions of the unstable neurons that read inputs only: those that are cut."""
        self.cut_place = np.zeros(0, dtype=np.int64)
        self.cut_slope = np.zeros((0, int(lengths[self.direct].max(initial=0))))

    def _expressions(self, low: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Every unstable neuron's z, then every atom, as dense rows over the columns x, v; floats only, nothing is proved here."""
        rows, n, k = self.rows, self.rows.inputs, len(self.unstable)
        seen = np.zeros((n + rows.neurons, n + k))
        offset = np.zeros(n + rows.neurons)
        seen[np.arange(n), np.arange(n)] = 1.0
        seen[n + self.unstable, n + np.arange(k)] = 1.0
        wanted, constants = [], []
        position = np.zeros(rows.neurons, dtype=bool)
        position[self.unstable] = True
        for a, b, block in rows.blocks:
            z, z0 = block @ seen, block @ offset + rows.matrix.bias[a:b]
            if a < rows.neurons:
                active = np.flatnonzero(low[a:b] >= 0)
                seen[n + a + active], offset[n + a + active] = z[active], z0[active]
            keep = position[a:b] if a < rows.neurons else np.ones(b - a, dtype=bool)
            wanted.append(z[keep])
            constants.append(z0[keep])
        return np.vstack(wanted), np.concatenate(constants)

    def _fill(self, expressions: np.ndarray, constants: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> None:
        rows, k = self.rows, len(self.unstable)
        zeros = np.zeros(k)
        reach = 1e6 * (1.0 + np.abs(constants[k:]).max(initial=0.0))
        elastic = bool(rows.elastic.any())
        edge = reach if elastic else 0.0
        cost = np.concatenate([np.zeros(self.t), [1.0]])
        columns = (np.concatenate([lower, zeros, zeros, [-edge]]), np.concatenate([upper, self.high, -self.low, [edge]]))
        none = np.zeros(0, dtype=np.int32)
        self.model.addCols(self.t + 1, cost, *columns, 0, none, none, np.zeros(0))
        full = np.zeros((len(expressions), self.t + 1))
        full[:, : expressions.shape[1]] = expressions
        full[np.arange(k), self.v] -= 1.0
        full[np.arange(k), self.p] = 1.0
        full[k:, self.t] = np.where(rows.elastic, -1.0, 0.0)
        self._add(full, np.concatenate([-constants[:k], np.full(rows.atoms, -_INFINITE)]), -constants)
        chords = np.zeros((k, self.t + 1))
        span = self.high - self.low
        chords[np.arange(k), self.v], chords[np.arange(k), self.p] = -self.low / span, self.high / span
        self._add(chords, np.full(k, -_INFINITE), -self.low * self.high / span)
        self.chord = k + rows.atoms

    def _add(self, matrix: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> None:
        at = np.nonzero(matrix)
        starts = np.searchsorted(at[0], np.arange(len(matrix))).astype(np.int32)
        self.model.addRows(len(matrix), lower, upper, len(at[0]), starts, at[1].astype(np.int32), matrix[at])

    def solve(self, lower: np.ndarray, upper: np.ndarray, *, basis: Any = None, cutoff: float = 1e-7, limit: int = 0) -> Relaxed:
        """The relaxation over a domain. ``cutoff``: stop above it; ``limit``: stop after that many iterations (0: none)."""
        n, model = self.rows.inputs, self.model
        low, high = lower[n:][self.unstable], upper[n:][self.unstable]
        down = np.concatenate([lower[:n], np.maximum(low, 0.0), np.maximum(-high, 0.0)])
        up = np.concatenate([upper[:n], np.maximum(high, 0.0), np.maximum(-low, 0.0)])
        model.changeColsBounds(len(self.columns), self.columns, down, up)
        self._chords(low, high)
        self._place_cuts(lower, upper)
        if basis is not None:
            model.setBasis(basis)
        model.setOptionValue("objective_bound", cutoff)
        if limit:
            model.setOptionValue("simplex_iteration_limit", limit)
        model.run()
        if limit:
            model.setOptionValue("simplex_iteration_limit", 2147483647)
        answer = self._answer()
        if np.isnan(answer.value):  # a basis that went bad: once more from scratch
            model.clearSolver()
            model.run()
            answer = self._answer()
        return answer

    def _chords(self, low: np.ndarray, high: np.ndarray) -> None:
        """Moves the chords that the domain's bounds cut noticeably; a stable neuron keeps the chord of the root."""
        open_ = (low < 0) & (high > 0)
        low, high = np.where(open_, low, self.root[0]), np.where(open_, high, self.root[1])
        moved = np.abs(low - self.low) + np.abs(high - self.high) > 1e-3 * (high - low)
        for j in np.flatnonzero(moved & (np.minimum(-low, high) > 1e-7 * (high - low))):
            a, b, row = float(low[j]), float(high[j]), int(self.chord + j)
            self.model.changeCoeff(row, int(self.v[j]), -a / (b - a))
            self.model.changeCoeff(row, int(self.p[j]), b / (b - a))
            self.model.changeRowBounds(row, -_INFINITE, -a * b / (b - a))
            self.low[j], self.high[j] = a, b

    def cut(self, lower: np.ndarray, upper: np.ndarray, relaxed: Relaxed) -> int:
        """Adds the planes over the domain's box that the solution violates; returns how many. Idle ones go when there are many."""
        if relaxed.x is None or relaxed.v is None or relaxed.gap is None:
            return 0
        if len(self.cut_place) > 2 * len(self.direct):
            self._drop_idle()
        m, n = self.rows.matrix, self.rows.inputs
        places = self.direct[relaxed.gap[self.unstable[self.direct]] > 1e-6]
        neurons = self.unstable[places]
        point = np.concatenate([relaxed.x, np.zeros(self.rows.neurons)])
        slopes = np.zeros((len(places), self.cut_slope.shape[1]))
        values = separate(m, neurons, n, lower, upper, point, slopes)
        useful = relaxed.v[places] - values > 1e-3 * np.minimum(-lower[n + neurons], upper[n + neurons])
        places, slopes = places[useful], slopes[useful]
        if len(places):
            full = np.zeros((len(places), self.t + 1))
            for k, r in enumerate(self.unstable[places]):
                columns = m.column[m.start[r] : m.start[r + 1]]
                full[k, columns] = -slopes[k, : len(columns)]
            full[np.arange(len(places)), self.v[places]] = 1.0
            offsets = plane_offsets(m, self.unstable[places], n, lower, upper, slopes)
            self._add(full, np.full(len(places), -_INFINITE), offsets)
            self.cut_place = np.concatenate([self.cut_place, places])
            self.cut_slope = np.concatenate([self.cut_slope, slopes])
        return len(places)

    def _place_cuts(self, lower: np.ndarray, upper: np.ndarray) -> None:
        """Moves every plane down onto the domain's box."""
        count = len(self.cut_place)
        if count:
            m, n = self.rows.matrix, self.rows.inputs
            offsets = plane_offsets(m, self.unstable[self.cut_place], n, lower, upper, self.cut_slope)
            rows = np.arange(self.chord + len(self.unstable), self.model.getNumRow(), dtype=np.int32)
            self.model.changeRowsBounds(count, rows, np.full(count, -_INFINITE), offsets)

    def _drop_idle(self) -> None:
        """Deletes the planes that the last solution does not touch."""
        first = self.chord + len(self.unstable)
        idle = np.array(self.model.getSolution().row_dual)[first:] == 0.0
        self.model.deleteRows(int(idle.sum()), (first + np.flatnonzero(idle)).astype(np.int32))
        self.cut_place, self.cut_slope = self.cut_place[~idle], self.cut_slope[~idle]

    def _answer(self) -> Relaxed:
        model, k = self.model, len(self.unstable)
        status = model.getModelStatus()
        information = model.getInfo()
        self.iterations += information.simplex_iteration_count
        if status == _Status.kInfeasible:
            return Relaxed(np.inf, self._ray(), None, None)
        solution = model.getSolution()
        if not solution.dual_valid:
            return Relaxed(np.nan, None, None, None)
        dual = self._dual(np.array(solution.row_dual))
        column = np.array(solution.col_value)
        gap = np.zeros(self.rows.neurons)
        gap[self.unstable] = np.maximum(np.minimum(column[self.v], column[self.p]), 0.0) if k else 0.0
        return Relaxed(float(information.objective_function_value), dual, column[: self.rows.inputs], gap, column[self.v])

    def _dual(self, row_dual: np.ndarray) -> Dual:
        k = len(self.unstable)
        q = np.full(self.rows.neurons, np.nan)
        q[self.unstable] = -row_dual[:k]
        atoms = np.maximum(-row_dual[k : k + self.rows.atoms], 0.0)
        weights = np.maximum(-row_dual[self.chord + k :], 0.0)
        if not weights.any():
            return Dual(q, atoms)
        start = self.rows.matrix.start
        cuts, planes = np.zeros(self.rows.neurons), np.zeros(len(self.rows.matrix.value))
        for c in np.flatnonzero(weights):
            j = self.unstable[self.cut_place[c]]
            cuts[j] += weights[c]
            planes[start[j] : start[j + 1]] += weights[c] * self.cut_slope[c, : start[j + 1] - start[j]]
        for j in np.flatnonzero(cuts):
            planes[start[j] : start[j + 1]] /= cuts[j]
        return Dual(q, atoms, cuts, planes)

    def _ray(self) -> Dual | None:
        _, found, ray = self.model.getDualRay()
        return self._dual(np.array(ray)) if found else None
