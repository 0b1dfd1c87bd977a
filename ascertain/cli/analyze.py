"""``ascertain analyze``: questions asked of a network, or of a course of training, and the report that they make."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from ascertain.cli.exits import Exit
from ascertain.cli.names import checkpoints, data_file, model_file
from ascertain.cli.options import ModelOptions
from ascertain.cli.talk import StatusLine
from ascertain.errors import InputError

if TYPE_CHECKING:
    from ascertain.analyze import Analyzer, Failure, Result
    from ascertain.runs import Item
    from ascertain.runs.items import DataSource, ModelSource

__all__ = ["Analyze"]

_ALONG = ("overview", "similarity", "weights")
"""What is asked of every checkpoint of a training, where nothing else is said."""


@dataclass(frozen=True, kw_only=True)
class Analyze(ModelOptions):
    """Analyse a network, or a folder of checkpoints, and write a report: one offline page, or Markdown, JSON, PDF."""

    data: Annotated[str | None, Option(help="Labelled data: .npz with x and y, .csv(.gz), .npy, or a task of the zoo.")] = None
    analyzers: Annotated[str | None, Option(help="Names with commas between; all that fit what is given if not said.")] = None
    out: Annotated[Path, Option("--out", "-o", help="File to write.")] = Path("report.html")
    format: Annotated[str, Option(help="html, md, json or pdf; by the ending of the file if not said.")] = ""
    other: Annotated[str | None, Option(help="A second network, to compare with.")] = None
    option: Annotated[list[str] | None, Option("--set", help="An option of an analyzer, such as robustness.count=10.")] = None
    count: Annotated[int | None, Option(help="Only the first so many inputs.")] = None
    label: Annotated[str, Option(help="Column of the label in .csv and .npy tables: first, last or none.")] = "first"
    divide: Annotated[float, Option(help="Divide the data by this number, such as 255.")] = 1.0
    seed: Annotated[int, Option(help="Seed of everything random.")] = 0
    processes: Annotated[int | None, Option(help="Processes; one for each core if not given.")] = None

    def run(self) -> int:
        """Measures and writes; the exit code is 3 when a question failed."""
        from ascertain.analyze.report import FORMATS, write_report

        ending = self.format or self.out.suffix[1:].lower()
        if ending not in FORMATS:
            told = f"--format {self.format}" if self.format else str(self.out)
            raise InputError(f"{told} tells no form of report; end its name in .html, .md, .json or .pdf, or say --format.")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed} is negative; give a whole number from 0.")
        if self.processes is not None and self.processes < 1:
            raise InputError(f"{self.processes} processes cannot do anything; give at least 1.")
        if self.out.is_dir() or not self.out.absolute().parent.is_dir():
            raise InputError(f"{self.out} cannot be written, its folder does not exist or it is one; give the path of a file.")
        started = time.perf_counter()
        items = list(self._items())
        records, whole = self._ask(items)
        folder = Path(self.model)
        write_report(records, self.out, title=folder.resolve().name if folder.is_dir() else "", form=ending)
        answered = sum(1 for r in records if not hasattr(r, "error"))
        size = self.out.stat().st_size / 1000
        words = f"{answered} of {len(items)} questions answered in {time.perf_counter() - started:.1f} s"
        print(f"{self.out}: {words}, {size:.0f} kB")
        if not whole:
            print("interrupted; the report holds what was answered until then.", file=sys.stderr)
            return Exit.INTERRUPTED
        return Exit.UNKNOWN if answered < len(items) else Exit.HOLDS

    def _items(self) -> Iterator[Item]:
        """The questions, with the hashes of what they are asked of; those that lack something only where they were named."""
        from ascertain.analyze import Need
        from ascertain.runs import Item

        models, data = self._models(), self._data()
        chosen = self._chosen()
        if self.analyzers is None and Path(self.model).is_dir():
            chosen = [a for a in chosen if a.called() in _ALONG or Need.TRAJECTORY in a.needs]
        for group, kinds in self._groups(models, chosen):
            for analyzer in kinds:
                wanted = analyzer.needs | analyzer.uses
                item = Item(analyzer, group, data if Need.DATA in wanted else None, seed=self.seed)
                context = item.context()
                if self.analyzers is not None or all(context.has(need) for need in analyzer.needs):
                    yield replace(item, inputs=context.hashes)

    def _groups(
        self, models: Sequence[ModelSource], chosen: Sequence[Analyzer]
    ) -> Iterator[tuple[tuple[ModelSource, ...], list[Analyzer]]]:
        """Every model with the questions about one, then all of them with the questions about several."""
        from ascertain.analyze import Need

        given = Need.OTHER if self.other is not None else Need.TRAJECTORY
        about = {a: a.needs & {Need.OTHER, Need.TRAJECTORY} for a in chosen}
        for model in models:
            yield (model,), [a for a in chosen if not about[a]]
        if len(models) > 1:
            yield tuple(models), [a for a in chosen if about[a] == {given}]
        lost = [a.called() for a in chosen if about[a] and (len(models) == 1 or about[a] != {given})]
        if lost and self.analyzers is not None:
            raise InputError(f"{lost[0]} is about several networks; give a second one by --other, or a folder of checkpoints.")

    def _models(self) -> list[ModelSource]:
        """The network, the two of a comparison, or those of a training."""
        from ascertain.runs.items import ModelSource

        folder = Path(self.model)
        if folder.is_dir():
            if self.other is not None:
                raise InputError(f"{folder} is a folder, whose networks are compared with each other; leave --other out.")
            return checkpoints(folder, self.factory, self.shape())
        found = [ModelSource(folder.name, model_file(self.model), self.factory, self.shape())]
        if self.other is not None:
            found.append(ModelSource(Path(self.other).name, model_file(self.other), self.factory, self.shape()))
            if found[0].name == found[1].name:
                found = [replace(m, name=n) for m, n in zip(found, (self.model, self.other), strict=True)]
        return found

    def _data(self) -> DataSource | None:
        from ascertain.runs.items import DataSource

        if self.count is not None and self.count < 1:
            raise InputError(f"--count {self.count} asks for no inputs; give a positive number.")
        if self.data is None:
            return None
        name = Path(self.data).name + (f" (first {self.count})" if self.count is not None else "")
        return DataSource(name, data_file(self.data), self.count, self.label, self.divide)

    def _ask(self, items: Sequence[Item]) -> tuple[list[Result | Failure], bool]:
        """The answers in the order of the questions, as far as they came, and whether that is all of them."""
        from ascertain.analyze import Failure
        from ascertain.runs import Store, local_workers, run_suite, this_process

        line = StatusLine()
        done: list[str] = []

        def notice(item: Item, record: Result | Failure) -> None:
            done.append(item.key)
            line.clear()
            if isinstance(record, Failure):
                print(f"failed: {item.analyzer.called()}: {record.error}: {record.message}", file=sys.stderr)
            line.show(f"{len(done)} of {len(items)} questions answered, last {item}")

        processes = min(self.processes or os.cpu_count() or 1, len(items))
        workers = local_workers(processes) if processes > 1 else this_process()
        whole = True
        with TemporaryDirectory() as folder, Store(Path(folder) / "answers.sqlite") as store:
            try:
                run_suite(sorted(items, key=lambda i: not i.analyzer.heavy), store, workers, notice=notice)
            except KeyboardInterrupt:
                whole = False
            line.clear()
            # Of equal networks one is asked; each has the answer under its own name.
            records = [replace(store.get(i.key), names=i.names) for i in items if i.key in store]
        if not whole and not records:
            raise KeyboardInterrupt
        return records, whole

    def _chosen(self) -> list[Analyzer]:
        """The analyzers that were named, with their options."""
        from ascertain.analyze import analyzers, find, make

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
            options[name][option] = _value(value, find(name), option)
        return [make(name, given) for name, given in options.items()]


def _value(text: str, kind: type[Analyzer], option: str) -> Any:
    """A number, truth value or list as JSON; other text, and what is text by its option, as it is."""
    from ascertain.analyze.registry import schema

    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    wanted = schema(kind)["properties"].get(option, {}).get("type")
    return text if wanted == "string" and not isinstance(value, str) else value
