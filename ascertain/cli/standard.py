"""The command line of the VNN-LIB 2.0 standard: ``verify`` and ``supports``."""

from __future__ import annotations

import gzip
import sys
from dataclasses import dataclass, fields
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from typer import Argument, Option

from ascertain.cli.exits import Exit, interrupted
from ascertain.cli.options import Command, SearchOptions, load_model
from ascertain.cli.talk import StatusLine, stoppable
from ascertain.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from ascertain.certify.result import Verdict, Witness
    from ascertain.graph import Graph
    from ascertain.properties import Property

__all__ = ["WORDS", "Supports", "Verify", "word"]

WORDS = {"holds": "unsat", "violated": "sat", "unknown": "unknown", "timeout": "timed-out"}
"""By `Status`. The standard asks whether a counterexample exists, hence ``unsat`` for a property that holds."""

_TYPES = {"F16": "float16", "F32": "float32", "F64": "float64", "BF16": "bfloat16", "Real": "real"}


def word(verdict: Verdict) -> str:
    """The standard's word for an answer."""
    late = verdict.status == "unknown" and verdict.reason.startswith("timeout")
    return WORDS["timeout"] if late else WORDS[verdict.status]


class Variable(NamedTuple):
    """A declared input or output and where its values lie in the property's flat inputs or outputs."""

    name: str
    type: str
    shape: tuple[int, ...]
    output: bool
    start: int

    def values(self, witness: Witness) -> np.ndarray:
        """Its part of a witness, in its shape."""
        flat = (witness.output if self.output else witness.input).reshape(-1)
        return flat[self.start : self.start + prod(self.shape)].reshape(self.shape)


@dataclass(frozen=True, kw_only=True)
class Verify(SearchOptions):
    """Answer a VNN-LIB query (2.0, or 1.0 about one network): prints sat with an assignment, unsat, unknown or timed-out."""

    query: Annotated[Path, Argument(help="Query file (.vnnlib, .vnnlib.gz).", show_default=False)]
    network: Annotated[list[str], Option(help="NAME=FILE, once for each declared network without equal-to.", show_default=False)]
    serialise_assignments: Annotated[
        Path | None, Option(help="Write the assignment into this folder, one .pb for each variable.")
    ] = None

    def run(self) -> int:
        """Prints the answer; the exit code is 0 for every answer."""
        from ascertain.certify.verify import verify
        from ascertain.properties import join, read_property

        property = read_property(self.query)
        graphs = self._graphs(property)
        declared = _variables(self.query, property)
        _check_types(declared, property, graphs)
        graph = join(property, graphs) if property.networks else next(iter(graphs.values()))
        line = StatusLine()
        with stoppable() as stop:
            verdict = verify(graph, property, **self.search(line, stop))
        line.clear()
        print(word(verdict))
        if verdict.reason:
            print(verdict.reason, file=sys.stderr)
        if verdict.witness is not None and self.serialise_assignments is None:
            _print(declared, verdict.witness)
        elif verdict.witness is not None and self.serialise_assignments is not None:
            _serialise(declared, verdict.witness, self.serialise_assignments)
        return Exit.INTERRUPTED if interrupted(verdict) else Exit.HOLDS

    def _graphs(self, property: Property) -> dict[str, Graph]:
        """The networks by name: exactly those that the query needs."""
        files: dict[str, str] = {}
        for given in self.network:
            name, equals, file = given.partition("=")
            if not (name and equals and file):
                raise InputError(f"--network {given!r} is not of the form NAME=FILE; write for example --network N=model.onnx.")
            if name in files:
                raise InputError(f"--network {name} is given twice; give one file for each network.")
            files[name] = file
        needed = [n.name for n in property.networks if not n.equal_to]
        wrong = sorted(set(needed) ^ set(files)) if needed else []
        if wrong or (not needed and len(files) != 1):
            words = f"the networks {', '.join(needed)}" if needed else "one network without a name"
            raise InputError(f"{self.query} is about {words}, --network names {', '.join(files)}; give one file for each.")
        return {name: load_model(file) for name, file in files.items()}


