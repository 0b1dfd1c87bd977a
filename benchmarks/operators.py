"""Bounds of single operators against values on random boxes: ``python -m benchmarks.operators [--boxes N] [--match TEXT]``.

Ours (what ``ascertain selftest`` runs) and, when it can be imported, auto_LiRPA's backward bounds on the same boxes.
``... widths`` compares the widths of both on a few functions and blocks: the ratio ours / theirs, in the median and at worst.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import sys
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ascertain.certify.plan import Plan
from ascertain.certify.selftest import Bounds, Findings, every_operator, examine, own_bounds
from ascertain.graph import load, lower
from ascertain.operators import (
    Abs,
    Atan,
    Cos,
    Elu,
    Erf,
    Exp,
    Floor,
    Gelu,
    Hardswish,
    LeakyRelu,
    Log,
    LogSoftmax,
    LogSumExp,
    Product,
    Reciprocal,
    Relu,
    Sigmoid,
    Sign,
    Silu,
    Sin,
    Softmax,
    Softplus,
    Sqrt,
    Square,
    Standardize,
    Tan,
    Tanh,
)
from ascertain.operators.base import Operator, Shape

# Each with what a PyTorch user would write; x is (B, n), a product's factors come one after the other.
PEERS: list[tuple[Operator, tuple[Shape, ...], Callable[[Tensor], Tensor]]] = [
    (Abs(), ((6,),), torch.abs),
    (Atan(), ((6,),), torch.atan),
    (Cos(), ((6,),), torch.cos),
    (Elu(), ((6,),), nn.functional.elu),
    (Erf(), ((6,),), torch.erf),
    (Exp(), ((6,),), torch.exp),
    (Floor(), ((6,),), torch.floor),
    (Gelu(), ((6,),), nn.functional.gelu),
    (Hardswish(), ((6,),), nn.functional.hardswish),
    (LeakyRelu(0.25), ((6,),), lambda x: nn.functional.leaky_relu(x, 0.25)),
    (Log(), ((6,),), torch.log),
    (LogSoftmax(0), ((5,),), lambda x: torch.log_softmax(x, 1)),
    (LogSumExp(0), ((5,),), lambda x: torch.logsumexp(x, 1, keepdim=True)),
    (Product("a,a->a"), ((3,), (3,)), lambda x: x[:, :3] * x[:, 3:]),
    (Reciprocal(), ((6,),), torch.reciprocal),
    (Relu(), ((6,),), torch.relu),
    (Sigmoid(), ((6,),), torch.sigmoid),
    (Sign(), ((6,),), torch.sign),
    (Silu(), ((6,),), nn.functional.silu),
    (Sin(), ((6,),), torch.sin),
    (Softmax(0), ((5,),), lambda x: torch.softmax(x, 1)),
    (Softplus(), ((6,),), nn.functional.softplus),
    (Sqrt(), ((6,),), torch.sqrt),
    (Square(), ((6,),), torch.square),
    (Standardize((0,), 1e-5), ((4,),), lambda x: nn.functional.layer_norm(x, x.shape[1:], eps=1e-5)),
    (Tan(), ((6,),), torch.tan),
    (Tanh(), ((6,),), torch.tanh),
]


class Applied(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def lirpa(function: Callable[[Tensor], Tensor]) -> Callable[[Plan], Bounds]:
    """auto_LiRPA's bounds as `examine` asks for them."""
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    def of(plan: Plan) -> Bounds:
        torch.set_default_dtype(plan.dtype)  # it makes tensors of its own
        size = plan.steps[plan.input].size
        example = torch.ones((1, size), dtype=plan.dtype)
        module = BoundedModule(Applied(function), example, verbose=False)

        def ask(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
            x = BoundedTensor((low + high) / 2, PerturbationLpNorm(norm=float("inf"), x_L=low, x_U=high))
            least, most = module.compute_bounds(x=(x,), method="backward")
            return least.detach().flatten(1), most.detach().flatten(1)

        return ask

    return of


def _layer_norm(x: Tensor) -> Tensor:
    centred = x - x.mean(1, keepdim=True)
    return centred / torch.sqrt((centred * centred).mean(1, keepdim=True) + 1e-5)


def _attention(x: Tensor) -> Tensor:
    """One head over three tokens of two values, which are queries, keys and values at once."""
    tokens = x.reshape(-1, 3, 2)
    scores = torch.softmax(torch.matmul(tokens, tokens.transpose(1, 2)) / 2**0.5, 2)
    return torch.matmul(scores, tokens).reshape(-1, 6)


BLOCKS: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "exp": (6, torch.exp),
    "sin": (6, torch.sin),
    "tanh": (6, torch.tanh),
    "sigmoid": (6, torch.sigmoid),
    "x * y": (6, lambda x: x[:, :3] * x[:, 3:]),
    "softmax": (5, lambda x: torch.softmax(x, 1)),
    "layer norm": (6, _layer_norm),
    "attention": (6, _attention),
}
"""Functions of (B, n) with the number n of their inputs."""


