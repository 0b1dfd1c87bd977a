"""Imports that leave random states alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["undisturbed"]


@contextmanager
def undisturbed() -> Iterator[None]:
    """Gives Python's random state back after a block: importing scikit-learn draws from it."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)
