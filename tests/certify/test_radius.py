"""The certified radius lies below every witness, and undecided steps do not end the bisection."""

from __future__ import annotations

import numpy as np
import pytest

import ascertain
from ascertain.certify import verify as module
from ascertain.certify.result import Status, Verdict
from ascertain.evidence import Evidence
from ascertain.graph import Builder, Graph
from ascertain.operators.affine import Dense


def _threshold(at: float) -> Graph:
    """Outputs (at, x): label 0 wins while x < at."""
    builder = Builder()
    x = builder.input((1, 1))
    return builder.graph(x, builder(Dense(np.array([[0.0], [1.0]]), np.array([at, 0.0])), x))


def test_radius_of_a_threshold_is_found_from_both_sides() -> None:
    found = ascertain.radius(_threshold(0.3), np.zeros(1), 0, limit=1.0, tolerance=0.001)
    assert found.lower < 0.3 <= found.upper
    assert found.upper - found.lower <= 0.002
    assert found.witness is not None and found.witness.input.item() >= 0.3
    assert found.evidence is Evidence.PROVED


def test_undecided_steps_only_bound_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.verify

    def sometimes(network: Graph, property: ascertain.Property, **options: float) -> Verdict:
        if property.cases[0].set.box().upper[0] > 0.2:
            return Verdict(Status.UNKNOWN, Evidence.ESTIMATED, 0.0, None, "timeout")
        return real(network, property, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "verify", sometimes)
    found = module.radius(_threshold(0.3), np.zeros(1), 0, limit=1.0, tolerance=0.01)
    assert 0.19 < found.lower <= 0.2
    assert found.upper == float("inf") and found.witness is None


def test_a_radius_is_at_most_the_limit() -> None:
    found = ascertain.radius(_threshold(5.0), np.zeros(1), 0, limit=1.0)
    assert found.lower == 1.0 and found.upper == float("inf")
