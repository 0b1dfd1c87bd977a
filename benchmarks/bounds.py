"""Time and mean width of output bounds: ``python -m benchmarks.bounds [--reference FOLDER] [--out FILE]``.

Networks are random with a fixed seed; with ``--reference`` also those of a folder (models.py, weights NAME.pt, inputs), beside the
widths in its ``auto_lirpa.csv``. auto_LiRPA is measured alongside whenever it can be imported.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ascertain import LpBall, bound, load
from ascertain.errors import UnsupportedError

METHODS = {"interval": "ibp", "zonotope": "", "crown": "crown", "alpha": "acrown20"}
"""Our methods and what `auto_lirpa.csv` calls its counterparts."""
LIRPA = {"interval": "IBP", "crown": "backward", "alpha": "CROWN-Optimized"}


@dataclass(frozen=True)
class Study:
    """A network and the ball in which it is bounded."""

    name: str
    module: nn.Module
    x: np.ndarray
    """(B, *shape) centres."""
    eps: float


@dataclass(frozen=True)
class Measurement:
    """One method on one network: seconds for all B balls together, least of the repeats."""

    network: str
    batch: int
    method: str
    tool: str
    cpu_seconds: float
    wall_seconds: float
    mean_width: float


def random_studies() -> Iterator[Study]:
    """A deep narrow and a wide multilayer perceptron, and a convolutional network."""
    sizes = {"random_mlp_5x100": (100,) * 5, "random_mlp_2x512": (512,) * 2}
    for name, hidden in sizes.items():
        torch.manual_seed(0)
        layers: list[nn.Module] = [nn.Flatten()]
        for n_in, n_out in zip((784, *hidden), hidden, strict=False):
            layers += [nn.Linear(n_in, n_out), nn.ReLU()]
        yield Study(name, nn.Sequential(*layers, nn.Linear(hidden[-1], 10)), _images(1), 2 / 255)
    torch.manual_seed(0)
    conv = [nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(1568, 10)]
    yield Study("random_conv", nn.Sequential(*conv), _images(1), 2 / 255)


def _images(count: int) -> np.ndarray:
    return np.random.default_rng(0).random((count, 1, 28, 28), dtype=np.float32)


def reference_studies(folder: Path, batch: int) -> Iterator[Study]:
    """The networks of a reference folder."""
    spec = importlib.util.spec_from_file_location("reference_models", folder / "models.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(folder / "models.py")
    models = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(models)
    for name, (build, _, _) in models.MODELS.items():
        module = build()
        module.load_state_dict(torch.load(folder / f"{name}.pt", weights_only=True)["state_dict"])
        with np.load(folder / f"{name}_input.npz") as data:
            yield Study(name, module.eval(), data["x"][:batch], float(data["eps"]))


def measure(study: Study, method: str, tool: str, run: Callable[[], np.ndarray], repeats: int) -> Measurement:
    """Times a function that returns widths; its first run, which compiles and allocates, counts only if it is the only one."""
    times: list[tuple[float, float]] = []
    for _ in range(repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        widths = run()
        times.append((time.process_time() - cpu, time.perf_counter() - wall))
    cpu, wall = (min(column) for column in zip(*times[1:] or times, strict=True))
    return Measurement(study.name, len(study.x), method, tool, cpu, wall, float(np.mean(widths)))


def ours(study: Study, method: str, repeats: int) -> Measurement:
    """Our bounds of every ball, one after the other."""
    network = load(study.module, input_shape=(1, *study.x.shape[1:]))
    threads = torch.get_num_threads()

    def run() -> np.ndarray:
        found = [bound(network, LpBall(x.reshape(-1), study.eps), method=method, threads=threads) for x in study.x]
        return np.array([b.upper - b.lower for b in found])

    return measure(study, method, "ascertain", run, repeats)


def lirpa(study: Study, method: str, repeats: int) -> Measurement | None:
    """The same by auto_LiRPA, if it is installed and has the method."""
    if method not in LIRPA or importlib.util.find_spec("auto_LiRPA") is None:
        return None
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    x = torch.from_numpy(study.x)
    options = {"optimize_bound_args": {"iteration": 20}} if method == "alpha" else {}
    module = BoundedModule(study.module, torch.zeros_like(x), bound_opts=options)
    ball = BoundedTensor(x, PerturbationLpNorm(norm=np.inf, eps=study.eps))

    def run() -> np.ndarray:
        lower, upper = module.compute_bounds(x=(ball,), method=LIRPA[method])
        return np.asarray((upper - lower).detach().numpy())

    return measure(study, method, "auto_LiRPA", run, repeats)


def published(folder: Path | None) -> dict[tuple[str, int, str], float]:
    """Mean widths in the folder's `auto_lirpa.csv` by (network, batch, its method)."""
    if folder is None:
        return {}
    with (folder / "auto_lirpa.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["mean_width"]]
    return {(row["model"], int(row["batch"]), row["method"]): float(row["mean_width"]) for row in rows}


def main(arguments: Sequence[str]) -> int:
    """Measures and prints one line for each network, method and tool."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bounds", description=__doc__)
    parser.add_argument("--reference", type=Path, help="folder of reference networks")
    parser.add_argument("--batch", type=int, default=1, help="balls for each reference network")
    parser.add_argument("--match", default="", help="only networks whose names contain this text")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="results (.jsonl), appended to")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    widths = published(options.reference)
    studies = [*random_studies(), *(reference_studies(options.reference, options.batch) if options.reference else ())]
    print(
        f"{'network':<18} {'batch':>5} {'method':<9} {'tool':<11} {'cpu s':>9} {'wall s':>9} {'mean width':>12} {'published':>10}"
    )
    for study in (s for s in studies if options.match in s.name):
        for method in METHODS:
            known = widths.get((study.name, len(study.x), METHODS[method]))
            for tool in (ours, lirpa):
                try:
                    found = tool(study, method, options.repeats)
                except UnsupportedError as error:
                    print(f"{study.name:<18} {len(study.x):>5} {method:<9} not supported: {str(error)[:90]}")
                    continue
                if found is not None:
                    _show(found, known, options.out)
    return 0


def _show(m: Measurement, known: float | None, out: Path | None) -> None:
    had = "" if known is None else f"{known:10.5g}"
    times = f"{m.cpu_seconds:>9.4f} {m.wall_seconds:>9.4f}"
    print(f"{m.network:<18} {m.batch:>5} {m.method:<9} {m.tool:<11} {times} {m.mean_width:>12.5g} {had:>10}", flush=True)
    if out is not None:
        with out.open("a") as stream:
            stream.write(json.dumps({**asdict(m), "published_width": known}) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
