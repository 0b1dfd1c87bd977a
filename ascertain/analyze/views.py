"""How results are shown, as data: a kind of figure and the names of the values in it. Reports draw them from stored results."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from ascertain.analyze.result import Result
from ascertain.errors import InputError
from ascertain.evidence import Evidence

__all__ = ["Kind", "View", "figure_of", "powers"]


class Kind(StrEnum):
    """Figures, with the channels of each (``?`` may be absent; series and columns have any names)."""

    TABLE = "table"
    """Columns by their headings, 1-dimensional, of one length."""
    HEATMAP = "heatmap"
    """z (R, C); rows? (R,) and columns? (C,) name them."""
    LINE = "line"
    """x? (N,); series by name (N,), with their intervals."""
    BAR = "bar"
    """label (N,); series by name (N,), with their intervals."""
    HISTOGRAM = "histogram"
    """Series by name, any shape."""
    IMAGE = "image"
    """image (N, H, W) or (N, H, W, 3 or 4); title? (N,); further channels of the shape of image are shown beside it."""
    GRAPH = "graph"
    """node (N,) names; edge (E, 2) positions; group? (N,), weight? (E,), detail? (N,)."""
    TEXT = "text"
    """``text`` with the names of scalars in braces, such as ``{accuracy:.1%}``."""


@dataclass(frozen=True)
class View:
    """One figure or sentence."""

    kind: Kind
    title: str
    channels: Mapping[str, str] = field(default_factory=dict)
    """Channel to name of a value."""
    text: str = ""
    """For figures a caption, for sentences the sentence; scalars in braces."""
    finding: bool = False
    """Whether it belongs to the summary at the top of a report."""
    x: str = ""
    y: str = ""
    """Titles of the axes, with units."""
    log: str = ""
    """Which axes are logarithmic: ``x``, ``y`` or ``xy``."""

    def uses(self) -> tuple[str, ...]:
        """Names of all values that appear."""
        return tuple(dict.fromkeys([*self.channels.values(), *_slots(self.text)]))

    def words(self, result: Result) -> str:
        """The text with numbers in place of their names."""
        found = {name: result[name] for name in _slots(self.text)}
        wide = [name for name, value in found.items() if value.ndim]
        if wide:
            raise InputError(f"{wide[0]} in the text of view {self.title!r} is no scalar; show arrays as figures.")
        return _Words().vformat(self.text, (), {name: value.item() for name, value in found.items()})

    def arrays(self, result: Result) -> dict[str, np.ndarray]:
        """Arrays by channel."""
        return {channel: result[name] for channel, name in self.channels.items()}

    def evidence(self, result: Result) -> Evidence:
        """What the view is worth: the weakest of what it shows."""
        return result.evidence(self.uses())


class _Words(string.Formatter):
    """Numbers in sentences, with powers of ten as people write them."""

    def format_field(self, value: Any, format_spec: str) -> str:
        text = str(super().format_field(value, format_spec))
        return powers(text) if isinstance(value, float) else text


def powers(number: str) -> str:
    """A formatted number with its power of ten written out: 1.4e+08 as 1.4\u00b710\u2078."""
    mantissa, mark, exponent = number.partition("e")
    if not mark:
        return number
    raised = str(int(exponent)).translate(
        str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")
    )
    return f"{mantissa}\u00b710{raised}"


def _slots(text: str) -> list[str]:
    """Names in braces; attributes and indices are refused, so that a format cannot reach into objects."""
    names = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
    bad = [name for name in names if not name.isidentifier()]
    if bad:
        raise InputError(f"{bad[0]!r} in the text of a view is no name of a value; write names of scalars in braces.")
    return names


_NEEDED = {Kind.HEATMAP: ("z",), Kind.BAR: ("label",), Kind.IMAGE: ("image",), Kind.GRAPH: ("node", "edge")}


def figure_of(view: View, result: Result) -> dict[str, Any]:
    """The view with its numbers, checked: everything that a page needs to draw it, as plain values and arrays.

    Keys: kind, title, text, evidence, finding, x, y, log, channels (arrays), intervals (channel to (low, high)).
    Raises InputError when a value is missing or does not fit the kind of figure.
    """
    arrays = view.arrays(result)
    complaint = _complaint(view, arrays)
    if complaint:
        raise InputError(f"view {view.title!r} of {result.analyzer} cannot be drawn: {complaint}; mend the view.")
    measured = {channel: result.values[name] for channel, name in view.channels.items()}
    return {
        "kind": str(view.kind),
        "title": view.title,
        "text": view.words(result),
        "evidence": str(view.evidence(result)),
        "finding": view.finding,
        "x": view.x,
        "y": view.y,
        "log": view.log,
        "channels": arrays,
        "intervals": {c: (m.low, m.high) for c, m in measured.items() if m.low is not None},
    }


def _complaint(view: View, arrays: Mapping[str, np.ndarray]) -> str:
    """What is wrong with the arrays of a view; empty if nothing is."""
    missing = [c for c in _NEEDED.get(view.kind, ()) if c not in arrays]
    if missing:
        return f"channel {missing[0]} is missing"
    match view.kind:
        case Kind.TEXT:
            return "" if view.text else "it says nothing"
        case Kind.HISTOGRAM:
            return "" if arrays else "it has no series"
        case Kind.TABLE | Kind.LINE | Kind.BAR:
            sizes = {a.shape for a in arrays.values()}
            series = [c for c in arrays if c not in ("x", "label")]
            return "" if series and len(sizes) == 1 and len(sizes.pop()) == 1 else "its columns are not of one length"
        case Kind.HEATMAP:
            return _heatmap(arrays)
        case Kind.IMAGE:
            return _images(arrays)
        case Kind.GRAPH:
            return _graph(arrays)


def _heatmap(arrays: Mapping[str, np.ndarray]) -> str:
    z = arrays["z"]
    if z.ndim != 2:
        return f"z has {z.ndim} axes"
    sides = zip(("rows", "columns"), z.shape, strict=True)
    wrong = [side for side, n in sides if side in arrays and arrays[side].shape != (n,)]
    return f"{wrong[0]} do not fit z of shape {z.shape}" if wrong else ""


def _images(arrays: Mapping[str, np.ndarray]) -> str:
    image = arrays["image"]
    if not (image.ndim == 3 or (image.ndim == 4 and image.shape[3] in (3, 4))):
        return f"image has shape {image.shape}"
    wrong = [c for c, a in arrays.items() if a.shape != ((len(image),) if c == "title" else image.shape)]
    return f"{wrong[0]} does not fit image of shape {image.shape}" if wrong else ""


def _graph(arrays: Mapping[str, np.ndarray]) -> str:
    node, edge = arrays["node"], arrays["edge"]
    if node.ndim != 1 or edge.ndim != 2 or edge.shape[1] != 2:
        return f"node has shape {node.shape}, edge {edge.shape}"
    if edge.size and not (edge.dtype.kind in "iu" and edge.min() >= 0 and edge.max() < len(node)):
        return "an edge leads to no node"
    sizes = {"group": len(node), "detail": len(node), "weight": len(edge)}
    wrong = [c for c, n in sizes.items() if c in arrays and arrays[c].shape != (n,)]
    return f"{wrong[0]} has the wrong length" if wrong else ""
