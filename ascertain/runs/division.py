"""Long searches as many short ones: a property that ran out of time on a box is asked again on its two halves.

Every part is an item like any other, with a key of its own, so that it can run anywhere and is never searched twice: a search that
is interrupted goes on where it stopped. The halves share the face between them and cover the box exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ascertain.analyze.result import Failure, Result
from ascertain.analyze.verdict import Verify
from ascertain.certify.result import Status
from ascertain.errors import InputError
from ascertain.graph import Graph
from ascertain.properties import Box
from ascertain.runs.items import Item
from ascertain.runs.store import Store

__all__ = ["Whole", "children", "combine"]

_POINTS = 8
_ROWS = 4096
"""Points evaluated at a time."""


@dataclass(frozen=True)
class Whole:
    """What the parts say together."""

    status: Status
    share: float
    """Part of the property that is decided, each half counted as half."""
    parts: int
    """Parts that were searched."""


def children(item: Item, record: Result | Failure) -> tuple[Item, ...]:
    """The parts to search after a record: none when it decided, or when there is nothing to divide or no halving left."""
    source = item.property
    if source is None or not isinstance(item.analyzer, Verify) or not isinstance(record, Result):
        return ()
    undecided = str(record["status"]) == Status.UNKNOWN and str(record["reason"]).startswith("timeout")
    if not undecided or item.halvings <= max(0, len(source.part) - 1):
        return ()
    property = source.read()
    if not source.part and len(property.cases) > 1:
        parts: list[tuple[int, ...]] = [(case,) for case in range(len(property.cases))]
    else:
        box = property.cases[0].set
        dim = _widest(item.models[0].read(), box) if isinstance(box, Box) else None
        parts = [] if dim is None else [(*(source.part or (0,)), 2 * dim + side) for side in (0, 1)]
    return tuple(_hashed(replace(item, property=replace(source, part=part), inputs={})) for part in parts)


def _hashed(item: Item) -> Item:
    return replace(item, inputs=item.context().hashes)


def _widest(network: Graph, box: Box) -> int | None:
    """The coordinate along which the outputs move most over the width of the box; None where no float lies between the faces."""
    middle = box.lower + (box.upper - box.lower) / 2
    open_ = np.flatnonzero((box.lower < middle) & (middle < box.upper))
    if not len(open_):
        return None
    points = np.random.default_rng(0).uniform(box.lower, box.upper, (_POINTS, box.size))
    effects = np.zeros(len(open_))
    step = max(1, _ROWS // (2 * _POINTS))
    for start in range(0, len(open_), step):
        picked = open_[start : start + step]
        ends = np.broadcast_to(points, (2, len(picked), *points.shape)).copy()
        for k, i in enumerate(picked):
            ends[0, k, :, i], ends[1, k, :, i] = box.lower[i], box.upper[i]
        outputs = network(ends.reshape(-1, *network.input_shape)).reshape(2, len(picked), _POINTS, -1)
        effects[start : start + step] = np.abs(outputs[1] - outputs[0]).sum(-1).mean(-1)
    return int(open_[np.argmax(effects)])


def combine(item: Item, store: Store) -> Whole:
    """The answer to an item from its own record and those of its parts, as far as they are stored."""
    if item.key not in store:
        return Whole(Status.UNKNOWN, 0.0, 0)
    record = store.get(item.key)
    if isinstance(record, Failure):
        return Whole(Status.UNKNOWN, 0.0, 1)
    if "status" not in record.values:
        raise InputError(f"{item} is no question of a property; combine items of the analyzer verify.")
    status = Status(str(record["status"]))
    if status is not Status.UNKNOWN:
        return Whole(status, 1.0, 1)
    found = [combine(child, store) for child in children(item, record)]
    searched = 1 + sum(f.parts for f in found)
    if not found:
        return Whole(Status.UNKNOWN, 0.0, searched)
    if any(f.status is Status.VIOLATED for f in found):
        return Whole(Status.VIOLATED, 1.0, searched)
    holds = all(f.status is Status.HOLDS for f in found)
    return Whole(Status.HOLDS if holds else Status.UNKNOWN, sum(f.share for f in found) / len(found), searched)
