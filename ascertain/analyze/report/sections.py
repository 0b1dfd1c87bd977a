"""Stored results put in order for a reader: findings first, then one section for each question."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np

from ascertain.analyze.base import Analyzer
from ascertain.analyze.registry import analyzers, find
from ascertain.analyze.report.numbers import intervals
from ascertain.analyze.result import Failure, Record, Result, canonical
from ascertain.analyze.views import Kind, figure_of
from ascertain.errors import InputError

__all__ = ["Contents", "Finding", "Frame", "Section", "arrange", "level"]

_FIRST = ("overview", "verify", "robustness", "lipschitz")
"""What people ask first; the others follow in the order in which they come."""


@dataclass(frozen=True)
class Finding:
    """One sentence of the summary with what it is worth."""

    text: str
    evidence: str
    intervals: Sequence[str]
    section: str
    title: str
    model: str
    """Empty where all results are of one model."""


@dataclass(frozen=True)
class Frame:
    """One result of a section: what is drawn of it."""

    result: Result
    model: str
    figures: Sequence[dict[str, Any]]
    """As `ascertain.analyze.figure_of` gives them, with the words on intervals."""
    complaint: str = ""
    """Why nothing is drawn, if nothing is."""


@dataclass(frozen=True)
class Section:
    """One question (analyzer, options, data, seed) and its answers for every model asked."""

    identity: str
    title: str
    kind: type[Analyzer] | None
    frames: Sequence[Frame]


@dataclass(frozen=True)
class Contents:
    """Everything that a report says."""

    title: str
    models: Sequence[str]
    data: Sequence[str]
    findings: Sequence[Finding]
    sections: Sequence[Section]
    failures: Sequence[Failure]
    comparison: Sequence[dict[str, Any]] = field(default_factory=tuple)
    """Scalars that were measured for several models: section, name, about, cells (text, evidence) in the order of the models."""


def arrange(records: Sequence[Result | Failure], title: str = "") -> Contents:
    """The contents of a report."""
    # Results about several models at a time come beside those of one, if there are any.
    alone = [r for r in records if not r.names.keys() & {"other", "trajectory"}]
    models = list(dict.fromkeys(_model(r) for r in alone or records))
    data = list(dict.fromkeys(r.names["data"] for r in records if "data" in r.names))
    groups: dict[str, list[Result]] = {}
    for record in sorted(records, key=lambda r: _FIRST.index(r.analyzer) if r.analyzer in _FIRST else len(_FIRST)):
        if isinstance(record, Result):
            groups.setdefault(_question(record), []).append(record)
    sections = [_section(k, group, len(models) > 1) for k, group in enumerate(groups.values(), 1)]
    findings = [f for section in sections for f in _findings(section)]
    failures = [r for r in records if isinstance(r, Failure)]
    name = title or (models[0] if len(models) == 1 else f"{len(models)} models")
    compared = _comparison(sections, models) if len(models) > 1 else []
    return Contents(name, models, data, findings, sections, failures, compared)


def _model(record: Record) -> str:
    name = record.names.get("model", "a model")
    if "trajectory" in record.names:
        along = record.names["trajectory"].split(", ")
        return f"{along[0]} to {along[-1]}"
    return f"{name} and {record.names['other']}" if "other" in record.names else name


def _question(record: Record) -> str:
    asked = {role: digest for role, digest in record.inputs.items() if role in ("data", "labels", "property")}
    return canonical([record.analyzer, record.version, dict(record.options), asked, record.seed])


def _kind(result: Result) -> type[Analyzer] | None:
    """The analyzer of a record, if it is of this package or loaded already: a record must not make anything be imported."""
    module, _, _ = result.analyzer.partition(":")
    known = result.analyzer in analyzers() or (":" in result.analyzer and module in sys.modules)
    return find(result.analyzer) if known else None


def _section(number: int, group: Sequence[Result], several: bool) -> Section:
    kind = _kind(group[0])
    title = group[0].analyzer if kind is None else kind.title
    frames = [_frame(result, kind, _model(result) if several else "") for result in group]
    return Section(f"s{number}", title, kind, frames)


def _frame(result: Result, kind: type[Analyzer] | None, model: str) -> Frame:
    if kind is None:
        return Frame(result, model, [], "The analyzer is not installed here, so that its figures are not drawn.")
    if kind.version != result.version:
        return Frame(result, model, [], f"Measured by version {result.version} of the analyzer, here is {kind.version}.")
    try:
        views = kind().views(result)
        figures = [figure_of(v, result) | {"words": intervals(v, result), "note": ""} for v in views]
    # Records come from files, in which anything may be missing or of another type.
    except (InputError, LookupError, TypeError, ValueError, AttributeError) as error:
        return Frame(result, model, [], f"The record does not fit its analyzer ({type(error).__name__}: {error}).")
    return Frame(result, model, figures)


def _findings(section: Section) -> list[Finding]:
    """Sentences of the summary; of more than two models one where all agree, else those of the first and the last."""
    said: dict[str, list[Finding]] = {}
    for frame in section.frames:
        for f in frame.figures:
            if f["finding"] and f["kind"] == Kind.TEXT:
                worth = Finding(f["text"], f["evidence"], f["words"], section.identity, section.title, frame.model)
                said.setdefault(f["title"], []).append(worth)
    if len(section.frames) < 3:
        return sorted(chain(*said.values()), key=lambda f: [frame.model for frame in section.frames].index(f.model))
    found = []
    for several in said.values():
        same = len(several) == len(section.frames) and len({f.text for f in several}) == 1
        found += [replace(several[0], model=f"all {len(several)}")] if same else [several[0], *several[1:][-1:]]
    return found


def level(frames: Sequence[Frame]) -> Sequence[Frame]:
    """The frames of several models with ``span``, the ends that figures in one place share, so that eyes can compare them."""
    if len(frames) < 2:
        return frames
    ends: dict[str, list[float]] = {}
    for figure in (f for frame in frames for f in frame.figures):
        ends.setdefault(figure["title"], []).extend(_ends(figure))
    spans = {title: {"span": (min(found), max(found))} for title, found in ends.items() if found}
    return [replace(frame, figures=[f | spans.get(f["title"], {}) for f in frame.figures]) for frame in frames]


def _ends(figure: Mapping[str, Any]) -> Iterator[float]:
    """The least and the largest finite number of every channel that is drawn along an axis or as a colour."""
    shown = [a for c, a in figure["channels"].items() if c not in ("x", "label", "rows", "columns") and a.dtype.kind in "iuf"]
    for array in (*shown, *chain(*figure["intervals"].values())):
        finite = array[np.isfinite(array)]
        if finite.size:
            yield from (float(finite.min()), float(finite.max()))


def _comparison(sections: Sequence[Section], models: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of numbers that at least two models have."""
    rows = []
    for section in sections:
        by_model = {frame.model: frame.result for frame in section.frames}
        names = dict.fromkeys(name for result in by_model.values() for name in _numbers(result))
        for name in names:
            cells = [by_model[m].values.get(name) if m in by_model else None for m in models]
            found = [c for c in cells if c is not None and c.value.ndim == 0]
            if len(found) > 1:
                about = found[0].about
                rows.append({"section": section, "name": name, "about": about, "cells": cells})
    return rows


def _numbers(result: Result) -> Mapping[str, np.ndarray]:
    return {n: m.value for n, m in result.values.items() if m.value.ndim == 0 and m.value.dtype.kind in "biuf"}