def _variables(query: Path, property: Property) -> list[Variable]:
    """The declared variables in order; flat X and Y for files of version 1.0, which declare none."""
    if not property.networks:
        return [Variable("X", "real", (property.n_inputs,), False, 0), Variable("Y", "real", (property.n_outputs,), True, 0)]
    import vnnlib

    raw = query.read_bytes()
    text = (gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw).decode()
    found = []
    for declared, network in zip(vnnlib.parse_query_string(text).networks, property.networks, strict=True):
        for variables, (start, _), output in ((declared.inputs, network.inputs, False), (declared.outputs, network.outputs, True)):
            for v in variables:
                found.append(Variable(v.name, _TYPES[v.dtype.name], tuple(v.shape), output, start))
    return found


def _check_types(declared: list[Variable], property: Property, graphs: dict[str, Graph]) -> None:
    """Refuses a declared number type that is not the model file's; says that all types are analysed as real numbers."""
    names = [n.name for n in property.networks for _ in range(2)]
    for variable, name in zip(declared, names, strict=False):
        dtype = getattr(graphs[name].source.replay, "dtype", None) if name in graphs else None
        if dtype is not None and variable.type not in ("real", dtype):
            raise InputError(f"{variable.name} is declared {variable.type}, network {name} takes {dtype}; declare real or {dtype}.")
    if any(variable.type != "real" for variable in declared):
        print("note: unsat is proved for the network over the real numbers; sat is replayed in its own type.", file=sys.stderr)


def _print(declared: list[Variable], witness: Witness) -> None:
    import numpy as np

    for variable in declared:
        print(f"{variable.name} {variable.type} [{','.join(map(str, variable.shape))}]")
        for value in variable.values(witness).reshape(-1):
            print(np.format_float_positional(value, unique=True, trim="0"))


def _serialise(declared: list[Variable], witness: Witness, folder: Path) -> None:
    import numpy as np
    from onnx import numpy_helper

    folder.mkdir(parents=True, exist_ok=True)
    for variable in declared:
        array = np.ascontiguousarray(variable.values(witness))
        (folder / f"{variable.name}.pb").write_bytes(numpy_helper.from_array(array, variable.name).SerializeToString())


@dataclass(frozen=True, kw_only=True)
class Supports(Command):
    """Report what kinds of queries and networks can be verified, in the words of the VNN-LIB standard."""

    onnx_opset_versions: Annotated[bool, Option("--onnx-opset-versions")] = False
    onnx_element_types: Annotated[bool, Option("--onnx-element-types")] = False
    onnx_operators: Annotated[bool, Option("--onnx-operators")] = False
    vnnlib_versions: Annotated[bool, Option("--vnnlib-versions")] = False
    hidden_node_theories: Annotated[bool, Option("--hidden-node-theories")] = False
    multiple_input_output_theories: Annotated[bool, Option("--multiple-input-output-theories")] = False
    multiple_network_theories: Annotated[bool, Option("--multiple-network-theories")] = False
    multiple_node_comparison_theories: Annotated[bool, Option("--multiple-node-comparison-theories")] = False
    arithmetic_complexity_theories: Annotated[bool, Option("--arithmetic-complexity-theories")] = False
    optimised_disjunctive_reasoning: Annotated[bool, Option("--optimised-disjunctive-reasoning")] = False
    serialise_assignments: Annotated[bool, Option("--serialise-assignments")] = False

    def run(self) -> int:
        """Prints the lines of what was asked for."""
        asked = [f.name for f in fields(self) if getattr(self, f.name)]
        if not asked:
            raise InputError(
                f"supports needs a capability; give one of {', '.join('--' + f.name.replace('_', '-') for f in fields(self))}."
            )
        for name in asked:
            print("\n".join(_operators() if name == "onnx_operators" else _CAPABILITIES[name]))
        return Exit.HOLDS


_CAPABILITIES = {
    "onnx_opset_versions": ("8", "16"),
    # Proofs are about the network as a function of real numbers, so only that type may be claimed.
    "onnx_element_types": ("real",),
    "vnnlib_versions": ("1.0", "2.0"),
    "hidden_node_theories": ("NH",),
    "multiple_input_output_theories": ("SIO",),
    "multiple_network_theories": ("SNET", "MENET", "MINET", "MNET"),
    "multiple_node_comparison_theories": ("SNC", "MNC"),
    "arithmetic_complexity_theories": ("LIN",),
    "optimised_disjunctive_reasoning": ("false",),
    "serialise_assignments": ("true",),
}


def _operators() -> list[str]:
    import ascertain.operators  # noqa: F401  (registers the readers)
    from ascertain.operators.reading import ONNX

    return sorted(ONNX)
