"""Numbers as people read them."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from ascertain.analyze.result import Measured, Result
from ascertain.analyze.views import View, powers
from ascertain.evidence import Evidence

__all__ = ["cells", "intervals", "short", "value_rows"]


def short(value: Any) -> str:
    """A number with four digits, whole numbers in full; words as they are."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f").replace("-", "\u2212")
    if isinstance(value, float):
        if np.isinf(value):
            return "\u221e" if value > 0 else "\u2212\u221e"
        return powers(f"{value:.4g}").replace("-", "\u2212")
    return str(value)


def cells(column: np.ndarray) -> tuple[list[str], bool]:
    """A column of a table as text, and whether it holds numbers."""
    if column.dtype.kind == "f" and column.size and (places := _places(column)) is not None:
        return [f"{v:.{places}f}".replace("-", "\u2212") if np.isfinite(v) else short(v) for v in column], True
    return [short(v) for v in column], column.dtype.kind in "biuf"


def _places(column: np.ndarray) -> int | None:
    """Decimals with which the largest number has four digits; None where some number would lose all but one of its own."""
    size = np.abs(column[np.isfinite(column) & (column != 0)])
    if not size.size or size.max() >= 1e6 or size.min() < 1e-4:
        return None
    places = max(0, 3 - int(np.floor(np.log10(size.max()))))
    return places if size.min() >= 10.0 ** (1 - places) else None


def value_rows(result: Result) -> list[dict[str, str]]:
    """Every value of a result in one line: a scalar with its interval, or an array by shape and range."""
    return [{"name": n, "about": m.about, "evidence": str(m.evidence), "value": _line(m)} for n, m in result.values.items()]


def _line(measured: Measured) -> str:
    value = measured.value
    if value.ndim == 0:
        return short(value.item()) + _ends(measured)
    shape = " × ".join(map(str, value.shape))
    if value.dtype.kind == "U" or not value.size:
        return f"{shape} {'words' if value.dtype.kind == 'U' else 'numbers'}"
    return f"{shape}, from {short(value.min())} to {short(value.max())}"


def _ends(measured: Measured) -> str:
    if measured.low is None or measured.high is None:
        return ""
    kind = f"{measured.confidence:.0%}: " if measured.evidence is Evidence.ESTIMATED else ""
    return f" ({kind}{short(measured.low.item())} to {short(measured.high.item())})"


def intervals(view: View, result: Result) -> Sequence[str]:
    """The intervals of the numbers in a sentence, written as the sentence writes them; those of estimates have a confidence."""
    found = []
    for _, name, form, _ in string.Formatter().parse(view.text):
        if name and (m := result.values[name]).low is not None and m.high is not None:
            low, high = powers(format(m.low.item(), form or "")), powers(format(m.high.item(), form or ""))
            kind = f"{m.confidence:.0%} interval" if m.evidence is Evidence.ESTIMATED else "bounds"
            found.append(f"{kind} {low} to {high}")
    return found
