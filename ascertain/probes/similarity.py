"""Similarity of layers, with intervals and what chance would give: pairs, all layers, all of training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ascertain.errors import DataError, InputError, ShapeError
from ascertain.evidence import Evidence
from ascertain.probes.activations import Activations, Moments
from ascertain.probes.canonical import SVCCA
from ascertain.probes.kernels import CKA
from ascertain.probes.measure import Measure, checked, each_sample, jackknife

__all__ = ["Convergence", "Similarity", "SimilarityMap", "convergence", "similarity", "similarity_map", "time_map"]


@dataclass(frozen=True, eq=False)
class Similarity:
    """One number for two layers."""

    measure: str
    value: float
    low: float
    """95 % interval by the delete-a-group jackknife, stretched by the bias that it finds; the measure's whole range where nothing
    narrower is known."""
    high: float
    null_mean: float
    """Mean over random re-pairings of the samples."""
    null_high: float
    """The share of 95 % of them on the side of no similarity."""
    samples: int
    features: tuple[int, int]
    notes: tuple[str, ...] = ()
    evidence: Evidence = Evidence.ESTIMATED

    def __str__(self) -> str:
        text = (
            f"{self.measure} {self.value:.4f}, 95 % interval [{self.low:.4f}, {self.high:.4f}], chance {self.null_mean:.4f}, "
            f"evidence {self.evidence} from {self.samples} samples"
        )
        return "\n".join([text, *(f"  note: {note}" for note in self.notes)])


@dataclass(frozen=True, eq=False)
class SimilarityMap:
    """Numbers for all pairs of two lists of layers, or of steps and layers."""

    measure: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    null: np.ndarray
    """What random re-pairing gives: its mean, or the bound on it that the measure states; NaN where it was not asked for."""
    samples: int
    notes: tuple[str, ...] = ()
    evidence: Evidence = Evidence.ESTIMATED

    def __str__(self) -> str:
        width = max(map(len, self.rows))
        head = " " * width + "".join(f" {name[-9:]:>9}" for name in self.columns)
        lines = [f"{name:>{width}}" + "".join(f" {v:9.4f}" for v in row) for name, row in zip(self.rows, self.values, strict=True)]
        known = self.null[np.isfinite(self.null)]
        ends = [f"{v:.4f}" for v in (known.min(), known.max())] if known.size else ["not known"]
        chance = " to ".join(dict.fromkeys(ends))
        title = f"{self.measure}, chance {chance}, evidence {self.evidence} from {self.samples} samples"
        return "\n".join([title, head, *lines, *(f"  note: {note}" for note in self.notes)])


@dataclass(frozen=True, eq=False)
class Convergence:
    """When each layer reaches its final form, under two measures: the order depends on which is asked."""

    svcca: SimilarityMap
    cka: SimilarityMap
    first_svcca: Mapping[str, str | None]
    """The step from which a layer stays above the level; None where it never does."""
    first_cka: Mapping[str, str | None]
    order_svcca: tuple[str, ...]
    """Layers, earliest first; ties in the order of the network."""
    order_cka: tuple[str, ...]
    evidence: Evidence = Evidence.ESTIMATED

    @property
    def agree(self) -> bool:
        """Whether no two layers converge one way round under SVCCA and the other way round under CKA."""
        steps = {name: i for i, name in enumerate(self.svcca.rows)}
        firsts = (self.first_svcca, self.first_cka)
        pairs = [[steps.get(first[name] or "", len(steps)) for first in firsts] for name in self.order_cka]
        return not any((a - c) * (b - d) < 0 for a, b in pairs for c, d in pairs)

    def __str__(self) -> str:
        lines = [
            f"{table.measure}: " + ", ".join(f"{name} from {first[name] or 'never'}" for name in order)
            for table, first, order in (
                (self.svcca, self.first_svcca, self.order_svcca),
                (self.cka, self.first_cka, self.order_cka),
            )
        ]
        verdict = "no two layers change places" if self.agree else "the orders differ"
        return "\n".join([f"layers by when they converge, evidence {self.evidence}; {verdict}", *lines])


def similarity(
    first: Any,
    second: Any,
    measure: Measure | None = None,
    *,
    places: int | None = None,
    groups: int = 10,
    shuffles: int = 20,
    seed: int = 0,
) -> Similarity:
    """A similarity of two sets of rows (n, d) and (n, d') of the same samples; debiased linear CKA by default.

    ``places`` rows (by default, as a capture says) belong to each sample and stay together in the jackknife over ``groups`` (at
    least 2) and in the ``shuffles`` that give the level of chance. Raises DataError (NaN, constant, fewer than 4 samples) and
    ShapeError (different samples).
    """
    measure, places = _asked(measure), each_sample(places, first, second)
    x, y = checked(first, "the first rows"), checked(second, "the second rows")
    count = _paired(x, y, places)
    a, b = measure.prepare(x), measure.prepare(y)
    value = measure.compare(a, b)
    note = measure.caveat(a, b, len(x))
    low, high = measure.limits
    if not note and groups >= 2:
        low, high = _jackknife(measure, value, [x, y], count, groups)
    rng = np.random.default_rng(seed)
    drawn = [measure.compare(a, measure.reorder(b, _shuffle(rng, count, places))) for _ in range(shuffles)]
    far = 0.05 if measure.distance else 0.95
    mean, extreme = (float(np.mean(drawn)), float(np.quantile(drawn, far))) if drawn else (np.nan, np.nan)
    return Similarity(measure.name, value, low, high, mean, extreme, count, (x.shape[1], y.shape[1]), (note,) if note else ())


def similarity_map(
    first: Activations | Moments,
    second: Activations | None = None,
    measure: Measure | None = None,
    *,
    groups: int = 10,
    shuffles: int = 5,
    seed: int = 0,
) -> SimilarityMap:
    """All pairs of layers of one capture, or of two captures of the same inputs (in any order); each layer is prepared once.

    ``groups`` 0 leaves out the jackknife, and intervals are the measure's whole range. Where chance has no closed form, or several
    rows belong to a sample, ``shuffles`` re-pairings of samples are averaged. Moments serve measures of the covariance alone. Takes
    up to twice the memory of all rows in float64.
    """
    measure = _asked(measure)
    if isinstance(first, Moments):
        return _from_moments(first, measure)
    if not isinstance(first, Activations) or not (second is None or isinstance(second, Activations)):
        kinds = " and ".join(type(each).__name__ for each in (first, second) if each is not None)
        raise InputError(
            f"maps are of captures, not of {kinds}; give what activations() returns, or ask similarity() for one pair."
        )
    other = first if second is None else second.matching(first)
    places = {first.places[name] for name in first} | {other.places[name] for name in other}
    if len(places) > 1:
        listed = ", ".join(f"{name} {first.places.get(name, other.places.get(name))}" for name in dict.fromkeys((*first, *other)))
        raise ShapeError(
            f"layers differ in their rows per sample ({listed}); capture with maps='resized' or 'flattened', or fewer layers."
        )
    (each,) = places
    mine = [checked(first[name], f"the rows of layer {name!r}") for name in first]
    theirs = mine if other is first else [checked(other[name], f"the rows of layer {name!r}") for name in other]
    states, values = _table(measure, mine, theirs)
    null = _chance(measure, *states, first.samples, each, shuffles, np.random.default_rng(seed))
    void, notes = _caveats(measure, states, (tuple(first), tuple(other)), len(mine[0]))
    del states  # they take as much as the rows in float64, and parts of the data are prepared anew
    low, high = _spread(measure, values, mine, theirs, first.samples, groups)
    low[void], high[void] = measure.limits
    return SimilarityMap(measure.name, tuple(first), tuple(other), values, low, high, null, first.samples, notes)


def _from_moments(moments: Moments, measure: Measure) -> SimilarityMap:
    if not measure.second_moments:
        words = "capture with keep='arrays', or ask for CKA(debiased=False), CCA, SVCCA, PWCCA or Procrustes"
        raise DataError(f"{measure.name} needs the samples, not only their moments; {words}.")
    states = [measure.prepare(checked(rows, f"the rows of layer {name!r}")) for name, rows in moments.factors().items()]
    values = measure.table(states, states)
    found = [[measure.chance(a, b, moments.count) for b in states] for a in states]
    null = np.array([[np.nan if v is None else v for v in row] for row in found])
    low, high = (np.full_like(values, limit) for limit in measure.limits)
    note = "moments bear no intervals" + (", and no level of chance" if np.isnan(null).any() else "")
    notes = (f"{note}: capture with keep='arrays' for them",)
    return SimilarityMap(measure.name, moments.names, moments.names, values, low, high, null, moments.samples, notes)


def time_map(
    steps: Mapping[str, Activations] | Iterable[tuple[str, Activations]],
    final: Activations,
    measure: Measure | None = None,
    *,
    groups: int = 10,
    shuffles: int = 5,
) -> SimilarityMap:
    """Every layer at every step of training beside the same layer of ``final``; a generator may capture the steps one by one.

    ``groups`` and ``shuffles`` are as in `similarity_map`.
    """
    (table,) = _time_maps(steps, final, (_asked(measure),), groups, shuffles)
    return table


def _time_maps(
    steps: Mapping[str, Activations] | Iterable[tuple[str, Activations]],
    final: Activations,
    measures: tuple[Measure, ...],
    groups: int,
    shuffles: int,
) -> list[SimilarityMap]:
    """One map for each measure; every step is looked at once and may then be forgotten."""
    last = {name: checked(final[name], f"the rows of layer {name!r}") for name in final}
    ends = [{name: measure.prepare(rows) for name, rows in last.items()} for measure in measures]
    names: list[str] = []
    tables: list[list[list[tuple[float, ...]]]] = [[] for _ in measures]
    for step, capture in steps.items() if isinstance(steps, Mapping) else steps:
        capture = capture.matching(final)
        names.append(str(step))
        for measure, end, table in zip(measures, ends, tables, strict=True):
            table.append([_beside(measure, capture, final, name, end[name], groups, shuffles) for name in final])
    if not names:
        raise DataError("there are no steps of training; give at least one capture.")
    maps = []
    for measure, table in zip(measures, tables, strict=True):
        values, low, high, null = np.moveaxis(np.array(table), -1, 0)
        maps.append(SimilarityMap(measure.name, tuple(names), tuple(final), values, low, high, null, final.samples))
    return maps


def _beside(
    measure: Measure, capture: Activations, final: Activations, name: str, end: Any, groups: int, shuffles: int
) -> tuple[float, ...]:
    rows, last = checked(capture[name], f"the rows of layer {name!r}"), checked(final[name])
    state = measure.prepare(rows)
    value = measure.compare(state, end)
    low, high = measure.limits
    if groups >= 2 and not measure.caveat(state, end, len(rows)):
        low, high = _jackknife(measure, value, [rows, last], final.samples, groups)
    null = _chance(measure, [state], [end], final.samples, final.places[name], shuffles, np.random.default_rng(0))
    return value, low, high, float(null[0, 0])


def convergence(
    steps: Mapping[str, Activations] | Iterable[tuple[str, Activations]],
    final: Activations,
    *,
    svcca_level: float = 0.95,
    cka_level: float = 0.98,
    groups: int = 0,
) -> Convergence:
    """The order in which layers reach their final form, under SVCCA and under debiased CKA, which need not agree.

    A layer has converged at the first step from which its similarity to the final network never falls below the level again.
    """
    maps = _time_maps(steps, final, (SVCCA(), CKA()), groups, shuffles=5)
    found = [_first(table, level) for table, level in zip(maps, (svcca_level, cka_level), strict=True)]
    orders = [_order(at) for at in found]
    names = maps[0].rows
    told = [{name: None if i is None else names[i] for name, i in at.items()} for at in found]
    return Convergence(maps[0], maps[1], told[0], told[1], orders[0], orders[1])


def _order(at: Mapping[str, int | None]) -> tuple[str, ...]:
    return tuple(sorted(at, key=lambda name: (at[name] is None, at[name] or 0)))


def _first(table: SimilarityMap, level: float) -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    for name, column in zip(table.columns, table.values.T, strict=True):
        below = np.flatnonzero(column < level)
        start = int(below[-1]) + 1 if below.size else 0
        found[name] = start if start < len(column) else None
    return found


def _asked(measure: Measure | None) -> Measure:
    if measure is not None and not isinstance(measure, Measure):
        raise InputError(f"measure={measure!r} is no measure of similarity; give one such as probes.SVCCA(), or None for CKA.")
    return measure or CKA()


def _paired(x: np.ndarray, y: np.ndarray, places: int) -> int:
    """The number of samples behind two sets of rows."""
    if len(x) != len(y):
        raise ShapeError(f"the rows belong to {len(x)} and {len(y)} samples or positions; give both layers on the same data.")
    if places < 1 or len(x) % places:
        raise ShapeError(f"{len(x)} rows are no multiple of {places} places; give the places that the capture states.")
    return len(x) // places


def _shuffle(rng: np.random.Generator, count: int, places: int) -> np.ndarray:
    order = rng.permutation(count)
    return (order[:, None] * places + np.arange(places)).reshape(-1)


def _table(
    measure: Measure, mine: Iterable[np.ndarray], theirs: Iterable[np.ndarray]
) -> tuple[tuple[list[Any], list[Any]], np.ndarray]:
    first = [measure.prepare(x) for x in mine]
    second = first if theirs is mine else [measure.prepare(y) for y in theirs]
    return (first, second), measure.table(first, second)


def _parts(count: int, groups: int) -> list[np.ndarray]:
    """Which samples are left without each of the random groups; data may be sorted by class, or go round them."""
    group = np.random.default_rng(0).permutation(count) % groups
    return [group != g for g in range(groups)]


def _of(kept: np.ndarray, rows: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The rows of some samples, one layer at a time."""
    return (checked(x[np.repeat(kept, len(x) // len(kept))]) for x in rows)


def _jackknife(measure: Measure, value: float, rows: list[np.ndarray], count: int, groups: int) -> tuple[float, float]:
    groups = min(groups, count)
    try:
        found = [measure.compare(*map(measure.prepare, _of(kept, rows))) for kept in _parts(count, groups)]
    except DataError:  # it all hangs on a few samples: without them the measure is not defined
        return measure.limits
    low, high = _interval(measure, np.array(value), np.array(found))
    return float(low), float(high)


def _interval(measure: Measure, values: Any, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The interval around values from those without each of the groups (groups, ...), within the measure's range."""
    low, high = jackknife(values, found)
    return np.maximum(low, measure.limits[0]), np.minimum(high, measure.limits[1])


def _spread(
    measure: Measure, values: np.ndarray, mine: list[np.ndarray], theirs: list[np.ndarray], count: int, groups: int
) -> tuple[np.ndarray, np.ndarray]:
    whole = np.full_like(values, measure.limits[0]), np.full_like(values, measure.limits[1])
    if groups < 2:
        return whole
    found = []
    try:
        for kept in _parts(count, min(groups, count)):
            first = _of(kept, mine)
            found.append(_table(measure, first, first if theirs is mine else _of(kept, theirs))[1])
    except DataError:  # as for a pair
        return whole
    return _interval(measure, values, np.array(found))


def _chance(
    measure: Measure, first: list[Any], second: list[Any], count: int, places: int, shuffles: int, rng: np.random.Generator
) -> np.ndarray:
    known = [[measure.chance(a, b, count) for b in second] for a in first]
    if places == 1 and all(v is not None for row in known for v in row):
        return np.array(known, dtype=np.float64)
    orders = [_shuffle(rng, count, places) for _ in range(shuffles)]
    drawn = [measure.table(first, [measure.reorder(b, order) for b in second]) for order in orders]
    return np.mean(drawn, axis=0) if drawn else np.full((len(first), len(second)), np.nan)


def _caveats(
    measure: Measure,
    states: tuple[list[Any], list[Any]],
    names: tuple[tuple[str, ...], tuple[str, ...]],
    count: int,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Which numbers are meaningless, and why."""
    notes, void = [], np.zeros((len(states[0]), len(states[1])), dtype=bool)
    for i, a in enumerate(states[0]):
        for j, b in enumerate(states[1]):
            if note := measure.caveat(a, b, count):
                void[i, j] = True
                notes.append(f"{names[0][i]}, {names[1][j]}: {note}")
    return void, (*notes[:3], *([f"and {len(notes) - 3} more such pairs"] if len(notes) > 3 else []))
