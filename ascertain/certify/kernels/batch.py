"""Bounding a range of boxes: the entry of the compiled back end."""

from __future__ import annotations

import numpy as np
from numba import njit

from ascertain.certify.kernels.close import close
from ascertain.certify.kernels.descend import descend, try_point
from ascertain.certify.kernels.domain import Batch, Scratch, Settings, tighten
from ascertain.certify.kernels.pack import Packed

__all__ = ["Batch", "Settings", "attack_boxes", "batch", "bound_boxes"]


def batch(net: Packed, boxes: dict[str, np.ndarray], slopes: bool) -> Batch:
    """A batch of boxes given by their first five fields; ``slopes``: keep lower slopes."""
    count, n = boxes["lower"].shape
    neurons, groups = boxes["neuron_lower"].shape[1], boxes["open"].shape[1]
    return Batch(
        boxes["lower"],
        boxes["upper"],
        boxes["neuron_lower"],
        boxes["neuron_upper"],
        boxes["open"],
        np.full(count, -np.inf),
        np.zeros((count, n)),
        np.full(count, np.inf),
        np.zeros((count, n)),
        np.zeros((count, int(net.groups[-1]))),
        np.zeros((count if slopes else 0, groups, neurons)),
        np.zeros(count, np.bool_),
        np.zeros((count, groups), np.bool_),
    )


@njit(nogil=True, cache=True)
def _recall(net: Packed, s: Scratch, result: Batch, k: int) -> None:
    """Known bounds of the neurons."""
    first = net.start[1]
    for h in range(result.neuron_lower.shape[1]):
        s.lines.lower[first + h] = result.neuron_lower[k, h]
        s.lines.upper[first + h] = 0.0 if net.unused[first + h] else result.neuron_upper[k, h]


@njit(nogil=True, cache=True)
def _remember(net: Packed, s: Scratch, result: Batch, k: int) -> int:
    """Stores the bounds in single precision, rounded outward without changing a sign; lists the unstable neurons."""
    first = net.start[1]
    count = 0
    for h in range(result.neuron_lower.shape[1]):
        lower, upper = s.lines.lower[first + h], s.lines.upper[first + h]
        if lower < 0.0 < upper:
            s.unstable[count] = first + h
            count += 1
        lower = lower * (1.0 - 1e-6) if lower >= 0.0 else lower * (1.0 + 1e-6) - 1e-37
        upper = upper * (1.0 - 1e-6) if upper <= 0.0 else upper * (1.0 + 1e-6) + 1e-37
        result.neuron_lower[k, h] = lower
        result.neuron_upper[k, h] = upper
    return count


@njit(nogil=True, cache=True)
def _add_score(net: Packed, s: Scratch, score: np.ndarray, unstable: int) -> None:
    """Adds each coordinate's share of what the row in ``s.work`` loses in the ReLUs' triangles.

    A ReLU's loss is its coefficient times the height of its triangle; a coordinate's part of it is the squared share of its
    generator in the ReLU's input. The row's own slope, the usual score, decides between equals only.
    """
    b, zono = s.work.b[0], s.zono
    for d in range(len(score)):
        score[d] += 1e-3 * abs(b[d]) * (s.box[1, d] - s.box[0, d])
    for m in range(unstable):
        i = s.unstable[m]
        loss = abs(b[i]) * s.lines.up_slope[i] * s.lines.drop[i]
        if not (loss > 0.0 and zono.spread[i] > 0.0):
            continue
        for d in range(len(score)):
            if zono.own[d] >= 0:
                score[d] += loss * (abs(zono.matrix[i, zono.own[d]]) / zono.spread[i]) ** 2


@njit(nogil=True, cache=True)
def _bound_box(net: Packed, s: Scratch, result: Batch, k: int, settings: Settings, cancel: np.ndarray) -> None:
    s.box[0], s.box[1] = result.lower[k], result.upper[k]
    _recall(net, s, result, k)
    tighten(net, s, cancel)
    if cancel[0]:
        return
    unstable = _remember(net, s, result, k)
    result.done[k] = True
    result.worst[k] = np.inf
    result.score[k] = 0.0
    s.hull[0], s.hull[1] = np.inf, -np.inf
    for j in range(result.open.shape[1]):
        if not result.open[k, j]:
            continue
        s.trial[:] = s.box
        bound = close(net, s, j, settings, unstable)
        # Outside a clipped box the rows are only known to be positive: a positive bound on the rest proves no more than that.
        clipped = (s.trial[0] != s.box[0]).any() or (s.trial[1] != s.box[1]).any()
        result.worst[k] = min(result.worst[k], min(bound, 0.0) if clipped else bound)
        result.weight[k, net.groups[j] : net.groups[j + 1]] = s.weight[0, net.groups[j] : net.groups[j + 1]]
        if result.slope.shape[0] > 0:
            result.slope[k, j] = s.best_slope[net.start[1] : net.start[1] + result.slope.shape[2]]
        if bound > 0.0:
            result.open[k, j] = False
            result.excluded[k, j] = True
            continue
        for d in range(s.box.shape[1]):
            s.hull[0, d] = min(s.hull[0, d], s.trial[0, d])
            s.hull[1, d] = max(s.hull[1, d], s.trial[1, d])
            s.values[d] = s.trial[0, d] if s.work.b[0, d] >= 0.0 else s.trial[1, d]
        _add_score(net, s, result.score[k], unstable)
        try_point(net, s, result, k)
    if s.hull[0, 0] <= s.hull[1, 0]:
        result.lower[k], result.upper[k] = s.hull[0], s.hull[1]
        s.values[: s.box.shape[1]] = s.hull[0] + (s.hull[1] - s.hull[0]) * 0.5
        try_point(net, s, result, k)


@njit(nogil=True, cache=True)
def bound_boxes(net: Packed, s: Scratch, result: Batch, first: int, last: int, settings: Settings, cancel: np.ndarray) -> None:
    """Bounds boxes first .. last of a batch in place until ``cancel[0]`` is set, which a flag in `Batch.done` tells."""
    for k in range(first, last):
        if cancel[0]:
            return
        _bound_box(net, s, result, k, settings, cancel)


@njit(nogil=True, cache=True)
def attack_boxes(net: Packed, s: Scratch, result: Batch, first: int, last: int, settings: Settings, cancel: np.ndarray) -> None:
    """Descends from the point of each of boxes first .. last, without bounding them."""
    s.lines.upper[:] = np.inf
    for k in range(first, last):
        if cancel[0]:
            return
        descend(net, s, result, k, settings.steps)
