"""``ascertain certify``: one property file, or robustness of every image of a data set."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from typer import Argument, Option

from ascertain.certify.result import Status, Verdict, Witness
from ascertain.cli.datasets import read_data
from ascertain.cli.exits import Exit, exit_code, interrupted
from ascertain.cli.options import ModelOptions, SearchOptions
from ascertain.cli.talk import StatusLine, emit_json, stoppable
from ascertain.cli.witnesses import check_target, save_witnesses
from ascertain.errors import InputError
from ascertain.evidence import Evidence

if TYPE_CHECKING:
    from ascertain.graph import Graph

__all__ = ["Certify", "parse_norm"]


@dataclass(frozen=True)
class Row:
    """The answer for one image."""

    image: int
    label: int
    status: Status
    evidence: Evidence
    radius: tuple[float, float]
    """Proved robust up to the first; a witness is known at the second (infinite without one)."""
    reason: str
    seconds: float
    witness: Witness | None

    def __str__(self) -> str:
        return f"{self.image:>6} {self.label:>6}  {self.status!s:<9} {self.found():<32} {self.evidence!s:<10} {self.seconds:>8.2f}"

    def found(self) -> str:
        """Certified radius, or what the witness is taken for, or why there is neither."""
        low, high = self.radius
        if self.witness is not None:
            inside = f"radius {low:.4g} to {high:.4g}, " if low > 0 else f"at {high:.4g} "
            return f"{inside}taken for {int(np.argmax(self.witness.output))}"
        if self.status is Status.HOLDS or low > 0:
            return f"radius >= {low:.4g}" + (f" ({self.reason})" if self.reason else "")
        return self.reason


HEADER = f"{'image':>6} {'label':>6}  {'verdict':<9} {'certified radius or witness':<32} {'evidence':<10} {'seconds':>8}"


@dataclass(frozen=True, kw_only=True)
class Certify(ModelOptions, SearchOptions):
    """Decide whether a network has a property, or is robust at every image of a data set."""

    property: Annotated[str | None, Argument(help="Property file (.vnnlib, .vnnlib.gz).", show_default=False)] = None
    data: Annotated[str | None, Option(help="Data instead of a property: .npz with x and y, .csv(.gz), .npy, or digits.")] = None
    eps: Annotated[float | None, Option(help="Radius of the ball around each image.")] = None
    norm: Annotated[str, Option(help="Norm of the ball: inf, 2 or 1.")] = "inf"
    count: Annotated[int | None, Option(help="Only the first so many images.")] = None
    radius: Annotated[bool, Option("--radius", help="Find the largest certified radius up to --eps.")] = False
    label: Annotated[str, Option(help="Column of the label in .csv and .npy tables: first or last.")] = "first"
    divide: Annotated[float, Option(help="Divide the data by this number, such as 255.")] = 1.0
    witness: Annotated[Path | None, Option(help="Save witnesses to this .npz or .json file.")] = None
    json: Annotated[bool, Option("--json", help="JSON lines on standard output.")] = False

    def run(self) -> int:
        """Certifies and returns the exit code."""
        if (self.property is None) == (self.data is None):
            raise InputError("certify needs a property file or --data, and not both; give one of them.")
        check_target(self.witness)
        network = self.network()
        if self.property is not None:
            return self._one(network, self.property)
        if self.eps is None or not 0 < self.eps < np.inf:
            raise InputError(f"certify with --data needs a positive radius, not {self.eps}; give --eps.")
        x, y = read_data(self.data or "", network.input_size, network.output_size, self.label, self.divide)
        if self.count is not None and self.count < 1:
            raise InputError(f"--count {self.count} asks for no images; give a positive number.")
        return self._many(network, x[: self.count], y[: self.count])

    def _one(self, network: Graph, file: str) -> int:
        from ascertain.certify.verify import verify
        from ascertain.properties import join, read_property

        property = read_property(file)
        if len(property.networks) > 1:
            raise InputError(f"{file} is about {len(property.networks)} networks; use 'ascertain verify' with --network for each.")
        network = join(property, {n.name: network for n in property.networks}) if property.networks else network
        line = StatusLine()
        with stoppable() as stop:
            verdict = verify(network, property, **self.search(line, stop))
        line.clear()
        if self.json:
            emit_json({"model": self.model, "hash": network.hash, "property": file, **_options(self), "verdict": verdict})
        else:
            print(verdict)
        save_witnesses(self.witness, [(0, verdict.witness)])
        return Exit.INTERRUPTED if interrupted(verdict) else exit_code([verdict.status])

    def _many(self, network: Graph, x: np.ndarray, y: np.ndarray) -> int:
        started = time.monotonic()
        rows: list[Row] = []
        stopped = False
        with stoppable() as stop:
            for row in self._rows(network, x, y, stop):
                stopped = stop()
                if stopped and row.status is Status.UNKNOWN:
                    break
                if not self.json:
                    print(row if rows else f"{HEADER}\n{row}", flush=True)
                else:
                    emit_json({"kind": "image", **vars(row)})
                rows.append(row)
                if stopped:
                    break
        self._summary(network, rows, len(y), time.monotonic() - started)
        save_witnesses(self.witness, [(row.image, row.witness) for row in rows])
        return Exit.INTERRUPTED if stopped else exit_code(row.status for row in rows)

    def _rows(self, network: Graph, x: np.ndarray, y: np.ndarray, stop: Callable[[], bool]) -> Iterator[Row]:
        line = StatusLine()
        for i, (image, label) in enumerate(zip(x, y, strict=True)):
            line.title = f"image {i + 1} of {len(y)}, "
            line.show(line.title)
            row = (self._largest if self.radius else self._fixed)(network, i, image, int(label), line, stop)
            line.clear()
            yield row

    def _fixed(self, network: Graph, i: int, image: np.ndarray, label: int, line: StatusLine, stop: Callable[[], bool]) -> Row:
        """Whether one image keeps its label at radius ``eps``."""
        from ascertain.certify.verify import verify
        from ascertain.properties import robust

        eps = self.eps or 0.0
        property = robust(image, eps, norm=parse_norm(self.norm), label=label, classes=network.output_size)
        verdict: Verdict = verify(network, property, **self.search(line, stop))
        far = float("inf") if verdict.witness is None else _distance(verdict.witness, image, parse_norm(self.norm))
        low = eps if verdict.status is Status.HOLDS else 0.0
        return Row(i, label, verdict.status, verdict.evidence, (low, far), verdict.reason, verdict.seconds, verdict.witness)

    def _largest(self, network: Graph, i: int, image: np.ndarray, label: int, line: StatusLine, stop: Callable[[], bool]) -> Row:
        """The largest certified radius of one image up to ``eps``."""
        from ascertain.certify.verify import radius

        eps = self.eps or 0.0
        options = self.search(line, stop)
        found = radius(network, image, label, norm=parse_norm(self.norm), limit=eps, **options)
        status = Status.HOLDS if found.lower >= eps else Status.UNKNOWN if found.witness is None else Status.VIOLATED
        reason = "" if status is not Status.UNKNOWN else "interrupted" if stop() else "undecided beyond"
        return Row(i, label, status, found.evidence, (found.lower, found.upper), reason, found.seconds, found.witness)

    def _summary(self, network: Graph, rows: list[Row], total: int, seconds: float) -> None:
        counts = Counter(str(row.status) for row in rows)
        numbers = {str(status): counts[str(status)] for status in Status}
        if self.json:
            emit_json(
                {"kind": "summary", "model": self.model, "hash": network.hash, "data": self.data, **_options(self)}
                | {"images": total, "counts": numbers, "seconds": seconds}
            )
            return
        words = ", ".join(f"{number} {status}" for status, number in numbers.items() if number) or "nothing decided"
        missing = f" ({total - len(rows)} of {total} images not reached)" if len(rows) < total else f" of {total} images"
        print(f"{words}{missing} at {self.norm}-norm radius {self.eps:g}; {seconds:.2f} s")


def _options(command: Certify) -> dict[str, Any]:
    from ascertain import __version__

    names = ("eps", "norm", "timeout", "memory", "threads", "device", "seed")
    return {"options": {name: getattr(command, name) for name in names}, "version": __version__}


def parse_norm(text: str) -> float:
    known = {"inf": np.inf, "linf": np.inf, "2": 2.0, "l2": 2.0, "1": 1.0, "l1": 1.0}
    if text.lower() not in known:
        raise InputError(f"--norm {text!r} is not known; give inf, 2 or 1.")
    return float(known[text.lower()])


def _distance(witness: Witness, image: np.ndarray, norm: float) -> float:
    return float(np.linalg.norm(witness.input.reshape(-1).astype(np.float64) - image, norm))
