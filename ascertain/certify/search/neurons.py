"""The neurons that a search may cut: their root bounds, relaxations under cuts, and scores."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ascertain.certify.bounds import Bounded
from ascertain.certify.linear import Relaxations
from ascertain.certify.lines import Curve, Lines, Sloped
from ascertain.certify.plan import Plan, Step
from ascertain.certify.relaxations import Relaxation, relax
from ascertain.certify.search.branching import cut_points, gains
from ascertain.operators.base import Bilinear, Planar, Univariate

__all__ = ["Neurons"]

MOST_PARAMETERS = 20_000
"""Parameters of products and groups beyond which they keep the values that they start with."""
NARROW = 1e-6
"""Ranges of at most this relative width are not cut again."""


class Neurons:
    """All values that feed nonlinear nodes, one after the other in one flat numbering (N in all)."""

    def __init__(self, plan: Plan, bounded: Bounded) -> None:
        self.plan, self.lines = plan, bounded.lines
        below = plan.ancestors[plan.output]
        self.steps: list[Step] = [plan.steps[k] for k in plan.nonlinear if k in below]
        inputs = {z for s in self.steps for z in s.inputs if plan.steps[z].value is None}
        self.nodes: tuple[int, ...] = tuple(sorted(inputs))
        self.sizes: tuple[int, ...] = tuple(plan.steps[z].size for z in self.nodes)
        starts = [0]
        for n in self.sizes:
            starts.append(starts[-1] + n)
        self.place = {z: slice(a, b) for z, a, b in zip(self.nodes, starts, starts[1:], strict=False)}
        empty = torch.zeros((1, 0), dtype=plan.dtype, device=plan.device)
        self.lower, self.upper = (torch.cat([empty, *(bounded.boxes[z][i] for z in self.nodes)], 1) for i in (0, 1))
        self.furthest = torch.maximum(self.lower.abs(), self.upper.abs()).amax(0)
        self.fixed = {z: bounded.boxes[z] for s in self.steps for z in s.inputs if z not in self.place}
        self.consumers = {z: [s for s in self.steps if z in s.inputs] for z in self.nodes}
        self.free = self._free()
        self.parameters = sum(n for _, _, n in self.free)
        self.points = self._cut_points(self.lower, self.upper)
        self.rises = {s.index: self._gains(s) for s in self.steps if isinstance(s.nonlinear, Univariate) and not s.rectifier}

    def _free(self) -> list[tuple[int, str, int]]:
        """Nodes and names of the parameters that are optimised, and how many there are of each."""
        found = [(s.index, name, v.shape[-1]) for s in self.steps for name, v in self.lines[s.index].parameters().items()]
        joint = {s.index for s in self.steps if not isinstance(s.nonlinear, Univariate)}
        if sum(n for k, _, n in found if k in joint) > MOST_PARAMETERS:
            found = [f for f in found if f[0] not in joint]
        return found

    # -- parameters: one flat array (B, S, P) ------------------------------------------------------------------------------------

    def filled(self, alpha: Tensor, lines: Relaxations, lower: Tensor, upper: Tensor) -> dict[tuple[int, str], Tensor]:
        """Parameters by node and name; where they are NaN, or a rectifier is decided, those that suit the bounds by themselves."""
        out = {}
        good: dict[int, dict[str, Tensor]] = {}
        for (k, name, _), part in zip(self.free, alpha.split([n for *_, n in self.free], 2), strict=True):
            step, keep = self.plan.steps[k], ~torch.isnan(part)
            if step.rectifier and step.inputs[0] in self.place:
                here = self.place[step.inputs[0]]
                keep &= ((lower[:, here] < 0) & (upper[:, here] > 0)).unsqueeze(1)
            if k not in good:
                good[k] = _fitting(lines[k], keep)
            out[k, name] = torch.where(keep, part, good[k][name])
        return out

    def joined(self, alpha: dict[tuple[int, str], Tensor], like: Tensor) -> Tensor:
        """The flat array of parameters by node and name."""
        return torch.cat([alpha[k, name] for k, name, _ in self.free], 2) if self.free else like

    def forget(self, alpha: Tensor, neuron: Tensor) -> Tensor:
        """Parameters (B, S, P) with NaN for the functions of one variable that read the neuron (B,) of each domain."""
        out, start = alpha.clone(), 0
        for k, _, n in self.free:
            step = self.plan.steps[k]
            if isinstance(step.nonlinear, Univariate) and step.inputs[0] in self.place:
                local = neuron - self.place[step.inputs[0]].start
                here = torch.nonzero((local >= 0) & (local < n)).squeeze(1)
                out[here, :, start + local[here]] = torch.nan
            start += n
        return out

    # -- bounds and relaxations under cuts ----------------------------------------------------------------------------------------

    def cut(self, index: Tensor, sign: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds (B, N) of every neuron under cuts (B, D)."""
        lower, upper = self.lower.expand(len(index), -1).clone(), self.upper.expand(len(index), -1).clone()
        # a cut of sign 0 is none
        lower.scatter_reduce_(1, index, torch.where(sign > 0, point, -torch.inf), "amax")
        upper.scatter_reduce_(1, index, torch.where(sign < 0, point, torch.inf), "amin")
        return lower, upper

    def _boxes(self, step: Step, lower: Tensor, upper: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(lower[:, self.place[z]], upper[:, self.place[z]]) if z in self.place else self.fixed[z] for z in step.inputs]

    def relaxations(self, lower: Tensor, upper: Tensor, dtype: torch.dtype) -> Relaxations:
        """Relaxations on bounds (B, N): the root's where no domain has other bounds of an input of the node."""
        touched = ((lower > self.lower) | (upper < self.upper)).any(0)
        out: Relaxations = {}
        for s in self.steps:
            line = self.lines[s.index]
            some = [z for z in s.inputs if z in self.place and bool(touched[self.place[z]].any())]
            if not some:
                out[s.index] = line.to(dtype)
            elif isinstance(line, Lines) and line.curve is not None:
                part = self.place[s.inputs[0]]
                out[s.index] = Sloped(_recut(line.curve, lower[:, part], upper[:, part]), **line.parameters()).to(dtype)
            else:
                out[s.index] = relax(s, self._boxes(s, lower, upper), self.plan.rounding.unit).to(dtype)
        return out

    # -- what to cut next ---------------------------------------------------------------------------------------------------------

    def open(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Where a cut can help, (B, N)."""
        wide = upper - lower > NARROW * (1 + torch.maximum(lower.abs(), upper.abs()))
        curved = torch.zeros_like(wide)
        for z in self.nodes:
            part = self.place[z]
            low, high = lower[:, part], upper[:, part]
            for s in self.consumers[z]:
                if isinstance(s.nonlinear, Univariate):
                    shape = (len(low), *s.shape)
                    curved[:, part] |= s.nonlinear.curved(low.reshape(shape), high.reshape(shape)).flatten(1)
                else:
                    curved[:, part] = True
        return wide & curved & torch.isfinite(lower) & torch.isfinite(upper)

    def _operators(self, z: int) -> list[Univariate]:
        return [s.nonlinear for s in self.consumers[z] if isinstance(s.nonlinear, Univariate)]

    def _cut_points(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Where each neuron is best cut, (B, N)."""
        out = torch.zeros_like(lower)
        for z in self.nodes:
            part, operators = self.place[z], self._operators(z)
            if operators and all(o.rectifier for o in operators):
                continue  # at 0
            out[:, part] = cut_points(operators, lower[:, part], upper[:, part])
        return out

    def _gains(self, step: Step) -> tuple[Tensor, Tensor]:
        part = self.place[step.inputs[0]]
        if not isinstance(step.nonlinear, Univariate):
            raise TypeError("only functions of one variable have gains")
        return gains(step.nonlinear, self.lower[:, part], self.upper[:, part], self.points[:, part])

    def scores(
        self,
        lower: Tensor,
        upper: Tensor,
        index: Tensor,
        sign: Tensor,
        rows: dict[int, Tensor],
        slopes: dict[int, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """How much a cut promises (B, N), negative where none is possible, and the point to cut at.

        ``rows`` (B, size) are the coefficients on the outputs of the nonlinear nodes, ``slopes`` the lower ones of rectifiers.
        """
        point = self.points.expand_as(lower).clone()
        score = torch.zeros_like(lower)
        for z in self.nodes:
            part = self.place[z]
            low, high = lower[:, part], upper[:, part]
            local = index - part.start
            which = torch.nonzero((local >= 0) & (local < part.stop - part.start) & (sign != 0))
            at, flat = which[:, 0], local[which[:, 0], which[:, 1]]
            operators = self._operators(z)
            if len(at) and not (operators and all(o.rectifier for o in operators)):
                point[at, part.start + flat] = cut_points(operators, low[at, flat], high[at, flat])
            for s in self.consumers[z]:
                if s.index not in rows:
                    continue
                a = rows[s.index].to(lower.dtype)
                if s.rectifier:
                    score[:, part] += _rectifier_score(a, low, high, slopes[s.index].to(lower.dtype))
                elif isinstance(s.nonlinear, Univariate):
                    # the area between a curve and its lines falls with the square of the width, about
                    shrunk = ((high - low) / (self.upper - self.lower)[:, part].clamp_min(1e-30)).square()
                    rise, fall = (t * shrunk for t in self.rises[s.index])
                    if len(at):
                        new = gains(s.nonlinear, low[at, flat], high[at, flat], point[at, part.start + flat])
                        rise[at, flat], fall[at, flat] = new
                    score[:, part] += 2 * (a.clamp(min=0) * rise - a.clamp(max=0) * fall)
                else:
                    score[:, part] += self._joint_score(s, z, a, lower, upper)
        point = torch.where((point > lower) & (point < upper), point, lower + (upper - lower) / 2)
        return torch.where(self.open(lower, upper), score, -1.0), point

    def _joint_score(self, step: Step, z: int, a: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """Halving one factor of a product halves the gap of its planes; in a group, halving an entry is taken to do the same."""
        widths = [high - low for low, high in self._boxes(step, lower, upper)]
        size = a.abs().reshape(len(a), *step.shape)
        if isinstance(step.nonlinear, Bilinear):
            mine, yours, out = step.nonlinear.terms
            k = step.inputs.index(z)
            own, other = ((mine, yours), (yours, mine))[k]
            far = widths[1 - k].reshape(-1, *step.shapes[1 - k]).expand(len(a), *step.shapes[1 - k])
            spread = torch.einsum(f"B{out},B{other}->B{own}", size, far).reshape(len(a), -1)
            return widths[k] * spread / 8
        if not isinstance(step.nonlinear, Planar):
            raise TypeError("only products and groups are joint")
        axis = step.nonlinear.axis + 1
        each = size.sum(axis, keepdim=True) / max(1, step.shape[axis - 1])
        return (widths[0].reshape(-1, *step.shapes[0]) * each).flatten(1) / 8


def _rectifier_score(a: Tensor, low: Tensor, high: Tensor, slope: Tensor) -> Tensor:
    """The height of the triangle above, and the larger of the two gaps below (Bunel et al. 2020, as refined for free slopes)."""
    crossing = (low < 0) & (high > 0)
    height = torch.where(crossing, -low * high / (high - low).clamp_min(1e-30), 0.0)
    below = torch.where(crossing, torch.maximum((1 - slope) * high, -slope * low), 0.0)
    return -a.clamp(max=0) * height + 0.5 * a.clamp(min=0) * below


def _recut(curve: Curve, lower: Tensor, upper: Tensor) -> Curve:
    """A curve on bounds (B, n); slopes stay within the range of its own, which the rounding charges count with."""
    left, right = (t.reshape(len(t), 1, *curve.shape) for t in (lower, upper))
    flattest, steepest = (t.flatten(2) for t in curve.operator.slope_range(left, right))
    most = curve.flattest + curve.span
    flattest, steepest = torch.fmin(torch.fmax(flattest, curve.flattest), most), torch.fmin(steepest, most)
    return replace(
        curve, lower=lower.unsqueeze(1), upper=upper.unsqueeze(1), flattest=flattest, span=(steepest - flattest).clamp(min=0)
    )


def _fitting(line: Relaxation, known: Tensor) -> dict[str, Tensor]:
    """Parameters that suit the bounds by themselves, at least where they are not ``known`` (B, S, n)."""
    own = line.parameters()
    if not isinstance(line, Sloped):
        return own
    domain, neuron = torch.nonzero(~known.all(1), as_tuple=True)
    found = {}
    for (name, value), good in zip(own.items(), line.curve.good(domain, neuron), strict=True):
        found[name] = value.expand(len(known), -1, -1).clone()
        found[name][domain, :, neuron] = good.unsqueeze(1)
    return found
