"""Norms that hold on a set only: of products of two values, of softmax, and of attention. Evidence: PROVED.

A product whose one factor is held is linear in the other. For attention y_i = sum_j p_ij v_j, p_i = softmax(s_i), s_ij = q_i . k_j,

    dy_i = sum_j p_ij dv_j + V' D_i (K dq_i + dK q_i),   D_i = diag(p_i) - p_i p_i',

and D_i sees no common shift of the rows of V or K, so those are centred first (Kim, Papamakarios, Mnih 2021 bound the same terms).
"""

from __future__ import annotations

from math import prod

import numpy as np

from ascertain.certify.lipschitz.enclosure import ROOM, Enclosure
from ascertain.certify.lipschitz.rigorous import NotVerified, largest_eigenvalue, root, square
from ascertain.operators.base import Shape

__all__ = ["Ends", "attention_norms", "matrix_norm", "product_norms", "softmax_norm"]

Ends = tuple[np.ndarray, np.ndarray]
"""Smallest and largest value of each entry."""

MOST = 64
"""Matrices of a stack whose norms are verified one by one; of the others a cheap bound counts."""
MOST_ROWS = 4096
"""Rows of attention that are looked at one by one."""


def matrix_norm(matrix: Enclosure) -> float:
    """A proved upper bound, tight to about 1e-12 relative, of the largest singular value of every matrix enclosed."""
    small = matrix if matrix.shape[1] <= matrix.shape[0] else matrix.T
    if not small.size().any():
        return 0.0
    try:
        return root(largest_eigenvalue(square(small)))
    except NotVerified:
        size = small.size()
        return root(float(size.sum(0).max()) * float(size.sum(1).max()) * ROOM)


def product_norms(terms: tuple[str, str, str], shapes: tuple[Shape, ...], ends: tuple[Ends, Ends], norm: float) -> list[float]:
    """The norm of an einsum of two values as a map of each, in the norm 1, 2 or inf, while the other is anywhere in its box."""
    x, y, out = terms
    return [stack_norm(_stack(y, x, out, shapes[1], ends[1]), norm), stack_norm(_stack(x, y, out, shapes[0], ends[0]), norm)]


def _stack(held: str, moved: str, out: str, shape: Shape, ends: Ends) -> Ends:
    """The held factor as matrices (batch, rows, columns) that the other is multiplied by."""
    batch = [c for c in held if c in moved and c in out]
    rows, columns = [c for c in held if c not in moved], [c for c in held if c in moved and c not in out]
    order = [held.index(c) for c in (*batch, *rows, *columns)]
    size = dict(zip(held, shape, strict=True))
    whole = tuple(prod(size[c] for c in part) for part in (batch, rows, columns))
    low, high = (e.reshape(shape).transpose(order).reshape(whole) for e in ends)
    return low, high


def stack_norm(ends: Ends, norm: float) -> float:
    """The largest norm of matrices (B, R, C)."""
    low, high = ends
    size = np.maximum(abs(low), abs(high))
    rows, columns = size.sum(2).max(1), size.sum(1).max(1)
    if norm != 2:
        return float((rows if norm == np.inf else columns).max()) * ROOM
    cheap = np.sqrt(np.minimum(rows * columns, (size * size).sum((1, 2)))) * ROOM
    if not np.isfinite(cheap).all() or min(size.shape[1:]) == 1:
        return float(cheap.max()) if np.isfinite(cheap).all() else np.inf
    worst = 0.0
    for count, b in enumerate(np.argsort(-cheap)):
        if cheap[b] <= worst:
            break
        worst = max(worst, float(cheap[b]) if count >= MOST else min(float(cheap[b]), matrix_norm(_enclosed(low[b], high[b]))))
    return worst


def _enclosed(low: np.ndarray, high: np.ndarray) -> Enclosure:
    middle = low / 2 + high / 2
    return Enclosure(middle, np.maximum(high - middle, middle - low) * ROOM)


def softmax_norm(ends: Ends, shape: Shape, axis: int) -> float:
    """The norm (1, 2 or inf) of the softmax's Jacobian where its values lie between ends: never above 1/2."""
    low, high = (np.clip(np.moveaxis(e.reshape(shape), axis, -1), 0.0, 1.0) for e in ends)
    steepest = np.where((low <= 0.5) & (high >= 0.5), 0.5, 2 * np.maximum(low * (1 - low), high * (1 - high)))
    return min(0.5, float(steepest.max()) * ROOM)


def attention_norms(p: Ends, q: Ends, k: Ends, v: Ends) -> tuple[float, float, float] | None:
    """l2 norms of attention as a map of q (N, L, d), of k (N, S, d) and of v (N, S, m), and with weights p (N, L, S), all boxes.

    None where there are too many rows to look at.
    """
    count, length, _ = p[0].shape
    if count * length > MOST_ROWS or not all(np.isfinite(e).all() for pair in (p, q, k, v) for e in pair):
        return None
    by_query, by_key = 0.0, 0.0
    sizes = np.sqrt((np.maximum(abs(q[0]), abs(q[1])) ** 2).sum(2)) * ROOM
    for n in range(count):
        each = np.zeros(length)
        for i in range(length):
            weights = np.clip(p[0][n, i], 0.0, 1.0), np.clip(p[1][n, i], 0.0, 1.0)
            spread = _centred(v[0][n], v[1][n], weights).T @ _covariance(*weights)
            each[i] = matrix_norm(spread)
            by_query = max(by_query, matrix_norm(spread @ _centred(k[0][n], k[1][n], weights)))
        together = float(each.max()) * matrix_norm(_enclosed(q[0][n], q[1][n]))
        by_key = max(by_key, min(together, float(np.sqrt(((each * sizes[n]) ** 2).sum()))) * ROOM)
    return by_query, by_key, stack_norm(p, 2)


def _covariance(low: np.ndarray, high: np.ndarray) -> Enclosure:
    """diag(p) - p p' for weights between ends."""
    p = _enclosed(low[:, None], high[:, None])
    radius = None if p.radius is None else np.diag(p.radius[:, 0])
    return Enclosure(np.diag(p.middle[:, 0]), radius) + -(p @ p.T)


def _centred(low: np.ndarray, high: np.ndarray, weights: Ends) -> Enclosure:
    """Rows (S, m) less about their mean under weights between ends."""
    share = weights[0] + weights[1]
    rows = _enclosed(low, high)
    mean = share @ rows.middle / max(float(share.sum()), 1e-300)
    return rows + Enclosure(np.broadcast_to(-mean, rows.shape))
