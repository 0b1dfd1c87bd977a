"""Forward bounds: intervals and zonotopes, rounded outward.

A zonotope keeps ``value = center + sum_g generators_g e_g + [-slop, slop]`` with |e_g| <= 1 (DeepZ, Singh et al. 2018). ``slop``
collects rounding and whatever is not worth a generator. Evidence: PROVED in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ascertain.certify.lines import Lines, Pair
from ascertain.certify.plan import Plan, Step
from ascertain.certify.region import Region
from ascertain.certify.relaxations import Relaxation, enclose
from ascertain.operators.base import Univariate

__all__ = ["Zonotope", "interval_step", "zonotope_input", "zonotope_step"]


def interval_step(plan: Plan, step: Step, args: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Bounds ``(B, size)`` of a step from bounds of its inputs."""
    unit, tiny = plan.rounding.unit, plan.rounding.tiny
    if step.value is not None:
        return step.value.unsqueeze(0), step.value.unsqueeze(0)
    if step.nonlinear is not None:
        return enclose(step, args, unit, tiny)
    boxed = [(low.reshape(-1, *shape), high.reshape(-1, *shape)) for (low, high), shape in zip(args, step.shapes, strict=True)]
    if step.affine is None or step.magnitude is None:
        raise TypeError("a step that is neither the input nor a constant has an operator")
    batch = max(len(low) for low, _ in boxed)
    centers = [(low + (high - low) / 2).expand(batch, *low.shape[1:]) for low, high in boxed]
    radii = [torch.maximum(high - c, c - low) * (1 + 4 * unit) for c, (low, high) in zip(centers, boxed, strict=True)]
    center = step.affine.forward(*centers).reshape(batch, -1)
    radius = step.magnitude.linear(*radii).reshape(batch, -1)
    if step.gamma > 0:
        total = step.magnitude.forward(*(c.abs() + r for c, r in zip(centers, radii, strict=True))).reshape(batch, -1)
        radius = radius + step.gamma * total + tiny
    if step.error is not None:
        radius = radius + step.error
    margin = 4 * unit * (center.abs() + radius)
    return center - radius - margin, center + radius + margin


@dataclass(frozen=True, eq=False)
class Zonotope:
    """``center`` (B, size), ``generators`` (B, G, size), ``slop`` (B, size). Nodes share one numbering of generators."""

    center: Tensor
    generators: Tensor
    slop: Tensor

    def bounds(self, unit: float) -> tuple[Tensor, Tensor]:
        """Outward bounds ``(B, size)``."""
        spread = self.generators.abs().sum(1)
        radius = (spread + self.slop) * (1 + unit * (self.generators.shape[1] + 8)) + 4 * unit * self.center.abs()
        return self.center - radius, self.center + radius


def zonotope_input(region: Region, unit: float) -> Zonotope:
    """One generator for each coordinate that is free in some set of the batch."""
    radius = region.radius(unit)
    free = torch.nonzero((radius > 0).any(0)).squeeze(1)
    generators = torch.zeros((len(radius), len(free), radius.shape[1]), dtype=radius.dtype, device=radius.device)
    generators[:, torch.arange(len(free), device=free.device), free] = radius[:, free]
    return Zonotope(region.center, generators, torch.zeros_like(radius))


def zonotope_step(plan: Plan, step: Step, args: list[Zonotope], boxes: list[Pair], line: Relaxation | None, total: int) -> Zonotope:
    """A zonotope through one step; ``boxes`` bound and ``line`` relaxes a nonlinear step; ``total`` generators exist so far.

    Steps of several variables forget how their outputs depend on the input: a box.
    """
    unit, tiny = plan.rounding.unit, plan.rounding.tiny
    if step.value is not None:
        value = step.value.unsqueeze(0)
        return Zonotope(value, value.new_zeros((1, 0, step.size)), torch.zeros_like(value))
    if step.affine is None or step.magnitude is None:
        if isinstance(line, Lines) and isinstance(step.nonlinear, Univariate):
            return _bend(plan, step, step.nonlinear, line, args[0], boxes[0], total)
        low, high = enclose(step, boxes, unit, tiny)
        center = low + (high - low) / 2
        radius = torch.maximum(high - center, center - low) * (1 + 4 * unit)
        return Zonotope(center, center.new_zeros((len(center), 0, step.size)), radius)
    batch = max(len(z.center) for z in args)
    gens = max(z.generators.shape[1] for z in args)
    center = step.affine.forward(*_shaped(step, [z.center.expand(batch, -1) for z in args])).reshape(batch, -1)
    padded = [torch.nn.functional.pad(z.generators, (0, 0, 0, gens - z.generators.shape[1])).expand(batch, -1, -1) for z in args]
    generators = step.affine.linear(*_shaped(step, [p.flatten(0, 1) for p in padded])).reshape(batch, gens, step.size)
    slop = step.magnitude.linear(*_shaped(step, [z.slop.expand(batch, -1) for z in args])).reshape(batch, -1)
    if step.gamma > 0:
        reach = [(z.center.abs() + z.generators.abs().sum(1) + z.slop).expand(batch, -1) for z in args]
        slop = slop + step.gamma * step.magnitude.forward(*_shaped(step, reach)).reshape(batch, -1) + tiny
    if step.error is not None:
        slop = slop + step.error
    return Zonotope(center, generators, slop * (1 + 8 * unit))


def _shaped(step: Step, flat: list[Tensor]) -> list[Tensor]:
    return [t.reshape(len(t), *shape) for t, shape in zip(flat, step.shapes, strict=True)]


def _bend(plan: Plan, step: Step, operator: Univariate, line: Lines, z: Zonotope, box: Pair, total: int) -> Zonotope:
    """A nonlinear step: the parallel strip around the upper line; one new generator for each neuron that is curved in the batch."""
    unit, (lower, upper) = plan.rounding.unit, box
    slope = line.upper_slope[:, 0]
    shape = (len(lower), *step.shape)
    low, high = operator.intercepts(lower.reshape(shape), upper.reshape(shape), slope.reshape(shape))
    low, high = low.reshape(len(lower), -1), high.reshape(len(lower), -1)
    room = 16 * unit * (slope.abs() * torch.maximum(lower.abs(), upper.abs()) + torch.maximum(low.abs(), high.abs()))
    height = (high - low) / 2 + room
    reach = z.center.abs() + z.generators.abs().sum(1) + z.slop
    center = slope * z.center + (low + high) / 2
    slop = slope.abs() * z.slop + 8 * unit * (slope.abs() * reach + low.abs() + high.abs()) + plan.rounding.tiny
    generators = slope.unsqueeze(1) * z.generators
    new = torch.nonzero((height > 0).any(0)).squeeze(1)
    grown = generators.new_zeros((len(lower), total + len(new), step.size))
    grown[:, : generators.shape[1]] = generators
    grown[:, total + torch.arange(len(new), device=new.device), new] = height[:, new] * (1 + 4 * unit)
    return Zonotope(center, grown, slop)
