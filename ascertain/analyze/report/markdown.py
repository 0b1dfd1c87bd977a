"""A report as Markdown: findings, numbers, tables, references."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ascertain.analyze.report.numbers import cells, value_rows
from ascertain.analyze.report.sections import Frame, Section, arrange
from ascertain.analyze.result import Failure, Result

__all__ = ["markdown"]

_ROWS = 40


def markdown(records: Sequence[Result | Failure], title: str = "") -> str:
    """The text of a Markdown file."""
    contents = arrange(records, title)
    lines = [f"# {_plain(contents.title)}", "", "## Findings", ""]
    for f in contents.findings:
        about = f"**{_plain(f.model)}**: " if f.model else ""
        worth = "; ".join([f.evidence, *f.intervals])
        lines.append(f"- {about}{_plain(f.text)} ({_plain(worth)})")
    lines += [f"- **failed**: {_plain(f'{r.analyzer}: {r.error}: {r.message}')}" for r in contents.failures]
    for section in contents.sections:
        lines += _section(section)
    lines += ["", "## Provenance", ""]
    seen = {f"{role} {r.names.get(role, '')} {digest}": None for r in records for role, digest in r.inputs.items()}
    lines += [f"- {_plain(words)}" for words in seen]
    first = records[0]
    places = "; ".join(dict.fromkeys(r.place for r in records))
    versions = ", ".join(f"{k} {v}" for k, v in first.versions.items())
    lines += [f"- {_plain(first.started)}, {_plain(places)}", f"- {_plain(versions)}"]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Text on one line in which nothing is markup."""
    return re.sub(r"([`\\*\[\]<>|#~!&]|\b_|_\b)", r"\\\1", " ".join(text.split()))


def _section(section: Section) -> list[str]:
    lines = ["", f"## {_plain(section.title)}", ""]
    if section.kind is not None:
        lines += [_plain(section.kind.meaning), "", f"How sure: {_plain(section.kind.evidence)}", ""]
    for frame in section.frames:
        lines += [f"### {_plain(frame.model)}", ""] if frame.model else []
        lines += [_plain(frame.complaint), ""] if frame.complaint else []
        lines += _tables(frame)
    if section.kind is not None and section.kind.references:
        lines += [*(f"- {_plain(r)}" for r in section.kind.references), ""]
    return lines


def _tables(frame: Frame) -> list[str]:
    rows = [[r["about"] or r["name"], r["value"], r["evidence"]] for r in value_rows(frame.result)]
    lines = _table(["what", "value", "evidence"], rows)
    for f in frame.figures:
        if f["kind"] == "table":
            columns = [cells(a)[0] for a in f["channels"].values()]
            found = [list(r) for r in zip(*columns, strict=True)]
            more = [f"{len(found) - _ROWS} further rows are in the other forms of this report.", ""] if len(found) > _ROWS else []
            lines += [f"**{_plain(f['title'])}** ({f['evidence']})", "", *_table(list(f["channels"]), found[:_ROWS]), *more]
    return lines


def _table(headings: list[str], rows: list[list[str]]) -> list[str]:
    lines = [headings, ["---"] * len(headings), *rows]
    return [*("| " + " | ".join(c if k == 1 else _plain(c) for c in row) + " |" for k, row in enumerate(lines)), ""]
