"""Gates that files write out come back as one operator, with the file's own constants; look-alikes do not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ascertain.graph.graph import Builder, Graph
from ascertain.graph.patterns import gates
from ascertain.operators import Abs, Erf, Reciprocal, Scale, Shift, Sigmoid, Square, Sum, Tanh
from ascertain.operators.base import Ref
from ascertain.operators.bilinear import multiply

ROOT = np.float32(0.70710677)
Build = Callable[[Builder, Ref], Ref]


def scale(b: Builder, x: Ref, c: float) -> Ref:
    return b(Scale(np.asarray(c)), x)


def shift(b: Builder, x: Ref, c: float) -> Ref:
    return b(Shift(np.asarray(c)), x)


def gelu(b: Builder, x: Ref) -> Ref:
    return scale(b, multiply(b, x, shift(b, b(Erf(), scale(b, x, ROOT)), 1.0)), 0.5)


def halved_first(b: Builder, x: Ref) -> Ref:
    return multiply(b, shift(b, b(Erf(), scale(b, x, 1.3)), 1.0), scale(b, x, 0.5))


def tanh_gelu(b: Builder, x: Ref, cubic: float = np.float32(0.044715), offset: float = 1.0) -> Ref:
    cube = scale(b, multiply(b, x, b(Square(), x)), cubic)
    inside = scale(b, b(Sum((1.0, 1.0)), x, cube), np.float32(0.7978845608))
    return multiply(b, scale(b, x, 0.5), shift(b, b(Tanh(), inside), offset))


def swish(b: Builder, x: Ref) -> Ref:
    return multiply(b, b(Sigmoid(), scale(b, x, 1.702)), x)


def negated(b: Builder, x: Ref) -> Ref:
    return multiply(b, x, b(Sigmoid(), b(Sum((-1.0,)), x)))


def softsign(b: Builder, x: Ref) -> Ref:
    return multiply(b, x, b(Reciprocal(), shift(b, b(Abs(), x), 1.0)))


def wrong_offset(b: Builder, x: Ref) -> Ref:
    return multiply(b, x, shift(b, b(Erf(), scale(b, x, ROOT)), 1.25))


def other_gate(b: Builder, x: Ref) -> Ref:
    return multiply(b, x, b(Sigmoid(), shift(b, x, 0.5)))


def built(build: Build) -> Graph:
    b = Builder()
    x = b.input((1, 5))
    return b.graph(x, build(b, x))


FOUND = [
    (gelu, "Gelu"),
    (halved_first, "Gelu"),
    (tanh_gelu, "TanhGelu"),
    (swish, "Silu"),
    (negated, "Silu"),
    (softsign, "Softsign"),
]


@pytest.mark.parametrize(("build", "name"), FOUND, ids=lambda v: getattr(v, "__name__", v))
def test_found_and_equal(build: Build, name: str) -> None:
    graph = built(build)
    changed = gates(graph)
    assert name in {n.operator.name for n in changed.nodes}
    assert changed.nodes[changed.output].operator.name in (name, "Scale", "Sum")
    x = np.random.default_rng(0).normal(size=(400, 1, 5)) * 3
    assert (abs(changed(x) - graph(x)) <= 2e-15 * (1 + abs(x))).all()


@pytest.mark.parametrize(
    "build", [wrong_offset, other_gate, lambda b, x: tanh_gelu(b, x, 0.05), lambda b, x: tanh_gelu(b, x, offset=0.9)]
)
def test_look_alikes_stay(build: Build) -> None:
    graph = built(build)
    assert gates(graph) is graph


def test_two_different_values_stay() -> None:
    b = Builder()
    x = b.input((1, 5))
    y = b(Shift(np.ones(5)), x)
    graph = b.graph(x, multiply(b, x, b(Sigmoid(), y)))
    assert gates(graph) is graph


def test_other_uses_keep_the_pieces() -> None:
    b = Builder()
    x = b.input((1, 5))
    gate = b(Sigmoid(), x)
    graph = b.graph(x, b(Sum((1.0, 1.0)), multiply(b, x, gate), gate))
    changed = gates(graph)
    assert {"Silu", "Sigmoid"} <= {n.operator.name for n in changed.nodes}
    point = np.random.default_rng(1).normal(size=(3, 1, 5))
    assert abs(changed(point) - graph(point)).max() < 1e-15