def widths(boxes: int) -> None:
    """Prints the ratio of our widths to auto_LiRPA's on the same boxes, of radius 0.03 to 3 around normal points."""
    print(f"{'function':<12} {'boxes':>6} {'median':>8} {'worst':>8}   ours / auto_LiRPA; no number: theirs is infinite")
    torch.set_default_dtype(torch.float64)
    for name, (size, function) in BLOCKS.items():
        rng, plan = np.random.default_rng(0), Plan.compile(lower(load(Applied(function), input_shape=(1, size))), torch.float64)
        center, radius = rng.normal(size=(boxes, size)), 10 ** rng.uniform(-1.5, 0.5, (boxes, 1))
        low, high = torch.tensor(center - radius), torch.tensor(center + radius)
        ours, theirs = own_bounds(plan), lirpa(function)(plan)
        ratios: list[float] = []
        for i in range(boxes):
            mine, other = ours(low[i : i + 1], high[i : i + 1]), theirs(low[i : i + 1], high[i : i + 1])
            share = (mine[1] - mine[0]) / (other[1] - other[0])
            ratios += share[torch.isfinite(share)].tolist()
        print(f"{name:<12} {boxes:>6} {np.median(ratios):>8.4f} {max(ratios):>8.4f}", flush=True)


def main(arguments: Sequence[str]) -> int:
    """Prints one line for each operator, tool and precision."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operators", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("violations", "widths"), default="violations")
    parser.add_argument("--boxes", type=int, default=2000, help="random boxes for each operator")
    parser.add_argument("--match", default="", help="only operators whose names contain this text")
    options = parser.parse_args(arguments)
    there = importlib.util.find_spec("auto_LiRPA") is not None
    if not there:
        print("auto_LiRPA cannot be imported: only our own operators are measured", file=sys.stderr)
    warnings.filterwarnings("ignore")
    logging.disable()
    if options.what == "widths":
        if there:
            widths(options.boxes)
        return 0 if there else 2
    print(f"{'operator':<14} {'tool':<11} {'precision':<9} {'boxes':>6} {'violation':>10} {'looseness':>10}")
    compared = {o.name for o, *_ in PEERS}
    alone = [(o, shapes, None) for o, shapes in every_operator() if o.name not in compared]
    for operator, shapes, function in (*PEERS, *alone):
        if options.match not in operator.name:
            continue
        for dtype in (torch.float64, torch.float32):
            _show("ascertain", dtype, examine(operator, shapes, options.boxes, dtype))
            if there and function is not None:
                try:
                    _show("auto_LiRPA", dtype, examine(operator, shapes, options.boxes, dtype, bounds=lirpa(function)))
                except Exception as error:  # whatever goes wrong in the other tool is a row of this table
                    words = " ".join(str(error).split())[:60]
                    print(f"{operator.name:<14} {'auto_LiRPA':<11} {str(dtype)[6:]:<9} {type(error).__name__}: {words}")
                finally:
                    torch.set_default_dtype(torch.float32)
    return 0


def _show(tool: str, dtype: torch.dtype, found: Findings) -> None:
    loose = "" if found.looseness is None else f"{found.looseness:.4f}"
    print(f"{found.operator:<14} {tool:<11} {str(dtype)[6:]:<9} {found.boxes:>6} {found.violation:>10.2g} {loose:>10}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
