"""Figures as Vega-Lite specifications without style, and as pictures for pages whose scripts are off."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ascertain.analyze.report.numbers import short
from ascertain.analyze.report.pictures import RAMP, TWO_SIDED

__all__ = ["DRAWN", "bundle", "chart", "still"]

DRAWN = ("heatmap", "line", "bar", "histogram")
"""Kinds of figures that are drawn here."""
_POINTS = 2000
_BARS = 40
_CELLS = 4096
_LETTERS = 24
_WRITTEN = 144
"""Heat maps with at most so many cells have their numbers written in."""
_LARGE = 200_000
_NEEDLESS = re.compile(r' (class|role|aria-[a-z]+|pointer-events|opacity)="(?:1|none|true|[a-z-]+(?: [a-z-]+)*)"')
"""Attributes of drawings that no picture needs; words for those who cannot see it are beside it."""
_SERIES = ("#0f766e", "#c2571a", "#5b5bd6", "#b0357c", "#6b7f16", "#1f6fb2", "#8a5a2b", "#6b7280")
_STYLE = {
    "background": "#ffffff",
    "aria": False,
    "font": "sans-serif",
    "view": {"stroke": None},
    "axis": {"gridColor": "#e6e3da", "domainColor": "#8a8f98", "tickColor": "#8a8f98", "titleFontWeight": "normal"},
    "legend": {"orient": "top", "direction": "horizontal"},
    "style": {"halo": {"color": "#ffffff", "strokeWidth": 4, "opacity": 0.7}, "reach": {"color": "#1b2430", "strokeWidth": 1.6}},
    "range": {"category": list(_SERIES)},
}


def bundle() -> str:
    """The scripts that draw charts in a page; they set ``vegaEmbed``."""
    import vl_convert

    text: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return text


def still(spec: dict[str, Any]) -> str:
    """A data address of the picture of a chart."""
    import vl_convert

    wide = spec | {"config": _STYLE} | ({"width": 620} if spec.get("width") == "container" else {})
    # Tags alone are made smaller: what stands between them may be words of a model.
    svg = re.sub(r"<[^>]*>", lambda tag: _NEEDLESS.sub("", tag[0]), vl_convert.vegalite_to_svg(wide)).encode()
    if len(svg) > _LARGE:
        return f"data:image/png;base64,{base64.b64encode(vl_convert.vegalite_to_png(wide)).decode('ascii')}"
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode('ascii')}"


def chart(figure: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The specification of a figure (`ascertain.analyze.figure_of`) and notes on what it leaves out.

    Words of models appear as data and titles only, never as names of fields or in expressions.
    """
    notes: list[str] = []
    make = {"heatmap": _heatmap, "line": _line, "bar": _bar, "histogram": _histogram}[figure["kind"]]
    return make(figure, notes), notes


def _number(value: Any) -> float | None:
    """Enough digits to draw; None for infinite."""
    found = float(value)
    return float(f"{found:.6g}") if np.isfinite(found) else None


def _axis(title: str, *, log: bool = False, values: np.ndarray | None = None, **more: Any) -> dict[str, Any]:
    """An encoding of numbers; a logarithmic one bends around nought where numbers are not all positive."""
    found: dict[str, Any] = {"type": "quantitative", "title": title or None, "axis": {"tickCount": 6}, **more}
    if log and values is not None:
        finite = values[np.isfinite(values)]
        if finite.size and finite.min() > 0:
            found["scale"] = {"type": "log"}
        else:
            small = np.abs(finite[finite != 0])
            found["scale"] = {"type": "symlog", "constant": float(small.min()) if small.size else 1.0}
    return found


def _shared(axis: dict[str, Any], figure: dict[str, Any], *, zero: bool) -> dict[str, Any]:
    """The axis with the ends that the figures of all models have in common, if there are several."""
    if "span" not in figure:
        return axis
    low, high = figure["span"]
    scale = axis.get("scale", {})
    if zero and not scale:
        low, high = min(0.0, low), max(0.0, high)
    fits = high > low and (low > 0 or scale.get("type") != "log")
    return axis | {"scale": scale | {"domain": [_number(low), _number(high)], "nice": True}} if fits else axis


