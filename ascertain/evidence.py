"""What a number is worth."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Evidence", "weakest"]


class Evidence(IntEnum):
    """How far a number can be trusted, strongest last so that ``min`` combines.

    EXACT: exact arithmetic. PROVED: sound under floating-point rounding. BOUNDED: sound in real arithmetic, computed in
    floats. ESTIMATED: sampled.
    """

    ESTIMATED = 1
    BOUNDED = 2
    PROVED = 3
    EXACT = 4

    def __str__(self) -> str:
        return self.name


def weakest(first: Evidence, *others: Evidence) -> Evidence:
    """The evidence of a conclusion drawn from several numbers: that of the weakest of them."""
    return min(first, *others)
