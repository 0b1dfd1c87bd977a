"""A property of a network: over a set of inputs, the outputs avoid an unsafe set."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ascertain.errors import DataError, PropertyError, ShapeError
from ascertain.properties.sets import InputSet, rows_at_most

__all__ = ["Atoms", "Case", "Network", "Property"]


def _fixed(name: str, values: np.ndarray) -> np.ndarray:
    array = np.array(values, dtype=np.float64, order="C")
    if not np.all(np.isfinite(array)):
        where = ", ".join(map(str, np.argwhere(~np.isfinite(array))[0]))
        raise DataError(f"{name}[{where}] of a property is not a finite number; correct it.")
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class Atoms:
    """One conjunction of linear atoms: {(x, y) : matrix @ y + input_matrix @ x <= bound} on flat inputs and outputs.

    matrix (m, n_out), bound (m,), input_matrix (m, n_in) or None. Proofs treat every atom as ``<=``; a witness must satisfy the
    atoms marked ``strict`` (m,) with ``<``. Readers also mark atoms whose decimal bound they rounded up.
    """

    matrix: np.ndarray
    bound: np.ndarray
    strict: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    input_matrix: np.ndarray | None = None

    def __post_init__(self) -> None:
        matrix, bound = _fixed("matrix", self.matrix), _fixed("bound", self.bound)
        strict = np.array(self.strict, dtype=bool) if np.size(self.strict) else np.zeros(bound.shape, dtype=bool)
        strict.setflags(write=False)
        inputs = None if self.input_matrix is None else _fixed("input_matrix", self.input_matrix)
        if matrix.ndim != 2 or bound.shape != matrix.shape[:1] or strict.shape != bound.shape:
            raise ShapeError(
                f"atoms have a matrix of shape {matrix.shape}, bounds of shape {bound.shape} and strict flags of shape "
                f"{strict.shape}; give (m, outputs), (m,) and (m,)."
            )
        if inputs is not None and (inputs.ndim != 2 or len(inputs) != len(bound)):
            raise ShapeError(f"atoms have an input matrix of shape {inputs.shape} for {len(bound)} bounds; give (m, inputs).")
        for name, value in (("matrix", matrix), ("bound", bound), ("strict", strict), ("input_matrix", inputs)):
            object.__setattr__(self, name, value)

    @property
    def n_outputs(self) -> int:
        return int(self.matrix.shape[1])

    def hold(self, x: np.ndarray, y: np.ndarray) -> bool:
        """Whether a flat input and output satisfy all atoms, in exact arithmetic on the float64 numbers."""
        matrix, values = self.matrix, y
        if self.input_matrix is not None:
            matrix, values = np.hstack([matrix, self.input_matrix]), np.concatenate([y, x])
        return bool(np.all(rows_at_most(matrix, values, self.bound, self.strict)))


@dataclass(frozen=True, eq=False)
class Case:
    """An input set and the unsafe outputs on it, a disjunction of conjunctions.

    ``open``: strict atoms on the inputs alone, matrix (m, n_in), that a witness must satisfy as well; None without any.
    """

    set: InputSet
    unsafe: tuple[Atoms, ...]
    open: Atoms | None = None

    def __post_init__(self) -> None:
        if not self.unsafe:
            raise PropertyError("a case of a property has no unsafe outputs; leave the case out.")
        outputs = {atoms.n_outputs for atoms in self.unsafe}
        if len(outputs) > 1:
            raise ShapeError(f"the conjunctions of a case are about {sorted(outputs)} outputs; give one number of columns.")
        for atoms in self.unsafe:
            if atoms.input_matrix is not None and atoms.input_matrix.shape[1] != self.set.size:
                raise ShapeError(f"an input matrix has {atoms.input_matrix.shape[1]} columns for {self.set.size} inputs.")

    def admits(self, x: np.ndarray) -> bool:
        """Whether a flat input may be a witness: it is in the set and satisfies the strict atoms on the inputs."""
        return self.set.contains(x) and (self.open is None or self.open.hold(x, x))


@dataclass(frozen=True)
class Network:
    """A network that a property names: its ranges (first, end) in the property's flat inputs and outputs.

    Networks with the same input range read the same input. ``equal_to``, ``isometric_to``: another network of the property.
    """

    name: str
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    equal_to: str = ""
    isometric_to: str = ""


@dataclass(frozen=True, eq=False)
class Property:
    """Holds when in no case an input of the set has an unsafe output. A counterexample (witness) is such an input."""

    cases: tuple[Case, ...]
    name: str = ""
    networks: tuple[Network, ...] = ()
    """The networks that the property names; empty where it is about one without a name."""

    def __post_init__(self) -> None:
        if not self.cases:
            raise PropertyError(f"property {self.name!r} has no case, so nothing to decide; give at least one.")
        sizes = {(case.set.size, case.unsafe[0].n_outputs) for case in self.cases}
        if len(sizes) > 1:
            raise ShapeError(f"the cases of property {self.name!r} are about (inputs, outputs) {sorted(sizes)}; give one size.")

    @property
    def n_inputs(self) -> int:
        return self.cases[0].set.size

    @property
    def n_outputs(self) -> int:
        return self.cases[0].unsafe[0].n_outputs

    def violated_by(self, x: np.ndarray, y: np.ndarray, case: int | None = None) -> tuple[int, int] | None:
        """(case, conjunction) that the input x with output y violates, or None; decided in exact arithmetic.

        Looks at one case only if it is given. Raises DataError for numbers that are not finite, ShapeError for wrong sizes.
        """
        inputs, outputs = (np.asarray(v, dtype=np.float64).reshape(-1) for v in (x, y))
        if inputs.size != self.n_inputs or outputs.size != self.n_outputs:
            raise ShapeError(
                f"a witness has {inputs.size} inputs and {outputs.size} outputs, property {self.name!r} is about "
                f"{self.n_inputs} and {self.n_outputs}; check the shapes."
            )
        if not (np.all(np.isfinite(inputs)) and np.all(np.isfinite(outputs))):
            raise DataError("a witness has inputs or outputs that are not finite; the network overflows there.")
        for i in range(len(self.cases)) if case is None else (case,):
            if self.cases[i].admits(inputs):
                for j, atoms in enumerate(self.cases[i].unsafe):
                    if atoms.hold(inputs, outputs):
                        return i, j
        return None

    def __str__(self) -> str:
        conjunctions = sum(len(case.unsafe) for case in self.cases)
        lines = [
            f"property {self.name or '(unnamed)'}: {self.n_inputs} inputs, {self.n_outputs} outputs, "
            f"{len(self.cases)} case(s), {conjunctions} unsafe conjunction(s)"
        ]
        for i, case in enumerate(self.cases[:3]):
            lines.append(f"  case {i}: {case.set}")
            lines += [f"    unsafe if {_show(atoms)}" for atoms in case.unsafe[:4]]
            lines += [f"    ... {len(case.unsafe) - 4} more"] if len(case.unsafe) > 4 else []
        return "\n".join([*lines, f"  ... {len(self.cases) - 3} more cases"] if len(self.cases) > 3 else lines)


def _show(atoms: Atoms) -> str:
    """A conjunction in the words of VNN-LIB's variables, cut after four atoms of four terms."""
    shown = []
    for r in range(min(len(atoms.bound), 4)):
        terms = [(atoms.matrix[r, j], f"Y_{j}") for j in np.flatnonzero(atoms.matrix[r])]
        if atoms.input_matrix is not None:
            terms += [(atoms.input_matrix[r, j], f"X_{j}") for j in np.flatnonzero(atoms.input_matrix[r])]
        text = " ".join(f"{'-' if c < 0 else '+'} {'' if abs(c) == 1 else f'{abs(c):g} '}{v}" for c, v in terms[:4])
        text = text.removeprefix("+ ") + (" + ..." if len(terms) > 4 else "")
        shown.append(f"{text or '0'} {'<' if atoms.strict[r] else '<='} {atoms.bound[r]:g}")
    return (" and ".join(shown) or "always") + (" and ..." if len(atoms.bound) > 4 else "")
