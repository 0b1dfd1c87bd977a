"""The calls people make: verify a property, bound the outputs, look for a counterexample, certify a radius."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ascertain.certify.result import Bounds, Progress, Status, Verdict, Witness
from ascertain.certify.strategy import Job
from ascertain.errors import DataError, ShapeError
from ascertain.evidence import Evidence
from ascertain.graph.graph import Graph
from ascertain.properties import Property, robust
from ascertain.properties.sets import InputSet

__all__ = ["Radius", "bound", "falsify", "radius", "verify"]


def verify(
    network: Graph,
    property: Property,
    *,
    timeout: float = 60.0,
    memory: float = 0.5,
    threads: int | None = None,
    device: str = "cpu",
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Verdict:
    """Decides whether a network has a property.

    ``timeout`` in seconds; ``memory`` as a share of the machine's; ``progress`` is called about ten times a second; ``stop`` is
    polled and ends the search with what is known so far, as Ctrl-C does. ``holds`` is PROVED: every float comparison behind it has
    its rounding error subtracted. ``violated`` comes with a witness that was replayed on the original model. Raises ShapeError
    when sizes do not fit and DataError for unusable options.
    """
    job = _job(network, property, timeout, memory, threads, device, seed, progress, stop)
    try:
        return job.run()
    except KeyboardInterrupt:
        return job.verdict(Status.UNKNOWN, "interrupted")
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        reason = "memory: the search needed more than this machine has; give it a smaller network or set"
        return job.verdict(Status.UNKNOWN, reason=reason)


def _out_of_memory(error: Exception) -> bool:
    """Whether python, the processor's allocator or the device's gave up; torch's are told by name: it may not be loaded."""
    named = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or named


def falsify(network: Graph, property: Property, *, timeout: float = 10.0, device: str = "cpu", seed: int = 0) -> Witness | None:
    """A counterexample found by gradient descent and replayed on the original model, or None (which proves nothing)."""
    job = _job(network, property, timeout, 0.5, None, device, seed, None, None)
    return job.attack()


def bound(
    network: Graph, sets: InputSet, *, method: str = "crown", steps: int = 20, device: str = "cpu", threads: int | None = None
) -> Bounds:
    """Lower and upper bounds of every output over an input set.

    ``method``: ``interval``, ``zonotope``, ``crown`` (back-substitution) or ``alpha`` (its slopes optimised for ``steps`` steps).
    Evidence: PROVED; infinite where floats overflowed, or where a function on the way may not be defined. Raises ShapeError when
    the set does not fit the network, DataError for unusable options.
    """
    if steps < 0 or (threads is not None and threads < 1):
        raise DataError(f"{steps} steps on {threads} threads are not possible; give at least 0 steps and 1 thread.")
    if sets.size != network.input_size:
        raise ShapeError(f"the set has {sets.size} coordinates, the network takes {network.input_size}; give one for each input.")
    from ascertain.certify.deep import output_bounds

    started = time.monotonic()
    lower, upper = output_bounds(network, sets, method, steps, device, threads or (os.cpu_count() or 1))
    return Bounds(lower, upper, method, Evidence.PROVED, time.monotonic() - started)


@dataclass(frozen=True)
class Radius:
    """The largest radius around a point within which the label cannot change lies in [lower, upper]."""

    lower: float
    """Proved robust up to here."""
    upper: float
    """A witness is known at this radius; infinite when none was found."""
    witness: Witness | None
    evidence: Evidence
    seconds: float


def radius(
    network: Graph,
    x: np.ndarray,
    label: int,
    *,
    norm: float | str = "inf",
    limit: float = 1.0,
    tolerance: float = 0.01,
    timeout: float = 60.0,
    **options: Any,
) -> Radius:
    """Certified robustness radius of one input by bisection on `verify`, up to ``limit``, to a relative ``tolerance``.

    ``timeout`` in seconds for all steps together, a quarter of what is left for each; other ``options`` are those of `verify`.
    """
    if not 0 < limit < np.inf or not 0 < tolerance < 1:
        raise DataError(f"a radius up to {limit} is sought to a tolerance of {tolerance}; give a positive limit, a share below 1.")
    started = time.monotonic()
    low, high, probe, known, witness = 0.0, limit, limit, float("inf"), None
    while low < limit and high - low > tolerance * high and high > 1e-9 * limit:
        left = timeout - (time.monotonic() - started)
        if left <= 0:
            break
        asked = robust(x, probe, float(norm), label=label, classes=network.output_size)
        verdict = verify(network, asked, timeout=left / 4, **options)
        if verdict.status is Status.HOLDS:
            low = probe
        else:  # an undecided step only says where not to look for a proof
            high = probe
        if verdict.status is Status.VIOLATED:
            known, witness = probe, verdict.witness
        if verdict.reason == "interrupted":
            break
        probe = (low + high) / 2 if low > 0 else high / 4
    return Radius(low, known, witness, Evidence.PROVED, time.monotonic() - started)


def _job(
    network: Graph,
    property: Property,
    timeout: float,
    memory: float,
    threads: int | None,
    device: str,
    seed: int,
    progress: Callable[[Progress], None] | None,
    stop: Callable[[], bool] | None,
) -> Job:
    if not timeout > 0 or not 0 < memory <= 1 or (threads is not None and threads < 1):
        raise DataError("timeout must be positive, memory a share between 0 and 1, threads at least 1; correct the options.")
    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise DataError(f"{device!r} is no device that is supported; choose cpu or cuda.")
    if property.n_inputs != network.input_size or property.n_outputs != network.output_size:
        raise ShapeError(
            f"the property is about {property.n_inputs} inputs and {property.n_outputs} outputs, the network has "
            f"{network.input_size} and {network.output_size}; check that they belong together."
        )
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores, stop = threads or (os.cpu_count() or 1), stop or (lambda: False)
    return Job(network, property, timeout, int(memory * total), cores, device, seed, progress, stop)
