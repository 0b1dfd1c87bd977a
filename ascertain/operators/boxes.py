"""The one check of bounds that come from outside; the operators' own interval functions assume that it was made."""

from __future__ import annotations

from ascertain.errors import DataError, ShapeError
from ascertain.operators.base import Array, namespace

__all__ = ["check_box"]


def check_box(lower: Array, upper: Array, name: str = "the box") -> None:
    """Raises ShapeError or DataError unless lower <= upper, both finite and of one shape."""
    if tuple(lower.shape) != tuple(upper.shape):
        raise ShapeError(
            f"{name} has a lower bound of shape {tuple(lower.shape)}, an upper one of {tuple(upper.shape)}. Make them equal."
        )
    xp = namespace(lower)
    if not bool((xp.isfinite(lower) & xp.isfinite(upper)).all()):
        raise DataError(f"{name} has a bound that is NaN or infinite. Give finite bounds.")
    if not bool((lower <= upper).all()):
        raise DataError(f"{name} has a lower bound above its upper bound. Swap them or drop the empty box.")
