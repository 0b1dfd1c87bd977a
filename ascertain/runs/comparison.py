"""What differs between two stores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ascertain.analyze.result import Failure, Measured, Result
from ascertain.runs.store import Store

__all__ = ["Difference", "compare"]


@dataclass(frozen=True)
class Difference:
    """One result that only one store has, or one value that differs."""

    key: str
    item: str
    words: str


def compare(first: Store, second: Store) -> list[Difference]:
    """All differences in what was found; times, machines and versions do not count."""
    a, b = first.contents(), second.contents()
    found = []
    for key in [*a, *(k for k in b if k not in a)]:
        if key not in b or key not in a:
            there = first if key in a else second
            found.append(Difference(key, _item(there.get(key)), f"only in {there.path}"))
        elif a[key] != b[key]:
            left, right = first.get(key), second.get(key)
            found += [Difference(key, _item(left), words) for words in _differences(left, right)]
    return found


def _item(record: Result | Failure) -> str:
    return f"{record.analyzer} of {', '.join(record.names.values())}"


def _differences(a: Result | Failure, b: Result | Failure) -> list[str]:
    if isinstance(a, Failure) or isinstance(b, Failure):
        told = [f"{r.error}: {r.message}" if isinstance(r, Failure) else "measured" for r in (a, b)]
        return [f"{told[0]} | {told[1]}"]
    names = [*a.values, *(n for n in b.values if n not in a.values)]
    changed = [(n, _difference(a.values.get(n), b.values.get(n))) for n in names]
    return [f"{name} {words}" for name, words in changed if words]


def _difference(a: Measured | None, b: Measured | None) -> str:
    """How two values differ; empty where they do not."""
    if a is None or b is None:
        return "is in one of them only"
    if a.to_json() == b.to_json():
        return ""
    if a.value.shape != b.value.shape or a.value.dtype.kind != b.value.dtype.kind:
        return f"has shape {a.value.shape} | {b.value.shape}"
    if a.value.ndim == 0 and a.value.item() != b.value.item():
        return f"is {a.value.item()!r} | {b.value.item()!r}"
    different = a.value != b.value
    if not different.any():
        return f"has another evidence, interval or meaning: {a.evidence} | {b.evidence}"
    if a.value.dtype.kind not in "iuf":
        return f"differs in {int(different.sum())} of {different.size} places"
    with np.errstate(invalid="ignore"):
        gap = np.abs(a.value[different].astype(float) - b.value[different].astype(float))
    return f"differs in {int(different.sum())} of {different.size} numbers, by up to {gap.max():.3g}"