def _series(names: Sequence[str]) -> dict[str, Any]:
    # Columns are as wide as the longest name, and phones about as wide as forty letters.
    legend = {"title": None, "columns": max(1, 40 // (4 + max(len(n) for n in names)))} if len(names) > 1 else None
    return {"field": "s", "type": "nominal", "scale": {"domain": list(names)}, "legend": legend}


def _ending(word: str) -> str:
    """The end of a long name: paths of layers differ there."""
    return word if len(word) <= _LETTERS else f"…{word[1 - _LETTERS :]}"


def _distinct(words: np.ndarray) -> list[str]:
    """Labels that differ, as axes want them."""
    seen: dict[str, int] = {}
    found = []
    for word in (_ending(short(w)) for w in words):
        seen[word] = seen.get(word, 0) + 1
        found.append(word if seen[word] == 1 else f"{word} ({seen[word]})")
    return found


def _rows(figure: dict[str, Any], names: Sequence[str], places: Sequence[Any], notes: list[str]) -> list[dict[str, Any]]:
    """One row for each finite point of each series."""
    rows, lost = [], 0
    for name in names:
        low, high = figure["intervals"].get(name, (None, None))
        for i, value in enumerate(figure["channels"][name]):
            row = {"s": name, "p": places[i], "v": _number(value)}
            if row["v"] is None or row["p"] is None:
                lost += 1
                continue
            if low is not None and high is not None:
                row |= {"l": _number(low[i]), "h": _number(high[i])}
            rows.append(row)
    if lost:
        notes.append(f"{lost} infinite value{'s' * (lost != 1)} not drawn.")
    return rows


def _frame(rows: list[dict[str, Any]], height: int) -> dict[str, Any]:
    return {"width": "container", "height": height, "autosize": {"type": "fit-x", "contains": "padding"}, "data": {"values": rows}}


def _line(figure: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    channels = figure["channels"]
    names = [c for c in channels if c != "x"]
    count = len(channels[names[0]])
    x = channels.get("x", np.arange(count))
    words = x.dtype.kind == "U"
    rows = _rows(figure, names, _distinct(x) if words else [_number(v) for v in x], notes)
    step = -(-len(rows) // _POINTS)
    if step > 1:
        rows = rows[::step]
        notes.append(f"Every {step}th point is drawn.")
    across = {"field": "p", "title": figure["x"] or None}
    if words:
        across |= {"type": "ordinal", "sort": None, "axis": {"labelLimit": 120}}
    else:
        across |= _axis(figure["x"], log="x" in figure["log"], values=x)
        across.setdefault("scale", {"zero": False})
    values = np.concatenate([channels[n].astype(float) for n in names])
    up = {"field": "v"} | _axis(figure["y"] or (names[0] if len(names) == 1 else ""), log="y" in figure["log"], values=values)
    up = _shared(up, figure, zero=False)
    tips = [
        _tip("s", "series", "nominal"),
        _tip("p", figure["x"] or "x", "nominal" if words else "quantitative"),
        _tip("v", "value"),
    ]
    mark = {"type": "line", "strokeWidth": 2.2, "point": {"size": 28} if count <= 30 else False, "clip": True}
    layers: list[dict[str, Any]] = [{"mark": mark, "encoding": {"y": up}}]
    if figure["intervals"]:
        ends = {"y": up | {"field": "l"}, "y2": {"field": "h"}}
        layers.insert(0, {"mark": {"type": "area", "opacity": 0.18}, "encoding": ends})
    return _frame(rows, 280) | {"encoding": {"x": across, "color": _series(names), "tooltip": tips}, "layer": layers}


def _tip(field: str, title: str, kind: str = "quantitative") -> dict[str, Any]:
    return {"field": field, "type": kind, "title": title} | ({"format": ".4~g"} if kind == "quantitative" else {})


def _bar(figure: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    channels = figure["channels"]
    names = [c for c in channels if c != "label"]
    labels = _distinct(channels["label"])
    rows = _rows(figure, names, labels, notes)
    values = np.concatenate([channels[n].astype(float) for n in names])
    many = len(labels) > _BARS
    log = bool(figure["log"])
    amount = {"field": "v"} | _axis(figure["y"] or (names[0] if len(names) == 1 else ""), log=log, values=values)
    amount = _shared(amount, figure, zero=True)
    place = {"field": "p", "type": "ordinal", "sort": None, "title": figure["x"] or None}
    place["axis"] = {"labelLimit": 90 if many else 150, "labelOverlap": "greedy" if many else False, "ticks": False}
    ends = ("x", "y") if many else ("y", "x")
    # Whatever lies on top is what the pointer meets, so that all layers tell.
    tips = [_tip("p", "name", "nominal"), _tip("s", "series", "nominal"), _tip("v", "value")]
    shared: dict[str, Any] = {ends[0]: place, "tooltip": tips}
    if len(names) > 1:
        shared[f"{ends[0]}Offset"] = {"field": "s", "scale": {"domain": list(names)}}
    # Bars would begin at nought, which logarithmic axes do not have.
    dots = amount.get("scale") == {"type": "log"}
    mark = {"type": "point", "filled": True, "size": 70} if dots else {"type": "bar", "cornerRadiusEnd": 2}
    layers: list[dict[str, Any]] = [{"mark": mark, "encoding": {ends[1]: amount, "color": _series(names)}}]
    if figure["intervals"]:
        reach = {ends[1]: amount | {"field": "l"}, f"{ends[1]}2": {"field": "h"}}
        layers += [{"mark": {"type": "rule", "style": style}, "encoding": reach} for style in ("halo", "reach")]
    height = 280 if many else max(90, 30 + len(labels) * (10 + 15 * len(names)))
    return _frame(rows, height) | {"encoding": shared, "layer": layers}


def _histogram(figure: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    series = {name: a.reshape(-1).astype(float) for name, a in figure["channels"].items()}
    finite = {name: a[np.isfinite(a)] for name, a in series.items()}
    lost = sum(a.size for a in series.values()) - sum(a.size for a in finite.values())
    if lost:
        notes.append(f"{lost} infinite value{'s' * (lost != 1)} not drawn.")
    low, high, bins = _bins(np.concatenate(list(finite.values())))
    rows = []
    for name, a in finite.items():
        counts, edges = np.histogram(a, bins, (low, high))
        pairs = zip(counts, edges[:-1], edges[1:], strict=True)
        rows += [{"s": name, "n": int(n), "a": _number(start), "b": _number(end)} for n, start, end in pairs if n]
    names = list(series)
    across = {"field": "a", "bin": "binned"} | _axis(figure["x"] or (names[0] if len(names) == 1 else ""), scale={"zero": False})
    encoding = {
        "x": across,
        "x2": {"field": "b"},
        "y": {"field": "n", "stack": None} | _axis(figure["y"] or "count", axis={"tickMinStep": 1, "tickCount": 6}),
        "color": _series(names),
        "tooltip": [_tip("s", "series", "nominal"), _tip("a", "from"), _tip("b", "to"), _tip("n", "count")],
    }
    mark = {"type": "bar", "binSpacing": 1, "opacity": 1 if len(names) == 1 else 0.6, "cornerRadiusEnd": 2}
    return _frame(rows, 240) | {"mark": mark, "encoding": encoding}


def _bins(pool: np.ndarray) -> tuple[float, float, int]:
    """Ends and number of bins; halved first, because differences of the largest floats overflow."""
    low, high = (float(pool.min()), float(pool.max())) if pool.size else (0.0, 1.0)
    largest = np.finfo(np.float64).max / 4
    if high / 2 - low / 2 <= 1e-9 * max(abs(low), abs(high)):
        # Equal numbers make widths that floats cannot tell apart; one bin shows them.
        half = 0.05 * max(abs(low), abs(high)) or 0.5
        return max(low - half, -largest), min(high + half, largest), 1
    return max(low, -largest), min(high, largest), min(40, max(8, int(np.ceil(2 * pool.size ** (1 / 3)))))


def _heatmap(figure: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    z = figure["channels"]["z"].astype(float)
    strides = [1, 1]
    while z[:: strides[0], :: strides[1]].size > _CELLS:
        strides[int(z.shape[1] / strides[1] > z.shape[0] / strides[0])] += 1
    if strides != [1, 1]:
        notes.append(f"Every {strides[0]}th row and every {strides[1]}th column is drawn.")
    rows, columns = (
        _distinct(figure["channels"].get(side, np.arange(n)))[::stride]
        for side, n, stride in zip(("rows", "columns"), z.shape, strides, strict=True)
    )
    z = z[:: strides[0], :: strides[1]]
    values = [{"r": r, "c": c, "v": _number(z[i, j])} for i, r in enumerate(rows) for j, c in enumerate(columns)]
    lost = sum(v["v"] is None for v in values)
    if lost:
        notes.append(f"{lost} infinite value{'s' * (lost != 1)} left blank.")
    finite = z[np.isfinite(z)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    low, high = figure.get("span", (low, high))
    top = max(abs(low), abs(high)) or 1.0
    scale: dict[str, Any] = {"domain": [-top, 0, top], "range": [TWO_SIDED[0], TWO_SIDED[2], TWO_SIDED[4]]}
    if low >= 0:
        scale = {"domain": list(np.linspace(low, high, len(RAMP))), "range": list(RAMP)} if high > low else {"range": list(RAMP)}
    step = int(np.clip(460 // max(z.shape), 6, 46))
    few = max(1, 14 // step)
    sides = {
        name: {"field": name, "type": "ordinal", "sort": None, "title": title or None, "axis": _ticks(labels[::few], name)}
        for name, title, labels in (("r", figure["y"], rows), ("c", figure["x"], columns))
    }
    tips = [_tip("r", figure["y"] or "row", "nominal"), _tip("c", figure["x"] or "column", "nominal"), _tip("v", "value")]
    shared = {"y": sides["r"], "x": sides["c"], "tooltip": tips}
    legend = {"title": None, "gradientLength": min(200, max(60, step * z.shape[0])), "orient": "right", "direction": "vertical"}
    colour = {"field": "v", "type": "quantitative", "scale": scale, "legend": legend}
    layers: list[dict[str, Any]] = [{"mark": {"type": "rect"}, "encoding": {"color": colour}}]
    if z.size <= _WRITTEN and step >= 30:
        middle = [0.55 * top] if low < 0 else [low + 0.45 * (high - low)]
        light = {"test": {"or": [{"field": "v", "gt": middle[0]}, {"field": "v", "lt": -middle[0]}]}, "value": "#ffffff"}
        text = {"text": {"field": "v", "format": ".2~g"}, "color": {"condition": light, "value": "#1d2733"}}
        layers.append({"mark": {"type": "text", "fontSize": 11}, "encoding": text})
    return {"width": {"step": step}, "height": {"step": step}, "data": {"values": values}, "encoding": shared, "layer": layers}


def _ticks(labels: list[str], side: str) -> dict[str, Any]:
    return {"values": labels, "labelLimit": 150, "ticks": False, "domain": False, **({"labelAngle": -45} if side == "c" else {})}
