"""Kills a suite at random moments, resumes it each time, and looks for anything lost, doubled or changed.

``python -m benchmarks.kill [--items 200] [--kills 50] [--seed 0]`` prints one JSON line of figures; it fails on the first fault.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from ascertain.runs import Store

__all__ = ["Figures", "KillFailure", "trial"]

ROOT = Path(__file__).resolve().parents[1]
SUITE = """
[models]
mlp = "digits_mlp"
[data]
few = {{ file = "digits", count = 50 }}
[[run]]
analyzer = "overview"
seeds = {seeds}
"""
PATIENCE = 30.0
"""Seconds until orphans must be gone."""


class KillFailure(Exception):
    """Something was lost, doubled, changed or left behind."""


@dataclass(frozen=True)
class Figures:
    """What was done and found; a fault raises instead."""

    items: int
    kills: int
    before_first: int
    """Kills before the killed run had stored anything."""
    midway: int
    announced: int
    """Results that a run announced as stored, all of which were in the store afterwards, none twice."""
    unannounced: int
    """Results stored just before a kill cut the announcement."""
    seconds: float


def trial(folder: Path, items: int, kills: int, seed: int = 0) -> Figures:
    """Runs a suite of ``items`` with ``kills`` kill -9, and compares with an undisturbed run; raises KillFailure."""
    choice, started = random.Random(seed), time.monotonic()
    (folder / "suite.toml").write_text(SUITE.format(seeds=list(range(items))))
    announced: list[str] = []
    known: set[str] = set()
    early = 0
    for kill in range(kills):
        # Never so many at a time that nothing is left for the last kill.
        most = max(1, 2 * (items - len(known)) // (kills - kill + 1))
        fresh = _killed(folder, choice, most)
        early += not fresh
        announced += fresh
        known = _check(folder / "killed.sqlite", known, announced)
    announced += _finished(folder, "killed.sqlite")
    known = _check(folder / "killed.sqlite", known, announced)
    _finished(folder, "undisturbed.sqlite")
    with Store(folder / "killed.sqlite", read_only=True) as a, Store(folder / "undisturbed.sqlite", read_only=True) as b:
        if a.contents() != b.contents() or len(a) != items:
            raise KillFailure(f"{len(a)} of {items} results, which are not those of the undisturbed run")
    left = items - len(announced)
    return Figures(items, kills, early, kills - early, len(announced), left, time.monotonic() - started)


def _start(folder: Path, store: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ascertain", "run", str(folder / "suite.toml"), "--store", str(folder / store)]
    return subprocess.Popen(
        [*command, "--json", "--processes", "2"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def _killed(folder: Path, choice: random.Random, most: int) -> list[str]:
    """Kills a run after a random time or a random number of results; the keys that it announced."""
    process = _start(folder, "killed.sqlite")
    if process.stdout is None:
        raise KillFailure("the run has no output")
    lines = []
    if choice.random() < 0.3:
        time.sleep(choice.uniform(0.0, 2.5))
    else:
        lines = [process.stdout.readline() for _ in range(choice.randint(1, most))]
        time.sleep(choice.uniform(0.0, 0.03))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    # A last line may be cut in the middle.
    lines += [line for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    until = time.monotonic() + PATIENCE
    while _alive(process.pid):
        if time.monotonic() > until:
            raise KillFailure(f"processes of the killed run {process.pid} live on")
        time.sleep(0.05)
    return [json.loads(line)["key"] for line in lines if line]


def _alive(session: int) -> bool:
    """Whether any process of a session lives."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(words[3]) == session and words[0] != "Z":
            return True
    return False


def _check(file: Path, before: set[str], announced: list[str]) -> set[str]:
    """The keys in a store that is sound and has lost nothing."""
    if not file.exists():
        return set()
    # Opened to write, as the next run does: a file that was killed while it was made is completed.
    with Store(file) as store:
        store.check()
        known = set(store.contents())
    if len(announced) != len(set(announced)):
        raise KillFailure("a result was stored twice")
    if not before <= known or not set(announced) <= known:
        raise KillFailure(f"{len((before | set(announced)) - known)} stored results are lost")
    return known


def _finished(folder: Path, store: str) -> list[str]:
    """Runs to the end; the keys announced."""
    process = _start(folder, store)
    said, _ = process.communicate()
    if process.returncode:
        raise KillFailure(f"the run ended with code {process.returncode}")
    return [json.loads(line)["key"] for line in said.splitlines()]


def main() -> None:
    """From arguments to one line of figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asdict(trial(Path(folder), given.items, given.kills, given.seed))))


if __name__ == "__main__":
    main()
