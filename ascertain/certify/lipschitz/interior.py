"""Primal-dual interior point on the rank-2 structure of a plant's program (HKM direction, predictor and corrector of Mehrotra).

The dual variables (t, lambda) are strictly feasible at every step, so the method may stop at any time with a valid bound; the
primal matrix X gives the gap. One iteration costs a few products, one inverse and one Cholesky factor of the program's size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import linalg

from ascertain.certify.lipschitz.program import Program

__all__ = ["Iterate", "interior"]

_SMALL = 160
"""Size below which step lengths come from all eigenvalues; above, from a Lanczos recursion."""


@dataclass(frozen=True, eq=False)
class Iterate:
    """Feasible variables, and what is known of the optimum."""

    diagonal: np.ndarray
    """(K,) diagonal variables."""
    factors: np.ndarray
    """(M,) multipliers."""
    value: float
    """cost' diagonal."""
    gap: float
    """Complementarity relative to the value; the distance to the optimum once the residual is small."""
    residual: float
    steps: int
    path: tuple[tuple[np.ndarray, np.ndarray], ...]
    """Earlier variables, last first: further inside, so that they are easier to prove."""


def interior(
    program: Program,
    diagonal: np.ndarray,
    factors: np.ndarray,
    *,
    tolerance: float = 1e-8,
    steps: int = 100,
    check: Callable[[], bool] = lambda: True,
) -> Iterate:
    """Improves strictly feasible variables until the relative gap is below ``tolerance``, or ``check()`` says stop."""
    scale_t, scale_l = 1.0 / np.sqrt(diagonal), 1.0 / np.sqrt(factors)
    scale = np.ones(program.size)
    scale[program.where] = scale_l[program.gate_group]
    scale[program.diagonal] = scale_t[program.diagonal_group]
    total = float(program.cost @ diagonal)
    scaled = replace(
        program,
        gate=program.gate * scale / scale[program.where][:, None],
        constant=program.constant * scale[:, None] * scale,
        cost=program.cost * diagonal / total,
    )
    state = _State(scaled)
    done = state.run(tolerance, steps, check)
    t, lam = state.t * diagonal, state.lam * factors
    path = tuple((a * diagonal, b * factors) for a, b in reversed(state.path))
    return Iterate(t, lam, float(program.cost @ t), state.gap, state.residual, done, path)


def _add_up(values: np.ndarray, group: np.ndarray, count: int) -> np.ndarray:
    """Sums over groups of entries."""
    return np.bincount(group, values, count)


