"""Error bounds of floating-point sums, valid for every order of summation and with fused multiply-add."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DOUBLE", "SINGLE", "Rounding"]


@dataclass(frozen=True)
class Rounding:
    """The constants of one floating-point format."""

    unit: float
    """Unit roundoff u: fl(a op b) = (a op b)(1 + d) with |d| <= u."""
    tiny: float
    """Above every absolute error that underflow adds to one operation, with room for sums of a billion terms."""

    def gamma(self, terms: int) -> float:
        """Relative error n u / (1 - n u) of a sum of n products, with room for the rounding of the bound itself."""
        n = terms + 4
        if n * self.unit > 0.1:
            raise OverflowError(f"a sum of {terms} terms has no useful error bound in this precision")
        return 1.01 * n * self.unit / (1.0 - n * self.unit)


DOUBLE = Rounding(2.0**-53, 1e-290)
SINGLE = Rounding(2.0**-24, 1e-30)
