"""Seconds of similarity maps and interaction bases: ``python -m benchmarks.similarity [--samples N] [--threads K] [--out FILE]``.

A convolutional network with random weights is captured once. The whole map is timed beside a plain loop over pairs: SVCCA as the
published procedure says it (decompose, cut at the share of variance, whiten by inverse square roots, decompose again), CKA as the
common library computes it (Gram matrices and HSIC of every pair in every batch). Both give the same numbers, which is checked.

Where torch-cka is installed, it is timed too, forward passes included on both sides; it computes in float32, and what it deviates
is its rounding. The interaction basis of a perceptron 64-3x200-10 has no peer to install, and its seconds stand alone.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from ascertain.probes.activations import Activations, activations
from ascertain.probes.canonical import SVCCA
from ascertain.probes.interaction import interaction_basis, interactions
from ascertain.probes.kernels import CKA
from ascertain.probes.similarity import similarity_map

Table = np.ndarray
BATCH = 128
"""Samples in a batch of the plain CKA, and in a block of ours."""


@dataclass(frozen=True)
class Measurement:
    """A map over all pairs of layers, both ways; least of the repeats."""

    measure: str
    layers: int
    samples: int
    ours_seconds: float
    plain_seconds: float
    ratio: float
    deviation: float
    """Largest difference of a number."""


@dataclass(frozen=True)
class Alone:
    """What has no peer."""

    measure: str
    layers: int
    samples: int
    ours_seconds: float
    rank: int
    """Directions kept in all layers together."""


def network() -> nn.Sequential:
    """A convolutional network of 17 layers on images of 16 x 16."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(((3, 16), (16, 16), (16, 32), (32, 32), (32, 64))):
        layers += [nn.Conv2d(a, b, 3, padding=1, stride=2 if i in (2, 4) else 1), nn.BatchNorm2d(b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 10))


def plain_svcca(first: np.ndarray, second: np.ndarray, share: float = 0.99) -> float:
    """SVCCA of one pair by the published steps."""
    cut = []
    for rows in (first, second):
        x = rows.astype(np.float64)
        x = x - x.mean(0)
        u, s, _ = np.linalg.svd(x, full_matrices=False)
        kept = int(np.searchsorted(np.cumsum(s * s), share * (s * s).sum())) + 1
        cut.append(u[:, :kept] * s[:kept])
    x, y = cut
    roots = []
    for z in (x, y):
        values, vectors = np.linalg.eigh(z.T @ z)
        roots.append(vectors / np.sqrt(values) @ vectors.T)
    return float(np.linalg.svd(roots[0] @ (x.T @ y) @ roots[1], compute_uv=False).mean())


def hsic(k: np.ndarray, m: np.ndarray) -> float:
    """The unbiased HSIC of two Gram matrices without their diagonals, term by term (Song et al., 2012)."""
    n = len(k)
    total = np.sum(k * m) + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * (k.sum(0) @ m.sum(0)) / (n - 2)
    return float(total / (n * (n - 3)))


def plain_cka(layers: Sequence[np.ndarray]) -> Table:
    """Minibatch CKA of all pairs, Gram matrices made anew for each pair of each batch."""
    sums = np.zeros((len(layers), len(layers), 3))
    for start in range(0, len(layers[0]), BATCH):
        for i, first in enumerate(layers):
            x = first[start : start + BATCH].astype(np.float64)
            k = x @ x.T
            np.fill_diagonal(k, 0.0)
            sums[i, :, 0] += hsic(k, k)
            for j, second in enumerate(layers):
                y = second[start : start + BATCH].astype(np.float64)
                m = y @ y.T
                np.fill_diagonal(m, 0.0)
                sums[i, j, 1] += hsic(k, m)
                sums[i, j, 2] += hsic(m, m)
    return np.asarray(sums[..., 1] / np.sqrt(sums[..., 0] * sums[..., 2]))


