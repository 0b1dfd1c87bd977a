"""What the importers of all formats share: calling readers, and reporting every unsupported operator at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

import numpy as np

from ascertain.errors import DataError, ModelError, UnsupportedError
from ascertain.graph.fold import guarded
from ascertain.graph.graph import Builder
from ascertain.graph.legality import parameters
from ascertain.operators.base import Ref, Shape
from ascertain.operators.reading import MASKS, Call, Masked, NotSupported, Reader

__all__ = ["Unknown", "Walk", "static_shape"]


@dataclass(frozen=True)
class Unknown:
    """A value made by an unsupported operator, or from one; the walk goes on to list the others."""

    constant: bool = False
    """Whether the value is a constant of the network, though not one that can be had."""


def static_shape(declared: list[int | None] | None, given: Shape | None, what: str) -> Shape:
    """The input's shape: as declared, an unknown batch size as 1; a given shape fills what is unknown otherwise."""
    if given is not None:
        fits = declared is None or (
            len(declared) == len(given) and all(d is None or d == g for d, g in zip(declared, given, strict=True))
        )
        if not fits or not all(isinstance(n, int) and n > 0 for n in given):
            raise ModelError(
                f"{what} is declared with shape {_text(declared)}, input_shape={given} does not fit; give all its sizes."
            )
        return given
    if declared is None:
        raise ModelError(f"{what} has no declared shape; give input_shape=(1, ...), batch axis included.")
    shape = [1 if i == 0 and n is None else n for i, n in enumerate(declared)]
    sizes = tuple(n for n in shape if n is not None)
    if len(sizes) < len(shape):
        raise ModelError(
            f"{what} has the shape {_text(declared)} with unknown sizes; give input_shape=(1, ...), batch axis included."
        )
    if any(n <= 0 for n in sizes):
        raise ModelError(f"{what} has the shape {_text(declared)}, which holds no numbers; give a model with an input.")
    return sizes


def _text(declared: list[int | None] | None) -> str:
    return "unknown" if declared is None else "(" + ", ".join("?" if n is None else str(n) for n in declared) + ")"


@dataclass
class Walk:
    """Adds the nodes of one model to a builder through readers."""

    file: str
    table: Mapping[str, Reader]
    builder: Builder = field(default_factory=Builder)
    unsupported: list[tuple[str, str, str]] = field(default_factory=list)
    """Operator, node, reason."""

    def missing(self, operator: str, node: str, reason: str = "") -> Unknown:
        """Notes an operator that cannot be read."""
        if not reason:
            close = get_close_matches(operator, self.table, n=2, cutoff=0.7)
            reason = f"close to it: {', '.join(close)}" if close else "no such operator is known"
        self.unsupported.append((operator, node, reason))
        return Unknown()

    def read(self, key: str, call: Call, weights: Iterable[tuple[str, np.ndarray]]) -> tuple[Any, ...]:
        """Values of a call on a variable; ``weights`` are its constants by name, for the message when they are not finite."""
        reader = self.table.get(key)
        if reader is None:
            return (self.missing(key, call.node),)
        if key not in MASKS:
            call = replace(call, inputs=_plain(call.inputs), attributes={k: _plain(v) for k, v in call.attributes.items()})
            if _masked((*call.inputs, *call.attributes.values())):
                return (self.missing(key, call.node, "minus infinity as an input; a mask is known only right before a softmax"),)
        start = len(self.builder.nodes)
        self.builder.scope = call.node
        what = f"{self.file}: node {call.node!r} ({key})"
        try:
            value = guarded(lambda: reader(call), what)
        except NotSupported as error:
            return (self.missing(key, call.node, str(error) or "this form of it is not known"),)
        for node in self.builder.nodes[start:]:
            for complaint in parameters(node):
                bad = [name for name, array in weights if array.dtype.kind == "f" and not np.isfinite(array).all()]
                blame = f"its weight {bad[0]!r} holds NaN or infinite numbers" if bad else complaint
                raise DataError(f"{what}: {blame}; repair or retrain the model.")
        return value if isinstance(value, tuple) else (value,)

    def probe(self, key: str, node: str) -> tuple[Any, ...]:
        """Values of a call whose inputs are unknown: only its name can be judged."""
        return (Unknown(),) if key in self.table else (self.missing(key, node),)

    def finish(self, output: Any, name: str) -> Ref:
        """The output value; raises UnsupportedError with all that could not be read."""
        if self.unsupported:
            groups: dict[tuple[str, str], list[str]] = {}
            for operator, node, reason in self.unsupported:
                groups.setdefault((operator, reason), []).append(node)
            listed = [f"{operator} at {_names(nodes)} ({reason})" for (operator, reason), nodes in groups.items()]
            raise UnsupportedError(
                f"{self.file} uses operators that are not supported: {'; '.join(listed)}. Replace them in the model.",
                tuple((operator, node) for operator, node, _ in self.unsupported),
            )
        output = _plain(output)
        if isinstance(output, Masked):
            raise ModelError(f"{self.file}: the output {name!r} is minus infinity at some entries; choose a finite one.")
        if not isinstance(output, Ref):
            raise ModelError(f"{self.file}: the output {name!r} does not depend on the input; there is nothing to verify.")
        return output


def _plain(value: Any) -> Any:
    """A value, or a list of them, without masks that need not be known."""
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(v) for v in value)
    return Ref(value.index, value.shape) if isinstance(value, Masked) and value.finite else value


def _masked(value: Any) -> bool:
    return any(map(_masked, value)) if isinstance(value, (list, tuple)) else isinstance(value, Masked)


def _names(nodes: list[str]) -> str:
    more = f" and {len(nodes) - 8} more" if len(nodes) > 8 else ""
    return ", ".join(map(repr, nodes[:8])) + more
