"""Gates that files write out come back as one operator, with the file's own constants; look-alikes do not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ascertain.graph import load, lower
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


# Norms


class Applied(torch.nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def centred(x: torch.Tensor, axis: int = -1) -> torch.Tensor:
    return x - x.mean(axis, keepdim=True)


def divided(x: torch.Tensor) -> torch.Tensor:
    c = centred(x)
    return c / torch.sqrt((c * c).mean(-1, keepdim=True) + 1e-5)


def by_variance(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean(-1, keepdim=True)) * torch.rsqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5)


def summed(x: torch.Tensor) -> torch.Tensor:
    c = centred(x, 1)
    return c / ((c**2).sum(1, keepdim=True) / x.shape[1] + 1e-5).sqrt()


def both_axes(x: torch.Tensor) -> torch.Tensor:
    c = x - x.mean((1, 2), keepdim=True)
    return c / torch.sqrt((c * c).mean((1, 2), keepdim=True) + 1e-5)


def root_mean_square(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def unit_length(x: torch.Tensor) -> torch.Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


def other_vector(x: torch.Tensor) -> torch.Tensor:
    return centred(x) / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5)


def other_axis(x: torch.Tensor) -> torch.Tensor:
    c = centred(x)
    return c / torch.sqrt((c * c).mean(1, keepdim=True) + 1e-5).reshape(1, 5, 1)


def negative_share(x: torch.Tensor) -> torch.Tensor:
    c = centred(x)
    return c / torch.sqrt((c * c).mean(-1, keepdim=True) * -1.0 + 50.0)


def negative_offset(x: torch.Tensor) -> torch.Tensor:
    c = centred(x)
    return c / torch.sqrt((c * c).mean(-1, keepdim=True) - 1e-3)


def known_ranges(function: Callable[[torch.Tensor], torch.Tensor]) -> list[tuple[float, float] | None]:
    graph = lower(load(Applied(function), input_shape=(1, 5, 5)))
    x = np.random.default_rng(0).normal(size=(200, 1, 5, 5)) * 10.0 ** np.arange(-3, 2).reshape(1, 1, 5, 1)
    with torch.no_grad():
        direct = np.stack([function(torch.tensor(row)).numpy() for row in x])
    np.testing.assert_allclose(graph(x).reshape(direct.shape), direct, rtol=1e-6, atol=1e-6)
    return [n.operator.known for n in graph.nodes if n.operator.name == "Product"]


@pytest.mark.parametrize(
    ("function", "most"),
    [
        (divided, 2.0),
        (by_variance, 2.0),
        (summed, 2.0),
        (both_axes, 24**0.5),
        (root_mean_square, 5**0.5),
        (unit_length, 1.0),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_entries_of_vectors_over_their_length_have_a_known_range(
    function: Callable[[torch.Tensor], torch.Tensor], most: float
) -> None:
    (known,) = known_ranges(function)
    assert known is not None and most <= known[1] <= most * (1 + 1e-15) and known[0] == -known[1]
    spike = torch.zeros((1, 5, 5), dtype=torch.float64)
    spike[0, 0, 0] = 1e6
    spike[0, 1:, 1:] = torch.eye(4) if function is not both_axes else 0
    assert most * 0.999 <= float(function(spike).abs().nan_to_num().max()) <= known[1]


@pytest.mark.parametrize("function", [other_vector, other_axis, negative_share], ids=lambda f: f.__name__)
def test_look_alikes_of_norms_have_no_known_range(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    assert known_ranges(function) == [None]


def test_a_negative_offset_is_no_norm() -> None:
    graph = lower(load(Applied(negative_offset), input_shape=(1, 5, 5)))
    assert [n.operator.known for n in graph.nodes if n.operator.name == "Product"] == [None]
