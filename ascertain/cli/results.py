"""``ascertain show`` and ``ascertain diff``: what stores hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from ascertain.cli.exits import Exit
from ascertain.cli.options import Command
from ascertain.cli.talk import emit_json

if TYPE_CHECKING:
    from ascertain.analyze import Failure, Measured, Result

__all__ = ["Diff", "Show"]

_REPORTS = (".html", ".md", ".pdf")
_SHORT = 10
"""Characters of a key that are shown."""


@dataclass(frozen=True, kw_only=True)
class Show(Command):
    """Show the results in a store, or one of them with all its values; or export them to a file."""

    store: Annotated[Path, Argument(help="File that keeps the results.", show_default=False)]
    key: Annotated[str | None, Argument(help="Beginning of the key of one result.", show_default=False)] = None
    json: Annotated[bool, Option("--json", help="Complete records as JSON lines.")] = False
    export: Annotated[
        Path | None, Option(help="Write them to this .jsonl, .csv or .parquet file, or as a report to .html, .md or .pdf.")
    ] = None
    check: Annotated[bool, Option("--check", help="Read every record and check that the file is sound.")] = False

    def run(self) -> int:
        """Prints or exports."""
        from ascertain.analyze.report import write_report
        from ascertain.runs import Store, export

        with Store(self.store, read_only=True) as store:
            if self.check:
                store.check()
            records = list(store) if self.key is None else [store.match(self.key)]
        if self.export is not None:
            if self.export.suffix in _REPORTS:
                write_report(records, self.export, title=self.store.stem)
            else:
                export(records, self.export)
            print(f"{len(records)} results in {self.export}")
        elif self.json:
            for record in records:
                print(_line(record))
        elif self.key is not None:
            print(_printable(_whole(records[0])))
        else:
            for record in records:
                print(_printable(_summary(record)))
        return Exit.HOLDS


def _printable(text: str) -> str:
    """Text without control characters, with which a name in a foreign store could rewrite the screen."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def _line(record: Result | Failure) -> str:
    from ascertain.analyze.result import canonical

    return canonical(record.to_json())


def _summary(record: Result | Failure) -> str:
    """Key, question, and the first finding or the error."""
    from ascertain.analyze import Failure

    names = ", ".join(record.names.values())
    head = f"{record.key[:_SHORT]}  {record.analyzer:<14} {names}{f' (seed {record.seed})' if record.seed else ''}"
    if isinstance(record, Failure):
        return f"{head}  failed: {record.error}: {record.message}"
    return "  ".join([head, *_findings(record)[:1]])


def _findings(record: Result) -> list[str]:
    """Sentences of its summary with what they are worth."""
    from ascertain.analyze import analyzers

    kind = analyzers().get(record.analyzer)
    if kind is None or kind.version != record.version:
        return []
    views = kind().views(record)
    return [f"{v.words(record)} [{v.evidence(record)}]" for v in views if v.finding]


def _whole(record: Result | Failure) -> str:
    from ascertain.analyze import Failure

    cost = record.cost
    facts = {
        "key": record.key,
        "analyzer": f"{record.analyzer}, version {record.version}",
        "options": ", ".join(f"{k} = {v}" for k, v in record.options.items()) or "none",
        "inputs": ", ".join(f"{role} {record.names.get(role, '')} {h[:_SHORT]}" for role, h in record.inputs.items()),
        "seed": str(record.seed),
        "versions": ", ".join(f"{k} {v}" for k, v in record.versions.items()),
        "machine": record.place,
        "cost": f"{cost.wall:.2f} s, {cost.cpu:.2f} s of CPU, {cost.peak / 2**20:.0f} MiB, started {record.started}",
    }
    lines = [f"{name:<9} {value}" for name, value in facts.items()]
    if isinstance(record, Failure):
        return "\n".join([*lines, f"failed    {record.error}: {record.message}"])
    lines += ["", *_findings(record), ""]
    return "\n".join(lines + [f"{name:<22} {_value(m):<44} {m.evidence!s:<10} {m.about}" for name, m in record.values.items()])


def _value(measured: Measured) -> str:
    """A scalar with its interval, a short array, or the shape and range of a long one."""
    value = measured.value
    if value.ndim == 0:
        ends = "" if measured.low is None else f" [{measured.low.item():.4g}, {measured.high.item():.4g}]"  # type: ignore[union-attr]
        return (f"{value.item():.6g}" if value.dtype.kind == "f" else str(value.item())) + ends
    if value.ndim == 1 and 0 < value.size <= 4:
        return ", ".join(f"{v:.4g}" if value.dtype.kind == "f" else str(v) for v in value.tolist())
    shape = " x ".join(map(str, value.shape))
    if value.dtype.kind in "Ub" or not value.size:
        return f"{shape} {'words' if value.dtype.kind == 'U' else 'values'}"
    return f"{shape} from {value.min():.4g} to {value.max():.4g}"


@dataclass(frozen=True, kw_only=True)
class Diff(Command):
    """Compare two stores: results that only one has, and values that differ. The exit code is 1 when there are any."""

    first: Annotated[Path, Argument(show_default=False)]
    second: Annotated[Path, Argument(show_default=False)]
    json: Annotated[bool, Option("--json", help="JSON lines.")] = False

    def run(self) -> int:
        """Prints the differences."""
        from ascertain.runs import Store
        from ascertain.runs.comparison import compare

        with Store(self.first, read_only=True) as a, Store(self.second, read_only=True) as b:
            found = compare(a, b)
        for difference in found:
            if self.json:
                emit_json(difference)
            else:
                print(f"{difference.key[:_SHORT]}  {difference.item}: {difference.words}")
        if not found and not self.json:
            print("equal")
        return Exit.VIOLATED if found else Exit.HOLDS
