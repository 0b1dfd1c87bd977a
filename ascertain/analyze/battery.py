"""The battery that every analyzer passes, public so that analyzers written elsewhere can join.

It tries to falsify what the contract promises; `BatteryFailure` names the promise that was not kept.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ascertain.analyze.base import Analyzer, Context, Example
from ascertain.analyze.measuring import analyze
from ascertain.analyze.registry import explain, options_of, schema
from ascertain.analyze.result import Result, read_record
from ascertain.analyze.views import figure_of
from ascertain.errors import AscertainError, InputError

__all__ = ["BatteryFailure", "check_analyzer"]


class BatteryFailure(AscertainError):
    """An analyzer breaks a promise of its contract; the message names both."""


def check_analyzer(kind: type[Analyzer]) -> int:
    """Runs every example of an analyzer and tries to falsify the contract; returns how many examples there were.

    Promises: documented; known answers found; repeatable under a seed; model, module and random states left untouched; records
    equal themselves after JSON; every view drawn from JSON alone. Raises BatteryFailure.
    """
    for word in ("title", "meaning", "evidence"):
        _promise(kind, "documentation", bool(getattr(kind, word, "")) and bool(kind.__doc__), f"{word} or docstring is missing")
    _promise(kind, "documentation", kind.title in explain(kind) and schema(kind)["title"] == kind.called(), "it is not explained")
    count = 0
    for example in kind.examples():
        _check(kind, example)
        count += 1
    _promise(kind, "known answer", count > 0, "it has no examples")
    return count


def _promise(kind: type[Analyzer], promise: str, kept: bool, complaint: str) -> None:
    if not kept:
        raise BatteryFailure(f"{kind.called()}: {promise}: {complaint}.")


def _check(kind: type[Analyzer], example: Example) -> None:
    context = example.context
    before = _state(context)
    first = analyze(example.analyzer, context)
    _promise(kind, "untouched", _state(context) == before, "model, module, data or a random state differs after measuring")
    again = analyze(example.analyzer, replace(context))
    _promise(kind, "repeatable", first.content == again.content, "two runs under one seed differ")
    _answers(kind, example, first)
    _round_trip(kind, example.analyzer, first)


def _answers(kind: type[Analyzer], example: Example, result: Result) -> None:
    for name, side in (("expected", 0), ("above", 1), ("below", -1)):
        for value, wanted in getattr(example, name).items():
            found = result[value]
            if found.dtype.kind == "U":
                _promise(kind, "known answer", bool(np.all(found == wanted)), f"{value} is {found}, known is {wanted}")
                continue
            expected = np.asarray(wanted, float)
            shapes = found.shape == expected.shape
            _promise(kind, "known answer", shapes, f"{value} has shape {found.shape}, known is {expected.shape}")
            slack = example.tolerance * (1 + np.abs(expected))
            with np.errstate(invalid="ignore"):
                gap = np.where(found == expected, 0.0, found - expected)
            good = np.abs(gap) <= slack if side == 0 else side * gap >= -slack
            words = {0: "known is", 1: "the least is", -1: "the most is"}[side]
            _promise(kind, "known answer", bool(np.all(good)), f"{value} is {found}, {words} {expected}")


def _round_trip(kind: type[Analyzer], analyzer: Analyzer, result: Result) -> None:
    text = json.dumps(result.to_json(), allow_nan=False)
    restored = read_record(json.loads(text))
    if not isinstance(restored, Result):
        raise BatteryFailure(f"{kind.called()}: JSON: a result came back as a failure.")
    same = restored.content == result.content and restored.key == result.key and restored.to_json() == result.to_json()
    _promise(kind, "JSON", same and restored.options == options_of(analyzer), "the record changes on its way through JSON")
    # Default options: a report has the stored result only, not the instance that measured it.
    views = kind().views(restored)
    _promise(kind, "views", len(views) > 0, "it shows nothing")
    for view in views:
        try:
            figure = figure_of(view, restored)
        except InputError as error:
            raise BatteryFailure(f"{kind.called()}: views: {error}") from error
        _promise(kind, "views", bool(figure["title"]), "a view has no title")


def _state(context: Context) -> Mapping[str, Any]:
    """A fingerprint of everything that measuring must leave alone."""
    graphs = [g for g in (context.model, context.other, *context.trajectory) if g is not None]
    arrays = [a for a in (context.data, context.labels) if a is not None]
    return {
        "hashes": [replace(g).hash for g in graphs],
        "data": [a.tobytes() for a in arrays],
        "numpy": str(np.random.get_state(legacy=False)),
        "python": random.getstate(),
        **_torch_state(context.module),
    }


def _torch_state(module: Any) -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {"torch": torch.get_rng_state().tolist(), "grad": torch.is_grad_enabled()}
    if module is None:
        return found
    parts = list(module.modules())
    tensors = [*module.parameters(), *module.buffers()]
    return found | {
        "modes": [p.training for p in parts],
        "hooks": [len(p._forward_hooks) + len(p._forward_pre_hooks) + len(p._backward_hooks) for p in parts],
        "numbers": [t.detach().cpu().numpy().tobytes() for t in tensors],
        "gradients": [None if t.grad is None else t.grad.cpu().numpy().tobytes() for t in tensors],
        "wanted": [t.requires_grad for t in tensors],
    }
