"""Functions of some of the entries only: those that a mask hides (minus infinity before a softmax) weigh nothing after it."""

from __future__ import annotations

import numpy as np

from ascertain.operators.arguments import unsupported
from ascertain.operators.base import Emit, Operator, Ref
from ascertain.operators.movement import Reshape, Transpose
from ascertain.operators.reading import Call, Masked
from ascertain.operators.selection import Concat, Gather, Pad, picked

__all__ = ["masked", "over_shown"]


def masked(x: Ref, hidden: np.ndarray) -> Ref:
    """x with minus infinity where ``hidden``, which broadcasts to its shape."""
    if not hidden.any():
        return x
    return Masked(x.index, x.shape, hidden | x.hidden if isinstance(x, Masked) else hidden)


def over_shown(call: Call, x: Masked, axis: int, operator: Operator) -> Ref:
    """An operator on the rows of a matrix, applied along an axis >= 0 to what is shown; 0 at what is hidden.

    Rows that hide the same entries are gathered, cut to what they show, and put back: no infinity is computed with.
    """
    emit = call.emit
    rank, size = len(x.shape), x.shape[axis]
    hidden = np.moveaxis(np.broadcast_to(x.hidden, x.shape), axis, -1).reshape(-1, size)
    if x.finite:  # where all entries are low, they are what counts
        hidden = hidden & ~hidden.all(-1, keepdims=True)
    if hidden.all(-1).any():
        raise unsupported(call, "a row in which everything is hidden", "Let the mask show at least one entry of each row.")
    order = (*(i for i in range(rank) if i != axis), axis)
    turned = x if axis == rank - 1 else emit(Transpose(order), x)
    rows = emit(Reshape(hidden.shape), turned)
    kinds, member = np.unique(hidden, axis=0, return_inverse=True)
    groups = [np.flatnonzero(member.reshape(-1) == k) for k in range(len(kinds))]
    pairs = zip(groups, kinds, strict=True)
    parts = [_shown(emit, operator, picked(emit, rows, 0, group), np.flatnonzero(~kind)) for group, kind in pairs]
    whole = parts[0] if len(parts) == 1 else emit(Concat(0), *parts)
    whole = picked(emit, whole, 0, np.argsort(np.concatenate(groups)))
    y = emit(Reshape(turned.shape), whole)
    return y if axis == rank - 1 else emit(Transpose(tuple(np.argsort(order).tolist())), y)


def _shown(emit: Emit, operator: Operator, rows: Ref, shown: np.ndarray) -> Ref:
    """An operator on the entries shown of each row, 0 at the others."""
    size, first, count = rows.shape[1], int(shown[0]), len(shown)
    weights = emit(operator, picked(emit, rows, 1, shown))
    if count == size:
        return weights
    if int(shown[-1]) - first == count - 1:
        return emit(Pad((0, first), (0, size - first - count)), weights)
    places = np.full(size, count, dtype=np.int64)
    places[shown] = np.arange(count)
    return emit(Gather(1, places), emit(Pad((0, 0), (0, 1)), weights))
