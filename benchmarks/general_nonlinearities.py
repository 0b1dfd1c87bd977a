"""Networks with other activations than ReLU: what each part of the verifier decides (the kinds of Shi et al. 2025, GenBaB).

Four methods on the same images, each for the same processor seconds on one thread: (a) back-substitution, (b) optimised slopes,
(c) search that cuts in the middle where intercepts promise most (as BaBSR does for ReLU), (d) search as `ascertain.verify` does it.
``python -m benchmarks.general_nonlinearities --out FILE`` runs (and resumes); ``... summary FILE`` prints the table.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ascertain import fixtures, load, robust
from ascertain.certify.deep import DeepEngine
from ascertain.certify.result import Decision
from ascertain.certify.search.neuron_split import Batch, NeuronSearch
from ascertain.certify.search.neurons import Neurons
from ascertain.certify.strategy import Job
from ascertain.errors import ResourceError
from ascertain.graph import lower
from ascertain.graph.graph import Graph
from ascertain.operators.base import Univariate
from ascertain.properties.property import Property

KINDS = {
    "mlp_sigmoid_4x100": 0.012,
    "mlp_sigmoid_6x100": 0.008,
    "mlp_sigmoid_4x500": 0.006,
    "mlp_tanh_4x100": 0.008,
    "mlp_tanh_6x100": 0.006,
    "mlp_tanh_4x500": 0.0035,
    "mlp_sin_4x100": 0.010,
    "mlp_sin_6x100": 0.007,
    "mlp_sin_4x500": 0.006,
    "mlp_gelu_4x100": 0.012,
    "mlp_gelu_6x100": 0.008,
    "mlp_gelu_4x500": 0.0055,
    "lstm_rows": 0.028,
    "vit_small": 0.003,
}
"""Fixtures and the radii at which many of their images are neither trivial nor attacked."""
METHODS = ("crown", "alpha", "midpoint", "ours")


class MiddleNeurons(Neurons):
    """Cuts in the middle, scored by how far the lines are from their function where the coefficient points."""

    def _cut_points(self, lower: Tensor, upper: Tensor) -> Tensor:
        return lower + (upper - lower) / 2

    def scores(
        self,
        lower: Tensor,
        upper: Tensor,
        index: Tensor,
        sign: Tensor,
        rows: dict[int, Tensor],
        slopes: dict[int, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Coefficients times gaps of the intercepts, and the middle of each range."""
        score = torch.zeros_like(lower)
        for s in self.steps:
            if s.index not in rows:
                continue
            a = rows[s.index].to(lower.dtype)
            if not isinstance(s.nonlinear, Univariate):
                for z in s.inputs:
                    if z in self.place:
                        score[:, self.place[z]] += self._joint_score(s, z, a, lower, upper)
                continue
            part = self.place[s.inputs[0]]
            low, high = (t[:, part].reshape(-1, *s.shape) for t in (lower, upper))
            chord = (s.nonlinear.f(high) - s.nonlinear.f(low)) / (high - low).clamp_min(1e-30)
            first, last = s.nonlinear.intercepts(low, high, chord)
            score[:, part] += a.abs() * (last - first).flatten(1)
        return torch.where(self.open(lower, upper), score, -1.0), lower + (upper - lower) / 2


