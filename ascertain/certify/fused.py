"""The elementwise parts of back-substitution in one pass over memory each: numba loops on the storage of CPU tensors.

Sums may be reassociated and contracted (never otherwise changed), which gamma(n) covers for any order.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from ascertain.certify.lines import Lines

__all__ = ["bend", "concretise", "share_work", "weigh"]

_LOOSE = {"reassoc", "contract"}
_MOST_THREADS: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]


@numba.njit(nogil=True, cache=True, fastmath=_LOOSE, error_model="numpy")
def _bend_row(row, lo, hi, floor, level, charge, below, offset, target):  # type: ignore[no-untyped-def]
    total = 0.0
    wrong = 0.0
    for i in range(row.size):
        v = row[i]
        plus = max(v, 0.0)
        minus = min(v, 0.0)
        w = plus * lo[i] + minus * hi[i]
        target[i] = w
        total += minus * level[i] + plus * floor[i] + w * offset[i]
        wrong += abs(v) * charge[i] + abs(w) * below[i]
    return total, wrong


@numba.njit(nogil=True, cache=True, parallel=True)
def _bend(a, lo, hi, floor, level, charge, below, offset, out, constant, error):  # type: ignore[no-untyped-def]
    batch, count, _ = out.shape
    for r in numba.prange(batch * count):
        b, s = r // count, r % count
        constant[b, s], error[b, s] = _bend_row(
            a[b % a.shape[0], s],
            lo[b % lo.shape[0], s % lo.shape[1]],
            hi[b % hi.shape[0], s % hi.shape[1]],
            floor[b % floor.shape[0], s % floor.shape[1]],
            level[b % level.shape[0], s % level.shape[1]],
            charge,
            below,
            offset,
            out[b, s],
        )


@numba.njit(nogil=True, cache=True, fastmath=_LOOSE, error_model="numpy")
def _least(row, lower, upper, charge):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(row.size):
        v = row[i]
        total += max(v, 0.0) * lower[i] + min(v, 0.0) * upper[i] - abs(v) * charge[i]
    return total


@numba.njit(nogil=True, cache=True, parallel=True)
def _concretise(a, lower, upper, charge, out):  # type: ignore[no-untyped-def]
    batch, count = out.shape
    for r in numba.prange(batch * count):
        b, s = r // count, r % count
        out[b, s] = _least(a[b % a.shape[0], s], lower[b % lower.shape[0]], upper[b % upper.shape[0]], charge)


@numba.njit(nogil=True, cache=True, fastmath=_LOOSE, error_model="numpy")
def _weigh_row(row, weight):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(row.size):
        total += abs(row[i]) * weight[i]
    return total


@numba.njit(nogil=True, cache=True, parallel=True)
def _weigh(a, weight, out):  # type: ignore[no-untyped-def]
    batch, count = out.shape
    for r in numba.prange(batch * count):
        b, s = r // count, r % count
        out[b, s] = _weigh_row(a[b, s], weight)


def weigh(a: Tensor, weight: Tensor) -> Tensor:
    """sum |a| weight over the last axis of a (b, S, n): ``(b, S)``."""
    if a.device.type != "cpu":
        return a.abs() @ weight
    out = torch.empty(a.shape[:2], dtype=a.dtype)
    share_work(a.numel())
    _weigh(a.contiguous().numpy(), weight.numpy(), out.numpy())
    return out


def bend(
    a: Tensor, line: Lines, charge: Tensor | None, below: Tensor | None, offset: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients a (b, S, n) through lines: through the lower one where positive, through the upper one where negative.

    Returns out (B, S, n) on the input, the sums with the intercepts plus out times offset, and the sums |a| charge + |out| below,
    (B, S) each.
    """
    batch, count, size = max(len(a), len(line.upper_slope)), a.shape[1], a.shape[2]
    out, constant, error = torch.empty((batch, count, size), dtype=a.dtype), *torch.empty((2, batch, count), dtype=a.dtype)
    none = np.zeros(size, dtype=out.numpy().dtype)
    own, next_, shift = (none if c is None else c.numpy() for c in (charge, below, offset))
    floor = none.reshape(1, 1, -1) if line.lower_intercept is None else line.lower_intercept.contiguous().numpy()
    share_work(out.numel())
    _bend(
        a.contiguous().numpy(),
        line.lower_slope.contiguous().numpy(),
        line.upper_slope.contiguous().numpy(),
        floor,
        line.upper_intercept.contiguous().numpy(),
        own,
        next_,
        shift,
        out.numpy(),
        constant.numpy(),
        error.numpy(),
    )
    return out, constant, error


def concretise(a: Tensor, lower: Tensor, upper: Tensor, charge: Tensor | None) -> Tensor:
    """Minimum of the rows a (b, S, n) over boxes lower, upper (B, n), less sum |a| charge: ``(B, S)``."""
    out = torch.empty((max(len(a), len(lower)), a.shape[1]), dtype=a.dtype)
    weights = np.zeros(a.shape[2], dtype=out.numpy().dtype) if charge is None else charge.numpy()
    share_work(out.numel() * a.shape[2])
    _concretise(a.contiguous().numpy(), lower.contiguous().numpy(), upper.contiguous().numpy(), weights, out.numpy())
    return out


def share_work(entries: int) -> None:
    """Uses as many threads as torch does, but no more than the work is worth: a barrier costs as much as 100,000 entries."""
    threads = torch.get_num_threads()
    numba.set_num_threads(max(1, min(threads, _MOST_THREADS, entries // 200_000)))
    if torch.get_num_threads() != threads:  # numba's first call gives all cores to OpenMP, and so to torch
        torch.set_num_threads(threads)
