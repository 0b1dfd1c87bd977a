"""What readers share: fetching the arguments of a call and naming what is missing."""

from __future__ import annotations

from typing import Any

import numpy as np

from ascertain.operators.base import Ref
from ascertain.operators.reading import Call, NotSupported

__all__ = ["argument", "array", "constant", "integers", "real", "rounded", "unsupported", "variable"]


def unsupported(call: Call, what: str, advice: str) -> NotSupported:
    """The error of a reader: which form of the operator is not known, and what to do."""
    return NotSupported(f"{call.operator} with {what} is not supported. {advice}")


def argument(call: Call, position: int, name: str, default: Any = None) -> Any:
    """An argument given by position or by name."""
    value = call.inputs[position] if len(call.inputs) > position else call.attributes.get(name)
    return default if value is None else value


def variable(call: Call, position: int = 0) -> Ref:
    """The input at a position, which must depend on the network's input."""
    value = call.inputs[position] if len(call.inputs) > position else None
    if not isinstance(value, Ref):
        raise unsupported(call, f"a constant as input {position}", "Let it take the value that depends on the network's input.")
    return value


def array(value: Any) -> np.ndarray:
    """A constant as a floating array: float32 and float64 are kept, everything else becomes float64."""
    found = np.asarray(value)
    return found if found.dtype in (np.float32, np.float64) else found.astype(np.float64)


def constant(call: Call, position: int, name: str = "") -> np.ndarray | None:
    """A constant floating array by position (or name); None when omitted."""
    value = argument(call, position, name)
    if value is None:
        return None
    if isinstance(value, Ref):
        raise unsupported(call, f"input {position} computed from the network's input", "Make it a constant of the model.")
    return array(value)


def integers(call: Call, position: int, name: str) -> tuple[int, ...] | None:
    """A constant list of integers by position (or name); None when omitted."""
    value = argument(call, position, name)
    if value is None:
        return None
    parts = value if isinstance(value, (list, tuple)) else [value]
    if any(isinstance(v, Ref) for v in parts):
        raise unsupported(call, f"{name} computed from the network's input", "Make it a constant of the model.")
    return tuple(int(i) for i in np.asarray(value).reshape(-1))


def rounded(call: Call) -> str | None:
    """The number type in which a call's result is not its real value, for a call that adds, moves or converts; None where it is."""
    if not call.types:
        return None
    first, last = call.types[0], call.types[-1]
    whole = last in ("int32", "int64") and first in ("bool", "int32", "int64")
    return None if whole or last in ("float32", "float64", first) else last


def real(call: Call, position: int, name: str, default: float | None) -> float | None:
    """A constant number by position (or name)."""
    value = constant(call, position, name)
    if value is None:
        return default
    if value.size != 1:
        raise unsupported(call, f"{name} of shape {value.shape}", "Give one number.")
    return float(value.reshape(-1)[0])
