"""Optimised lower bounds: slopes (alpha) of lower lines and multipliers (beta) of split constraints, by projected gradient ascent.

The bound is piecewise smooth in alpha and beta, and its gradient has a closed form (no autograd tape): with x* the minimiser of the
final row and zhat the values of one forward sweep through the SELECTED lines at x*, d bound / d alpha_i = max(A_i, 0) zhat_i and
d bound / d beta_i = -s_i zhat_i, where A_i is the row's coefficient on neuron i and s_i the sign of its split. One backward and one
forward sweep per step. Any alpha in [0, 1] and beta >= 0 give a sound bound (Xu et al. 2021, Wang et al. 2021), so this file may
compute in single precision; what is claimed is re-evaluated by `linear.backward` with charges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ascertain.certify.linear import Lines, Swept, backward
from ascertain.certify.plan import Plan
from ascertain.certify.region import Region

__all__ = ["Multipliers", "optimize", "selected_values"]


@dataclass(eq=False)
class Multipliers:
    """Free parameters per nonlinear node, ``(B, S, size)`` each, and the signs of splits ``(B, 1, size)`` in {-1, 0, 1}."""

    alpha: dict[int, Tensor]
    beta: dict[int, Tensor]
    signs: dict[int, Tensor]

    @classmethod
    def start(cls, plan: Plan, lines: dict[int, Lines], start: int, batch: int, count: int) -> Multipliers:
        """Slopes as the lines have them, no splits."""
        alpha = {
            k: lines[k].lower_slope.expand(batch, count, -1).clone()
            for k in plan.nonlinear
            if k in plan.ancestors[start] and plan.steps[k].operator.rectifier  # type: ignore[attr-defined]
        }
        return cls(alpha, {}, {})

    def applied(self, lines: dict[int, Lines]) -> dict[int, Lines]:
        """The lines with these slopes."""
        return {k: replace(line, lower_slope=self.alpha[k]) if k in self.alpha else line for k, line in lines.items()}

    def shift(self) -> dict[int, Tensor]:
        """What split constraints add to the coefficients at the inputs of nonlinear nodes."""
        return {k: -b * self.signs[k] for k, b in self.beta.items()}

    def to(self, dtype: torch.dtype) -> Multipliers:
        """The same in another precision."""
        return Multipliers(*({k: v.to(dtype) for k, v in d.items()} for d in (self.alpha, self.beta, self.signs)))


def selected_values(plan: Plan, lines: dict[int, Lines], swept: Swept, start: int, x: Tensor) -> dict[int, Tensor]:
    """Values ``(B, S, size)`` of the inputs of nonlinear nodes at x ``(B, S, n)``, through the lines that `backward` selected."""
    batch, count = x.shape[:2]
    out: dict[int, Tensor] = {plan.input: x}
    wanted = {plan.steps[k].inputs[0] for k in swept.kept}
    needed = frozenset().union(*(plan.ancestors[z] for z in wanted)) if wanted else frozenset()
    for s in plan.steps[: start + 1]:
        if s.index == plan.input or s.index not in needed:
            continue
        if s.value is not None:
            out[s.index] = s.value.expand(batch, count, -1)
        elif s.affine is not None:
            args = [out[i].reshape(-1, *shape) for i, shape in zip(s.inputs, s.shapes, strict=True)]
            out[s.index] = s.affine.forward(*args).reshape(batch, count, -1)
        else:
            line, z = lines[s.index], out[s.inputs[0]]
            below = line.lower_slope * z
            if line.lower_intercept is not None:
                below = below + line.lower_intercept
            coefficient = swept.kept.get(s.index)
            above = line.upper_slope * z + line.upper_intercept
            out[s.index] = above if coefficient is None else torch.where(coefficient >= 0, below, above)
    return {k: out[plan.steps[k].inputs[0]] for k in swept.kept}


@dataclass(eq=False)
class _Adam:
    """Adam (Kingma and Ba 2015) for ascent, one state per tensor."""

    rate: float
    first: dict[tuple[str, int], Tensor]
    second: dict[tuple[str, int], Tensor]

    def move(self, key: tuple[str, int], value: Tensor, gradient: Tensor, step: int, rate: float) -> None:
        if key not in self.first:
            self.first[key], self.second[key] = torch.zeros_like(value), torch.zeros_like(value)
        m, v = self.first[key], self.second[key]
        m.mul_(0.9).add_(gradient, alpha=0.1)
        v.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        scale = rate * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
        value.addcdiv_(m, v.sqrt().add_(1e-12), value=scale)


def optimize(
    plan: Plan,
    region: Region,
    lines: dict[int, Lines],
    start: int,
    rows: Tensor,
    multipliers: Multipliers,
    *,
    steps: int,
    rate: float = 0.1,
    decay: float = 0.98,
    enough: Tensor | None = None,
    check: Callable[[], None] = lambda: None,
) -> tuple[Swept, Multipliers]:
    """Raises the lower bounds of ``rows`` (b, S, size) and returns the best pass and its multipliers.

    ``enough`` (B, S): stop when every member of the batch has a row at or above it. ``check`` is called
    at every step and may raise to end the work.
    """
    adam = _Adam(rate, {}, {})
    best = Multipliers(
        {k: v.clone() for k, v in multipliers.alpha.items()}, {k: v.clone() for k, v in multipliers.beta.items()}, multipliers.signs
    )
    top: Tensor | None = None
    found: Swept | None = None
    for step in range(1, steps + 2):
        applied = multipliers.applied(lines)
        swept = backward(plan, region, applied, start, rows, shift=multipliers.shift(), keep=True)
        if top is None or found is None:
            top, found = swept.lower.clone(), swept
        else:
            better = swept.lower > top
            top = torch.where(better, swept.lower, top)
            _keep(best, multipliers, better)
            found = replace(swept, lower=top)
        x = region.minimiser(swept.rows)
        check()
        if step > steps or (enough is not None and bool((top >= enough).any(1).all())):
            break
        values = selected_values(plan, applied, swept, start, x)
        speed = rate * decay**step
        for k, a in multipliers.alpha.items():
            if k in values:
                adam.move(("alpha", k), a, swept.kept[k].clamp(min=0) * values[k], step, speed)
                a.clamp_(0.0, 1.0)
        for k, b in multipliers.beta.items():
            if k in values:
                sign = multipliers.signs[k]
                adam.move(("beta", k), b, -sign * values[k], step, speed)
                b.clamp_(min=0.0).mul_(sign != 0)
    if found is None:
        raise ValueError("steps must not be negative")
    return found, best


def _keep(best: Multipliers, now: Multipliers, better: Tensor) -> None:
    """Copies the multipliers of the rows that improved."""
    mask = better.unsqueeze(-1)
    for old, new in ((best.alpha, now.alpha), (best.beta, now.beta)):
        for k in old:
            old[k] = torch.where(mask, new[k], old[k])
