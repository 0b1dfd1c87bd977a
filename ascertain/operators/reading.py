"""How model files name operators: readers, registered beside the operators they build, and found here by the importers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ascertain.operators.base import Emit, Ref

__all__ = ["ATEN", "ONNX", "Call", "NotSupported", "Reader", "aten", "onnx"]


class NotSupported(Exception):
    """Raised by a reader for a form of its operator that it does not know; says which. The importer collects all of them."""


@dataclass(frozen=True)
class Call:
    """One call in a model file as a reader sees it. At least one input is a `Ref`: constant calls are folded before.

    ``inputs``: a `Ref` for a value that depends on the network's input, a numpy array for a constant, None for an omitted
    optional one; for ATen also Python numbers, strings and lists of them (a list may hold Refs: aten.cat).
    """

    operator: str
    """ONNX op_type such as ``Gemm``, or ATen overload such as ``aten.linear.default``."""
    node: str
    inputs: tuple[Any, ...]
    attributes: Mapping[str, Any]
    """ONNX attributes, decoded (ints, floats, str, lists, numpy arrays), or ATen keyword arguments."""
    opset: int
    emit: Emit
    outputs: int = 0
    """How many values the call returns; 0 where the file does not say."""


Reader = Callable[[Call], Ref | tuple[Ref, ...]]
R = TypeVar("R", bound=Reader)
ONNX: dict[str, Reader] = {}
ATEN: dict[str, Reader] = {}


def _register(table: dict[str, Reader], names: tuple[str, ...]) -> Callable[[R], R]:
    def add(reader: R) -> R:
        for name in names:
            if name in table:
                raise RuntimeError(f"two readers for {name}")
            table[name] = reader
        return reader

    return add


def onnx(*names: str) -> Callable[[R], R]:
    """Registers the reader of ONNX operators by op_type."""
    return _register(ONNX, names)


def aten(*names: str) -> Callable[[R], R]:
    """Registers the reader of ATen operators by overload name without the ``aten.`` prefix, such as ``linear.default``."""
    return _register(ATEN, names)
