"""Open boxes of an input-split search as a structure of growing arrays."""

from __future__ import annotations

import numpy as np

from ascertain.certify.kernels.batch import Batch

__all__ = ["Frontier", "halve"]


class Frontier:
    """Boxes with what is known about them. Rows are unordered; the latest are last."""

    def __init__(self, boxes: dict[str, np.ndarray]) -> None:
        """Starts from boxes given by lower, upper, neuron_lower, neuron_upper, open, worst, value and share."""
        self.size = 0
        self._fields = {name: np.empty((0, *array.shape[1:]), array.dtype) for name, array in boxes.items()}
        self.push(boxes)

    @property
    def bytes_each(self) -> int:
        """Memory of one box."""
        return sum(int(np.prod(a.shape[1:], dtype=np.int64)) * a.itemsize for a in self._fields.values())

    @property
    def worst(self) -> float:
        """Smallest lower bound of an open box (that of its parent), inf when there is none."""
        return float(self._fields["worst"][: self.size].min(initial=np.inf))

    def push(self, values: dict[str, np.ndarray]) -> None:
        """Adds boxes."""
        count = len(values["lower"])
        for name, array in self._fields.items():
            if self.size + count > len(array):
                grown = np.empty((max(64, 2 * (self.size + count)), *array.shape[1:]), array.dtype)
                grown[: self.size] = array[: self.size]
                self._fields[name] = array = grown
            array[self.size : self.size + count] = values[name]
        self.size += count

    def pop(self, count: int, spread: bool) -> dict[str, np.ndarray]:
        """Removes ``count`` boxes: the latest, or a third each of the latest, the largest, and those nearest to a violation."""
        count = min(count, self.size)
        chosen = np.arange(self.size - count, self.size)
        if spread and count < self.size:
            part = count // 3
            latest = chosen[2 * part :]
            rest = self.size - len(latest)
            large = np.argpartition(-self._fields["share"][:rest], part)[:part]
            near = np.argpartition(self._fields["value"][:rest], 2 * part)[: 2 * part]
            near = near[~np.isin(near, large, assume_unique=True)][:part]
            chosen = np.concatenate([large, near, latest])
        out = {name: array[chosen] for name, array in self._fields.items()}
        keep = self.size - count
        holes = chosen[chosen < keep]
        movers = np.setdiff1d(np.arange(keep, self.size), chosen, assume_unique=True)
        for array in self._fields.values():
            array[holes] = array[movers]
        self.size = keep
        return out


def halve(found: Batch, rows: np.ndarray, share: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Both halves of the boxes ``rows`` of a batch along their best coordinate, and the rows that no float divides.

    Both halves contain the same float middle, so that they cover the box exactly.
    """
    lower, upper, score = found.lower[rows], found.upper[rows], found.score[rows]
    middle = lower + (upper - lower) * 0.5
    divisible = (lower < middle) & (middle < upper)
    # Where no score tells, the widest coordinate is split.
    score = np.where(divisible, score + 1e-9 * (upper - lower) * (1.0 + score.max(axis=1, keepdims=True)), -1.0)
    axis = score.argmax(axis=1)
    able = divisible[np.arange(len(rows)), axis]
    rows, axis, lower, upper, share = rows[able], axis[able], lower[able], upper[able], share[able]
    at = np.arange(len(rows))
    left, right = upper.copy(), lower.copy()
    left[at, axis] = right[at, axis] = middle[able][at, axis]
    twice = np.concatenate([rows, rows])
    return {
        "lower": np.concatenate([lower, right]),
        "upper": np.concatenate([left, upper]),
        "neuron_lower": found.neuron_lower[twice],
        "neuron_upper": found.neuron_upper[twice],
        "open": found.open[twice],
        "worst": found.worst[twice],
        "value": found.value[twice],
        "share": np.concatenate([share, share]) * 0.5,
    }, np.flatnonzero(~able)
