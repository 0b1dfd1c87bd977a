"""How much faster than its input the output can change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ascertain.analyze.base import Analyzer, Context, Example, Need
from ascertain.analyze.layers import drawn, words
from ascertain.analyze.result import Measured, Result
from ascertain.analyze.views import Kind, View
from ascertain.evidence import Evidence
from ascertain.graph.graph import Builder, Graph
from ascertain.operators import Dense, Relu
from ascertain.operators.base import Affine

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Lipschitz"]

_STEPS = 20
_NEAR = 1e-4
"""Distance of the two points whose outputs are compared, as a share of the size of inputs."""
_ROUNDING = 1e-12
"""Rounding of outputs in double precision, as a share of their size and well above what it is."""


@dataclass(frozen=True)
class Lipschitz(Analyzer):
    """The global Lipschitz constant (Euclidean norms) between a proof from above and the steepest place that was found."""

    count: int = 200
    """Inputs, drawn under the seed, from which steep places are looked for."""
    timeout: float = 20.0
    """Seconds for the semidefinite program; then the best so far is proved."""
    neurons: int = 3000
    """Networks of more nonlinearities get the product of norms alone: the proof of the program takes minutes."""

    title: ClassVar[str] = "Lipschitz constant"
    heavy: ClassVar[bool] = True
    uses: ClassVar[frozenset[Need]] = frozenset({Need.DATA})
    meaning: ClassVar[str] = (
        "However two inputs differ, outputs differ by no more than the bound times as much. The product of the layers' norms is "
        "the classical bound; the semidefinite one knows which neurons can work together. At the steepest place found the network "
        "does stretch that much: the truth lies between. Slopes at the data say how steep the network is where it is used."
    )
    formula: ClassVar[str] = "sup |f(x) - f(y)| / |x - y| = sup of the largest singular value of the Jacobian"
    evidence: ClassVar[str] = (
        "Both upper bounds are PROVED under rounding, of the network in exact arithmetic. The lower bound is BOUNDED: outputs at "
        "two points in double precision, less their rounding. Slopes are largest singular values of Jacobians in floats."
    )
    references: ClassVar[tuple[str, ...]] = (
        "Fazlyab et al. 2019, Efficient and accurate estimation of Lipschitz constants for deep neural networks",
        "Szegedy et al. 2014, Intriguing properties of neural networks",
    )

    def measure(self, context: Context) -> Mapping[str, Measured]:
        """Upper bound, product bound, lower bound by two points, slopes at the data."""
        from ascertain.certify.lipschitz import lipschitz

        size = sum(int(np.prod(n.shape)) for n in context.model.nodes if n.inputs and not isinstance(n.operator, Affine))
        method = "auto" if size <= self.neurons else "product"
        found = lipschitz(context.model, 2, method=method, timeout=self.timeout)
        slopes, lower = self._slopes(context)
        values = {
            "upper": Measured(np.array(found.value), Evidence.PROVED, "upper bound of the Lipschitz constant"),
            "product": Measured(np.array(found.product), Evidence.PROVED, "product of the layers' norms, infinite if not known"),
            "lower": Measured(
                np.array(lower), Evidence.BOUNDED, "largest change of the output per change of the input that was found"
            ),
            "method": words(found.method, "how the upper bound was found"),
            "bound": words(("steepest place found", "proved", "product of norms"), "bound"),
            "size": Measured(np.array([lower, found.value, found.product]), Evidence.BOUNDED, "bounds from below and from above"),
        }
        if context.data is not None:
            values["slopes"] = Measured(slopes, Evidence.BOUNDED, "largest singular value of the Jacobian at each input")
        return values

    def _slopes(self, context: Context) -> tuple[np.ndarray, float]:
        """Slopes at the starting points, and the steepest secant met on the way up from them."""
        import torch

        graph = context.model
        starts = context.generator().normal(size=(self.count, *graph.input_shape))
        if context.data is not None:
            starts = context.shaped[drawn(context, self.count)]
        x, net = torch.tensor(starts), graph.like(torch.empty(0, dtype=torch.float64))
        scale = float(np.linalg.norm(starts.reshape(len(starts), -1), axis=1).mean()) or 1.0
        first, way = _steepest(net, x)
        best, highest = _secants(net, x, way, scale * _NEAR), first.copy()
        for step in range(_STEPS):
            moved = x + way * (scale * 2.0 ** (step % 5 - 2))
            slopes, direction = _steepest(net, moved)
            best = np.maximum(best, _secants(net, moved, direction, scale * _NEAR))
            mask = torch.tensor(slopes > highest).reshape(-1, *[1] * (x.ndim - 1))
            highest = np.maximum(highest, slopes)
            x, way = torch.where(mask, moved, x), torch.where(mask, direction, -way)
        return first, float(best.max())

    def views(self, result: Result) -> Sequence[View]:
        """One sentence, bars, slopes at the data."""
        sentence = "However two inputs differ, outputs differ at most {upper:.4g} times as much ({method})."
        views = [
            View(Kind.TEXT, "Global bound", text=sentence, finding=True),
            View(Kind.TEXT, "Steepest place", text="Two inputs were found whose outputs differ {lower:.4g} times as much."),
            View(Kind.BAR, "Bounds", {"label": "bound", "constant": "size"}, "The truth lies between the first two."),
        ]
        if "slopes" in result.values:
            caption = "Largest singular value of the Jacobian at each input; nowhere in the world above {upper:.4g}."
            views.append(View(Kind.HISTOGRAM, "Slopes at the data", {"slope": "slopes"}, caption, x="slope"))
        return views

    @classmethod
    def examples(cls) -> Iterator[Example]:
        """A matrix of norm 3; |x| as relu(x) + relu(-x), with constant 1; relu(x) + relu(2 x), with constant 3."""
        build = Builder()
        x = build.input((1, 2))
        turn = np.array([[0.6, -0.8], [0.8, 0.6]])
        matrix = build.graph(x, build(Dense(turn @ np.diag([3.0, 1.0])), x))
        exact = {"upper": 3.0, "product": 3.0, "lower": 3.0}
        yield Example(cls(), Context(matrix, np.array([[1.0, 0.0], [0.0, 2.0]])), exact, 1e-6)
        modulus = _two(np.array([[1.0], [-1.0]]), np.array([[1.0, 1.0]]))
        yield Example(cls(), Context(modulus), {"lower": 1.0}, 1e-6, above={"upper": 1.0, "product": 1.0}, below={"upper": 2**0.5})
        double = _two(np.array([[1.0], [2.0]]), np.array([[1.0, 1.0]]))
        yield Example(cls(), Context(double), {"upper": 3.0, "lower": 3.0}, 1e-5, above={"upper": 3.0}, below={"lower": 3.0})


def _two(first: np.ndarray, second: np.ndarray) -> Graph:
    build = Builder()
    x = build.input((1, first.shape[1]))
    return build.graph(x, build(Dense(second), build(Relu(), build(Dense(first), x))))


def _secants(net: Graph, x: Tensor, way: Tensor, reach: float) -> np.ndarray:
    """Change of outputs over change of inputs (N,) between two points near x, less what rounding can add.

    Unlike a Jacobian this is true at kinks as well, where automatic derivatives may be steeper than the network anywhere is.
    """
    ends = [x - reach * way, x + reach * way]
    outputs = [net.values(end)[net.output].reshape(len(x), -1) for end in ends]
    rise = (outputs[1] - outputs[0]).norm(dim=1) - _ROUNDING * (outputs[0].norm(dim=1) + outputs[1].norm(dim=1) + reach)
    found: np.ndarray = (rise.clamp(min=0) / (ends[1] - ends[0]).flatten(1).norm(dim=1)).numpy()
    return found * (1 - 1e-9)


def _steepest(net: Graph, x: Tensor) -> tuple[np.ndarray, Tensor]:
    """Largest singular value of the Jacobian at each input (N,), and its direction in input space, of unit length."""
    import torch

    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        out = net.values(leaf)[net.output].reshape(len(x), -1)
        rows = [
            torch.autograd.grad(out[:, k].sum(), leaf, retain_graph=True, materialize_grads=True)[0] for k in range(out.shape[1])
        ]
    jacobian = torch.stack(rows, 1).reshape(len(x), out.shape[1], -1)
    _, s, right = torch.linalg.svd(jacobian, full_matrices=False)
    return s[:, 0].numpy(), right[:, 0].reshape(x.shape)
