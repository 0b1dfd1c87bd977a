"""The exact reference: big-M mixed-integer programs of dense forms, solved to optimality by HiGHS through scipy. Slow; BOUNDED."""

from __future__ import annotations

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from ascertain.certify.dense import DenseForm
from ascertain.errors import ResourceError
from ascertain.properties.property import Atoms, Case
from ascertain.properties.sets import Polytope

__all__ = ["deepest_violation", "minimum_margin"]


def minimum_margin(form: DenseForm, case: Case, timeout: float = 60.0) -> tuple[float, np.ndarray]:
    """The smallest margin over all conjunctions and inputs, and its input: the case is violated where it is at most zero.

    The margin of a conjunction at x is the largest of ``matrix @ y + input_matrix @ x - bound``. Exact up to the solver's tolerance
    (1e-6), evidence BOUNDED. Raises ResourceError when the time is not enough.
    """
    found = [deepest_violation(form, case, atoms, timeout) for atoms in case.unsafe]
    return min(found, key=lambda pair: pair[0])


def deepest_violation(form: DenseForm, case: Case, atoms: Atoms, timeout: float = 60.0) -> tuple[float, np.ndarray]:
    """Minimum over the case's inputs (box or polytope) of the margin of one conjunction, and an input that attains it.

    Variables: x, then per layer v = relu(z) and its sign a in {0, 1}; t. With z = W v + b in [l, u]: v >= z, v >= 0,
    v <= z - l (1 - a), v <= u a; atoms <= t; minimise t.
    """
    box = case.set.box()
    starts = [0]
    position = form.input_size
    for layer in form.layers[:-1]:
        starts.append(position)
        position += 2 * len(layer.bias)
    total = position + 1
    low, high = np.zeros(total), np.ones(total)
    low[: form.input_size], high[: form.input_size] = box.lower, box.upper
    low[-1], high[-1] = -np.inf, np.inf
    integer = np.zeros(total)
    constraints = []
    for k, layer in enumerate(form.layers):
        matrix, bias = np.zeros((len(layer.bias), total)), layer.bias
        for source, block in zip(layer.sources, layer.blocks, strict=True):
            matrix[:, starts[source] : starts[source] + block.shape[1]] += block
        if k == len(form.layers) - 1:
            break
        n, at = len(bias), starts[k + 1]
        ends = matrix[:, :-1] * low[:-1], matrix[:, :-1] * high[:-1]
        lower, upper = np.minimum(*ends).sum(axis=1) + bias, np.maximum(*ends).sum(axis=1) + bias
        v, a = np.zeros((n, total)), np.zeros((n, total))
        v[np.arange(n), at + np.arange(n)], a[np.arange(n), at + n + np.arange(n)] = 1.0, 1.0
        integer[at + n : at + 2 * n] = 1
        low[at : at + n], high[at : at + n] = np.maximum(lower, 0), np.maximum(upper, 0)
        low[at + n : at + 2 * n], high[at + n : at + 2 * n] = lower > 0, upper > 0
        constraints += [
            LinearConstraint(v - matrix, bias, np.inf),
            LinearConstraint(v - matrix - np.minimum(lower, 0)[:, None] * a, -np.inf, bias - np.minimum(lower, 0)),
            LinearConstraint(v - np.maximum(upper, 0)[:, None] * a, -np.inf, 0.0),
        ]
    final = atoms.matrix @ matrix
    if atoms.input_matrix is not None:
        final[:, : form.input_size] += atoms.input_matrix
    final[:, -1] = -1.0
    constraints.append(LinearConstraint(final, -np.inf, atoms.bound - atoms.matrix @ bias))
    if isinstance(case.set, Polytope):
        sides = np.zeros((len(case.set.bound), total))
        sides[:, : form.input_size] = case.set.matrix
        constraints.append(LinearConstraint(sides, -np.inf, case.set.bound))
    cost = np.zeros(total)
    cost[-1] = 1.0
    options = {"time_limit": timeout, "mip_rel_gap": 0.0}
    answer = milp(cost, constraints=constraints, bounds=Bounds(low, high), integrality=integer, options=options)
    if answer.status != 0:
        raise ResourceError(f"the mixed-integer program was not solved ({answer.message}); give more time or a smaller network.")
    return float(answer.fun), np.asarray(answer.x[: form.input_size])
