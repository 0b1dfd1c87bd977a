"""Runs the items of a suite, keeps every answer the moment it comes, and never asks twice."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass

from ascertain.analyze.result import Failure, Result
from ascertain.errors import ResourceError
from ascertain.runs.division import children
from ascertain.runs.executors import Workers
from ascertain.runs.items import Item
from ascertain.runs.store import Store

__all__ = ["Summary", "run_suite"]


@dataclass(frozen=True)
class Summary:
    """How a run ended."""

    items: int
    """Different questions of the suite."""
    skipped: int
    """Answered in the store before."""
    stored: int
    failed: int
    """Failures among those stored now."""
    held: int
    """Failures among all items, stored now or before."""
    seconds: float


def run_suite(
    items: Sequence[Item],
    store: Store,
    workers: Workers,
    *,
    retry: bool = False,
    notice: Callable[[Item, Result | Failure], None] = lambda item, record: None,
) -> Summary:
    """Answers the items that the store has no answer to, and stores each answer in one transaction as it comes.

    An item whose analyzer raises, or whose process dies, becomes a `Failure` and the others go on; failures stay until ``retry``
    asks for them again. Closes the workers. ``notice`` hears of every record once it is stored.
    """
    started = time.monotonic()
    run = _Run(store, workers, retry, notice)
    kill = True
    try:
        for item in items:
            run.offer(item)
        run.work()
        kill = False
    finally:
        run.workers.close(kill)
    held = len(run.seen & store.failures())
    return Summary(len(run.seen), len(run.seen) - run.stored, run.stored, run.failed, held, time.monotonic() - started)


class _Run:
    """The state of one run."""

    def __init__(self, store: Store, workers: Workers, retry: bool, notice: Callable[[Item, Result | Failure], None]) -> None:
        self.store, self.workers, self.retry, self.notice = store, workers, retry, notice
        self.known = set(store.contents()) - (store.failures() if retry else set())
        self.seen: set[str] = set()
        self.queue: deque[Item] = deque()
        self.running: dict[Future[Result | Failure], Item] = {}
        self.suspects: deque[Item] = deque()
        """Items of which one made its process die: each is tried once more, alone."""
        self.stored = self.failed = 0

    def offer(self, item: Item) -> None:
        """Queues an item, or what follows from its answer where that is known."""
        if item.key in self.seen:
            return
        self.seen.add(item.key)
        if item.key not in self.known:
            self.queue.append(item)
        elif item.halvings:
            self._follow(item, self.store.get(item.key))

    def _follow(self, item: Item, record: Result | Failure) -> None:
        for child in children(item, record):
            self.offer(child)

    def work(self) -> None:
        """Until nothing is left."""
        while self.queue or self.running or self.suspects:
            self._fill()
            dead = self._collect()
            if dead:
                self._mourn(dead)

    def _collect(self) -> list[Item]:
        """Waits for answers and stores them; returns the items whose process died."""
        done, _ = wait(self.running, return_when=FIRST_COMPLETED)
        answered = [(future, self.running.pop(future)) for future in done]
        return [item for future, item in answered if not self._take(future, item)]

    def _fill(self) -> None:
        """Hands out items: some ahead, or one alone while there are suspects."""
        alone = bool(self.suspects)
        source, most = (self.suspects, 1) if alone else (self.queue, self.workers.most)
        while source and len(self.running) < most:
            item = source.popleft()
            try:
                self.running[self.workers.submit(item)] = item
            except self.workers.broken:
                # A process died meanwhile: what is in flight will say so; with nothing in flight nobody will.
                source.appendleft(item)
                if self.running:
                    return
                if self.workers.renew is None:
                    raise
                self._renew()

    def _take(self, future: Future[Result | Failure], item: Item) -> bool:
        """Stores the answer; False when the process died."""
        if future.cancelled():
            raise ResourceError(f"the workers went away before {item} was answered; run again to go on.")
        error = future.exception()
        if error is None:
            self._keep(item, future.result())
        elif self.workers.renew is not None and isinstance(error, self.workers.broken):
            return False
        else:
            self._keep(item, item.failure(type(error).__name__, str(error)))
        return True

    def _keep(self, item: Item, record: Result | Failure) -> None:
        if self.retry:
            self.store.replace(record)
        else:
            self.store.put(record)
        self.stored += 1
        self.failed += isinstance(record, Failure)
        self.notice(item, record)
        self._follow(item, record)

    def _mourn(self, dead: list[Item]) -> None:
        """A process died: what was in flight is lost with it, and one of these items is to blame."""
        while self.running:
            dead += self._collect()
        if len(dead) == 1:
            self._keep(dead[0], dead[0].failure("WorkerDied", "the process that worked on it died: was there too little memory?"))
        else:
            self.suspects.extend(dead)
        self._renew()

    def _renew(self) -> None:
        if self.workers.renew is not None:
            self.workers = self.workers.renew()
