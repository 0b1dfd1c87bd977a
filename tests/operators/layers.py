"""Whole torch layers through both importers, against torch itself."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ascertain
from ascertain.graph.graph import Graph
from ascertain.graph.passes import lower

__all__ = ["First", "Function", "assert_equal", "graphs"]


class First(torch.nn.Module):
    """One of the values that a module returns: the first, unless a path of positions is given."""

    def __init__(self, module: torch.nn.Module, *path: int) -> None:
        super().__init__()
        self.module, self.path = module, path or (0,)

    def forward(self, x: torch.Tensor) -> Any:
        y = self.module(x)
        for i in self.path:
            y = y[i]
        return y


class Function(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


def graphs(module: torch.nn.Module, shape: tuple[int, ...], folder: Path) -> Iterator[Graph]:
    """The module as torch.export gives it, and as an ONNX file, each also lowered; with weights of ordinary size."""
    torch.manual_seed(0)
    module.eval()
    for p in module.parameters():
        p.data = torch.randn_like(p) * 0.5
    found = [ascertain.load(module, input_shape=shape)]
    if find_spec("onnxscript") is not None:  # torch writes ONNX files with it
        found.append(onnx_graph(module, shape, folder))
    for graph in found:
        yield graph
        yield lower(graph)


def onnx_graph(module: torch.nn.Module, shape: tuple[int, ...], folder: Path) -> Graph:
    path = folder / "layer.onnx"
    torch.onnx.export(module, (torch.zeros(shape),), path, dynamo=True, external_data=False, verbose=False)
    return ascertain.load(path)


def assert_equal(module: torch.nn.Module, shape: tuple[int, ...], folder: Path) -> None:
    """Every graph computes what torch does."""
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    for graph in graphs(module, shape, folder):
        with torch.no_grad():
            expected = np.stack([module(v).numpy() for v in x])
        actual = graph(x.double().numpy())
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * abs(expected).max())
