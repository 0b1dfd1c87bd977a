"""A network on one input set, reduced to what is still undecided there.

On a region most rectifiers are stable, that is, linear. Substituting them leaves z = L v + G x + b +- e over the free inputs x and
the outputs v of the neurons that are still curved; e bounds the rounding of the substitution. The reduced network is a `Plan`
again, so every method works on it, at a cost that depends on the number of curved neurons only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ascertain.certify.bounds import Bounded
from ascertain.certify.dense import DenseForm, DenseLayer
from ascertain.certify.linear import Boxes, Charges, charges
from ascertain.certify.plan import Plan, Step
from ascertain.certify.region import Ball, Region
from ascertain.certify.rounding import SINGLE
from ascertain.operators.base import Affine, Array, Shape, Univariate

__all__ = ["Joint", "Reduced", "reduce_plan"]


@dataclass(frozen=True, eq=False)
class Joint(Affine):
    """y = sum_j weights[j] x_j + bias on flat values; weights[j] (out, in_j)."""

    weights: tuple[Array, ...]
    bias: Array

    def infer(self, *shapes: Shape) -> Shape:
        return (len(self.bias),)

    def linear(self, *inputs: Array) -> Array:
        return sum(x @ w.T for x, w in zip(inputs, self.weights, strict=True))

    def forward(self, *inputs: Array) -> Array:
        return self.linear(*inputs) + self.bias

    def adjoint(self, gradient: Array, *shapes: Shape) -> tuple[Array, ...]:
        return tuple(gradient @ w for w in self.weights)

    def magnitude(self) -> Affine:
        return Joint(tuple(abs(w) for w in self.weights), abs(self.bias))

    def terms(self, *shapes: Shape) -> int:
        return max(len(self.bias), sum(int(w.shape[1]) for w in self.weights)) + 1


@dataclass(frozen=True, eq=False)
class Reduced:
    """The reduced plan over the free coordinates; its output is the margins ``rows . y - limits`` that were asked for."""

    plan: Plan
    fast: Plan
    region: Region
    boxes: Boxes
    free: Tensor
    fixed: Tensor

    @property
    def work(self) -> float:
        """Multiply-adds of one pass of one row."""
        return float(sum(w.numel() for s in self.plan.steps if isinstance(s.affine, Joint) for w in s.affine.weights))

    def inputs(self, points: Tensor) -> Tensor:
        """Inputs (K, n) of the original network for points (K, free) of the reduced one."""
        out = self.fixed.expand(len(points), -1).clone()
        out[:, self.free] = points.to(out.dtype)
        return out

    def dense(self) -> DenseForm | None:
        """The reduced network as dense layers for the compiled kernels; None where a nonlinearity is not a rectifier."""
        place = {self.plan.input: 0}
        layers: list[DenseLayer] = []
        for s in self.plan.steps:
            if isinstance(s.affine, Joint) and s.error is not None:
                blocks = tuple(np.asarray(w.cpu().numpy()) for w in s.affine.weights)
                sources = tuple(place[i] for i in s.inputs)
                layers.append(
                    DenseLayer(sources, blocks, (None,) * len(blocks), s.affine.bias.cpu().numpy(), s.error.cpu().numpy())
                )
            elif s.nonlinear is not None:
                if not s.rectifier:
                    return None
                place[s.index] = len(layers)
        return DenseForm(len(self.free), tuple(layers), tuple((k, self.plan.steps[k].size) for k in self.plan.nonlinear))


@dataclass(eq=False)
class _Forms:
    """Rows of linear forms over the free inputs and the curved neurons of each node, with constants and rounding errors."""

    inputs: Tensor
    neurons: dict[int, Tensor]
    constant: Tensor
    error: Tensor


def _curved(plan: Plan, bounded: Bounded) -> dict[int, Tensor]:
    """For each nonlinear node the positions that stay variables: undecided rectifiers, and all neurons of other kinds."""
    found: dict[int, Tensor] = {}
    for k in plan.nonlinear:
        if k not in plan.ancestors[plan.output]:
            continue
        step = plan.steps[k]
        lower, upper = (t[0] for t in bounded.boxes[step.inputs[0]])
        keep = (lower < 0) & (upper > 0) if step.rectifier else torch.ones_like(lower, dtype=torch.bool)
        found[k] = torch.nonzero(keep).squeeze(1)
    return found


def _substitute(plan: Plan, bounded: Bounded, curved: dict[int, Tensor], charge: Charges, start: int, rows: Tensor) -> _Forms:
    """Rows (S, size of start) as linear forms: through affine maps and stable rectifiers, up to curved neurons and the input."""
    pending = {start: rows}
    constant, error = rows.new_zeros(len(rows)), rows.new_zeros(len(rows))
    neurons: dict[int, Tensor] = {}
    for s in plan.order(start):
        a = pending.get(s.index)
        if a is None or s.index == plan.input:
            continue
        del pending[s.index]
        error = error + a.abs() @ charge.weights[s.index]
        if s.value is not None:
            constant = constant + a @ s.value
        elif s.affine is not None:
            if s.offset is not None:
                constant = constant + a @ s.offset
            for i, g in zip(s.inputs, s.affine.adjoint(a.reshape(-1, *s.shape), *s.shapes), strict=True):
                flat = g.reshape(len(rows), -1)
                pending[i] = pending[i] + flat if i in pending else flat
        else:
            neurons[s.index] = a[:, curved[s.index]]
            z = s.inputs[0]
            on = (bounded.boxes[z][0][0] >= 0).to(a.dtype)
            if not s.rectifier:
                on = torch.zeros_like(on)
            on[curved[s.index]] = 0.0
            pending[z] = pending[z] + a * on if z in pending else a * on
    inputs = pending.get(plan.input, rows.new_zeros((len(rows), plan.steps[plan.input].size)))
    return _Forms(inputs, neurons, constant, error + inputs.abs() @ charge.weights[plan.input])


def reduce_plan(
    plan: Plan,
    region: Region,
    bounded: Bounded,
    rows: Tensor,
    limits: Tensor,
    *,
    limit: int,
    check: Callable[[], None] = lambda: None,
) -> Reduced | None:
    """The network on one set with outputs ``rows . y - limits``, rows (S, n_out); None when over ``limit`` matrix entries.

    None, too, where nonlinearities of other kinds are more than a tenth of it: they all stay, and structure is worth more.
    """
    smooth = sum(plan.steps[k].size for k in plan.nonlinear if not plan.steps[k].rectifier)
    every = sum(plan.steps[k].size for k in plan.nonlinear)
    if smooth > 0.1 * every or any(not isinstance(plan.steps[k].nonlinear, Univariate) for k in plan.nonlinear):
        return None
    curved = _curved(plan, bounded)
    free = torch.nonzero(region.upper[0] > region.lower[0]).squeeze(1)
    total = sum(len(i) for i in curved.values())
    if (total + len(rows)) * (len(free) + total) > limit:
        return None
    charge = charges(plan, region, bounded.boxes, bounded.lines, plan.output, bounded.charge)
    fixed = region.center.clone()
    still = torch.ones_like(fixed[0], dtype=torch.bool)
    still[free] = False
    steps: list[Step] = [_blank(0, (), (), len(free))]
    where = {plan.input: 0}
    boxes: Boxes = {}

    def joint(start: int, asked: list[Tensor], level: Tensor) -> int:
        forms = []
        for part in asked:
            check()
            forms.append(_substitute(plan, bounded, curved, charge, start, part))
        inputs = torch.cat([f.inputs for f in forms])
        sources = [k for k in where if k == plan.input or any(bool((f.neurons[k] != 0).any()) for f in forms if k in f.neurons)]
        weights = [inputs[:, free] if k == plan.input else torch.cat([f.neurons[k] for f in forms]) for k in sources]
        constant = torch.cat([f.constant for f in forms]) - level + inputs[:, still] @ fixed[0, still]
        error = torch.cat([f.error for f in forms]) + plan.rounding.gamma(int(still.sum()) + 4) * (
            constant.abs() + level.abs() + inputs[:, still].abs() @ fixed[0, still].abs()
        )
        index = len(steps)
        steps.append(_affine(index, tuple(where[k] for k in sources), Joint(tuple(weights), constant), error, plan))
        return index

    for k, index in curved.items():
        if len(index) == 0:
            continue
        source = plan.steps[k].inputs[0]
        unit = torch.zeros((len(index), plan.steps[source].size), dtype=plan.dtype, device=plan.device)
        unit[torch.arange(len(index), device=plan.device), index] = 1.0
        z = joint(source, list(unit.split(512)), unit.new_zeros(len(index)))
        boxes[z] = (bounded.boxes[source][0][:, index], bounded.boxes[source][1][:, index])
        where[k] = len(steps)
        steps.append(_curve(len(steps), z, plan.steps[k], index))
    output = joint(plan.output, [rows], limits)
    ball = None if region.ball is None or len(free) == 0 else Ball(region.ball.center[free], region.ball.radius, region.ball.p)
    small = Region(region.lower[:, free], region.upper[:, free], ball)
    exact = Plan(tuple(steps), 0, output, plan.dtype, plan.device, plan.rounding)
    return Reduced(exact, _single(exact), small, boxes, free, fixed)


def _blank(index: int, inputs: tuple[int, ...], shapes: tuple[Shape, ...], size: int) -> Step:
    return Step(index, inputs, shapes, (size,), size)


def _affine(index: int, inputs: tuple[int, ...], joint: Joint, error: Tensor, plan: Plan) -> Step:
    shapes = tuple((w.shape[1],) for w in joint.weights)
    size = len(joint.bias)
    gamma = plan.rounding.gamma(joint.terms())
    return Step(index, inputs, shapes, (size,), size, joint, joint.magnitude(), joint.bias, gamma, error=error)


def _curve(index: int, z: int, step: Step, positions: Tensor) -> Step:
    """A nonlinear step on some positions; parameters that vary over positions are cut accordingly."""
    operator = step.operator
    size = len(positions)
    cut = operator.convert(lambda p: p.expand(step.shape).reshape(-1)[positions] if p.ndim else p)
    return Step(index, (z,), ((size,),), (size,), size, nonlinear=cut)  # type: ignore[arg-type]


def _single(plan: Plan) -> Plan:
    """The plan in single precision, for optimisation only."""
    cast = lambda t: None if t is None else t.to(torch.float32)  # noqa: E731
    steps = []
    for s in plan.steps:
        if isinstance(s.affine, Joint):
            joint = Joint(tuple(w.to(torch.float32) for w in s.affine.weights), s.affine.bias.to(torch.float32))
            steps.append(
                Step(
                    s.index, s.inputs, s.shapes, s.shape, s.size, joint, joint.magnitude(), joint.bias, SINGLE.gamma(joint.terms())
                )
            )
        else:
            operator = None if s.nonlinear is None else s.nonlinear.convert(cast)
            steps.append(Step(s.index, s.inputs, s.shapes, s.shape, s.size, nonlinear=operator))
    return Plan(tuple(steps), plan.input, plan.output, torch.float32, plan.device, SINGLE)
