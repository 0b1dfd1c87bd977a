"""Any nesting of and/or over linear atoms, normalised to cases: input sets with disjunctions of output conjunctions.

Formulas carry no ``not``: readers push it down to the atoms, before bounds are rounded, because rounding has a direction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import NamedTuple

import numpy as np

from ascertain.errors import PropertyError
from ascertain.properties.decimals import LiteralError, round_fraction
from ascertain.properties.property import Atoms, Case
from ascertain.properties.sets import Box, InputSet, Polytope

__all__ = ["FALSE", "TRUE", "All", "Any", "Bound", "Formula", "Linear", "Terms", "Variables", "atom", "cases"]

_MOST_CONJUNCTIONS = 200_000
_MOST_ATOMS = 20_000_000
_MOST_ENTRIES = 2**28


class Bound(NamedTuple):
    """variable <= value (``upper``) or >= value, the value already rounded outward."""

    output: bool
    variable: int
    upper: bool
    value: float
    strict: bool


class Linear(NamedTuple):
    """sum of coefficient * variable <= bound over at least two variables; (index, coefficient) pairs in order of index."""

    inputs: tuple[tuple[int, float], ...]
    outputs: tuple[tuple[int, float], ...]
    bound: float
    strict: bool


@dataclass(frozen=True, slots=True)
class All:
    """Conjunction."""

    parts: tuple[Formula, ...]


@dataclass(frozen=True, slots=True)
class Any:
    """Disjunction."""

    parts: tuple[Formula, ...]


Formula = Bound | Linear | All | Any
TRUE, FALSE = All(()), Any(())
Conjunction = list[Bound | Linear]
Terms = Mapping[tuple[bool, int], Fraction]


@dataclass(frozen=True)
class Variables:
    """The variables of a property, flat, as its file names them (for messages)."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def atom(terms: Terms, bound: Fraction, strict: bool) -> Formula:
    """Sum of terms (keys: whether an output, index) <= bound, with float64 coefficients and the bound rounded up.

    An atom on one output whose bound was rounded is strict: no float64 number lies between the true bound and the rounded one.
    Coefficients become exact by scaling the row with an integer where that is possible; otherwise the nearest float64 is read.
    """
    used = {key: value for key, value in terms.items() if value}
    if not used:
        return TRUE if (bound > 0 or (bound == 0 and not strict)) else FALSE
    if len(used) == 1:
        [((output, index), factor)] = used.items()
        value, sharp = round_fraction(bound / factor, up=factor > 0)
        return Bound(output, index, factor > 0, value, strict or (output and not sharp))
    scale = Fraction(1)
    if not all(round_fraction(value, up=True)[1] for value in used.values()):
        whole = Fraction(lcm(*(value.denominator for value in used.values())))
        if all(abs(value * whole) <= 2**53 for value in used.values()):
            scale = whole
    limit, sharp = round_fraction(bound * scale, up=True)
    ordered = sorted((key, float(value * scale)) for key, value in used.items())
    if not all(c for _, c in ordered):
        raise LiteralError("a coefficient below the range of float64")
    inputs = tuple((index, c) for (output, index), c in ordered if not output)
    outputs = tuple((index, c) for (output, index), c in ordered if output)
    return Linear(inputs, outputs, limit, strict or (bool(outputs) and not sharp))


def _flatten(formula: Formula) -> tuple[Conjunction, list[list[Conjunction]]]:
    """A formula as common atoms and a list of disjunctions of conjunctions, all of which must hold."""
    if isinstance(formula, (Bound, Linear)):
        return [formula], []
    if isinstance(formula, Any):
        branches: list[Conjunction] = []
        atoms = 0
        for part in formula.parts:
            more = _expand(part)
            atoms += sum(map(len, more))
            _check_size(len(branches) + len(more), atoms)
            branches += more
        return (branches[0], []) if len(branches) == 1 else ([], [branches])
    common: Conjunction = []
    choices: list[list[Conjunction]] = []
    for part in formula.parts:
        shared, others = _flatten(part)
        common += shared
        choices += others
    return common, choices


