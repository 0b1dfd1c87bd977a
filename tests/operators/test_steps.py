"""Jumps: lines against samples on both sides of every jump, and networks with comparisons and choices against torch."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from ascertain.graph.load import load
from ascertain.operators import Ceil, Floor, Heaviside, Round
from ascertain.operators.base import Univariate
from tests.operators.lines import KINDS, bounds, boxes, check_lines, through

STAIRS = [Floor(), Ceil(), Round()]
STEPS = [*STAIRS, *(Heaviside(v) for v in (0.0, 0.5, 1.0, 3.0))]


@pytest.mark.parametrize(("dtype", "on_torch"), KINDS)
@pytest.mark.parametrize("operator", STEPS, ids=repr)
def test_no_sample_outside(operator: Univariate, dtype: type, on_torch: bool) -> None:
    check_lines(operator, *boxes(10, 10_000, dtype), on_torch)
    lower, upper = boxes(11, 2000, dtype)
    check_lines(operator, np.round(2 * lower) / 2, np.maximum(np.round(2 * upper) / 2, np.round(2 * lower) / 2), on_torch)


@pytest.mark.parametrize("on_torch", [False, True])
@pytest.mark.parametrize("operator", STEPS, ids=repr)
def test_extremes_at_jumps(operator: Univariate, on_torch: bool) -> None:
    r = np.random.default_rng(12)
    lower = np.round(r.uniform(-6, 6, 2000), 1)
    upper = lower + np.round(r.uniform(0, 5, 2000), 1)
    slope = r.normal(size=2000) * 2
    low, high = through(operator.intercepts, on_torch)(lower, upper, slope)
    jumps = np.arange(-24, 25)[:, None] / 2
    x = np.concatenate([[lower, upper], *(jumps + np.zeros_like(lower) + d for d in (-1e-9, 0, 1e-9))])
    rest = np.where((x >= lower) & (x <= upper), operator.f(x) - slope * x, nan)
    np.testing.assert_allclose(low, np.nanmin(rest, 0), atol=1e-7)
    np.testing.assert_allclose(high, np.nanmax(rest, 0), atol=1e-7)


def test_ranges() -> None:
    assert bounds(Floor(), 0.5, 2) == (0, 2)
    assert bounds(Ceil(), 0.5, 2) == (1, 2)
    assert bounds(Ceil(), 2, 2.5) == (2, 3)
    assert bounds(Round(), 0.5, 1.5) == (0, 2)
    assert bounds(Round(), 2.5, 2.5) == (2, 2)
    assert bounds(Heaviside(0.5), 0, 0) == (0.5, 0.5)
    assert bounds(Heaviside(1.0), -1, 0) == (0, 1)
    assert bounds(Floor(), -1e300, 1e300) == (-1e300, 1e300)
    for operator in STEPS:
        for low, high in ((nan, 1.0), (0.0, nan)):
            assert bounds(operator, low, high) == bounds(operator, low, high, 0.5) == (-inf, inf)


NETWORKS: dict[str, Callable[[Tensor], Tensor]] = {
    "where": lambda x: torch.where(x > 0.2, x, 0.1 * x),
    "where of constants": lambda x: torch.where(x >= 0.5, 1.0, -2.0),
    "two conditions": lambda x: torch.where((x > -0.5) & (x < 0.5), x * x, torch.ones_like(x)),
    "either": lambda x: torch.where((x <= -0.5) | (x > 0.5), x, torch.exp(x)),
    "logical": lambda x: torch.where(torch.logical_and(x > 0, torch.logical_or(x < 1, x > 2)), x, 3.0),
    "not": lambda x: torch.where(~(x >= 0), x, 2 * x) + torch.where(torch.logical_not(x > 1), 1.0, 0.0),
    "filled": lambda x: x.masked_fill(x > 0, 0.25),
    "as number": lambda x: (x > 0).float() * x + (x < 1).to(torch.float32),
    "rounded": lambda x: torch.round(3 * x) + torch.floor(x) * torch.ceil(x),
    "smooth": lambda x: torch.nn.functional.softplus(x) + torch.nn.functional.selu(x) * torch.nn.functional.celu(x, 0.4),
    "powers": lambda x: (x**2 + 1) ** -0.5 + x**3 + torch.log(1 + x.abs()).sqrt() + 1 / (2 + torch.sin(x)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_equal_torch(name: str) -> None:
    class Network(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return NETWORKS[name](x)

    network = Network()
    values = torch.randn(20, 1, 5, generator=torch.Generator().manual_seed(3)).round(decimals=1)
    graph = load(network, input_shape=(1, 5))
    for value in values:
        np.testing.assert_allclose(graph(value.numpy()[None].astype(float))[0], network(value).numpy(), rtol=1e-5, atol=1e-5)


def test_truth_values_equal_onnxruntime(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Greater", ["x", "a"], ["g"]),
        helper.make_node("LessOrEqual", ["x", "b"], ["l"]),
        helper.make_node("And", ["g", "l"], ["both"]),
        helper.make_node("Not", ["both"], ["other"]),
        helper.make_node("Or", ["other", "g"], ["either"]),
        helper.make_node("Where", ["either", "x", "a"], ["first"]),
        helper.make_node("Where", ["both", "first", "b"], ["y"]),
    ]
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", floats, [1, 4])],
        [helper.make_tensor_value_info("y", floats, [1, 4])],
        [helper.make_tensor("a", floats, [4], [-1.0, 0.0, 0.5, 1.0]), helper.make_tensor("b", floats, [1], [0.7])],
    )
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    path = tmp_path / "logic.onnx"
    path.write_bytes(data)
    read = load(path)
    for x in np.random.default_rng(2).normal(size=(50, 1, 4)).round(1).astype(np.float32):
        np.testing.assert_allclose(read(x[None].astype(float))[0], session.run(None, {"x": x})[0], atol=1e-6)
