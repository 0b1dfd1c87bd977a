"""Robustness of every image of a data set, as rows that appear while the work goes on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ascertain.certify.result import Status, Witness
from ascertain.certify.verify import radius, verify
from ascertain.cli.exits import Exit, exit_code
from ascertain.cli.talk import StatusLine, emit_json, stoppable
from ascertain.cli.witnesses import save_witnesses
from ascertain.evidence import Evidence
from ascertain.properties import robust

if TYPE_CHECKING:
    from ascertain.cli.certify import Certify
    from ascertain.graph import Graph

__all__ = ["Row", "certify_images"]


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


def certify_images(options: Certify, network: Graph) -> int:
    """Prints a row for each image and a summary, saves witnesses, and returns the exit code."""
    eps, norm = options.radius_of_balls(), options.norm_of_balls()
    x, y = options.read(network, options.count)
    started = time.monotonic()
    rows: list[Row] = []
    stopped = False
    with stoppable() as stop:
        work = _Work(options, network, eps, norm, stop)
        for row in work.rows(x, y):
            stopped = stop()
            if stopped and row.status is Status.UNKNOWN:
                break
            if options.json:
                emit_json({"kind": "image", **vars(row)})
            else:
                print(row if rows else f"{HEADER}\n{row}", flush=True)
            rows.append(row)
            if stopped:
                break
    _summary(options, network, rows, len(y), time.monotonic() - started)
    save_witnesses(options.witness, [(row.image, row.witness) for row in rows])
    return Exit.INTERRUPTED if stopped else exit_code(row.status for row in rows)


@dataclass(frozen=True)
class _Work:
    """What is the same for all images."""

    options: Certify
    network: Graph
    eps: float
    norm: float
    stop: Callable[[], bool]

    def rows(self, x: np.ndarray, y: np.ndarray) -> Iterator[Row]:
        """The answers in order."""
        line = StatusLine()
        certify = self.largest if self.options.radius else self.fixed
        for i, (image, label) in enumerate(zip(x, y, strict=True)):
            line.title = f"image {i + 1} of {len(y)}, "
            line.show(line.title)
            row = certify(i, image, int(label), line)
            line.clear()
            yield row

    def fixed(self, i: int, image: np.ndarray, label: int, line: StatusLine) -> Row:
        """Whether one image keeps its label at radius ``eps``."""
        property = robust(image, self.eps, norm=self.norm, label=label, classes=self.network.output_size)
        verdict = verify(self.network, property, **self.options.search(line, self.stop))
        far = float("inf")
        if verdict.witness is not None:
            far = float(np.linalg.norm(verdict.witness.input.reshape(-1).astype(np.float64) - image, self.norm))
        low = self.eps if verdict.status is Status.HOLDS else 0.0
        return Row(i, label, verdict.status, verdict.evidence, (low, far), verdict.reason, verdict.seconds, verdict.witness)

    def largest(self, i: int, image: np.ndarray, label: int, line: StatusLine) -> Row:
        """The largest certified radius of one image up to ``eps``."""
        search = self.options.search(line, self.stop)
        found = radius(self.network, image, label, norm=self.norm, limit=self.eps, **search)
        status = Status.HOLDS if found.lower >= self.eps else Status.UNKNOWN if found.witness is None else Status.VIOLATED
        reason = "" if status is not Status.UNKNOWN else "interrupted" if self.stop() else "undecided beyond"
        return Row(i, label, status, found.evidence, (found.lower, found.upper), reason, found.seconds, found.witness)


def _summary(options: Certify, network: Graph, rows: list[Row], total: int, seconds: float) -> None:
    counts = Counter(str(row.status) for row in rows)
    numbers = {str(status): counts[str(status)] for status in Status}
    if options.json:
        head = {"kind": "summary", "model": options.model, "hash": network.hash, "data": options.data, **options.options()}
        emit_json({**head, "images": total, "counts": numbers, "seconds": seconds})
        return
    words = ", ".join(f"{number} {status}" for status, number in numbers.items() if number) or "nothing decided"
    missing = f" ({total - len(rows)} of {total} images not reached)" if len(rows) < total else f" of {total} images"
    print(f"{words}{missing} at {options.norm}-norm radius {options.eps:g}; {seconds:.2f} s")
