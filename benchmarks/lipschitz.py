"""Lipschitz constants and CPU seconds: ``python -m benchmarks.lipschitz [--peers] [--wide] [--weights FOLDER] [--out FILE]``.

One BLAS thread. Random rectifier networks (N(0, 1 / fan in), seed 0) by every method of ours, with ``--peers`` also the chain
program of LipSDP through cvxpy with SCS (what it answers, and the bound that its multipliers prove), and eclipse-nn where it can be
imported. ``--weights``: a folder of MaxMin networks (weights_l2_*.mat and resweights_*.mat of the repository ppauli/QCs_MaxMin).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ascertain import Graph, lipschitz
from ascertain.certify.lipschitz import plant
from ascertain.certify.lipschitz.solve import bound_of
from ascertain.graph import Builder
from ascertain.operators import Dense, GroupSort, Relu, Sum
from ascertain.operators.base import Operator

SIZES = [(16, 2), (16, 3), (16, 5), (32, 2), (32, 3), (32, 5), (64, 2), (64, 3), (64, 5), (128, 2), (128, 3), (128, 5)]
WIDE = [(256, 3), (256, 5), (512, 3), (1000, 10)]
OPTIMA = {
    (16, 2): 2.6120,
    (16, 3): 2.6792,
    (16, 5): 4.1203,
    (32, 2): 2.3704,
    (32, 3): 3.3719,
    (32, 5): 6.0254,
    (64, 2): 2.3688,
    (64, 3): 2.7622,
    (64, 5): 4.5763,
    (128, 2): 1.9810,
    (128, 3): 2.8006,
    (128, 5): 5.0656,
}
"""Optima of the program known from other solvers, to the digits given."""


@dataclass(frozen=True)
class Row:
    """One method on one network."""

    network: str
    method: str
    raw: float
    """What the solver says; for ours before the proof."""
    bound: float
    """A valid bound: proved for ours, recomputed in floats from the peers' multipliers; infinite where those are infeasible."""
    evidence: str
    product: float
    cpu_seconds: float
    megabytes: float
    """Peak of the process so far."""


def network(weights: Sequence[np.ndarray], activation: Callable[[], Operator]) -> Graph:
    """Dense layers with an activation between them."""
    builder = Builder()
    x = y = builder.input((1, weights[0].shape[1]))
    for w in weights[:-1]:
        y = builder(activation(), builder(Dense(np.ascontiguousarray(w)), y))
    return builder.graph(x, builder(Dense(np.ascontiguousarray(weights[-1])), y))


def random_weights(width: int, depth: int) -> list[np.ndarray]:
    """``depth`` hidden layers of a width, 10 outputs."""
    rng = np.random.default_rng(0)
    sizes = [width] * (depth + 1) + [10]
    return [rng.standard_normal((b, a)) / np.sqrt(a) for a, b in pairwise(sizes)]


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """A result and its CPU seconds."""
    started = time.process_time()
    found = run()
    return found, time.process_time() - started


def ours(name: str, graph: Graph, method: str, timeout: float) -> Row:
    """One method of ours, the product of norms and the proof included."""
    found, seconds = timed(lambda: lipschitz(graph, method=method, timeout=timeout))
    return Row(name, found.method, found.estimate, found.value, str(found.evidence), found.product, seconds, _peak())


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def chain_program(name: str, weights: Sequence[np.ndarray], solver: str) -> Row:
    """LipSDP-Neuron of a rectifier chain through cvxpy, one small cone for each pair of layers."""
    cp: Any = import_module("cvxpy")

    def run() -> tuple[float, list[np.ndarray]]:
        rho: Any = cp.Variable()
        storage: Any = rho * np.eye(weights[0].shape[1])
        constraints, factors = [], []
        for i, w in enumerate(weights[:-1]):
            lam: Any = cp.Variable(len(w), nonneg=True)
            last = i == len(weights) - 2
            after: Any = weights[-1].T @ weights[-1] if last else cp.Variable((len(w), len(w)), symmetric=True)
            cross = cp.diag(lam) @ w
            constraints.append(cp.bmat([[storage, -cross.T], [-cross, 2 * cp.diag(lam) - after]]) >> 0)
            factors.append(lam)
            storage = after
        problem: Any = cp.Problem(cp.Minimize(rho), constraints)
        problem.solve(solver=solver)
        return float(np.sqrt(max(float(rho.value), 0.0))), [f.value for f in factors]

    (raw, factors), seconds = timed(run)
    form = plant(network(weights, Relu))
    bound = bound_of(form, np.maximum(np.concatenate(factors), 0.0) * (1 + 1e-9))
    return Row(name, f"cvxpy {solver}", raw, bound, "BOUNDED", np.inf, seconds, _peak())


def eclipse(name: str, weights: Sequence[np.ndarray]) -> Iterator[Row]:
    """The estimators of eclipse-nn, if it is installed."""
    if importlib.util.find_spec("eclipse_nn") is None:
        return
    import torch
    from eclipse_nn.LipConstEstimator import LipConstEstimator

    for method in ("ECLipsE_Fast", "ECLipsE"):
        estimator = LipConstEstimator(weights=[torch.from_numpy(w) for w in weights])
        value, seconds = timed(lambda e=estimator, m=method: float(e.estimate(m)))  # type: ignore[misc]
        yield Row(name, f"eclipse-nn {method}", value, value, "BOUNDED", np.inf, seconds, _peak())