class _State:
    """A point of the path: t, lam and X, x; Z and its inverse U."""

    def __init__(self, program: Program) -> None:
        self.p = program
        self.k, self.m = len(program.cost), int(program.gate_group.max()) + 1 if len(program.gate_group) else 0
        self.t, self.lam = np.ones(self.k), np.ones(self.m)
        self.gap, self.residual = np.inf, np.inf
        self.path: list[tuple[np.ndarray, np.ndarray]] = []
        self.center, self.half = (program.low + program.high) / 2, (program.high - program.low) / 2
        self.single = self.m == len(program.gate)
        factor = self._factor(self.t, self.lam)
        if factor is None:
            raise ValueError("the start is not strictly feasible")
        self._accept(factor)
        ones = self._linear(self.U, self.uimages)[: self.k]
        mu = 1.0 / float(ones.sum())
        self._recentre(mu)

    # Linear algebra of the terms

    def _expand(self, t: np.ndarray, lam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return t[self.p.diagonal_group], lam[self.p.gate_group]

    def _factor(self, t: np.ndarray, lam: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        z = self.p.matrix(*self._expand(t, lam))
        factor, fail = linalg.lapack.dpotrf(z, lower=1, clean=1)
        return None if fail or not np.isfinite(factor[-1, -1]) else (z, factor)

    def _accept(self, factor: tuple[np.ndarray, np.ndarray]) -> None:
        self.Z, self.L = factor
        inverse, _ = linalg.lapack.dpotri(self.L, lower=1)
        lower = np.tril(inverse, -1)
        self.U = np.tril(inverse) + lower.T
        self.uimages = self.p.images(self.U)

    def _pieces(self, matrix: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """P'MP, P'MQ, Q'MQ and the rows of MP, MQ at diagonal terms, for p = e - center g and q = half g."""
        w, c, r = self.p.where, self.center, self.half
        K = self.p.gated(images)
        H = images[w]
        HK = H - c[:, None] * K
        PP = matrix[w, w] - HK.T * c[:, None] - H * c
        d = self.p.diagonal
        return PP, HK * r, K * (r[:, None] * r), matrix[d, w] - images[d] * c, images[d] * r

    def _linear(self, matrix: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Inner products of a matrix with the terms, summed over groups."""
        w, c, r = self.p.where, self.center, self.half
        at = np.arange(w.start, w.stop)
        quad = np.empty(len(self.p.gate))
        for rows, columns in self.p.spans:
            quad[rows] = np.einsum("ij,ji->i", self.p.gate[rows, columns], images[columns, rows])
        cross = images[at, np.arange(len(at))]
        pairs = 2 * (matrix[at, at] - 2 * c * cross + (c * c - r * r) * quad)
        d = self.p.diagonal
        return np.concatenate([_add_up(matrix[d, d], self.p.diagonal_group, self.k), _add_up(pairs, self.p.gate_group, self.m)])

    def _schur(self, ximages: np.ndarray) -> np.ndarray:
        """The Schur complement matrix of the Newton system, without the slacks of the multipliers."""
        up, ux, uq, udp, udq = self._pieces(self.U, self.uimages)
        xp, xx, xq, xdp, xdq = self._pieces(self.X, ximages)
        pairs = 4 * (up * xp - ux * xx - ux.T * xx.T + uq * xq)
        mixed = 2 * (udp * xdp - udq * xdq)
        d = self.p.diagonal
        if self.k == 1:
            first = np.array([[float((self.U[np.ix_(d, d)] * self.X[np.ix_(d, d)]).sum())]])
            mixed = mixed.sum(0, keepdims=True)
        else:
            first = self.U[np.ix_(d, d)] * self.X[np.ix_(d, d)]
            if self.k < len(d):
                first = self._grouped(self._grouped(first, self.p.diagonal_group, self.k).T, self.p.diagonal_group, self.k)
                mixed = self._grouped(mixed, self.p.diagonal_group, self.k)
        if not self.single:
            pairs = self._grouped(self._grouped(pairs, self.p.gate_group, self.m).T, self.p.gate_group, self.m)
            mixed = self._grouped(mixed.T, self.p.gate_group, self.m).T
        return np.block([[first, mixed], [mixed.T, (pairs + pairs.T) / 2]])

    @staticmethod
    def _grouped(matrix: np.ndarray, group: np.ndarray, count: int) -> np.ndarray:
        out = np.zeros((count, matrix.shape[1]))
        np.add.at(out, group, matrix)
        return out

    # The path

    def run(self, tolerance: float, steps: int, check: Callable[[], bool]) -> int:
        """Steps until the gap is small, nothing moves, or the caller stops."""
        count, order, stuck = 0, self.p.size + self.m, False
        for count in range(steps):
            ximages = self.p.images(self.X)
            value = float(self.p.cost @ self.t)
            complementarity = float((self.Z * self.X).sum() + self.lam @ self.x)
            mu = complementarity / order
            b = np.concatenate([self.p.cost, np.zeros(self.m)])
            slack = np.concatenate([np.zeros(self.k), self.x])
            self.residual = float(abs(b - self._linear(self.X, ximages) - slack).max())
            self.gap = complementarity / value
            if (self.gap < tolerance and self.residual < 1e-6) or not check():
                return count
            solve = self._newton(ximages)
            if solve is not None and self._step(solve, b, mu, complementarity):
                stuck = False
            elif stuck or self.gap < 100 * tolerance:
                return count
            else:
                stuck = True
                self._recentre(mu)
        return count + 1

    def _newton(self, ximages: np.ndarray) -> Callable[[np.ndarray], np.ndarray] | None:
        schur = self._schur(ximages)
        at = np.arange(self.k, self.k + self.m)
        schur[at, at] += self.x / self.lam
        d = np.sqrt(schur.diagonal())
        if not np.isfinite(d).all() or not (d > 0).all():
            return None
        schur /= d[:, None] * d
        jitter = 0.0
        while jitter < 1e-4:
            factor, fail = linalg.lapack.dpotrf(schur + jitter * np.eye(len(d)), lower=1)
            if not fail:
                break
            jitter = max(10 * jitter, 1e-14)
        else:
            return None

        def solve(right: np.ndarray) -> np.ndarray:
            scaled = right / d
            x = linalg.lapack.dpotrs(factor, scaled, lower=1)[0]
            for _ in range(2):  # refinement: the matrix is ill-conditioned near the optimum
                x = x + linalg.lapack.dpotrs(factor, scaled - schur @ x, lower=1)[0]
            return np.asarray(x / d)

        return solve

    def _step(self, solve: Callable[[np.ndarray], np.ndarray], b: np.ndarray, mu: float, gap: float) -> bool:
        """Predictor and corrector; False where hardly anything moves."""
        dy = solve(-b)
        dt, dl = dy[: self.k], dy[self.k :]
        dZ = self.p.matrix(*self._expand(dt, dl), constant=False)
        UdZ = self.U @ dZ
        T = UdZ @ self.X
        dX, dx = -self.X - (T + T.T) / 2, -self.x - self.x * dl / self.lam
        if not np.isfinite(dX).all():
            return False
        ap, ad = self._lengths(dX, dx, dZ, dl)
        after = float(((self.X + ap * dX) * (self.Z + ad * dZ)).sum() + (self.lam + ad * dl) @ (self.x + ap * dx))
        sigma = min(0.9, max(1e-6, (max(after, 0.0) / gap) ** 2)) if after < gap else 0.9
        if min(ap, ad) < 0.1:
            sigma = max(sigma, 0.3)
        T = UdZ @ dX
        second, second_x = (T + T.T) / 2, dl * dx / self.lam
        target = sigma * mu
        aU = self._linear(self.U, self.uimages)
        aU[self.k :] += 1 / self.lam
        aC = self._linear(second, self.p.images(second))
        aC[self.k :] += second_x
        dy = solve(target * aU - b - aC)
        dt, dl = dy[: self.k], dy[self.k :]
        dZ = self.p.matrix(*self._expand(dt, dl), constant=False)
        T = self.U @ dZ @ self.X
        dX = -self.X + target * self.U - (T + T.T) / 2 - second
        if not np.isfinite(dX).all():
            return False
        dx = -self.x + target / self.lam - self.x * dl / self.lam - second_x
        ap, ad = self._lengths(dX, dx, dZ, dl)
        return self._move(ap, ad, dX, dx, dt, dl)

    def _recentre(self, mu: float) -> None:
        """Puts X on the central path of Z: at the start, and when rounding or bad luck took it off."""
        self.X, self.x = mu * self.U, mu / self.lam
        self.LX = linalg.lapack.dpotrf(self.X, lower=1, clean=1)[0]

    def _move(self, ap: float, ad: float, dX: np.ndarray, dx: np.ndarray, dt: np.ndarray, dl: np.ndarray) -> bool:
        while (factor := self._factor(self.t + ad * dt, self.lam + ad * dl)) is None:
            ad *= 0.8
            if ad < 1e-10:
                return False
        while True:
            moved = self.X + ap * dX
            root, fail = linalg.lapack.dpotrf(moved, lower=1, clean=1)
            if not fail:
                break
            ap = 0.8 * ap if ap > 1e-6 else 0.0
        self.path.append((self.t, self.lam))
        self.X, self.LX, self.x = moved, root, self.x + ap * dx
        self.t, self.lam = self.t + ad * dt, self.lam + ad * dl
        self._accept(factor)
        return max(ap, ad) > 1e-3

    def _lengths(self, dX: np.ndarray, dx: np.ndarray, dZ: np.ndarray, dl: np.ndarray) -> tuple[float, float]:
        """Steps 0.95 of the way to the boundary of the primal and the dual cone, at most 1."""
        primal = min(1.0, 0.95 * min(_reach(self.LX, dX), _ratio(self.x, dx)))
        return primal, min(1.0, 0.95 * min(_reach(self.L, dZ), _ratio(self.lam, dl)))


def _ratio(x: np.ndarray, dx: np.ndarray) -> float:
    falling = dx < 0
    return float((-x[falling] / dx[falling]).min()) if falling.any() else np.inf


def _reach(factor: np.ndarray, step: np.ndarray) -> float:
    """The largest a with factor factor' + a step positive semidefinite, about (from below)."""
    least = _least_dense(factor, step) if len(factor) < _SMALL else _least_lanczos(factor, step)
    return np.inf if least >= 0 else -1.0 / least if np.isfinite(least) else 0.0


def _least_dense(factor: np.ndarray, step: np.ndarray) -> float:
    half = linalg.solve_triangular(factor, step, lower=True, check_finite=False)
    full = linalg.solve_triangular(factor, half.T, lower=True, check_finite=False)
    return float(np.linalg.eigvalsh((full + full.T) / 2)[0]) if np.isfinite(full).all() else -np.inf


def _least_lanczos(factor: np.ndarray, step: np.ndarray, most: int = 40) -> float:
    """About the least eigenvalue of inverse(factor) step inverse(factor)', lowered by its residual."""
    n = len(factor)
    basis = np.zeros((most + 1, n))
    alpha, beta = np.zeros(most), np.zeros(most)
    q = np.random.default_rng(0).normal(size=n)
    basis[0] = q / np.linalg.norm(q)
    theta = rest = 0.0
    for j in range(most):
        v = linalg.blas.dtrsv(factor, basis[j], lower=1, trans=1)
        v = linalg.blas.dtrsv(factor, step @ v, lower=1)
        alpha[j] = v @ basis[j]
        v -= basis[: j + 1].T @ (basis[: j + 1] @ v)
        v -= basis[: j + 1].T @ (basis[: j + 1] @ v)
        beta[j] = np.linalg.norm(v)
        values, vectors = linalg.eigh_tridiagonal(alpha[: j + 1], beta[:j])
        theta, rest = float(values[0]), float(abs(beta[j] * vectors[-1, 0]))
        if rest < 0.02 * max(abs(theta), 0.5) or beta[j] < 1e-12:
            break
        basis[j + 1] = v / beta[j]
    return theta - rest
