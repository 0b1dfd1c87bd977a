"""Attacks find planted violations inside every kind of set, and claim nothing else."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

import ascertain
from ascertain.certify.falsify import descend, stack_atoms, violation
from ascertain.certify.plan import Plan
from ascertain.certify.region import Ball, Region
from ascertain.graph import lower
from ascertain.properties import Box, LpBall, Polytope, output_range
from ascertain.properties.property import Atoms, Case, Property
from ascertain.properties.sets import InputSet
from tests.certify.engine import KINDS, graph_of


def sets(rng: np.random.Generator, size: int) -> dict[str, InputSet]:
    center = np.round(rng.normal(size=size), 2)
    box = Box(center - 1.0, center + 1.0)
    return {
        "box": box,
        "ball 1": LpBall(center, 1.0, 1),
        "ball 2": LpBall(center, 1.0, 2, box),
        "polytope": Polytope(box, np.ones((1, size)), np.array([center.sum()])),
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["box", "ball 1", "ball 2", "polytope"])
def test_planted_violations_are_found(kind: str, name: str) -> None:
    """The limit lies at the 90 % point of sampled outputs: descent reaches what one sample in ten does."""
    for seed in range(2):
        rng = np.random.default_rng(seed)
        graph = graph_of(kind, seed)
        where = sets(rng, graph.input_size)[name]
        y = graph(where.sample(rng, 400).reshape(-1, *graph.input_shape)).reshape(400, -1)
        limit = np.full(y.shape[1], np.inf)
        limit[0] = np.quantile(y[:, 0], 0.9)
        prop = output_range(where, upper=limit)
        witness = ascertain.falsify(graph, prop, timeout=20.0)
        assert witness is not None and witness.replayed == "graph"
        x = witness.input.reshape(-1).astype(np.float64)
        assert where.contains(x, 1e-6)
        assert witness.output[0] >= limit[0]
        assert name != "box" or prop.violated_by(x, witness.output.astype(np.float64)) == (witness.case, witness.conjunction)


def test_safe_properties_have_no_witness() -> None:
    graph = graph_of("chain", 0)
    box = Box(np.zeros(3), np.ones(3))
    high = ascertain.bound(graph, box).upper
    assert ascertain.falsify(graph, output_range(box, upper=high + 1e-3), timeout=5.0) is None


def test_points_stay_in_the_set_and_unconfirmed_ones_are_not_claimed() -> None:
    graph = graph_of("chain", 0)
    plan = Plan.compile(lower(graph), torch.float32)
    ball = Ball(torch.zeros(3), 0.5, 2.0)
    where = Region(torch.full((1, 3), -0.4), torch.full((1, 3), 0.5), ball)
    seen: list[torch.Tensor] = []

    def deny(points: torch.Tensor) -> bool:
        seen.append(points)
        return False

    unsafe = (Atoms(np.array([[1.0, 0.0]]), np.array([1e6])), Atoms(np.eye(2), np.array([-1e6, 1e6])))
    assert not descend(plan, where, unsafe, deny, steps=10, deadline=time.monotonic() + 20)
    points = torch.cat(seen)
    assert bool((points >= where.lower).all() and (points <= where.upper).all())
    assert float(points.norm(dim=1).max()) <= 0.5 + 1e-6


def test_stop_and_deadline_end_at_once() -> None:
    graph = graph_of("chain", 0)
    plan = Plan.compile(lower(graph), torch.float32)
    where = Region(torch.zeros((1, 3)), torch.ones((1, 3)))
    unsafe = (Atoms(np.array([[1.0, 0.0]]), np.array([-1e6])),)
    calls: list[int] = []

    def stop() -> bool:
        calls.append(1)
        return True

    assert not descend(plan, where, unsafe, lambda p: False, deadline=time.monotonic() + 60, stop=stop)
    assert len(calls) == 1
    assert not descend(plan, where, unsafe, lambda p: False, steps=10**9, deadline=time.monotonic() - 1)


def test_violation_is_the_largest_row() -> None:
    unsafe = (Atoms(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([1.0, 2.0])), Atoms(np.array([[-1.0, 0.0]]), np.array([0.0])))
    rows, limits = stack_atoms(unsafe, torch.float64, torch.device("cpu"))
    assert rows.shape == (2, 2, 2) and limits.tolist() == [[1.0, 2.0], [0.0, 0.0]]
    y = np.random.default_rng(0).normal(size=(50, 2)) * 2
    found = violation(torch.tensor(y), rows, limits)
    for k in range(50):
        for c, atoms in enumerate(unsafe):
            assert (float(found[k, c]) <= 0) == atoms.hold(np.zeros(2), y[k])


def test_several_cases_are_tried() -> None:
    graph = graph_of("chain", 0)
    point = graph(np.zeros((1, 3)))[0]
    safe = Case(Box(np.zeros(3), np.zeros(3)), (Atoms(np.array([[1.0, 0.0]]), np.array([point[0] - 1])),))
    bad = Case(Box(np.zeros(3), np.zeros(3)), (Atoms(np.array([[1.0, 0.0]]), np.array([point[0] + 1])),))
    witness = ascertain.falsify(graph, Property((safe, bad)))
    assert witness is not None and (witness.case, witness.conjunction) == (1, 0)
