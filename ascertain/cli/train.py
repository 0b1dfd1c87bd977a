"""``ascertain train``: trains a network of the zoo, or its like on your own data."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from ascertain.cli.exits import Exit
from ascertain.cli.options import Command
from ascertain.cli.talk import StatusLine, emit_json, stoppable

if TYPE_CHECKING:
    from ascertain.fixtures import Fixture
    from ascertain.fixtures.loop import Moment

__all__ = ["Train"]


@dataclass(frozen=True, kw_only=True)
class Train(Command):
    """Train a network of the zoo; writes NAME.safetensors, NAME.onnx and NAME.json, always the same under one seed."""

    name: Annotated[str, Argument(help="Name of a fixture, from 'ascertain list fixtures'.", show_default=False)]
    seed: Annotated[int, Option(help="Seed of weights, order and noise.")] = 0
    out: Annotated[Path | None, Option(help="Folder of the files; the cache if not given.")] = None
    resume: Annotated[bool, Option("--resume", help="Go on where an interrupted training stopped.")] = False
    steps: Annotated[int | None, Option(help="Fewer or more steps than the recipe has.")] = None
    trajectory: Annotated[int | None, Option(help="Keep this many networks along the way, at steps on a logarithmic grid.")] = None
    data: Annotated[str | None, Option(help="Your data: .npz with x and y, or a folder with a folder of images per class.")] = None
    json: Annotated[bool, Option("--json", help="One JSON document on standard output.")] = False

    def run(self) -> int:
        """Prints what came out."""
        from ascertain import fixtures
        from ascertain.fixtures.running import cached
        from ascertain.fixtures.store import read_record

        fixture = fixtures.fixture(self.name)
        fixture = fixture if self.data is None else fixture.on(fixtures.from_file(self.data))
        folder = self.out or cached(fixture, self.seed, self.steps)
        watch = _Watch(self.name)
        with stoppable() as stop:
            talk: dict[str, Any] = {"steps": self.steps, "out": folder, "watch": watch, "stop": stop}
            try:
                if self.trajectory is None:
                    fixtures.train(fixture, self.seed, resume=self.resume, **talk)
                else:
                    folder = fixtures.trajectory(fixture, self.seed, count=self.trajectory, **talk).folder
            except KeyboardInterrupt:
                watch.line.clear()
                print(f"its state is kept in {folder}; give --resume to go on.", file=sys.stderr)
                raise
        watch.line.clear()
        self._tell(fixture, folder, read_record(folder / f"{self.name}.json"))
        return Exit.HOLDS

    def _tell(self, fixture: Fixture, folder: Path, record: dict[str, Any]) -> None:
        if self.json:
            emit_json({**record, "folder": str(folder)})
            return
        word = "R2" if fixture.data().ask == "values" else "accuracy"
        print(f"{self.name}: {record['parameters']} parameters, {record['steps']} steps, seed {record['seed']}")
        print(f"test {word} {record['test']['score']:.4f} (ESTIMATED)")
        if record["attack"] is not None:
            eps, score = record["attack"]["eps"], record["attack"]["score"]
            print(f"test {word} {score:.4f} under an attack of radius {eps:.4g} (ESTIMATED, certify to know)")
        if record["onnx"] != "written":
            print(f"no ONNX file: {record['onnx']}")
        print(f"files in {folder}")


@dataclass
class _Watch:
    """Shows how far training is."""

    name: str
    line: StatusLine = field(default_factory=StatusLine)
    started: float = field(default_factory=time.monotonic)
    first: int = -1

    def __call__(self, moment: Moment) -> None:
        if self.first < 0:
            self.first = moment.step - 1
        spent = time.monotonic() - self.started
        left = spent * (moment.steps - moment.step) / (moment.step - self.first)
        self.line.show(
            f"{self.name}: step {moment.step} of {moment.steps}, loss {moment.loss:.4g}, {spent:.0f} s, about {left:.0f} s left"
        )
