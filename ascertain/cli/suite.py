"""``ascertain run``: a suite into a store, resumed where it stopped."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from ascertain.cli.exits import Exit
from ascertain.cli.names import data_file, model_file
from ascertain.cli.options import Command
from ascertain.cli.talk import emit_json
from ascertain.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ascertain.analyze import Failure, Result
    from ascertain.runs import Item, Store, Summary, Workers

__all__ = ["Run"]


@dataclass(frozen=True, kw_only=True)
class Run(Command):
    """Run analyzers on models and data as a suite file says; what the store holds already is not run again."""

    suite: Annotated[Path, Argument(help="Suite file (.toml).", show_default=False)]
    store: Annotated[Path, Option(help="File that keeps the results.", show_default=False)]
    processes: Annotated[int | None, Option(help="Processes; one for each core if not given.")] = None
    dask: Annotated[str | None, Option(help="A Dask cluster instead: local, or the address of its scheduler.")] = None
    gpus: Annotated[str | None, Option(help="One process for each CUDA device instead: all, or a list such as 0,1.")] = None
    retry: Annotated[bool, Option("--retry", help="Run again what failed.")] = False
    json: Annotated[bool, Option("--json", help="A JSON line for each result when it is stored.")] = False

    def run(self) -> int:
        """Runs what is missing; the exit code is 3 when something failed."""
        from ascertain.runs import Store, cuda_devices, read_suite

        if self.gpus is not None and (self.dask is not None or self.processes is not None):
            raise InputError("--gpus says how many processes there are and where; leave --dask and --processes out.")
        devices = () if self.gpus is None else cuda_devices(self.gpus)
        items = read_suite(self.suite, {"models": model_file, "data": data_file})
        with Store(self.store) as store:
            try:
                done = self._work(items, store, self._workers(devices))
            except KeyboardInterrupt:
                print(f"interrupted; {len(store)} results are stored, run again to go on.", file=sys.stderr)
                return Exit.INTERRUPTED
            _say_divided(items, store)
        print(
            f"{done.items} items: {done.stored - done.failed} measured, {done.skipped} stored before, {done.held} failed; "
            f"{done.seconds:.1f} s, {self.store}",
            file=sys.stderr,
        )
        return Exit.UNKNOWN if done.held else Exit.HOLDS

    def _workers(self, devices: Sequence[str]) -> Workers:
        from ascertain.runs import dask_workers, device_workers, local_workers

        if devices:
            return device_workers(devices)
        return local_workers(self.processes) if self.dask is None else dask_workers(self.dask, self.processes)

    def _work(self, items: Sequence[Item], store: Store, workers: Workers) -> Summary:
        from ascertain.runs import run_suite

        known = set(store.contents()) - (store.failures() if self.retry else set())
        with _Table(items, known) as table:

            def notice(item: Item, record: Result | Failure) -> None:
                error = _error(record)
                table.count(item, record)
                if self.json:
                    emit_json({"key": record.key, "content": record.content, "item": str(item), **error})
                elif error:
                    table.say(f"failed: {item}: {error['error']}")

            return run_suite(items, store, workers, retry=self.retry, notice=notice)


def _say_divided(items: Sequence[Item], store: Store) -> None:
    """What the parts of divided properties say together."""
    from ascertain.runs import combine

    for item in items:
        if item.halvings:
            whole = combine(item, store)
            words = f"{whole.share:.1%} decided in {whole.parts} part{'s' * (whole.parts != 1)}"
            print(f"{item}: {whole.status}, {words}", file=sys.stderr)


def _error(record: Result | Failure) -> dict[str, str]:
    from ascertain.analyze import Failure

    return {"error": f"{record.error}: {record.message}"} if isinstance(record, Failure) else {}


class _Table:
    """Counts by analyzer, live on standard error; silent where that is not a terminal."""

    def __init__(self, items: Sequence[Item], known: set[str]) -> None:
        different = {item.key: item.analyzer.called() for item in items}
        self.total = Counter(different.values())
        self.before = Counter(name for key, name in different.items() if key in known)
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.live: Any = None

    def __enter__(self) -> _Table:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self.live = Live(console=Console(stderr=True), get_renderable=self.draw, refresh_per_second=4, transient=True)
            self.live.start()
        return self

    def __exit__(self, *raised: object) -> None:
        if self.live is not None:
            self.live.stop()

    def count(self, item: Item, record: Result | Failure) -> None:
        """One more record."""
        self.done[item.analyzer.called()] += 1
        self.failed[item.analyzer.called()] += bool(_error(record))

    def say(self, words: str) -> None:
        """A line above the table."""
        if self.live is not None:
            from rich.text import Text

            self.live.console.print(Text(words))
        else:
            print(words, file=sys.stderr)

    def draw(self) -> Any:
        """The table."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table("analyzer", "", "measured", "stored before", "failed", "of")
        for name, total in sorted(self.total.items()):
            done, before, failed = self.done[name], self.before[name], self.failed[name]
            # Parts of a divided property come on top of what the suite names.
            total = max(total, done + before)
            bar = ProgressBar(total=total, completed=done + before, width=30)
            table.add_row(name, bar, str(done - failed), str(before), str(failed), str(total))
        return table
