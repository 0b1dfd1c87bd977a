"""Where items run: processes on this machine, or a Dask cluster. Anything with the futures of `concurrent.futures` will do."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from ascertain.analyze.result import Failure, Result
from ascertain.errors import InputError
from ascertain.runs.items import MEMORY, Item, run_item

__all__ = ["AHEAD", "Workers", "dask_workers", "local_workers", "start", "this_process"]

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
AHEAD = 2
"""Items handed out for each process, so that none waits for the next."""
_PATIENCE = 10.0
"""Seconds to wait for the scheduler of a cluster."""
_GLANCE = 0.2
"""Seconds between looks at whether the parent is alive."""


@dataclass(frozen=True)
class Workers:
    """Processes that answer items."""

    submit: Callable[[Item], Future[Result | Failure]]
    most: int
    """How many items are handed out at a time."""
    close: Callable[[bool], None]
    """Ends the processes; at once, with what they do, if the argument is true."""
    renew: Callable[[], Workers] | None = None
    """What takes their place after a process died; None where no process can die."""
    broken: tuple[type[BaseException], ...] = (BrokenExecutor,)
    """Raised by a future when a process died."""


def this_process() -> Workers:
    """One item after the other in this process, where starting others would take longer than the work."""

    def submit(item: Item) -> Future[Result | Failure]:
        done: Future[Result | Failure] = Future()
        with _outright():
            done.set_result(run_item(item))
        return done

    return Workers(submit, 1, lambda kill: None)


class _Interrupt(BaseException):
    """Ctrl-C, in a form that no search takes for a wish to answer early: what it then said would be kept for its answer."""


@contextmanager
def _outright() -> Iterator[None]:
    """Ctrl-C ends the block, whatever it does with interrupts, where Ctrl-C is heard at all."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise _Interrupt

    signal.signal(signal.SIGINT, end)
    try:
        yield
    except _Interrupt:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def local_workers(count: int | None = None) -> Workers:
    """Processes on this machine, one for each core if no ``count`` is given, with one thread each."""
    slots = count if count is not None else (os.cpu_count() or 1)
    if slots < 1:
        raise InputError(f"{slots} processes cannot do anything; give at least 1.")
    executor, close = start(slots)

    def renew() -> Workers:
        close(True)
        return local_workers(count)

    return Workers(lambda item: executor.submit(run_item, item, MEMORY / slots), AHEAD * slots, close, renew)


def start(slots: int) -> tuple[Executor, Callable[[bool], None]]:
    """An executor of so many processes with one thread each, and what ends it: at once if told so."""
    from joblib.externals.loky.process_executor import ProcessPoolExecutor

    # loky replaces a process that has grown, between two items, which is no news to the user.
    warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
    executor = ProcessPoolExecutor(slots, initializer=_settle, initargs=(os.getpid(),), env=_ONE_THREAD)

    def close(kill: bool) -> None:
        # when told to kill, loky drops what it has not handed out yet, and stumbles over the numbers of it that are left
        with suppress(queue.Empty):
            while kill:
                executor._work_ids.get(block=False)
        executor.shutdown(wait=True, kill_workers=kill)

    return executor, close


def _settle(parent: int) -> None:
    """Makes a process a good worker: Ctrl-C is the parent's to handle, and without the parent there is nothing to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_GLANCE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def dask_workers(address: str, count: int | None = None) -> Workers:
    """The workers of a Dask cluster: ``local`` for new processes on this machine, or the address of a scheduler (tcp://...).

    The workers must see the files of models and data under the same paths, and run one thread each. Raises InputError when Dask is
    not installed or nobody answers at the address.
    """
    try:
        from distributed import Client, LocalCluster
        from distributed.scheduler import KilledWorker
    except ImportError:
        raise InputError("a Dask cluster needs the package distributed; run 'pip install distributed', or use processes.") from None
    cluster: Any = None
    if address == "local":
        slots = count if count is not None else (os.cpu_count() or 1)
        cluster = LocalCluster(
            n_workers=slots, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None, env=_ONE_THREAD
        )
    try:
        client = Client(cluster if cluster is not None else address, timeout=_PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(f"no Dask scheduler answers at {address} ({error}); start one, or say local.") from None
    executor: Executor = client.get_executor(pure=False)

    def close(kill: bool) -> None:
        executor.shutdown(wait=not kill)
        client.close()
        if cluster is not None:
            cluster.close()

    slots = max(1, sum(client.nthreads().values()))
    share = MEMORY / max(Counter(urlsplit(name).hostname for name in client.nthreads()).values(), default=1)
    # Dask starts dead processes anew, and gives an item up after it saw several die.
    workers = Workers(lambda item: executor.submit(run_item, item, share), AHEAD * slots, close, lambda: workers, (KilledWorker,))
    return workers
