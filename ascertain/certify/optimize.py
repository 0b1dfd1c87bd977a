"""Optimised lower bounds: parameters of relaxations (alpha) and multipliers (beta) of split constraints, by projected ascent.

The bound is piecewise smooth in alpha and beta, and its gradient has a closed form (no autograd tape). Let x* minimise the final
row and zhat be the values of one forward sweep through the SELECTED lines at x*. With respect to the slope of a lower line the
derivative is max(A_i, 0) (zhat_i - p_i), for the row's coefficient A_i on neuron i and the point p_i where the line touches its
function; with respect to the multiplier of a split s (z_i - p) >= 0 it is s (p - zhat_i). So a step costs one backward and one
forward sweep. Any alpha in [0, 1] and beta >= 0 give a sound bound (Xu et al. 2021, Wang et al. 2021), so this file may compute in
single precision; what is claimed is re-evaluated by `linear.backward` with charges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ascertain.certify.linear import Relaxations, Swept, backward
from ascertain.certify.plan import Plan
from ascertain.certify.region import Region

__all__ = ["Multipliers", "Slopes", "Splits", "optimize", "selected_values"]


Slopes = dict[tuple[int, str], Tensor]
"""Free parameters of relaxations in [0, 1], ``(B, S, n)``, by node and name."""


@dataclass(eq=False)
class Splits:
    """Constraints sign (z - point) >= 0 on values of nodes, up to D for each member of a batch: ``index, sign, point`` (B, D).

    ``index`` counts through the values of ``nodes`` one after the other; a sign of 0 says that there is none.
    """

    nodes: tuple[int, ...]
    sizes: tuple[int, ...]
    index: Tensor
    sign: Tensor
    point: Tensor

    def shift(self, beta: Tensor) -> dict[int, Tensor]:
        """What multipliers (B, S, D) add to the coefficients at each node."""
        flat = beta.new_zeros((*beta.shape[:2], sum(self.sizes)))
        flat.scatter_add_(2, self.index.unsqueeze(1).expand_as(beta), -beta * self.sign.unsqueeze(1))
        touched = torch.zeros(sum(self.sizes), dtype=torch.bool, device=beta.device)
        touched[self.index[self.sign != 0]] = True
        pairs = zip(self.nodes, flat.split(self.sizes, 2), touched.split(self.sizes), strict=True)
        return {z: part for z, part, some in pairs if bool(some.any())}

    def level(self, beta: Tensor) -> Tensor:
        """What multipliers add to the bound, (B, S)."""
        return (beta * (self.sign * self.point).unsqueeze(1)).sum(-1)

    def gradient(self, values: dict[int, Tensor], shape: torch.Size) -> Tensor:
        """Derivative of the bound with respect to the multipliers, from the values (B, S, size) of the nodes."""
        parts = [values[z].expand(*shape[:2], n) if z in values else None for z, n in zip(self.nodes, self.sizes, strict=True)]
        first = next((p for p in parts if p is not None), None)
        if first is None:
            return torch.zeros(shape, dtype=self.point.dtype, device=self.point.device)
        flat = torch.cat([first.new_zeros((*shape[:2], n)) if p is None else p for p, n in zip(parts, self.sizes, strict=True)], 2)
        z = flat.gather(2, self.index.unsqueeze(1).expand(shape))
        return self.sign.unsqueeze(1) * (self.point.unsqueeze(1) - z)


@dataclass(eq=False)
class Multipliers:
    """Free parameters of the relaxations, and multipliers ``beta`` (B, S, D) of split constraints."""

    alpha: Slopes
    beta: Tensor | None = None
    splits: Splits | None = None

    @classmethod
    def start(cls, plan: Plan, lines: Relaxations, start: int, batch: int, count: int) -> Multipliers:
        """Parameters as the relaxations have them, no splits."""
        return cls(
            {
                (k, name): value.expand(batch, count, -1).clone()
                for k in plan.nonlinear
                if k in plan.ancestors[start]
                for name, value in lines[k].parameters().items()
            }
        )

    def applied(self, lines: Relaxations) -> Relaxations:
        """The relaxations with these parameters."""
        own: dict[int, dict[str, Tensor]] = {}
        for (k, name), value in self.alpha.items():
            own.setdefault(k, {})[name] = value
        return {k: line.adjusted(own[k]) if k in own else line for k, line in lines.items()}

    def shift(self) -> dict[int, Tensor]:
        """What split constraints add to the coefficients at the inputs of nonlinear nodes."""
        return {} if self.beta is None or self.splits is None else self.splits.shift(self.beta)

    def level(self) -> Tensor | float:
        """What split constraints add to the bound."""
        return 0.0 if self.beta is None or self.splits is None else self.splits.level(self.beta)

    def to(self, dtype: torch.dtype) -> Multipliers:
        """The same in another precision."""
        splits = self.splits
        if splits is not None:
            splits = replace(splits, sign=splits.sign.to(dtype), point=splits.point.to(dtype))
        return Multipliers(
            {k: v.to(dtype) for k, v in self.alpha.items()}, None if self.beta is None else self.beta.to(dtype), splits
        )


def selected_values(plan: Plan, swept: Swept, start: int, x: Tensor, wanted: Sequence[int] = ()) -> dict[int, Tensor]:
    """Values ``(B, S, size)`` of the inputs of nonlinear nodes, and of ``wanted`` ones, at x ``(B, S, n)``.

    Computed through the relaxations that `backward` selected.
    """
    batch, count = x.shape[:2]
    out: dict[int, Tensor] = {plan.input: x}
    asked = {i for k in swept.kept for i in plan.steps[k].inputs} | {z for z in wanted if z in plan.ancestors[start]}
    needed = frozenset().union(*(plan.ancestors[z] for z in asked)) if asked else frozenset()
    for s in plan.steps[: start + 1]:
        if s.index == plan.input or s.index not in needed:
            continue
        if s.value is not None:
            out[s.index] = s.value.expand(batch, count, -1)
        elif s.affine is not None:
            args = [out[i].reshape(-1, *shape) for i, shape in zip(s.inputs, s.shapes, strict=True)]
            out[s.index] = s.affine.forward(*args).reshape(batch, count, -1)
        else:
            out[s.index] = swept.lines[s.index].value(swept.kept[s.index], [out[i] for i in s.inputs])
    return {i: out[i] for i in asked}


@dataclass(eq=False)
class _Adam:
    """Adam (Kingma and Ba 2015) for ascent, one state per tensor."""

    rate: float
    first: Slopes
    second: Slopes

    def move(self, key: tuple[int, str], value: Tensor, gradient: Tensor, step: int, rate: float) -> None:
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
    lines: Relaxations,
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
    beta, splits = multipliers.beta, multipliers.splits
    best = Multipliers({k: v.clone() for k, v in multipliers.alpha.items()}, None if beta is None else beta.clone(), splits)
    top: Tensor | None = None
    found: Swept | None = None
    for step in range(1, steps + 2):
        swept = backward(plan, region, multipliers.applied(lines), start, rows, shift=multipliers.shift(), keep=True)
        lower = swept.lower + multipliers.level()
        if top is None or found is None:
            top, found = lower.clone(), replace(swept, lower=lower)
        else:
            better = lower > top
            top = torch.where(better, lower, top)
            _keep(best, multipliers, better)
            found = replace(swept, lower=top)
        x = region.minimiser(swept.rows)
        check()
        if step > steps or (enough is not None and bool((top >= enough).any(1).all())):
            break
        values = selected_values(plan, swept, start, x, () if splits is None else splits.nodes)
        speed = rate * decay**step
        for k, a in swept.kept.items():
            if not any(key[0] == k for key in multipliers.alpha):
                continue
            line = swept.lines[k]
            for name, slope in line.gradients(a, [values[i] for i in plan.steps[k].inputs]).items():
                adam.move((k, name), multipliers.alpha[k, name], slope, step, speed * line.pace)
                multipliers.alpha[k, name].clamp_(0.0, 1.0)
        if beta is not None and splits is not None:
            adam.move((-1, "beta"), beta, splits.gradient(values, beta.shape), step, speed)
            beta.clamp_(min=0.0).mul_((splits.sign != 0).unsqueeze(1))
    if found is None:
        raise ValueError("steps must not be negative")
    return found, best


def _keep(best: Multipliers, now: Multipliers, better: Tensor) -> None:
    """Copies the multipliers of the rows that improved."""
    mask = better.unsqueeze(-1)
    for k in best.alpha:
        best.alpha[k] = torch.where(mask, now.alpha[k], best.alpha[k])
    if best.beta is not None and now.beta is not None:
        best.beta = torch.where(mask, now.beta, best.beta)
