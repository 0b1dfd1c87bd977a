"""The battery that every operator passes, public so that operators written elsewhere can join.

It tries to falsify each fact that an operator states; `BatteryFailure` names the fact that did not survive.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from ascertain.errors import DataError, ShapeError
from ascertain.operators.base import Affine, Array, Bilinear, Composite, Operator, Planar, Shape, Univariate
from ascertain.operators.boxes import check_box
from ascertain.operators.facts import affine_facts, bilinear_facts, composite_facts, order_facts, planar_facts, univariate_facts
from ascertain.operators.trial import BatteryFailure, Trial

__all__ = ["BatteryFailure", "Report", "check_operator"]

_BATCH = 5


@dataclass(frozen=True)
class Report:
    """What the battery tried: for each fact how many numbers, and the largest error as a share of the error allowed."""

    operator: str
    counts: Mapping[str, int]
    worst: Mapping[str, float]

    def __str__(self) -> str:
        lines = (f"  {fact:<12} {n:>8} numbers, worst {self.worst[fact]:.2g} of what is allowed" for fact, n in self.counts.items())
        return "\n".join((f"{self.operator}: every fact survived", *lines))


def check_operator(
    operator: Operator,
    shapes: tuple[Shape, ...],
    *,
    reference: Callable[..., np.ndarray] | None = None,
    boxes: tuple[np.ndarray, np.ndarray] | None = None,
    seed: int = 0,
) -> Report:
    """Tries to falsify what an operator states of itself on inputs of given shapes (without the leading axis).

    ``reference`` computes the right values from arrays ``(B, *shape_i)``. ``boxes`` are lower and upper bounds ``(M, *shape)`` on
    which a univariate operator is tried beside the built-in ones. Parameters are first rounded to float32, so that float64
    arithmetic serves as exact for float32. Raises BatteryFailure naming the fact that is wrong.
    """
    trial = Trial(operator.name, np.random.default_rng(seed))
    single = operator.convert(lambda a: a.astype(np.float32) if a.dtype.kind == "f" else a)
    double = single.convert(lambda a: a.astype(np.float64) if a.dtype.kind == "f" else a)
    domain = operator.domain if isinstance(operator, Univariate) else (-np.inf, np.inf)
    inputs = [trial.numbers((_BATCH, *s), domain).astype(np.float32).astype(np.float64) for s in shapes]
    _shape(trial, double, shapes, inputs)
    if reference is not None:
        expected = np.asarray(reference(*inputs))
        trial.within("reference", abs(double.forward(*inputs) - expected), 1e-9 * (1 + abs(expected)))
    _batch(trial, double, inputs)
    _precision(trial, single, double, inputs)
    _torch(trial, single, double, inputs)
    if double.preserves_order(*shapes):
        order_facts(trial, double, inputs)
    if isinstance(double, Affine) and isinstance(single, Affine):
        affine_facts(trial, single, double, shapes)
    if isinstance(double, Univariate):
        _refuses(trial)
        if boxes is not None:
            check_box(*boxes, name="boxes")
        univariate_facts(trial, double, shapes[0], boxes)
    if isinstance(double, Bilinear) and isinstance(single, Bilinear):
        bilinear_facts(trial, single, double, shapes)
    if isinstance(double, Planar):
        planar_facts(trial, double)
    if isinstance(double, Composite):
        composite_facts(trial, double, shapes, inputs)
    return Report(operator.name, dict(trial.counts), dict(trial.worst))


def _shape(trial: Trial, operator: Operator, shapes: tuple[Shape, ...], inputs: list[Array]) -> None:
    inferred = operator.infer(*shapes)
    y = operator.forward(*inputs)
    trial.holds("shape", all(type(n) is int for n in inferred), f"infer gives {inferred}, not a tuple of int")
    trial.holds("shape", y.shape == (_BATCH, *inferred), f"infer gives {inferred}, forward {y.shape[1:]}")
    trial.holds("shape", bool(np.isfinite(y).all()), "forward gives NaN or infinity on ordinary numbers")


def _batch(trial: Trial, operator: Operator, inputs: list[Array]) -> None:
    """The leading axis is never mixed: rows computed alone are the rows computed together, and one row can be NaN."""
    together = operator.forward(*inputs)
    scale = 1 + max(float(abs(together).max(initial=0)), *(float(abs(x).max()) for x in inputs))
    for i in range(_BATCH):
        alone = operator.forward(*(x[i : i + 1] for x in inputs))[0]
        trial.within("batch", abs(alone - together[i]), 1e-12 * scale)
    spoiled = operator.forward(*(np.concatenate([x[:1], x[1:] * np.nan]) for x in inputs))
    trial.within("batch", abs(spoiled[0] - together[0]), 1e-12 * scale)
    if prod(together.shape) and not isinstance(operator, Affine):
        trial.holds("nan", bool(np.isnan(spoiled[1:]).all()), "forward turns NaN into a number")


def _precision(trial: Trial, single: Operator, double: Operator, inputs: list[Array]) -> None:
    y = single.forward(*(x.astype(np.float32) for x in inputs))
    trial.holds("dtype", y.dtype == np.float32, f"float32 inputs and parameters give {y.dtype}")
    z = double.forward(*inputs)
    trial.holds("dtype", z.dtype == np.float64, f"float64 inputs and parameters give {z.dtype}")
    trial.within("dtype", abs(y - z), 1e-4 * (1 + abs(z)))


def _torch(trial: Trial, single: Operator, double: Operator, inputs: list[Array]) -> None:
    import torch

    for operator, dtype, tolerance in ((single, np.float32, 1e-5), (double, np.float64, 1e-12)):
        converted = operator.convert(lambda a: torch.from_numpy(np.array(a)))
        values = [x.astype(dtype) for x in inputs]
        expected = operator.forward(*values)
        y = converted.forward(*(torch.from_numpy(v) for v in values))
        trial.holds("torch", y.numpy().dtype == dtype, f"{dtype.__name__} tensors give {y.dtype}")
        trial.holds("torch", tuple(y.shape) == expected.shape, f"torch gives shape {tuple(y.shape)}, numpy {expected.shape}")
        trial.within("torch", abs(y.numpy() - expected), tolerance * (1 + abs(expected)))
        if not isinstance(operator, Affine):
            nan = converted.forward(*(torch.from_numpy(v) * float("nan") for v in values))
            trial.holds("nan", bool(torch.isnan(nan).all()), "forward on torch turns NaN into a number")


def _refuses(trial: Trial) -> None:
    """The public check of boxes refuses what no bound may be computed from."""
    one = np.ones(2)
    bad = ((one * np.nan, one), (one, one * np.nan), (-one * np.inf, one), (-one, one * np.inf), (one, -one), (one, np.ones(3)))
    for lower, upper in bad:
        try:
            check_box(lower, upper)
        except (DataError, ShapeError):
            trial.holds("refusal", True, "")
        else:
            raise BatteryFailure(f"{trial.name}: refusal: the box [{lower}, {upper}] was taken")
