"""The page: one HTML file with everything in it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np

from ascertain.analyze.registry import options_of
from ascertain.analyze.report import charts
from ascertain.analyze.report.diagrams import diagram
from ascertain.analyze.report.numbers import cells, short, value_rows
from ascertain.analyze.report.pictures import gallery
from ascertain.analyze.report.sections import Contents, Frame, Section, arrange, level
from ascertain.analyze.result import Failure, Result

__all__ = ["page"]

_STILLS = 1_200_000
"""Characters of pictures that a page may carry for readers without scripts."""
_ROOM = 1_200_000
"""Characters of records that a page carries whole; beyond, arrays of further records stay in the store."""
_SMALL = 4_000
_WORTH = {
    "EXACT": (4, "exact arithmetic, or replayed on the original model"),
    "PROVED": (3, "true for every input asked about, rounding errors included"),
    "BOUNDED": (2, "true in real arithmetic; computed in floating point"),
    "ESTIMATED": (1, "measured on samples; another sample gives another number"),
}


def page(records: Sequence[Result | Failure], title: str = "") -> str:
    """The text of an HTML file that asks for nothing from anywhere."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    contents = arrange(records, title)
    drawn = _Drawn()
    sections = [drawn.section(s) for s in contents.sections]
    comparison = _comparison(contents)
    trends = [drawn.figure(f) for f in _trends(contents)]
    home = files(__package__)
    style = home.joinpath("style.css").read_text("utf-8")
    code = (
        [charts.bundle(), home.joinpath("page.js").read_text("utf-8")]
        if drawn.specs
        else [home.joinpath("page.js").read_text("utf-8")]
    )
    environment = Environment(
        loader=PackageLoader("ascertain.analyze.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text: str = environment.get_template("page.html").render(
        contents=contents,
        sections=sections,
        comparison=comparison,
        trends=trends,
        worth=_WORTH,
        rules=_rules(style, code),
        style=Markup(style),
        scripts=[Markup(c) for c in code],
        specs=Markup(_inert(drawn.specs)),
        records=[(i, Markup(_inert(r))) for i, r in enumerate(_carried(drawn.results))],
        provenance=_provenance(records),
        short=short,
    )
    return text.lstrip()


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def _rules(style: str, code: Sequence[str]) -> str:
    """The content security policy: these scripts and this style, images in the page itself, and nothing else."""
    scripts = " ".join(_digest(c) for c in code)
    return (
        f"default-src 'none'; script-src {scripts}; style-src {_digest(style)}; img-src data:; base-uri 'none'; form-action 'none'"
    )


def _inert(value: Any) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


class _Drawn:
    """Turns figures into what the template shows, and collects specifications and records on the way."""

    def __init__(self) -> None:
        self.specs: list[dict[str, Any]] = []
        self.results: list[Result] = []
        self.stills = 0
        """Characters of pictures for readers without scripts, so far."""

    def section(self, section: Section) -> dict[str, Any]:
        first = section.frames[0].result
        kind = section.kind
        usual = {} if kind is None else options_of(kind())
        return {
            "id": section.identity,
            "title": section.title,
            "about": "" if kind is None else (kind.__doc__ or "").strip().splitlines()[0],
            "meaning": "" if kind is None else kind.meaning,
            "evidence": "" if kind is None else kind.evidence,
            "formula": "" if kind is None else kind.formula,
            "references": () if kind is None else kind.references,
            "analyzer": first.analyzer,
            "options": [(k, short(v) if not isinstance(v, list) else str(v), usual.get(k) != v) for k, v in first.options.items()],
            "asked": {role: name for role, name in first.names.items() if role not in ("model", "other")},
            "seed": first.seed,
            "frames": [self.frame(f) for f in level(section.frames)],
            "seconds": f"{sum(f.result.cost.wall for f in section.frames):.2g}",
        }

    def frame(self, frame: Frame) -> dict[str, Any]:
        self.results.append(frame.result)
        return {
            "model": frame.model,
            "complaint": frame.complaint,
            "figures": [self.figure(f) for f in frame.figures],
            "values": value_rows(frame.result),
            "record": len(self.results) - 1,
            "file": f"{frame.result.analyzer.replace(':', '.')}-{frame.result.key[:8]}",
        }

    def figure(self, figure: dict[str, Any]) -> dict[str, Any]:
        """The figure with what its kind needs; its arrays stay behind."""
        shown = {k: v for k, v in figure.items() if k not in ("channels", "intervals")} | {
            "notes": [figure["note"]] if figure["note"] else []
        }
        match figure["kind"]:
            case "table":
                columns = [(c, *cells(a)) for c, a in figure["channels"].items()]
                rows = list(zip(*(c[1] for c in columns), strict=True))
                return shown | {"headings": [(c[0], c[2]) for c in columns], "rows": rows}
            case "image":
                return shown | {"gallery": gallery(figure["channels"])}
            case "graph":
                return shown | {"diagram": diagram(figure["channels"])}
            case kind if kind in charts.DRAWN:
                spec, notes = charts.chart(figure)
                self.specs.append(spec)
                notes = [*shown["notes"], *notes]
                wide = spec["width"] == "container"
                return shown | {
                    "kind": "chart",
                    "chart": len(self.specs) - 1,
                    "still": self.still(spec),
                    "notes": notes,
                    "wide": wide,
                }
        return shown

    def still(self, spec: dict[str, Any]) -> str:
        """The picture of a chart; empty where room ran out."""
        found = charts.still(spec) if self.stills < _STILLS else ""
        self.stills += len(found)
        return found


def _carried(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Records as JSON; where room runs out, without their large arrays, which are named instead."""
    found, spent = [], 0
    for result in results:
        body = result.to_json()
        size = len(json.dumps(body))
        if spent + size > _ROOM:
            left = [n for n, m in result.values.items() if m.value.size > _SMALL]
            body = body | {"values": {n: v for n, v in body["values"].items() if n not in left}, "left_out": left}
            size = len(json.dumps(body))
        spent += size
        found.append(body)
    return found


def _comparison(contents: Contents) -> list[dict[str, Any]]:
    """Rows of the table that compares models; ``worth`` is the evidence where it is the same for all."""
    rows = []
    for row in contents.comparison:
        told = [None if m is None else (short(m.value.item()), str(m.evidence)) for m in row["cells"]]
        worth = {cell[1] for cell in told if cell is not None}
        rows.append(
            {
                "section": row["section"],
                "name": row["about"] or row["name"],
                "cells": told,
                "worth": worth.pop() if len(worth) == 1 else "",
            }
        )
    return rows


def _trends(contents: Contents) -> list[dict[str, Any]]:
    """Lines of the numbers that change over three models or more."""
    found = []
    for row in contents.comparison:
        cells = row["cells"]
        if len(cells) < 3 or any(m is None or m.value.dtype.kind not in "iuf" for m in cells):
            continue
        values = np.array([float(m.value) for m in cells])
        finite = values[np.isfinite(values)]
        if not finite.size or np.ptp(finite) == 0:
            continue
        name = row["about"] or row["name"]
        ends = [[float(m.value if end is None else end) for m in cells for end in (getattr(m, side),)] for side in ("low", "high")]
        known = any(m.low is not None for m in cells)
        found.append(
            {
                "kind": "line",
                "title": f"{row['section'].title}: {name}",
                "text": "",
                "note": "",
                "evidence": str(min(m.evidence for m in cells)),
                "x": "",
                "y": "",
                "log": "y" if finite.min() > 0 and finite.max() > 1000 * finite.min() else "",
                "words": (),
                "channels": {"x": np.array(contents.models), "value": values},
                "intervals": {"value": (np.array(ends[0]), np.array(ends[1]))} if known else {},
            }
        )
    return found[:12]


def _provenance(records: Sequence[Result | Failure]) -> dict[str, Any]:
    """Where the numbers come from."""
    inputs: dict[tuple[str, str, str], None] = {}
    for r in records:
        inputs |= {(role, r.names.get(role, ""), digest): None for role, digest in r.inputs.items()}
    versions = {f"{k} {v}": None for r in records for k, v in r.versions.items()}
    return {
        "inputs": list(inputs),
        "versions": list(versions),
        "machines": list(dict.fromkeys(r.place for r in records)),
        "seeds": sorted({r.seed for r in records}),
        "started": (min(r.started for r in records), max(r.started for r in records)),
        "seconds": f"{sum(r.cost.cpu for r in records):.3g}",
        "peak": f"{max(r.cost.peak for r in records) / 2**20:.0f}",
        "schema": max(r.schema for r in records),
        "count": len(records),
    }