class MiddleSearch(NeuronSearch):
    """The search with cuts in the middle, no trial of candidates, and no contraction to what may be unsafe."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.neurons = MiddleNeurons(self.exact, self.bounded)
        self.candidates = 1
        self.contraction = None


class RootSearch(NeuronSearch):
    """No search: slopes of all rows are optimised for longer, and that is all."""

    def run(self, root_steps: int = 100) -> Decision:
        """What the root decides."""
        self.contraction = None
        return super().run(root_steps)

    def _branch(self, batch: Batch) -> Batch:
        raise ResourceError("no search")


class OtherEngine(DeepEngine):
    """The engine with another search in place of its own; everything before it is the same."""

    kind: ClassVar[type[NeuronSearch]]

    def _neurons(self, search: NeuronSearch) -> Decision:
        asked = (search.exact, search.fast, search.region, search.bounded, search.rows, search.limits)
        return super()._neurons(self.kind(*asked, search.confirm))


class MiddleEngine(OtherEngine):
    """With cuts in the middle."""

    kind = MiddleSearch


class RootEngine(OtherEngine):
    """Without branching."""

    kind = RootSearch


class CrownEngine(DeepEngine):
    """The engine with back-substitution alone."""

    def _search(self, *_: object) -> Decision:
        return Decision("unknown", "no search", "", 0, float("nan"))


ENGINES = {"crown": CrownEngine, "alpha": RootEngine, "midpoint": MiddleEngine, "ours": DeepEngine}


def decide(method: str, network: Graph, asked: Property, seconds: float) -> tuple[str, float]:
    """Status and processor seconds of one method; other work on the machine does not count."""
    started = time.process_time()
    stop = lambda: time.process_time() - started > seconds  # noqa: E731
    job = Job(network, asked, 3 * seconds, 4 << 30, 1, "cpu", 0, None, stop)
    engine = ENGINES[method](job, lower(network))
    try:
        found = engine.solve(0, asked.cases[0]).status
    except ResourceError:
        found = "unknown"
    return found, time.process_time() - started


def run_one(kind: str, index: int, seconds: float) -> dict[str, Any]:
    """One image: what each method says. What back-substitution decides, or an attack, is not asked again of the others."""
    inputs, labels = fixtures.examples(kind, "test")
    network = load(fixtures.build(kind), input_shape=(1, *inputs.shape[1:]))
    x, label, eps = inputs[index], int(labels[index]), KINDS[kind]
    record: dict[str, Any] = {"kind": kind, "image": index, "eps": eps, "seconds": seconds, "status": {}, "used": {}}
    if int(np.argmax(network(x.reshape(1, *network.input_shape).astype(np.float32)))) != label:
        return record | {"attacked": True}
    asked = robust(x, eps, label=label, classes=10)
    for method in METHODS:
        known = record["status"].get("crown")
        status, used = (
            (known, record["used"]["crown"]) if known in ("holds", "violated") else decide(method, network, asked, seconds)
        )
        record["status"][method], record["used"][method] = status, used
    return record | {"attacked": "violated" in record["status"].values()}


def run_all(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Runs what the results file lacks and appends to it, one line an image."""
    done = {(r["kind"], r["image"], r["seconds"]) for r in read(options.out)} if options.out.exists() else set()
    for kind in options.kind or KINDS:
        for index in range(options.count):
            if (kind, index, options.timeout) in done:
                continue
            record = run_one(kind, index, options.timeout)
            with options.out.open("a") as stream:
                stream.write(json.dumps(record) + "\n")
            yield record


def read(file: Path) -> list[dict[str, Any]]:
    """The records of a results file; a line cut short by a kill is dropped."""
    found = []
    for line in file.read_text().splitlines():
        with suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


def summary(records: Sequence[dict[str, Any]]) -> str:
    """The table: one line for each kind; shares of all images that each method proves robust."""
    lines = [
        "| kind | eps | s | images | not attacked | crown | alpha | midpoint | ours | median s of ours |",
        "|---|" + "---:|" * 9,
    ]
    for kind, seconds in sorted({(r["kind"], r["seconds"]) for r in records}, key=lambda k: (k[1], list(KINDS).index(k[0]))):
        mine = [r for r in records if (r["kind"], r["seconds"]) == (kind, seconds)]
        shares = " | ".join(f"{sum(r['status'].get(m) == 'holds' for r in mine) / len(mine):.0%}" for m in METHODS)
        used = [r["used"]["ours"] for r in mine if r["status"].get("ours") == "holds"] or [float("nan")]
        robust_ = sum(not r["attacked"] for r in mine)
        head = f"| {kind} | {mine[0]['eps']:g} | {seconds:g} | {len(mine)} | {robust_} |"
        lines.append(f"{head} {shares} | {median(used):.2f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Runs or summarises."""
    if arguments[:1] == ["summary"]:
        print(summary([record for file in arguments[1:] for record in read(Path(file))]))
        return 0
    parser = argparse.ArgumentParser(prog="python -m benchmarks.general_nonlinearities", description=__doc__)
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="only this kind; may be repeated")
    parser.add_argument("--count", type=int, default=50, help="images of each kind")
    parser.add_argument("--timeout", type=float, default=10.0, help="processor seconds of each method on each image")
    parser.add_argument("--out", type=Path, required=True, help="results (.jsonl), appended to")
    options = parser.parse_args(arguments)
    for record in run_all(options):
        print(record["kind"], record["image"], record["status"], {k: round(v, 2) for k, v in record["used"].items()}, flush=True)
    print(summary(read(options.out)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
