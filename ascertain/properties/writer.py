"""Properties as VNN-LIB 1.0 text, every number as the exact decimal of its float64."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ascertain.errors import PropertyError
from ascertain.properties.decimals import write_exact
from ascertain.properties.property import Atoms, Case, Property
from ascertain.properties.sets import Box, InputSet, LpBall, Polytope

__all__ = ["format_vnnlib", "write_vnnlib"]


def write_vnnlib(property: Property, path: str | Path) -> None:
    """Writes a property as VNN-LIB 1.0; `read_property` gives it back. Raises PropertyError for l1 and l2 balls."""
    Path(path).write_text(format_vnnlib(property), encoding="utf-8")


def format_vnnlib(property: Property) -> str:
    """The VNN-LIB 1.0 text of a property."""
    name = " ".join(property.name.split())
    lines = [f"; {name}"] if name else []
    lines += [f"(declare-const X_{i} Real)" for i in range(property.n_inputs)]
    lines += [f"(declare-const Y_{i} Real)" for i in range(property.n_outputs)]
    if len(property.cases) == 1:
        case = property.cases[0]
        lines += [f"(assert {atom})" for atom in _input_atoms(case)]
        if len(case.unsafe) == 1:
            lines += [f"(assert {atom})" for atom in _atoms(case.unsafe[0], "Y")]
            return "\n".join([*lines, ""])
        options = [_conjunction(list(_atoms(atoms, "Y"))) for atoms in case.unsafe]
    else:
        options = []
        for case in property.cases:
            inputs = list(_input_atoms(case))
            options += [_conjunction([*inputs, *_atoms(atoms, "Y")]) for atoms in case.unsafe]
    return "\n".join([*lines, "(assert (or", *(f"  {option}" for option in options), "))", ""])


def _conjunction(atoms: list[str]) -> str:
    return f"(and {' '.join(atoms)})" if atoms else "true"


def _input_atoms(case: Case) -> Iterator[str]:
    box = _box(case.set)
    for i in range(box.size):
        yield f"(>= X_{i} {write_exact(box.lower[i])})"
        yield f"(<= X_{i} {write_exact(box.upper[i])})"
    if isinstance(case.set, Polytope):
        yield from _atoms(Atoms(case.set.matrix, case.set.bound), "X")
    if case.open is not None:
        yield from _atoms(case.open, "X")


def _box(points: InputSet) -> Box:
    if isinstance(points, LpBall) and points.p != np.inf:
        raise PropertyError(f"VNN-LIB has no words for an l{points.p:g} ball; write its box or use the inf norm.")
    return points.box()


def _atoms(atoms: Atoms, kind: str) -> Iterator[str]:
    for r in range(len(atoms.bound)):
        terms = [(float(atoms.matrix[r, j]), f"{kind}_{j}") for j in np.flatnonzero(atoms.matrix[r])]
        if atoms.input_matrix is not None:
            terms += [(float(atoms.input_matrix[r, i]), f"X_{i}") for i in np.flatnonzero(atoms.input_matrix[r])]
        yield _atom(terms, float(atoms.bound[r]), bool(atoms.strict[r]))


def _atom(terms: list[tuple[float, str]], bound: float, strict: bool) -> str:
    less, more = ("<", ">") if strict else ("<=", ">=")
    if len(terms) == 1 and abs(terms[0][0]) == 1:
        sign, variable = terms[0]
        return f"({less if sign > 0 else more} {variable} {write_exact(sign * bound)})"
    if bound == 0 and sorted(c for c, _ in terms) == [-1, 1]:
        smaller, larger = (v for _, v in sorted(terms, reverse=True))
        return f"({less} {smaller} {larger})"
    products = [v if c == 1 else f"(* {write_exact(c)} {v})" for c, v in terms]
    total = f"(+ {' '.join(products)})" if len(products) > 1 else (products or ["0.0"])[0]
    return f"({less} {total} {write_exact(bound)})"
