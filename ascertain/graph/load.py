"""The one door by which networks come in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ascertain.operators  # noqa: F401  (registers the readers)
from ascertain.errors import ModelError
from ascertain.graph.graph import Graph
from ascertain.graph.legality import check
from ascertain.operators.base import Shape

__all__ = ["load"]


def load(
    source: Any,
    *,
    factory: str | Callable[[], Any] | None = None,
    input_shape: Shape | None = None,
    example: Any = None,
    output: str | None = None,
) -> Graph:
    """The graph of a network: a file (``.onnx``, ``.onnx.gz``, ``.pt2``, ``.safetensors``, ``.pt``, ``.pth``) or a torch module."""
    shape = None if input_shape is None else tuple(int(n) for n in input_shape)
    path = Path(source)
    name = path.name.removesuffix(".gz")
    if name.endswith(".onnx"):
        from ascertain.graph.onnx_model import read_onnx

        return check(read_onnx(path, shape, output))
    raise ModelError(f"{path} is of no known kind; give a .onnx, .onnx.gz, .pt2, .safetensors, .pt or .pth file.")
