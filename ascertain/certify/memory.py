"""Memory of large temporary arrays stays with the process."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

__all__ = ["keep_buffers"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGE = 1 << 30


@cache
def keep_buffers() -> None:
    """Asks glibc not to hand freed blocks back to the kernel: the next array would fault every page in anew.

    Measured: a third of the CPU seconds of bounds of a small convolutional network. Elsewhere than on glibc nothing happens.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGE)
        mallopt(_TRIM_THRESHOLD, _LARGE)