def _multiply(choices: list[list[Conjunction]]) -> list[Conjunction]:
    """The disjunction of all ways to pick one conjunction from each choice."""
    product: list[Conjunction] = [[]]
    for branches in sorted(choices, key=len):
        _check_size(len(product) * len(branches), len(product) * sum(map(len, branches)) + len(branches) * sum(map(len, product)))
        product = [first + second for first in product for second in branches]
    return product


def _check_size(conjunctions: int, atoms: int) -> None:
    if conjunctions > _MOST_CONJUNCTIONS or atoms > _MOST_ATOMS:
        raise PropertyError(
            f"the property has {conjunctions} conjunctions with {atoms} atoms once its and/or nesting is multiplied out, "
            f"{_MOST_CONJUNCTIONS} with {_MOST_ATOMS} are the limit; split it into several properties."
        )


def _expand(formula: Formula) -> list[Conjunction]:
    common, choices = _flatten(formula)
    return [common + rest for rest in _multiply(choices)]


def cases(formula: Formula, variables: Variables) -> tuple[Case, ...]:
    """Cases of a formula that describes the counterexamples, one for each distinct input set, in order of appearance.

    Raises PropertyError when an input has no lower or upper bound, no conjunction has a point in its input set, or
    multiplying out is too large. Conjunctions with an empty input set are dropped.
    """
    common, choices = _flatten(formula)
    everywhere = _Inputs.unbounded(len(variables.inputs)).tightened(common)
    shared = [a for a in common if _about_outputs(a)]
    groups: dict[object, tuple[_Inputs, list[Conjunction]]] = {}
    empty = ""
    for conjunction in _multiply(choices):
        inputs = everywhere.tightened(conjunction)
        crossed = inputs.crossed()
        if crossed is not None:
            empty = empty or f": the bounds of {variables.inputs[crossed]} exclude each other"
            continue
        group = groups.setdefault(inputs.key(), (inputs, []))
        group[1].append(shared + [a for a in conjunction if _about_outputs(a)])
    found = []
    for inputs, conjunctions in groups.values():
        points = inputs.set(variables)
        if points is None:
            empty = empty or ": the linear constraints on the inputs exclude each other"
        else:
            found.append(Case(points, _matrices(conjunctions, variables), inputs.open()))
    if not found:
        raise PropertyError(f"no input and output satisfy all assertions{empty}; correct them.")
    return tuple(found)


def _about_outputs(a: Bound | Linear) -> bool:
    return a.output if isinstance(a, Bound) else bool(a.outputs)