def unsound_cases() -> Iterator[str]:
    """Networks whose constant eclipse-nn puts below an attained slope, and ours."""
    import torch
    from eclipse_nn.LipConstEstimator import LipConstEstimator
    from torch import nn

    from ascertain import load

    torch.manual_seed(0)
    first, last = nn.Linear(1, 1), nn.Linear(1, 1)
    nn.init.ones_(first.weight)
    nn.init.ones_(last.weight)
    wide = nn.Conv1d(1, 1, 3, padding=1)
    nn.init.constant_(wide.weight, 5.0)
    conv = nn.Sequential(nn.Linear(6, 12), nn.Unflatten(1, (1, 12)), wide, nn.Flatten(), nn.ReLU(), nn.Linear(12, 3))
    cases = {
        "GELU": (nn.Sequential(first, nn.GELU(), last), 1),
        "SiLU": (nn.Sequential(first, nn.SiLU(), last), 1),
        "convolution": (conv, 6),
    }
    for name, (module, size) in cases.items():
        x = 3 * torch.randn(2000, 1, size)
        jacobians = torch.vmap(torch.func.jacrev(module))(x)[:, 0, :, 0].detach()
        attained = max(float(torch.linalg.matrix_norm(j, 2)) for j in jacobians)
        try:
            theirs = f"{float(LipConstEstimator(model=module).estimate('ECLipsE_Fast')):.4f}"
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
            theirs = f"fails ({type(error).__name__})"
        found = lipschitz(load(module, input_shape=(1, size)))
        yield f"{name:<12} attained {attained:.4f}  eclipse-nn {theirs}  ours {found.value:.4f} {found.evidence}"


def residual(weights: Sequence[np.ndarray]) -> Graph:
    """A first and a last dense layer; between them state + maxmin(W state)."""
    builder = Builder()
    x = builder.input((1, weights[0].shape[1]))
    y = builder(Dense(np.ascontiguousarray(weights[0])), x)
    for w in weights[1:-1]:
        y = builder(Sum((1.0, 1.0)), y, builder(maxmin(), builder(Dense(np.ascontiguousarray(w)), y)))
    return builder.graph(x, builder(Dense(np.ascontiguousarray(weights[-1])), y))


def stored(folder: Path) -> Iterator[tuple[str, Graph]]:
    """The networks of a folder, smallest first."""
    from scipy.io import loadmat

    def read(file: Path) -> list[np.ndarray]:
        found = {k: v for k, v in loadmat(file).items() if not k.startswith("__")}
        cells = found.get("W", next(iter(found.values())))
        return [np.asarray(w, float) for w in cells.ravel()]

    files = [*folder.glob("weights_l2_*.mat"), *folder.glob("resweights_*.mat")]
    for file in sorted(files, key=lambda f: f.stat().st_size):
        weights = read(file)
        yield file.stem, residual(weights) if file.stem.startswith("res") else network(weights, maxmin)


def maxmin() -> Operator:
    """The activation of the stored networks."""
    return GroupSort(1, 2)


def main(arguments: Sequence[str]) -> int:
    """Measures and prints one line for each network and method."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lipschitz", description=__doc__)
    parser.add_argument("--peers", action="store_true", help="also cvxpy with SCS, and eclipse-nn")
    parser.add_argument("--wide", action="store_true", help="also widths 256 and 512")
    parser.add_argument("--weights", type=Path, help="folder of MaxMin networks (.mat)")
    parser.add_argument("--match", default="", help="only networks whose names contain this text")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for each network")
    parser.add_argument("--out", type=Path, help="results (.jsonl), appended to")
    options = parser.parse_args(arguments)
    from threadpoolctl import threadpool_limits

    print(f"{'network':<20} {'method':<36} {'solver':>12} {'bound':>14} {'evidence':<9} {'product':>10} {'cpu s':>8} {'MB':>6}")
    with threadpool_limits(1):
        ours("warm up", network(random_weights(4, 2), Relu), "interior", 60.0)
        for width, depth in [*SIZES, *(WIDE if options.wide else [])]:
            if options.match in f"{width}x{depth}":
                _random(width, depth, options)
        for name, graph in stored(options.weights) if options.weights else ():
            if options.match in name:
                _show(ours(name, graph, "auto", options.timeout), options.out)
        if options.peers and importlib.util.find_spec("eclipse_nn") is not None:
            print(*unsound_cases(), sep="\n")
    return 0


def _random(width: int, depth: int, options: argparse.Namespace) -> None:
    """All methods on one random network, with the ratio of times and the distance to the known optimum."""
    name, weights = f"{width}x{depth}", random_weights(width, depth)
    graph = network(weights, Relu)
    methods = ["interior", "first-order"] if width < 256 else ["first-order"]
    rows = [ours(name, graph, method, options.timeout) for method in methods]
    for row in rows:
        _show(row, options.out)
    optimum = OPTIMA.get((width, depth))
    if optimum is not None and abs(rows[0].bound - optimum) > 6e-5:
        print(f"{name:<12} differs from the known optimum {optimum}")
    if not options.peers:
        return
    for row in eclipse(name, weights):
        _show(row, options.out)
    if width * depth <= 320:
        peer = chain_program(name, weights, "SCS")
        _show(peer, options.out)
        print(f"{name:<12} SCS takes {peer.cpu_seconds / rows[0].cpu_seconds:.1f} times as long as ours")


def _show(row: Row, out: Path | None) -> None:
    numbers = (
        f"{row.raw:>12.7g} {row.bound:>14.9g} {row.evidence:<9} {row.product:>10.5g} {row.cpu_seconds:>8.2f} {row.megabytes:>6.0f}"
    )
    print(f"{row.network:<20} {row.method:<36} {numbers}", flush=True)
    if out is not None:
        with out.open("a") as stream:
            stream.write(json.dumps(asdict(row)) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
