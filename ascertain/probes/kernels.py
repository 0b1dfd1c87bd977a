"""Centred kernel alignment: how alike the similarity matrices of samples are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ascertain.errors import DataError
from ascertain.probes.measure import Measure, centred, square

__all__ = ["CKA"]

GRAM_ROWS = 1500
"""Up to so many rows, products of Gram matrices cost less than products of features."""


@dataclass(frozen=True, eq=False)
class Kernel:
    """Either centred Gram matrices of blocks of samples, of unit norm together, or centred rows where that is smaller."""

    blocks: tuple[np.ndarray, ...] = ()
    rows: np.ndarray | None = None
    squares: np.ndarray | None = None
    """Squared norms of the rows."""
    norm: float = 1.0
    """Root of the rows' inner product with themselves."""
    alignment: float = 0.0
    """Trace of the Gram matrix over its norm, for the mean under re-pairing."""


@dataclass(frozen=True)
class CKA(Measure):
    """Centred kernel alignment, linear or Gaussian, by default with the unbiased HSIC (Kornblith et al., 2019; Song et al., 2012).

    Debiased: the U-statistic HSIC_1, whose mean over re-pairings is 0. ``batch`` sums it over consecutive blocks of so many samples
    before the ratio is taken (Nguyen et al., 2021). The Gaussian's width is ``width`` times the median distance. Invariant to
    orthogonal maps and isotropic scaling. ``chance`` is exact.
    """

    kernel: Literal["linear", "rbf"] = "linear"
    debiased: bool = True
    width: float = 1.0
    batch: int | None = None
    limits: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    def __post_init__(self) -> None:
        if self.kernel not in ("linear", "rbf") or not self.width > 0 or (self.batch is not None and self.batch < 4):
            raise DataError(
                f"CKA(kernel={self.kernel!r}, width={self.width}, batch={self.batch}) is not known; kernel is linear or rbf, width "
                "is positive and a batch holds at least 4 samples."
            )

    @property
    def name(self) -> str:
        return f"{'debiased ' if self.debiased else ''}{self.kernel} CKA"

    @property
    def second_moments(self) -> bool:
        return self.kernel == "linear" and not self.debiased and self.batch is None

    def prepare(self, rows: np.ndarray) -> Kernel:
        x, n = centred(rows), len(rows)
        if self.batch is None and self.kernel == "linear" and n > max(GRAM_ROWS, x.shape[1]):
            squares = np.einsum("ij,ij->i", x, x)
            state = Kernel((), x, squares)
            norm = self._defined(float(np.sqrt(max(self._features(state, state), 0.0))))
            return Kernel((), x, squares, norm, float(squares.sum()) / norm)
        square(self.batch or n, "give CKA(batch=1000), or fewer samples or positions")
        blocks, trace = [], 0.0
        for block in _blocks(x, self.batch or n):
            gram, inner = self._gram(block), 0.0
            if self.debiased:
                gram = _unbiased(gram) / np.sqrt(len(block) * (len(block) - 3.0))
            else:
                gram -= gram.mean(0)
                gram -= gram.mean(1)[:, None]
                inner = float(np.trace(gram))
            blocks.append(gram)
            trace += inner
        norm = self._defined(float(np.sqrt(sum(np.vdot(b, b).real for b in blocks))))
        return Kernel(tuple(b / norm for b in blocks), alignment=trace / norm)

    def _defined(self, norm: float) -> float:
        if not norm > 1e-14:
            raise DataError(f"{self.name} is not defined: all samples are equally alike; give more of them, or another layer.")
        return norm

    def _gram(self, x: np.ndarray) -> np.ndarray:
        gram: np.ndarray = x @ x.T
        if self.kernel == "linear":
            return gram
        norms = np.diag(gram)
        squares = np.maximum(norms[:, None] + norms - 2 * gram, 0.0)
        middle = float(np.median(np.sqrt(squares[np.triu_indices(len(x), 1)])))
        if middle == 0.0:
            raise DataError("half of all pairs of samples coincide, so the median distance is 0; use the linear kernel.")
        out: np.ndarray = np.exp(squares / (-2.0 * (middle * self.width) ** 2))
        return out

    def compare(self, first: Kernel, second: Kernel) -> float:
        if first.rows is not None and second.rows is not None:
            return self._features(first, second) / (first.norm * second.norm)
        if first.rows is not None or second.rows is not None:
            gram, other = (first, second) if second.rows is not None else (second, first)
            y = other.rows
            if y is None:
                raise DataError("no rows are left to compare.")
            return float(np.vdot(y, gram.blocks[0] @ y)) / other.norm * self._scale(len(y))
        return float(sum(np.vdot(a, b) for a, b in zip(first.blocks, second.blocks, strict=True)))

    def table(self, firsts: Sequence[Kernel], seconds: Sequence[Kernel]) -> np.ndarray:
        if any(state.rows is not None for state in (*firsts, *seconds)):
            return super().table(firsts, seconds)
        parts = zip(*(state.blocks for state in firsts), strict=True), zip(*(state.blocks for state in seconds), strict=True)
        out = np.zeros((len(firsts), len(seconds)))
        for mine, theirs in zip(*parts, strict=True):
            flat = np.reshape(mine, (len(firsts), -1))
            out += flat @ (flat if firsts is seconds else np.reshape(theirs, (len(seconds), -1))).T
        return out

    def _scale(self, n: int) -> float:
        """Rows hold plain products; Gram matrices of HSIC_1 were divided by the root of n (n - 3)."""
        return float(1.0 / np.sqrt(n * (n - 3.0))) if self.debiased else 1.0

    def _features(self, first: Kernel, second: Kernel) -> float:
        """Inner product of centred Gram matrices, from features; the row sums of a centred x x' without diagonal are -|x_i|^2."""
        x, y, a, b = first.rows, second.rows, first.squares, second.squares
        if x is None or y is None or a is None or b is None:
            raise DataError("no rows are left to compare.")
        cross, n = x.T @ y, float(len(x))
        plain = float(np.vdot(cross, cross))
        if not self.debiased:
            return plain
        both = float(a @ b) * (1.0 + 2.0 / (n - 2.0))
        return (plain - both + float(a.sum() * b.sum()) / ((n - 1.0) * (n - 2.0))) / (n * (n - 3.0))

    def reorder(self, state: Kernel, order: np.ndarray) -> Kernel:
        if state.rows is not None and state.squares is not None:
            return Kernel((), state.rows[order], state.squares[order], state.norm, state.alignment)
        blocks, start = [], 0
        for block in state.blocks:  # samples change places within their block
            inside = order[(order >= start) & (order < start + len(block))] - start
            blocks.append(block[np.ix_(inside, inside)])
            start += len(block)
        return Kernel(tuple(blocks), alignment=state.alignment)

    def chance(self, first: Kernel, second: Kernel, count: int) -> float | None:
        if self.debiased:
            return 0.0
        return None if len(first.blocks) > 1 else first.alignment * second.alignment / (count - 1)


def _blocks(x: np.ndarray, size: int) -> list[np.ndarray]:
    """Consecutive blocks; a rest of fewer than 4 samples joins the block before it."""
    cuts = list(range(size, len(x), size))
    if cuts and len(x) - cuts[-1] < 4:
        cuts.pop()
    return np.split(x, cuts)


def _unbiased(gram: np.ndarray) -> np.ndarray:
    """The U-centred matrix: zero diagonal and row sums, inner products of which are n (n - 3) HSIC_1."""
    n = len(gram)
    np.fill_diagonal(gram, 0.0)
    sums = gram.sum(0)
    out: np.ndarray = gram - (sums[:, None] + sums) / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(out, 0.0)
    return out
