"""Networks with sign activations: bounds contain all values, attacks find what zero gradients hide, verdicts fit samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ascertain.certify.plan import Plan
from ascertain.certify.result import Status
from ascertain.certify.verify import bound, falsify, verify
from ascertain.graph.graph import Builder, Graph
from ascertain.operators import Dense, Relu, Shift, Sign, Softmax
from ascertain.operators.base import Ref
from ascertain.properties import robust
from ascertain.properties.property import Atoms, Case, Property
from ascertain.properties.sets import Box

METHODS = ("interval", "zonotope", "crown", "alpha")


def network(rng: np.random.Generator, softmax: bool = False) -> Graph:
    """1 to 3 inputs, 1 to 3 layers, mostly of signs; half have whole numbers as weights, so that 0 is met exactly."""
    builder, whole = Builder(), rng.random() < 0.5
    x = value = builder.input((1, int(rng.integers(1, 4))))

    def dense(value: Ref, size: int) -> Ref:
        weight, bias = rng.normal(size=(size, value.shape[-1])) * 1.5, rng.normal(size=size) * 0.5
        return builder(Dense(np.round(weight), np.round(bias)) if whole else Dense(weight, bias), value)

    for _ in range(int(rng.integers(1, 4))):
        value = builder(Sign() if rng.random() < 0.8 else Relu(), dense(value, int(rng.integers(1, 7))))
        if rng.random() < 0.4:
            value = builder(Sign(), builder(Shift(np.array(0.1)), value))
    value = dense(value, int(rng.integers(2, 5)))
    return builder.graph(x, builder(Softmax(1), value) if softmax else value)


def box_of(rng: np.random.Generator, size: int) -> Box:
    """Around 0 or a short decimal; also so narrow that chords across a jump overflow."""
    centre = np.round(rng.normal(size=size), int(rng.integers(0, 3))) * (rng.random() < 0.7)
    radius = rng.choice([0, 5e-324, 1e-310, 1e-300, 1e-12, 0.05, 0.3, 1, 2]) * np.round(rng.random(size) + 0.5)
    return Box(centre - radius, centre + radius)


def points(rng: np.random.Generator, box: Box) -> np.ndarray:
    """Samples, whole numbers, corners and midpoints of the box."""
    whole = np.round(box.sample(rng, 100))
    corners = box.lower + rng.choice([0.0, 0.5, 1.0], size=(100, box.size)) * (box.upper - box.lower)
    return np.clip(np.concatenate([box.sample(rng, 300), whole, corners, whole * 0]), box.lower, box.upper)


@pytest.mark.parametrize("seed", range(60))
def test_bounds_contain_samples(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = network(rng)
    box = box_of(rng, graph.input_size)
    y = graph(points(rng, box)[:, None])[:, 0]
    for method in METHODS:
        found = bound(graph, box, method=method)
        assert np.isfinite(found.lower).all() and np.isfinite(found.upper).all(), method
        assert (y >= found.lower - 1e-9).all() and (y <= found.upper + 1e-9).all(), method


@pytest.mark.parametrize("seed", range(20))
def test_nothing_holds_that_a_sample_violates(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = network(rng, softmax=bool(rng.random() < 0.5))
    box = box_of(rng, graph.input_size)
    y = graph(points(rng, box)[:, None])[:, 0]
    label = int(y.mean(0).argmax())
    others = [j for j in range(graph.output_size) if j != label]
    rows = np.eye(graph.output_size)[label] - np.eye(graph.output_size)[others]
    verdict = verify(graph, Property((Case(box, tuple(Atoms(r[None], np.zeros(1)) for r in rows)),)), timeout=2, threads=1)
    if (y[:, others] > y[:, [label]] + 1e-9).any():
        assert verdict.status is not Status.HOLDS
    if verdict.status is Status.UNKNOWN:
        assert verdict.reason


@pytest.mark.parametrize(("side", "radius"), [(-1.0, 1e-310), (1.0, 1.0), (0.0, 1e-310)])
def test_values_on_both_sides_of_a_jump(side: float, radius: float) -> None:
    builder = Builder()
    x = builder.input((1,))
    graph = builder.graph(x, builder(Sign(), x))
    box = Box(np.array([min(side, 0) * radius]), np.array([max(side, 0) * radius]))
    for method in METHODS:
        found = bound(graph, box, method=method)
        expected = sorted((0.0, side))
        assert found.lower[0] <= expected[0] and found.upper[0] >= expected[1]
        assert abs(found.lower[0]) <= 1.01 and abs(found.upper[0]) <= 1.01


def test_surrogate_changes_gradients_only() -> None:
    rng = np.random.default_rng(0)
    builder = Builder()
    x = builder.input((1, 4))
    hidden = builder(Sign(), builder(Dense(rng.normal(size=(5, 4)), None), x))
    plan = Plan.compile(builder.graph(x, builder(Dense(rng.normal(size=(2, 5)), None), hidden)), torch.float32)
    values = torch.randn((50, 4), requires_grad=True)
    y, z = (plan.forward(values, surrogate=s)[plan.output] for s in (False, True))
    assert torch.equal(y, z)
    assert not torch.autograd.grad(y.sum(), values)[0].any()
    assert bool((torch.autograd.grad(z.sum(), values)[0] != 0).all())


def test_attack_follows_surrogates() -> None:
    """A witness in one corner of 40 dimensions: 30 of the signs must turn, as random points do not."""
    builder = Builder()
    x = builder.input((1, 40))
    count = builder(Dense(np.concatenate([np.ones((1, 40)), np.zeros((1, 40))]), np.array([0.0, 20.0])), builder(Sign(), x))
    graph = builder.graph(x, builder(Softmax(1), count))
    prop = robust(np.full(40, -0.2), 0.25, label=1, classes=2)
    rng = np.random.default_rng(0)
    cases = prop.cases[0].set.sample(rng, 10_000)
    assert not (graph(cases[:, None])[:, 0].argmax(1) == 0).any()
    assert falsify(graph, prop, timeout=10) is not None
