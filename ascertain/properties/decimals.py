"""Decimal literals as exact numbers, and exact numbers as float64 rounded in a chosen direction."""

from __future__ import annotations

import math
from decimal import Decimal, InvalidOperation
from fractions import Fraction

__all__ = ["LiteralError", "exact", "round_fraction", "round_literal", "write_exact"]

_LONGEST = 1000
_EXPONENT = 1000


class LiteralError(ValueError):
    """A number that float64 cannot bracket; the message says why."""


def _decimal(literal: str) -> Decimal:
    # Without these limits a short literal such as 1e999999999 costs gigabytes as an exact number.
    if len(literal) > _LONGEST:
        raise LiteralError(f"a number of {len(literal)} characters; at most {_LONGEST} are read")
    try:
        value = Decimal(literal)
    except InvalidOperation:
        raise LiteralError(f"the number {literal}; its exponent is out of range") from None
    if value and abs(value.adjusted()) > _EXPONENT:
        raise LiteralError(f"the number {literal}; its exponent is out of range")
    return value


def exact(literal: str) -> Fraction:
    """The number that a decimal literal denotes."""
    return Fraction(_decimal(literal))


def _step(nearest: float, below: bool, above: bool, up: bool) -> float:
    if not math.isfinite(nearest):
        raise LiteralError("a number beyond the range of float64")
    if up and below:
        return math.nextafter(nearest, math.inf)
    return math.nextafter(nearest, -math.inf) if not up and above else nearest


def round_literal(literal: str, up: bool) -> tuple[float, bool]:
    """(smallest float64 >= the literal or largest <= it, whether that is exact)."""
    value, nearest = _decimal(literal), float(literal)
    return _finite(_step(nearest, nearest < value, nearest > value, up)), nearest == value


def round_fraction(value: Fraction, up: bool) -> tuple[float, bool]:
    """(smallest float64 >= the value or largest <= it, whether that is exact)."""
    try:
        nearest = float(value)
    except OverflowError:
        raise LiteralError("a number beyond the range of float64") from None
    return _finite(_step(nearest, nearest < value, nearest > value, up)), nearest == value


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise LiteralError("a number beyond the range of float64")
    return value


def write_exact(value: float) -> str:
    """The shortest decimal literal that denotes exactly this float64."""
    short = repr(float(value))
    return short if Decimal(short) == value else str(Decimal(value))
