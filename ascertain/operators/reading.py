"""How model files name operators: readers, registered beside the operators they build, and found here by the importers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from ascertain.operators.base import Emit, Ref

__all__ = ["ATEN", "MASKS", "ONNX", "Call", "Masked", "NotSupported", "Reader", "aten", "onnx"]


class NotSupported(Exception):
    """Raised by a reader for a form of its operator that it does not know; says which. The importer collects all of them."""


@dataclass(frozen=True)
class Masked(Ref):
    """A value that is minus infinity where ``hidden``, which broadcasts to its shape; the node it names holds finite numbers.

    The importers give it to readers of `MASKS` only; others get the node's value where that is right too.
    """

    hidden: np.ndarray = field(compare=False)
    finite: bool = False
    """Whether the node's value is the right one: what is hidden is so low there that exp of it is 0."""


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
    types: tuple[str, ...] = ()
    """Number types such as ``float32`` or ``bool`` of each input ("" where it has none) and of the result; or nothing is known."""


Reader = Callable[[Call], Ref | tuple[Ref, ...]]
R = TypeVar("R", bound=Reader)
ONNX: dict[str, Reader] = {}
ATEN: dict[str, Reader] = {}
MASKS: set[str] = set()
"""Operators whose readers know what to do with `Masked` values."""


def _register(table: dict[str, Reader], names: tuple[str, ...], masks: bool) -> Callable[[R], R]:
    def add(reader: R) -> R:
        for name in names:
            if name in table:
                raise RuntimeError(f"two readers for {name}")
            table[name] = reader
        MASKS.update(names if masks else ())
        return reader

    return add


def onnx(*names: str, masks: bool = False) -> Callable[[R], R]:
    """Registers the reader of ONNX operators by op_type; whether it takes `Masked` values."""
    return _register(ONNX, names, masks)


def aten(*names: str, masks: bool = False) -> Callable[[R], R]:
    """Registers the reader of ATen operators by overload name without the ``aten.`` prefix, such as ``linear.default``."""
    return _register(ATEN, names, masks)