def timed(function: Callable[[], Table], repeats: int) -> tuple[Table, float]:
    """A table, and the least seconds that it took."""
    best, table = np.inf, np.zeros(0)
    for _ in range(repeats):
        start = time.perf_counter()
        table = function()
        best = min(best, time.perf_counter() - start)
    return table, best


def compare(captured: Activations, measure: SVCCA | CKA, plain: Callable[[list[np.ndarray]], Table], repeats: int) -> Measurement:
    """Our map beside the plain one."""
    rows = list(captured.values())
    ours, ours_seconds = timed(lambda: similarity_map(captured, measure=measure, groups=0, shuffles=0).values, repeats)
    theirs, plain_seconds = timed(lambda: plain(rows), 1)
    ratio, deviation = plain_seconds / ours_seconds, float(np.abs(ours - theirs).max())
    return Measurement(measure.name, len(rows), captured.samples, ours_seconds, plain_seconds, ratio, deviation)


def torch_cka(net: nn.Module, images: torch.Tensor, repeats: int) -> Measurement:
    """All-pairs minibatch CKA by the package torch-cka, forward passes included on both sides."""
    names = [name for name, _ in net.named_modules() if name]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), BATCH)

    def peer() -> Table:
        with torch.no_grad():
            run = import_module("torch_cka").CKA(copy.deepcopy(net), copy.deepcopy(net), "one", "two", names, names)
            run.compare(loader)
            return np.asarray(run.export()["CKA"], np.float64)

    def mine() -> Table:
        captured = activations(net, names, images, maps="flattened", memory=8e9)
        return similarity_map(captured, measure=CKA(batch=BATCH), groups=0, shuffles=0).values

    (ours, ours_seconds), (theirs, peer_seconds) = timed(mine, repeats), timed(peer, 1)
    deviation = float(np.abs(ours - theirs).max())
    return Measurement(
        "CKA beside torch-cka", len(names), len(images), ours_seconds, peer_seconds, peer_seconds / ours_seconds, deviation
    )


def interaction(samples: int) -> Alone:
    """Local interaction basis of a perceptron 64-3x200-10 with its interaction graph."""
    torch.manual_seed(0)
    widths = (64, 200, 200, 200)
    hidden = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    net, layers = nn.Sequential(*hidden, nn.Linear(200, 10)), ["input", "1", "3", "5", "6"]
    data = torch.randn(samples, 64)
    start = time.perf_counter()
    bases = interaction_basis(net, layers, data)
    graph = interactions(net, bases, data[:256])
    seconds = time.perf_counter() - start
    return Alone("local interaction basis and graph", len(layers), graph.samples, seconds, sum(len(b.importance) for b in bases))


def pairs(rows: list[np.ndarray]) -> Table:
    """Plain SVCCA of all pairs; the half below the diagonal is the mirror image."""
    out = np.zeros((len(rows), len(rows)))
    for i, first in enumerate(rows):
        for j in range(i, len(rows)):
            out[i, j] = out[j, i] = plain_svcca(first, rows[j])
    return out


def main() -> None:
    """Measures and prints one JSON line for each measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found: list[Measurement | Alone] = []
    images = torch.randn(options.samples, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    net = network()
    with threadpool_limits(options.threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # flattened maps have more features than samples, which takes nothing from the seconds
        torch.set_num_threads(options.threads)
        flat = activations(net, None, images, maps="flattened", memory=8e9)
        same = activations(net, None, images, maps="resized", grid=4, memory=8e9)
        spatial = {name: rows for name, rows in same.items() if same.places[name] == 16}
        positions = Activations(spatial, dict.fromkeys(spatial, 16), same.digests, same.maps)
        found = [
            compare(positions, SVCCA(), pairs, options.repeats),
            compare(flat, CKA(batch=BATCH), lambda rows: plain_cka(rows), options.repeats),
            interaction(1000),
        ]
        if find_spec("torch_cka"):
            found.append(torch_cka(net, images, options.repeats))
    for line in map(json.dumps, map(asdict, found)):
        print(line)
        if options.out:
            with options.out.open("a") as file:
                file.write(line + "\n")


if __name__ == "__main__":
    main()
