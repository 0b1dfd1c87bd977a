"""Devices of this machine, such as GPUs, with one process for each."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Sequence
from functools import cache
from tempfile import TemporaryDirectory

from ascertain.analyze.result import Failure, Result
from ascertain.errors import InputError, ResourceError
from ascertain.runs.executors import AHEAD, Workers, start
from ascertain.runs.items import MEMORY, Item, run_item

__all__ = ["cuda_devices", "device_workers"]

_PATIENCE = 30.0
"""Seconds that a process waits for the device of one that is on its way out."""
_GLANCE = 0.05


def cuda_devices(chosen: str = "all") -> tuple[str, ...]:
    """The CUDA devices of this machine as torch names them: all, or those of a list of numbers such as ``0,1``.

    Raises InputError when torch sees none, and for what is no list, says a number twice, or names a device that is not there.
    """
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not there:
        raise InputError(
            f"torch {torch.__version__} sees no CUDA device here; run without GPUs, or install a driver and a torch made for CUDA."
        )
    words = [str(i) for i in range(there)] if chosen == "all" else [w.strip() for w in chosen.split(",")]
    if not all(w.isascii() and w.isdigit() for w in words) or len({int(w) for w in words}) < len(words):
        raise InputError(f"{chosen!r} is no list of different GPUs; say all, or numbers with commas between such as 0,1.")
    absent = [w for w in words if int(w) >= there]
    if absent:
        raise InputError(f"there is no GPU {absent[0]}; torch sees {there}, counted from 0; choose among them.")
    return tuple(f"cuda:{int(w)}" for w in words)


def device_workers(devices: Sequence[str]) -> Workers:
    """Processes on this machine, one for each device, each with one thread; a device named twice is shared by two.

    Every process claims one device and keeps it while it lives; where one dies, the process after it takes the device over.
    Analyzers that are not `Analyzer.on_device` compute on the CPU here, too, to the same bits as anywhere.
    """
    if not devices:
        raise InputError("no devices were named; name at least one, such as cuda:0.")
    return _workers(tuple(devices), TemporaryDirectory(prefix="ascertain-devices-"))


def _workers(devices: tuple[str, ...], claims: TemporaryDirectory[str]) -> Workers:
    executor, end = start(len(devices))
    share, folder = MEMORY / len(devices), claims.name

    def close(kill: bool) -> None:
        end(kill)
        claims.cleanup()

    def renew() -> Workers:
        # The claims stay: a process that is slow to die keeps its device, and its memory there, until it is gone.
        end(True)
        return _workers(devices, claims)

    return Workers(lambda item: executor.submit(_run, item, share, devices, folder), AHEAD * len(devices), close, renew)


def _run(item: Item, memory: float, devices: tuple[str, ...], folder: str) -> Result | Failure:
    return run_item(item, memory, devices[_claim(len(devices), folder)])


@cache
def _claim(count: int, folder: str) -> int:
    """The position of a device that no other process has; it is this one's until it ends, when the kernel drops the lock."""
    until = time.monotonic() + _PATIENCE
    while True:
        for i in range(count):
            file = os.open(f"{folder}/{i}", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
            else:
                return i
        if time.monotonic() > until:
            held = f"all {count} devices are" if count > 1 else "the 1 device is"
            raise ResourceError(f"{held} held by other processes of this suite; end those that hang.")
        time.sleep(_GLANCE)
