"""Inputs as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt

import numpy as np

from ascertain.analyze.result import Measured
from ascertain.evidence import Evidence

__all__ = ["layout", "pictures"]

_SMALLEST = 7
"""Flat inputs are shown as squares from this side on: shorter square lists are more often no images."""


def layout(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Channels (1 or 3), height and width of inputs that can be seen as images; None for others.

    A flat input of s^2 numbers counts as an s x s image.
    """
    size = shape[1:] if shape[:1] == (1,) and len(shape) in (2, 4) else shape
    if len(size) == 1 and isqrt(size[0]) ** 2 == size[0] and isqrt(size[0]) >= _SMALLEST:
        return 1, isqrt(size[0]), isqrt(size[0])
    if len(size) == 3 and size[0] in (1, 3) and min(size[1:]) > 3:
        return size[0], size[1], size[2]
    return None


def pictures(
    shape: tuple[int, ...],
    stacks: Mapping[str, tuple[np.ndarray, str]],
    captions: Sequence[str],
    evidence: Evidence = Evidence.BOUNDED,
) -> dict[str, Measured]:
    """Stacks of inputs (N, size) by name, each with what it is, as (N, H, W) or (N, H, W, 3), and ``caption``; or nothing."""
    size = layout(shape)
    if size is None or not captions:
        return {}

    def images(rows: np.ndarray) -> np.ndarray:
        stack = np.asarray(rows, np.float32).reshape(-1, *size)
        return stack[:, 0] if size[0] == 1 else stack.transpose(0, 2, 3, 1)

    found = {name: Measured(images(rows), evidence, about) for name, (rows, about) in stacks.items()}
    return found | {"caption": Measured(np.array(captions, str), Evidence.EXACT, "caption of each picture")}
