"""Threads that run a kernel over the boxes of a batch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Protocol

import numpy as np

from ascertain.certify.kernels.batch import Batch, Settings
from ascertain.certify.kernels.domain import Scratch, scratch
from ascertain.certify.kernels.pack import Packed

__all__ = ["Kernel", "Workers"]

ROOM = 1 << 27
"""Bytes for one thread's generators; what does not fit becomes interval radius."""


class Kernel(Protocol):
    """A compiled function that treats boxes first .. last of a batch in place, until ``cancel[0]`` is set."""

    def __call__(
        self, net: Packed, s: Scratch, result: Batch, first: int, last: int, settings: Settings, cancel: np.ndarray
    ) -> None: ...


class Workers:
    """A pool of threads, each with its own scratch memory; kernels release the interpreter lock."""

    def __init__(self, net: Packed, threads: int, stop: Callable[[], bool]) -> None:
        """``stop`` is asked every 0.05 s while a batch runs; once true, all that is left of it is cancelled."""
        neurons, total = net.hidden[1] - net.hidden[0], int(net.start[-1])
        columns = int(min(neurons + net.start[1], max(64, ROOM // (8 * total))))
        self._net, self._stop = net, stop
        self._scratch = [scratch(net, columns) for _ in range(max(1, threads))]
        self._pool = ThreadPoolExecutor(len(self._scratch))
        self._cancel = np.zeros(1, np.bool_)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *details: object) -> None:
        self._cancel[0] = True
        self._pool.shutdown()

    def run(self, kernel: Kernel, found: Batch, settings: Settings) -> None:
        """Applies a kernel to all boxes of a batch."""
        count = len(found.worst)
        chunk = max(1, min(16, count // (4 * len(self._scratch))))
        turns = iter(range(0, count, chunk))
        lock = threading.Lock()

        def work(s: Scratch) -> None:
            while True:
                with lock:
                    first = next(turns, None)
                if first is None:
                    return
                kernel(self._net, s, found, first, min(first + chunk, count), settings, self._cancel)

        pending: set[Future[None]] = {self._pool.submit(work, s) for s in self._scratch[: -(-count // chunk)]}
        while pending:
            finished, pending = wait(pending, timeout=0.05)
            for future in finished:
                future.result()
            if pending and self._stop():
                self._cancel[0] = True
