"""What people see while they wait, and how they interrupt."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ascertain.certify.result import Progress

__all__ = ["StatusLine", "emit_json", "stoppable"]


class StatusLine:
    """One line on standard error that is rewritten in place; silent where that is not a terminal."""

    def __init__(self) -> None:
        self.title = ""
        self.shown = False

    def __call__(self, progress: Progress) -> None:
        """Shows a snapshot of a search."""
        self.show(
            f"{self.title}{progress.stage}: {progress.share:.1%} verified, {progress.open} open, {progress.visited} visited, "
            f"worst bound {progress.worst:.4g}, {progress.seconds:.0f} of {progress.timeout:.0f} s"
        )

    def show(self, text: str) -> None:
        """Replaces the line."""
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{text[:width]}", end="", file=sys.stderr, flush=True)
            self.shown = True

    def clear(self) -> None:
        """Removes the line, so that data can be printed in its place."""
        if self.shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self.shown = False


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether Ctrl-C was pressed; a second Ctrl-C interrupts at once."""
    pressed: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


def emit_json(value: Any) -> None:
    """One JSON document on one line of standard output."""
    from ascertain.certify.result import to_json

    print(json.dumps(to_json(value), allow_nan=False), flush=True)
