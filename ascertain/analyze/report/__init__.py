"""Reports: stored results as one page that needs no network. Only records are read; nothing is measured here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ascertain.analyze.result import Failure, Result, canonical
from ascertain.errors import InputError

__all__ = ["FORMATS", "report", "write_report"]

FORMATS = ("html", "json", "md", "pdf")


def report(results: Iterable[Result | Failure], *, title: str = "", form: str = "html") -> str:
    """The report of stored results as the text of a file: ``html`` (one page, offline), ``md`` or ``json``.

    Several models are shown side by side. Raises InputError for no results or an unknown form.
    """
    records = list(results)
    if not records:
        raise InputError("there are no results to report; analyse a model first.")
    match form:
        case "html":
            from ascertain.analyze.report.page import page

            return page(records, title)
        case "md":
            from ascertain.analyze.report.markdown import markdown

            return markdown(records, title)
        case "json":
            return canonical([record.to_json() for record in records]) + "\n"
    raise InputError(f"a report as {form!r} is not a text that can be made; choose html, md or json.")


def write_report(results: Iterable[Result | Failure], path: Path, *, title: str = "", form: str = "") -> None:
    """Writes a report, whole or not at all; the form is that of the name's ending unless it is given."""
    from ascertain.analyze.report.files import save

    form = form or {"htm": "html", "markdown": "md"}.get(path.suffix[1:].lower(), path.suffix[1:].lower())
    if form not in FORMATS:
        raise InputError(f"{path} tells no form of report; end its name in {', '.join(f'.{f}' for f in FORMATS)}, or say which.")
    save(report(results, title=title, form="html" if form == "pdf" else form), path, printed=form == "pdf")
