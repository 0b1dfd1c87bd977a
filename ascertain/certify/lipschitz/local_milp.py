"""The exact reference for small ReLU networks: the largest l1 norm of a gradient as a mixed-integer program, by HiGHS.

After Jordan and Dimakis 2020, "Exactly Computing the Local Lipschitz Constant of ReLU Networks", with bounds of the Jacobian's
graph as big M. Slow; evidence BOUNDED, because the solver works to tolerances.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from ascertain.certify.bounds import bound_nodes
from ascertain.certify.deep import region_of
from ascertain.certify.dense import DenseForm, dense_form
from ascertain.certify.lipschitz.jacobian import Jacobian, jacobian
from ascertain.certify.plan import Plan
from ascertain.errors import ResourceError, UnsupportedError
from ascertain.graph.graph import Graph
from ascertain.properties.sets import InputSet, Polytope

__all__ = ["largest_norm"]

Ranges = list[tuple[np.ndarray, np.ndarray]]


def largest_norm(
    network: Graph, sets: InputSet, norm: float, rows: np.ndarray, free: np.ndarray, deadline: float
) -> tuple[float, np.ndarray]:
    """An upper bound of the l-inf constant on a box or polytope, exact up to the solver's tolerance, and an input that attains it.

    Raises UnsupportedError for other norms and networks, ResourceError where the time is not enough for any bound.
    """
    if norm != np.inf:
        raise UnsupportedError("The mixed-integer program is for the norm inf. Use method='search'.")
    found = [_one_row(network, sets, row, free, deadline) for row in rows]
    return max(found, key=lambda pair: pair[0])


def _one_row(network: Graph, sets: InputSet, row: np.ndarray, free: np.ndarray, deadline: float) -> tuple[float, np.ndarray]:
    made = jacobian(network, row, columns=free)
    form = dense_form(made.network)
    if form is None:
        raise UnsupportedError("The network is too large for a mixed-integer program. Use method='search'.")
    program = _Program(form, sets, row, free, *_ranges(made, form, sets))
    return program.solve(deadline)


def _ranges(made: Jacobian, form: DenseForm, sets: InputSet) -> tuple[Ranges, Ranges, tuple[np.ndarray, np.ndarray]]:
    """Bounds of the inputs of each rectifier layer, of the gradients on its outputs, and of the Jacobian."""
    plan = Plan.compile(made.graph)
    bounded = bound_nodes(plan, region_of(sets, plan.dtype, plan.device))

    def box(i: int) -> tuple[np.ndarray, np.ndarray]:
        low, high = bounded.boxes.get(i, bounded.every[i])
        return low[0].numpy(), high[0].numpy()

    inputs = [box(made.network.nodes[i].inputs[0]) for i, _ in form.neurons]
    gradients = [box(made.gradients[i]) for i, _ in form.neurons]
    return inputs, gradients, box(made.matrix)


@dataclass(eq=False)
class _Program:
    """Variables: x; for each layer its outputs h, slopes a in {0, 1} and gradients u = a v on its inputs; |J| and its signs."""

    form: DenseForm
    sets: InputSet
    row: np.ndarray
    free: np.ndarray
    inputs: Ranges
    gradients: Ranges
    jacobian: tuple[np.ndarray, np.ndarray]
    constraints: list[LinearConstraint] = field(default_factory=list)

    def __post_init__(self) -> None:
        n, k = self.form.input_size, len(self.free)
        self.starts, at = [0], n
        for layer in self.form.layers[:-1]:
            self.starts.append(at)
            at += 3 * layer.size
        self.sizes, self.signs, self.total = at, at + k, at + 2 * k

    def _unit(self, start: int, size: int) -> np.ndarray:
        return np.eye(size, self.total, start)

    def _gradient(self, source: int) -> tuple[np.ndarray, np.ndarray]:
        """The gradient on the values of a source as (matrix, constant) in the variables."""
        size = self.form.input_size if source == 0 else self.form.layers[source - 1].size
        matrix, constant = np.zeros((size, self.total)), np.zeros(size)
        for k, layer in enumerate(self.form.layers, 1):
            for s, block in zip(layer.sources, layer.blocks, strict=True):
                if s == source and k == len(self.form.layers):
                    constant += block.T @ self.row
                elif s == source:
                    at = self.starts[k] + 2 * layer.size
                    matrix[:, at : at + layer.size] += block.T
        return matrix, constant

    def _add(self, matrix: np.ndarray, low: np.ndarray | float, high: np.ndarray | float) -> None:
        self.constraints.append(LinearConstraint(matrix, low, high))

    def _layer(self, k: int, low: np.ndarray, high: np.ndarray, integer: np.ndarray) -> None:
        """h = relu(z), a its slope, u = a v."""
        layer, at = self.form.layers[k - 1], self.starts[k]
        n = layer.size
        z = np.zeros((n, self.total))
        for s, block in zip(layer.sources, layer.blocks, strict=True):
            z[:, self.starts[s] : self.starts[s] + block.shape[1]] += block
        h, a, u = (self._unit(at + i * n, n) for i in range(3))
        (zl, zu), (vl, vu) = self.inputs[k - 1], self.gradients[k - 1]
        zl, zu, vl, vu = np.minimum(zl, 0), np.maximum(zu, 0), np.minimum(vl, 0), np.maximum(vu, 0)
        self._add(h - z, layer.bias, np.inf)
        self._add(h - z - zl[:, None] * a, -np.inf, layer.bias - zl)
        self._add(h - zu[:, None] * a, -np.inf, 0.0)
        v, constant = self._gradient(k)
        self._add(u - vu[:, None] * a, -np.inf, 0.0)
        self._add(u - vl[:, None] * a, 0.0, np.inf)
        self._add(u - v - vl[:, None] * a, -np.inf, constant - vl)
        self._add(u - v - vu[:, None] * a, constant - vu, np.inf)
        low[at : at + n], high[at : at + n] = 0.0, zu
        low[at + n : at + 2 * n], high[at + n : at + 2 * n] = self.inputs[k - 1][0] > 0, self.inputs[k - 1][1] >= 0
        low[at + 2 * n : at + 3 * n], high[at + 2 * n : at + 3 * n] = vl, vu
        integer[at + n : at + 2 * n] = 1

    def solve(self, deadline: float) -> tuple[float, np.ndarray]:
        """The bound left by HiGHS, and its best input."""
        box, n, k = self.sets.box(), self.form.input_size, len(self.free)
        low, high, integer = np.zeros(self.total), np.ones(self.total), np.zeros(self.total)
        low[:n], high[:n] = box.lower, box.upper
        for i in range(1, len(self.form.layers)):
            self._layer(i, low, high, integer)
        matrix, constant = self._gradient(0)
        matrix, constant = matrix[self.free], constant[self.free]
        p, s = self._unit(self.sizes, k), self._unit(self.signs, k)
        largest = np.maximum(abs(self.jacobian[0]), abs(self.jacobian[1])) * (1 + 1e-9)
        self._add(p - matrix + 2 * largest[:, None] * s, -np.inf, constant + 2 * largest)
        self._add(p + matrix - 2 * largest[:, None] * s, -np.inf, -constant)
        high[self.sizes : self.signs], integer[self.signs :] = largest, 1
        if isinstance(self.sets, Polytope):
            sides = np.zeros((len(self.sets.bound), self.total))
            sides[:, :n] = self.sets.matrix
            self._add(sides, -np.inf, self.sets.bound)
        cost = np.zeros(self.total)
        cost[self.sizes : self.signs] = -1.0
        options = {"time_limit": max(deadline - time.monotonic(), 0.1), "mip_rel_gap": 0.0}
        answer = milp(cost, constraints=self.constraints, bounds=Bounds(low, high), integrality=integer, options=options)
        bound = answer.fun if answer.status == 0 else answer.mip_dual_bound
        if bound is None or not np.isfinite(bound):
            raise ResourceError(
                f"the mixed-integer program was not solved ({answer.message}); give more time or a smaller network."
            )
        return -float(bound), box.center() if answer.x is None else np.clip(answer.x[:n], box.lower, box.upper)
