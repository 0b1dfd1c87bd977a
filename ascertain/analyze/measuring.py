"""Asks one question of one network and records the answer with its provenance."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ascertain.analyze.base import Analyzer, Context
from ascertain.analyze.registry import options_of
from ascertain.analyze.result import Cost, Failure, Measured, Result, question_key
from ascertain.errors import InputError

__all__ = ["analyze", "attempt", "key_of", "provenance"]

_PACKAGES = ("ascertain", "numpy", "scipy", "torch", "onnx", "onnxruntime", "numba", "highspy")


def analyze(analyzer: Analyzer, context: Context) -> Result:
    """The result of an analyzer; raises InputError when the context lacks what it needs, and what `Analyzer.measure` raises."""
    _check_needs(analyzer, context)
    head, clock = provenance(analyzer, context.hashes, context.names, context.seed, context.device), Clock()
    with clock.running():
        values = dict(analyzer.measure(context))
    return Result(**head, cost=clock.cost, values=_checked(analyzer, values))


def attempt(analyzer: Analyzer, context: Context) -> Result | Failure:
    """As `analyze`, but an analyzer that raises makes a `Failure`; only interrupts and exits pass."""
    head, clock = provenance(analyzer, context.hashes, context.names, context.seed, context.device), Clock()
    try:
        with clock.running():
            _check_needs(analyzer, context)
            values = _checked(analyzer, dict(analyzer.measure(context)))
    # A boundary: whatever goes wrong in one item is recorded, so that the others go on.
    except Exception as error:
        return Failure(**head, cost=clock.cost, error=type(error).__name__, message=str(error))
    return Result(**head, cost=clock.cost, values=values)


def key_of(analyzer: Analyzer, context: Context) -> str:
    """The key that a result would have (`Record.key`)."""
    return question_key(analyzer.called(), analyzer.version, options_of(analyzer), context.hashes, context.seed)


def provenance(
    analyzer: Analyzer, inputs: Mapping[str, str], names: Mapping[str, str], seed: int, device: str = "cpu"
) -> dict[str, Any]:
    """Everything of a record but its cost and its answer."""
    return {
        "analyzer": analyzer.called(),
        "version": analyzer.version,
        "options": options_of(analyzer),
        "inputs": dict(inputs),
        "names": dict(names),
        "seed": seed,
        "versions": _versions(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "device": device if analyzer.on_device else "cpu",
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _check_needs(analyzer: Analyzer, context: Context) -> None:
    missing = [str(need) for need in sorted(analyzer.needs) if not context.has(need)]
    if missing:
        raise InputError(f"{analyzer.called()} needs {' and '.join(missing)}; give {'it' if len(missing) == 1 else 'them'}.")


def _checked(analyzer: Analyzer, values: dict[str, Measured]) -> dict[str, Measured]:
    for name, value in values.items():
        if not (isinstance(name, str) and name.isidentifier() and isinstance(value, Measured)):
            raise TypeError(f"{analyzer.called()} measured {name!r} as {type(value).__name__}; not a name and a Measured")
    return values


class Clock:
    """Wall and CPU seconds and peak memory of a piece of work."""

    def __init__(self) -> None:
        self.cost = Cost(0.0, 0.0, 0)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measures while the block runs, also when it raises."""
        _forget_peak()
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.cost = Cost(time.perf_counter() - wall, time.process_time() - cpu, _peak())


def _forget_peak() -> None:
    """Lets the kernel count the peak anew, where it can; otherwise the peak is that of the process so far."""
    if sys.platform == "linux":
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return


def _peak() -> int:
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
