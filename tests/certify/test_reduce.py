"""A reduced network has the margins of the original on its region, within the error that it states."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from ascertain.certify.bounds import bound_nodes
from ascertain.certify.linear import backward, charges
from ascertain.certify.plan import Plan
from ascertain.certify.reduce import Joint, Reduced, reduce_plan
from ascertain.certify.region import Region
from ascertain.errors import ResourceError
from ascertain.graph.graph import Graph
from tests.certify.engine import KINDS, chain, compiled, exactly, fractions, graph_of, region, sample

LARGE = 10**9


def reduced(plan: Plan, where: Region, rng: np.random.Generator) -> tuple[Reduced, torch.Tensor, torch.Tensor]:
    rows = torch.tensor(rng.normal(size=(4, plan.steps[plan.output].size)))
    limits = torch.tensor(rng.normal(size=4))
    found = reduce_plan(plan, where, bound_nodes(plan, where), rows, limits, limit=LARGE)
    assert found is not None
    return found, rows, limits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("radius", [1e-3, 0.2, 1.0])
def test_margins_equal_those_of_the_network(kind: str, radius: float) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        plan = compiled(graph_of(kind, seed))
        where = region(rng, plan.steps[plan.input].size, radius=radius)
        small, rows, limits = reduced(plan, where, rng)
        points = sample(where, rng, 100)[0]
        margins = plan.forward(points)[plan.output] @ rows.T - limits
        torch.testing.assert_close(small.plan.forward(points[:, small.free])[small.plan.output], margins, rtol=1e-9, atol=1e-9)
        assert torch.equal(small.inputs(points[:, small.free]), points)
        form = small.dense()
        assert form is not None
        dense = np.broadcast_to(form(points[:, small.free].numpy()), margins.shape)
        np.testing.assert_allclose(dense, margins.numpy(), rtol=1e-9, atol=1e-9)
        single = small.fast.forward(points[:, small.free].float())[small.fast.output]
        torch.testing.assert_close(single.double(), margins, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_of_the_reduced_network_hold_for_the_network(kind: str) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        plan = compiled(graph_of(kind, seed))
        where = region(rng, plan.steps[plan.input].size, radius=1.0)
        small, rows, limits = reduced(plan, where, rng)
        bounded = bound_nodes(small.plan, small.region, known=small.boxes)
        eye = torch.eye(4, dtype=torch.float64).unsqueeze(0)
        charge = charges(small.plan, small.region, bounded.boxes, bounded.lines, small.plan.output, bounded.charge)
        lower = backward(small.plan, small.region, bounded.lines, small.plan.output, eye, charge=charge).lower[0]
        margins = plan.forward(sample(where, rng, 500)[0])[plan.output] @ rows.T - limits
        assert bool((lower <= margins.amin(0) + 1e-9).all())


def exact_errors(
    small: Reduced, graph: Graph, point: torch.Tensor, rows: torch.Tensor, limits: torch.Tensor
) -> list[tuple[Fraction, Fraction]]:
    """(|margin of the network - margin of the stored maps on the network's own values|, stated error): all in rational arithmetic.

    The true values of the curved neurons are taken from the original network, so that only the last map's error counts.
    """
    exact = graph.convert(fractions)
    values: list[np.ndarray] = []
    for i, node in enumerate(exact.nodes):
        args = [values[j] for j in node.inputs]
        values.append(fractions(point.numpy()[None]) if i == exact.input else node.operator.forward(*args))
    curved = [v for v, node in zip(values, exact.nodes, strict=True) if node.operator.name == "Relu"]
    x = fractions(point[small.free].numpy())
    own: dict[int, np.ndarray] = {small.plan.input: x}
    out = []
    hidden = 0
    for s in small.plan.steps[1:]:
        if isinstance(s.affine, Joint) and s.error is not None:
            z = fractions(s.affine.bias.numpy())
            for i, w in zip(s.inputs, s.affine.weights, strict=True):
                z = z + fractions(w.numpy()) @ own[i]
            own[s.index] = z
            if s.index == small.plan.output:
                y = values[exact.output][0]
                true = fractions(rows.numpy()) @ y - fractions(limits.numpy())
                out = [(abs(a - b), Fraction(e)) for a, b, e in zip(z, true, s.error.tolist(), strict=True)]
        else:
            # positions of the curved neurons: those whose sum, up to rounding, is the neuron's input
            layer = curved[hidden][0]
            wanted = [float(max(v, 0)) for v in own[s.inputs[0]]]
            own[s.index] = np.array([min(layer, key=lambda v, w=w: abs(float(v) - w)) for w in wanted], dtype=object)
            hidden += 1
    return out


@pytest.mark.parametrize("scale", [0.3, 1.0, 1e6])
def test_stated_errors_cover_exact_ones(scale: float) -> None:
    seen = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        graph = chain(rng, (3, 6, 6, 2), scale)
        plan = compiled(graph)
        where = region(rng, 3, radius=0.4)
        small, rows, limits = reduced(plan, where, rng)
        if len(small.plan.nonlinear) != 2:
            continue
        for point in sample(where, rng, 3)[0]:
            for error, stated in exact_errors(small, graph, point, rows, limits):
                assert error <= stated
                seen += error > 0
    assert seen > 0


def test_stable_networks_become_one_map() -> None:
    """At a tiny radius nothing is curved: the margins are an affine function, exact up to the stated error."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        graph = chain(rng)
        plan = compiled(graph)
        where = region(rng, 3, radius=1e-7)
        small, rows, limits = reduced(plan, where, rng)
        if small.plan.nonlinear:
            continue
        last = small.plan.steps[small.plan.output]
        assert isinstance(last.affine, Joint) and last.error is not None
        for point in sample(where, rng, 4)[0]:
            y = exactly(graph, point.numpy()[None])[0]
            stored = fractions(last.affine.bias.numpy())
            if last.inputs:
                stored = stored + fractions(last.affine.weights[0].numpy()) @ fractions(point[small.free].numpy())
            for row, limit, value, error in zip(rows.tolist(), limits.tolist(), stored, last.error.tolist(), strict=True):
                margin = sum(Fraction(c) * v for c, v in zip(row, y, strict=True)) - Fraction(limit)
                assert abs(margin - value) <= Fraction(error)


def test_fixed_inputs_are_folded() -> None:
    rng = np.random.default_rng(0)
    plan = compiled(chain(rng, (5, 8, 8, 2)))
    x = torch.tensor(rng.normal(size=5))
    low, high = x.clone().unsqueeze(0), x.clone().unsqueeze(0)
    high[0, 3] += 1.0
    small, _, _ = reduced(plan, Region(low, high), rng)
    assert small.free.tolist() == [3] and small.region.lower.shape == (1, 1)
    points = small.inputs(torch.tensor([[0.25], [0.5]]))
    assert points[:, 3].tolist() == [0.25, 0.5] and torch.equal(points[:, :3], x[:3].expand(2, -1))


def test_too_large_and_interrupted() -> None:
    rng = np.random.default_rng(0)
    plan = compiled(chain(rng, (3, 8, 8, 2)))
    where = region(rng, 3, radius=2.0)
    bounded, rows, limits = bound_nodes(plan, where), torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    assert reduce_plan(plan, where, bounded, rows, limits, limit=10) is None

    def stop() -> None:
        raise ResourceError("timeout")

    with pytest.raises(ResourceError):
        reduce_plan(plan, where, bounded, rows, limits, limit=LARGE, check=stop)