@dataclass(frozen=True)
class _Inputs:
    """What a conjunction says about the inputs alone. ``*_open``: the bound itself is excluded."""

    lower: np.ndarray
    upper: np.ndarray
    lower_open: np.ndarray
    upper_open: np.ndarray
    rows: tuple[Linear, ...]

    @staticmethod
    def unbounded(n: int) -> _Inputs:
        closed = np.zeros(n, dtype=bool)
        return _Inputs(np.full(n, -np.inf), np.full(n, np.inf), closed, closed, ())

    def tightened(self, atoms: Iterable[Bound | Linear]) -> _Inputs:
        bounds: dict[tuple[bool, int], tuple[float, bool]] = {}
        rows: list[Linear] = []
        for a in atoms:
            if isinstance(a, Bound):
                if not a.output:
                    key = (a.upper, a.variable)
                    # As (value, strict) with the sign of a lower bound flipped, the tighter bound is the smaller pair.
                    new = (a.value, not a.strict) if a.upper else (-a.value, not a.strict)
                    old = bounds.get(key)
                    if old is None or new < old:
                        bounds[key] = new
            elif not a.outputs:
                rows.append(a)
        if not bounds and not rows:
            return self
        lower, upper, low_open, up_open = (v.copy() for v in (self.lower, self.upper, self.lower_open, self.upper_open))
        for (above, i), (value, closed) in bounds.items():
            if above and (value, closed) < (upper[i], not up_open[i]):
                upper[i], up_open[i] = value, not closed
            if not above and (value, closed) < (-lower[i], not low_open[i]):
                lower[i], low_open[i] = -value, not closed
        return _Inputs(lower, upper, low_open, up_open, tuple(sorted({*self.rows, *rows})))

    def crossed(self) -> int | None:
        """An input without any value: its lower bound is above its upper bound, or equal to it and excluded."""
        excluded = (self.lower == self.upper) & (self.lower_open | self.upper_open)
        bad = np.flatnonzero((self.lower > self.upper) | excluded)
        return int(bad[0]) if len(bad) else None

    def key(self) -> object:
        return (*(v.tobytes() for v in (self.lower, self.upper, self.lower_open, self.upper_open)), self.rows)

    def set(self, variables: Variables) -> InputSet | None:
        """The closed input set, or None when it is proved empty."""
        for bound, word in ((self.lower, "lower"), (self.upper, "upper")):
            missing = np.flatnonzero(np.isinf(bound))
            if len(missing):
                names = ", ".join(variables.inputs[i] for i in missing[:5]) + (", ..." if len(missing) > 5 else "")
                raise PropertyError(f"no {word} bound is given for {names}; every input needs both bounds.")
        box = Box(self.lower, self.upper)
        if not self.rows:
            return box
        try:
            rows = list(dict.fromkeys(row._replace(strict=False) for row in self.rows))
            return Polytope(box, _input_rows(rows, box.size), np.array([row.bound for row in rows]))
        except PropertyError:
            return None

    def open(self) -> Atoms | None:
        """The strict atoms on the inputs alone, which a witness must satisfy as well."""
        n = len(self.lower)
        rows = [Linear(((int(i), -1.0),), (), -self.lower[i], True) for i in np.flatnonzero(self.lower_open)]
        rows += [Linear(((int(i), 1.0),), (), self.upper[i], True) for i in np.flatnonzero(self.upper_open)]
        rows += [row for row in self.rows if row.strict]
        if len(rows) * n > _MOST_ENTRIES:
            raise PropertyError(f"the property has {len(rows)} strict atoms on {n} inputs, too many to hold; write <= and >=.")
        return Atoms(_input_rows(rows, n), np.array([row.bound for row in rows]), np.ones(len(rows), dtype=bool)) if rows else None


def _input_rows(rows: Sequence[Linear], n: int) -> np.ndarray:
    matrix = np.zeros((len(rows), n))
    for r, row in enumerate(rows):
        for i, c in row.inputs:
            matrix[r, i] = c
    return matrix


def _matrices(conjunctions: list[Conjunction], variables: Variables) -> tuple[Atoms, ...]:
    """Output conjunctions as arrays; equal ones once."""
    n_in, n_out = len(variables.inputs), len(variables.outputs)
    distinct = list(dict.fromkeys(tuple(conjunction) for conjunction in conjunctions))
    if sum(map(len, distinct)) * n_out > _MOST_ENTRIES:
        raise PropertyError(f"the property has {len(distinct)} conjunctions over {n_out} outputs, too many to hold; split it.")
    return tuple(_atoms(conjunction, n_in, n_out) for conjunction in distinct)


def _atoms(conjunction: tuple[Bound | Linear, ...], n_in: int, n_out: int) -> Atoms:
    matrix = np.zeros((len(conjunction), n_out))
    mixed = np.zeros((len(conjunction), n_in)) if any(isinstance(a, Linear) and a.inputs for a in conjunction) else None
    bound = np.zeros(len(conjunction))
    for r, a in enumerate(conjunction):
        if isinstance(a, Bound):
            sign = 1.0 if a.upper else -1.0
            matrix[r, a.variable], bound[r] = sign, sign * a.value
            continue
        bound[r] = a.bound
        for j, c in a.outputs:
            matrix[r, j] = c
        for i, c in a.inputs:
            if mixed is not None:
                mixed[r, i] = c
    return Atoms(matrix, bound, np.array([a.strict for a in conjunction], dtype=bool), mixed)
