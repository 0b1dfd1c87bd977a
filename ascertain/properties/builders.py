"""The properties that people ask for most, from plain numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ascertain.errors import DataError, PropertyError, ShapeError
from ascertain.graph.graph import Graph
from ascertain.properties.product import product
from ascertain.properties.property import Atoms, Case, Property
from ascertain.properties.sets import Box, InputSet, LpBall, Polytope

__all__ = ["equivalent", "monotone", "output_range", "robust"]


def robust(x: ArrayLike, eps: float, norm: float = np.inf, *, label: int, classes: int, clip: Box | None = None) -> Property:
    """Output ``label`` stays the only largest one in the ball of radius ``eps`` around x, cut with ``clip``."""
    if classes < 2 or not 0 <= label < classes:
        raise PropertyError(f"label {label} of {classes} classes does not exist; give 2 or more classes, 0 <= label < classes.")
    ball = LpBall(np.asarray(x, dtype=np.float64), eps, norm, clip)
    others = [j for j in range(classes) if j != label]
    rows = np.eye(classes)[label] - np.eye(classes)[others]
    unsafe = tuple(Atoms(row[None], np.zeros(1)) for row in rows)
    return Property((Case(ball.box() if norm == np.inf else ball, unsafe),), f"label {label} within {eps:g}, norm {norm:g}")


def output_range(inputs: InputSet, lower: ArrayLike | None = None, upper: ArrayLike | None = None) -> Property:
    """The outputs stay in [lower, upper] on a set of inputs; infinite entries (and None) set no limit."""
    given = [np.atleast_1d(np.asarray(v, dtype=np.float64)).reshape(-1) for v in (lower, upper) if v is not None]
    if not given:
        raise PropertyError("an output range has neither lower nor upper limits; give at least one of them.")
    size = given[0].size
    low = np.full(size, -np.inf) if lower is None else given[0]
    high = np.full(size, np.inf) if upper is None else given[-1]
    if low.size != high.size:
        raise ShapeError(f"an output range has {low.size} lower and {high.size} upper limits; give as many of both.")
    good = (low <= high) & (low < np.inf) & (high > -np.inf)
    if not np.all(good):
        j = int(np.flatnonzero(~good)[0])
        raise DataError(f"the range of output {j} is [{low[j]}, {high[j]}]; give lower <= upper.")
    axes, strict = np.eye(size), np.ones(1, dtype=bool)
    unsafe = [Atoms(axes[[j]], low[[j]], strict) for j in np.flatnonzero(np.isfinite(low))]
    unsafe += [Atoms(-axes[[j]], -high[[j]], strict) for j in np.flatnonzero(np.isfinite(high))]
    if not unsafe:
        raise PropertyError("an output range has only infinite limits, so nothing to decide; give a finite one.")
    return Property((Case(inputs, tuple(unsafe)),), "output range")


def monotone(
    graph: Graph, inputs: Box, input_index: int, output_index: int, increasing: bool = True, tolerance: float = 1e-6
) -> tuple[Graph, Property]:
    """Raising one input inside the box never lowers one output (or raises it, if not ``increasing``) by ``tolerance`` or more.

    Returns (product graph, property) over the inputs followed by the raised input. The tolerance must be positive: two equal
    points have equal outputs, so that without one a bound could never exclude a drop.
    """
    n, m = graph.input_size, graph.output_size
    if inputs.size != n:
        raise ShapeError(f"the box has {inputs.size} coordinates, the network {n} inputs; give equal sizes.")
    if not (0 <= input_index < n and 0 <= output_index < m):
        raise PropertyError(f"input {input_index} or output {output_index} does not exist; there are {n} inputs and {m} outputs.")
    if not (np.isfinite(tolerance) and tolerance > 0):
        raise DataError(f"the tolerance of a monotonicity is {tolerance}; give a positive number.")
    raised = np.arange(n)
    raised[input_index] = n
    around = Box(np.append(inputs.lower, inputs.lower[input_index]), np.append(inputs.upper, inputs.upper[input_index]))
    order = np.zeros((1, n + 1))
    order[0, [input_index, n]] = 1.0, -1.0
    drop = np.zeros((1, 2 * m))
    drop[0, [output_index, m + output_index]] = (-1.0, 1.0) if increasing else (1.0, -1.0)
    case = Case(Polytope(around, order, np.zeros(1)), (Atoms(drop, np.array([-tolerance])),))
    words = "increases" if increasing else "decreases"
    return (
        product((graph, graph), (np.arange(n), raised), n + 1),
        Property((case,), f"output {output_index} {words} with input {input_index}"),
    )


def equivalent(first: Graph, second: Graph, inputs: InputSet, eps: float) -> tuple[Graph, Property]:
    """|first(x) - second(x)| <= eps for every output on a set of inputs; returns (product graph, property). eps > 0."""
    sizes = [(graph.input_size, graph.output_size) for graph in (first, second)]
    if sizes[0] != sizes[1] or inputs.size != sizes[0][0]:
        raise ShapeError(
            f"networks of (inputs, outputs) {sizes[0]} and {sizes[1]} cannot be compared on a set of {inputs.size} coordinates; "
            "give equal sizes."
        )
    if not (np.isfinite(eps) and eps > 0):
        raise DataError(f"the largest difference allowed is {eps}; give a positive number, bounds cannot tell equal from close.")
    n, m = sizes[0]
    apart = np.hstack([np.eye(m), -np.eye(m)])
    strict = np.ones(1, dtype=bool)
    unsafe = tuple(Atoms(sign * apart[[j]], np.array([-eps]), strict) for j in range(m) for sign in (1.0, -1.0))
    graph = product((first, second), (np.arange(n), np.arange(n)), n)
    return graph, Property((Case(inputs, unsafe),), f"outputs equal within {eps:g}")
