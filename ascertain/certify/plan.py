"""A lowered graph compiled for batched torch: every affine map and its rounding, every nonlinearity, in one flat list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ascertain.certify.memory import keep_buffers
from ascertain.certify.rounding import DOUBLE, SINGLE, Rounding
from ascertain.errors import UnsupportedError
from ascertain.graph.graph import Constant, Graph
from ascertain.operators.base import Affine, Bilinear, Operator, Planar, Shape, Univariate

__all__ = ["Plan", "Step"]


@dataclass(frozen=True, eq=False)
class Step:
    """One node of the graph. ``affine`` or ``nonlinear`` is set, or neither (the input, a constant)."""

    index: int
    inputs: tuple[int, ...]
    shapes: tuple[Shape, ...]
    shape: Shape
    size: int
    affine: Affine | None = None
    magnitude: Affine | None = None
    offset: Tensor | None = None
    """Flat offset of an affine map; None where it is zero."""
    gamma: float = 0.0
    """Relative error of one application of the affine map in this precision (see `Affine.terms`)."""
    error: Tensor | None = None
    """Bound of |true value - value of the stored affine map| on the region, where the map itself was rounded."""
    nonlinear: Univariate | Bilinear | Planar | None = None
    longest: int = 1
    """Terms of the longest sum by which a nonlinear step joins its inputs or their coefficients."""
    value: Tensor | None = None
    """Flat value of a constant."""

    @property
    def operator(self) -> Operator:
        """The operator of a step that has one."""
        found = self.affine if self.affine is not None else self.nonlinear
        if found is None:
            raise TypeError("an input or a constant has no operator")
        return found

    @property
    def rectifier(self) -> bool:
        """Whether the step is max(x, 0)."""
        return isinstance(self.nonlinear, Univariate) and self.nonlinear.rectifier


@dataclass(frozen=True, eq=False)
class Plan:
    """Steps in topological order. Arrays are ``(B, size)`` per node, rows ``(B, S, size)``."""

    steps: tuple[Step, ...]
    input: int
    output: int
    dtype: torch.dtype
    device: torch.device
    rounding: Rounding

    @classmethod
    def compile(cls, graph: Graph, dtype: torch.dtype = torch.float64, device: str | torch.device = "cpu") -> Plan:
        """Compiles a lowered graph; raises UnsupportedError listing every node for which no family states bounds."""
        keep_buffers()
        target = torch.device(device)
        rounding = DOUBLE if dtype == torch.float64 else SINGLE

        def tensor(array: np.ndarray) -> Tensor:
            t = torch.from_numpy(np.array(array))
            return t.to(target, dtype) if t.dtype.is_floating_point else t.to(target)

        steps: list[Step] = []
        unknown: list[tuple[str, str]] = []
        for i, node in enumerate(graph.nodes):
            shapes = graph.shapes(node)
            common = dict(
                index=i, inputs=node.inputs, shapes=shapes, shape=node.shape, size=int(np.prod(node.shape, dtype=np.int64))
            )
            operator = node.operator
            if i == graph.input:
                steps.append(Step(**common))  # type: ignore[arg-type]
            elif isinstance(operator, Constant):
                steps.append(Step(**common, value=tensor(operator.value).reshape(-1)))  # type: ignore[arg-type]
            elif isinstance(operator, Affine):
                affine = operator.convert(tensor)
                zero = affine.forward(*(torch.zeros((1, *s), dtype=dtype, device=target) for s in shapes)).reshape(-1)
                terms = operator.terms(*shapes)
                steps.append(
                    Step(
                        **common,  # type: ignore[arg-type]
                        affine=affine,
                        magnitude=affine.magnitude(),
                        offset=zero if bool((zero != 0).any()) else None,
                        gamma=rounding.gamma(terms) if terms else 0.0,
                    )
                )
            elif isinstance(operator, (Univariate, Bilinear, Planar)):
                longest = _longest(operator, shapes)
                steps.append(Step(**common, nonlinear=operator.convert(tensor), longest=longest))  # type: ignore[arg-type]
            else:
                unknown.append((operator.name, node.name))
        if unknown:
            names = ", ".join(f"{op} at {name}" for op, name in unknown)
            raise UnsupportedError(f"No bounds for {names}. Rewrite these with supported operators.", tuple(unknown))
        return cls(tuple(steps), graph.input, graph.output, dtype, target, rounding)

    @cached_property
    def nonlinear(self) -> tuple[int, ...]:
        """Indices of the nonlinear steps."""
        return tuple(s.index for s in self.steps if s.nonlinear is not None)

    @cached_property
    def consumers(self) -> tuple[int, ...]:
        """How many steps read each value."""
        count = [0] * len(self.steps)
        for s in self.steps:
            for i in s.inputs:
                count[i] += 1
        return tuple(count)

    @cached_property
    def work(self) -> float:
        """Multiply-adds of one forward or backward pass of one row, about."""
        total = 0.0
        for s in self.steps:
            total += s.size * s.longest if s.nonlinear is not None and s.longest > 1 else 0.0
            weights = () if s.affine is None else s.affine.arrays().values()
            total += sum(w.numel() * s.size / w.shape[0] for w in weights if w.ndim > 1)
        return total

    @cached_property
    def ancestors(self) -> tuple[frozenset[int], ...]:
        """For each step the steps that it depends on, itself included."""
        found: list[frozenset[int]] = []
        for s in self.steps:
            found.append(frozenset((s.index,)).union(*(found[i] for i in s.inputs)))
        return tuple(found)

    def order(self, start: int) -> Sequence[Step]:
        """The steps below a node, last first."""
        below = self.ancestors[start]
        return [s for s in reversed(self.steps[: start + 1]) if s.index in below]

    def forward(self, x: Tensor, *, surrogate: bool = False) -> list[Tensor]:
        """Every value ``(B, size)`` for flat inputs ``(B, input size)``.

        With ``surrogate`` the values are the same, but gradients pass through what nonlinearities name in their place.
        """
        out: list[Tensor] = []
        for s in self.steps:
            if s.index == self.input:
                out.append(x)
            elif s.value is not None:
                out.append(s.value.expand(len(x), -1))
            else:
                args = [out[i].reshape(-1, *shape) for i, shape in zip(s.inputs, s.shapes, strict=True)]
                value = s.operator.forward(*args)
                stand_in = s.nonlinear.surrogate(args[0]) if surrogate and isinstance(s.nonlinear, Univariate) else None
                if stand_in is not None:
                    # the value itself, without rounding: the difference is exactly zero
                    value = value.detach() + (stand_in - stand_in.detach())
                out.append(value.reshape(len(x), -1))
        return out


def _longest(operator: Univariate | Bilinear | Planar, shapes: tuple[Shape, ...]) -> int:
    if isinstance(operator, Bilinear):
        x, y, out = operator.terms
        sizes = dict(zip(x + y, (*shapes[0], *shapes[1]), strict=True))
        total = int(np.prod(list(sizes.values()), dtype=np.int64))
        kept = (int(np.prod([sizes[c] for c in letters], dtype=np.int64)) for letters in (x, y, out))
        return max(total // max(1, n) for n in kept)
    return 3 * shapes[0][operator.axis] if isinstance(operator, Planar) else 1
