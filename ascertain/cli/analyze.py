"""``ascertain analyze``: questions asked of a network, and the report that they make."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from ascertain.cli.exits import Exit
from ascertain.cli.options import ModelOptions, data_file, load_model
from ascertain.cli.talk import StatusLine
from ascertain.errors import InputError

if TYPE_CHECKING:
    from ascertain.analyze import Analyzer, Context, Failure, Result

__all__ = ["Analyze"]


@dataclass(frozen=True, kw_only=True)
class Analyze(ModelOptions):
    """Analyse a network and write a report: one page that needs no network, or Markdown, JSON, PDF."""

    data: Annotated[str | None, Option(help="Labelled data: .npz with x and y, .csv(.gz), .npy, or digits.")] = None
    analyzers: Annotated[str | None, Option(help="Names with commas between; all that fit what is given if not said.")] = None
    out: Annotated[Path, Option("--out", "-o", help="File to write.")] = Path("report.html")
    format: Annotated[str, Option(help="html, md, json or pdf; by the ending of the file if not said.")] = ""
    other: Annotated[str | None, Option(help="A second network, to compare with.")] = None
    option: Annotated[list[str] | None, Option("--set", help="An option of an analyzer, such as robustness.count=10.")] = None
    count: Annotated[int | None, Option(help="Only the first so many inputs.")] = None
    label: Annotated[str, Option(help="Column of the label in .csv and .npy tables: first, last or none.")] = "first"
    divide: Annotated[float, Option(help="Divide the data by this number, such as 255.")] = 1.0
    seed: Annotated[int, Option(help="Seed of everything random.")] = 0

    def run(self) -> int:
        """Measures and writes; the exit code is 3 when a question failed."""
        from ascertain.analyze.report import FORMATS, write_report

        ending = self.format or self.out.suffix[1:].lower()
        if ending not in FORMATS:
            raise InputError(f"{self.out} tells no form of report; end its name in .html, .md, .json or .pdf, or say --format.")
        if self.out.is_dir() or not self.out.absolute().parent.is_dir():
            raise InputError(f"{self.out} cannot be written, its folder does not exist or it is one; give the path of a file.")
        started = time.perf_counter()
        records = [record for context in self._contexts() for record in self._ask(context)]
        write_report(records, self.out, form=ending)
        failed = sum(1 for r in records if hasattr(r, "error"))
        size = self.out.stat().st_size / 1000
        words = f"{len(records) - failed} of {len(records)} questions answered in {time.perf_counter() - started:.1f} s"
        print(f"{self.out}: {words}, {size:.0f} kB")
        return Exit.UNKNOWN if failed else Exit.HOLDS

    def _contexts(self) -> list[Context]:
        """The network with what was given; of two networks each, first with the other."""
        from ascertain.analyze import Context
        from ascertain.analyze.datasets import read_data

        graphs = [self.network()]
        names = [Path(self.model).name]
        if self.other is not None:
            graphs.append(load_model(self.other))
            names.append(Path(self.other).name)
        if self.count is not None and self.count < 1:
            raise InputError(f"--count {self.count} asks for no inputs; give a positive number.")
        x, y = None, None
        called: dict[str, str] = {}
        if self.data is not None:
            first = graphs[0]
            x, y = read_data(str(data_file(self.data)), first.input_size, first.output_size, self.label, self.divide)
            x, y = x[: self.count], None if y is None else y[: self.count]
            called["data"] = Path(self.data).name + (f" ({len(x)} inputs)" if self.count is not None else "")
        given: dict[str, Any] = {"data": x, "labels": y, "seed": self.seed}
        found = [Context(g, **given, names={"model": n, **called}) for g, n in zip(graphs, names, strict=True)]
        if self.other is not None:
            found.append(Context(graphs[0], **given, other=graphs[1], names={"model": names[0], "other": names[1], **called}))
        return found

    def _ask(self, context: Context) -> list[Result | Failure]:
        """The answers of all analyzers that fit."""
        from ascertain.analyze import Failure, Need
        from ascertain.analyze.measuring import attempt

        line, records = StatusLine(), []
        chosen = [a for a in self._chosen() if (Need.OTHER in a.needs) == (context.other is not None)]
        if self.analyzers is None:
            chosen = [a for a in chosen if all(context.has(need) for need in a.needs)]
        for k, analyzer in enumerate(chosen, 1):
            line.show(f"{context.names['model']}: {analyzer.called()}, {k} of {len(chosen)}")
            record = attempt(analyzer, context)
            line.clear()
            if isinstance(record, Failure):
                print(f"failed: {analyzer.called()}: {record.error}: {record.message}", file=sys.stderr)
            records.append(record)
        return records

    def _chosen(self) -> list[Analyzer]:
        """The analyzers that were named, with their options."""
        from ascertain.analyze import analyzers, make

        names = list(analyzers()) if self.analyzers is None else [n.strip() for n in self.analyzers.split(",") if n.strip()]
        if not names:
            raise InputError("--analyzers names none; 'ascertain list analyzers' shows what there is.")
        options: dict[str, dict[str, Any]] = {name: {} for name in names}
        for text in self.option or ():
            place, equals, value = text.partition("=")
            name, _, option = place.rpartition(".")
            if not equals or name not in options:
                raise InputError(
                    f"--set {text!r} sets nothing that is asked; write ANALYZER.OPTION=VALUE, such as robustness.count=10."
                )
            options[name][option] = _value(value)
        return [make(name, given) for name, given in options.items()]


def _value(text: str) -> Any:
    """A number, truth value or list as JSON; other text as it is."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
