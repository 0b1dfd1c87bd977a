"""VNN-LIB 2.0, parsed and type-checked by the standard's own package, turned into the same properties as 1.0."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import prod
from types import ModuleType
from typing import Any as Anything

import numpy as np

from ascertain.errors import PropertyError
from ascertain.properties.arithmetic import Expression, NotLinear, apply, compare
from ascertain.properties.decimals import LiteralError, exact
from ascertain.properties.formula import All, Any, Formula, Variables, cases
from ascertain.properties.property import Network, Property

__all__ = ["parse_vnnlib2"]

_DEEPEST = 200
_REAL = ("F16", "F32", "F64", "BF16", "Real")


def parse_vnnlib2(text: str, where: str = "<text>", name: str = "") -> Property:
    """The property that a VNN-LIB 2.0 text states, over the concatenated inputs and outputs of its networks.

    A network whose inputs are all asserted equal to those of an earlier one shares its input range. Raises PropertyError.
    """
    _precheck(text, where)
    # Loaded late: only files of this version need the package.
    import vnnlib

    try:
        query = vnnlib.parse_query_string(text)
    except vnnlib.VNNLibException as error:
        raise PropertyError(f"{where}{_first_problem(str(error))}") from None
    return _Converter(vnnlib, query, where).property(name)


def _precheck(text: str, where: str) -> None:
    """What the parser would crash on or misread: deep nesting, and exponents, which it takes for a number and a variable."""
    plain = re.sub(r";[^\n]*", "", text)
    depth = 0
    for token in re.finditer(r"[()]|(?<![\w.])[0-9]+(?:\.[0-9]+)?[A-Za-z_]\w*", plain):
        line = plain.count("\n", 0, token.start()) + 1
        if token.group() not in "()":
            raise PropertyError(f"{where}:{line}: {token.group()!r} is no number of VNN-LIB 2.0; write it without an exponent.")
        depth += 1 if token.group() == "(" else -1
        if depth > _DEEPEST:
            raise PropertyError(f"{where}:{line}: parentheses are nested deeper than {_DEEPEST}; flatten the formula.")


def _first_problem(report: str) -> str:
    try:
        first = json.loads(report)["errors"][0]
        return f":{first['line']}: {first['message']} ({first['offendingSymbol']}). {first['hint']}"
    except (ValueError, KeyError, IndexError, TypeError):
        place = re.search(r"line (\d+), column (\d+): *(.*)", report)
        return f":{place[1]}:{place[2]}: syntax error at {place[3]}." if place else f": {report}."


class _Converter:
    """Walks the typed tree of one query."""

    def __init__(self, package: ModuleType, query: Anything, where: str) -> None:
        self.package = package
        self.query = query
        self.where = where
        self.offsets: dict[tuple[bool, str], int] = {}
        self.names: tuple[list[str], list[str]] = ([], [])
        self.networks: list[Network] = []
        self.moved: list[int] = []
        """Position of every declared input among those that are kept; empty before any are merged."""

    def property(self, name: str) -> Property:
        for network in self.query.networks:
            self.declare(network)
        asserted = [assertion.expr for assertion in self.query.assertions]
        if not asserted:
            raise PropertyError(f"{self.where}: no assertion; state the inputs and the unsafe outputs with (assert ...).")
        formulas = self.share([self.formula(expression) for expression in asserted], asserted)
        try:
            found = cases(All(tuple(formulas)), Variables(tuple(self.names[0]), tuple(self.names[1])))
        except PropertyError as error:
            raise PropertyError(f"{self.where}: {error}") from None
        return Property(found, name, tuple(self.networks))

    def declare(self, network: Anything) -> None:
        if len(network.inputs) != 1 or len(network.outputs) != 1 or network.hidden:
            raise PropertyError(
                f"{self.where}: network {network.name} declares {len(network.inputs)} inputs, {len(network.outputs)} outputs and "
                f"{len(network.hidden)} hidden nodes; only one input, one output and no hidden node is supported."
            )
        ranges = []
        for output, variable in ((False, network.inputs[0]), (True, network.outputs[0])):
            if variable.dtype.name not in _REAL:
                raise PropertyError(f"{self.where}: {variable.name} has type {variable.dtype.name}; only real types are supported.")
            names = self.names[output]
            shape = tuple(variable.shape)
            self.offsets[output, variable.name] = len(names)
            start = len(names)
            if not 0 < prod(shape) <= 2**24:
                raise PropertyError(f"{self.where}: {variable.name} has shape {shape}; give it 1 to {2**24} elements.")
            names += [f"{variable.name}[{','.join(map(str, index))}]" if shape else variable.name for index in np.ndindex(shape)]
            ranges.append((start, len(names)))
        self.networks.append(Network(network.name, ranges[0], ranges[1], network.equal_to, network.isometric_to))

    # Formulas -----------------------------------------------------------------------------------------------------------

    def formula(self, node: Anything) -> Formula:
        p = self.package
        if isinstance(node, p.And):
            return All(tuple(self.formula(part) for part in node.args))
        if isinstance(node, p.Or):
            return Any(tuple(self.formula(part) for part in node.args))
        relations = {p.LessEqual: "<=", p.GreaterEqual: ">=", p.LessThan: "<", p.GreaterThan: ">", p.Equal: "=", p.NotEqual: "!="}
        relation = relations.get(type(node))
        if relation is None:
            raise PropertyError(f"{self.where}: {type(node).__name__} is not supported in {str(node)[:80]}.")
        try:
            left, right = self.expression(node.lhs), self.expression(node.rhs)
            return compare(left, "=", right, negated=True) if relation == "!=" else compare(left, relation, right)
        except (LiteralError, NotLinear) as error:
            raise PropertyError(f"{self.where}{_line(node)}: {error}; in {str(node)[:80]}.") from None

    def expression(self, node: Anything) -> Expression:
        p = self.package
        if isinstance(node, p.Var):
            return Expression(Fraction(0), {self.key(node): Fraction(1)})
        if isinstance(node, p.Literal):
            return Expression(exact(node.lexeme), {})
        if isinstance(node, p.Negate):
            return apply("-", [self.expression(node.expr)])
        if isinstance(node, p.Minus):
            return apply("-", [self.expression(part) for part in (node.head, *node.rest)])
        if isinstance(node, (p.Plus, p.Multiply)):
            parts = [self.expression(part) for part in node.args]
            return apply("+" if isinstance(node, p.Plus) else "*", parts) if len(parts) > 1 else parts[0]
        raise NotLinear(f"{type(node).__name__} is not supported")

    def key(self, variable: Anything) -> tuple[bool, int]:
        output = variable.kind == self.package.SymbolKind.Output
        shape, index = tuple(variable.shape), tuple(variable.indices)
        if len(index) != len(shape):
            raise NotLinear(f"{variable.name} has {len(shape)} axes but {len(index)} indices")
        flat = self.offsets[output, variable.name] + (int(np.ravel_multi_index(index, shape)) if shape else 0)
        return output, self.moved[flat] if self.moved and not output else flat

    # Networks on one input ----------------------------------------------------------------------------------------------

    def share(self, formulas: Sequence[Formula], asserted: Sequence[Anything]) -> Sequence[Formula]:
        """The formulas, with the inputs of networks that are asserted equal to another's replaced by those."""
        equal = {pair for expression in asserted for pair in self.equalities(expression)}
        target = list(range(len(self.names[0])))
        for k, network in enumerate(self.networks):
            for earlier in self.networks[:k]:
                pairs = list(zip(range(*earlier.inputs), range(*network.inputs), strict=False))
                same_size = earlier.inputs[1] - earlier.inputs[0] == network.inputs[1] - network.inputs[0]
                if same_size and all(pair in equal for pair in pairs):
                    for a, b in pairs:
                        target[b] = target[a]
                    break
        kept = sorted(set(target))
        if len(kept) == len(target):
            return formulas
        position = {old: new for new, old in enumerate(kept)}
        self.moved = [position[t] for t in target]
        self.networks = [replace(n, inputs=(self.moved[n.inputs[0]], self.moved[n.inputs[1] - 1] + 1)) for n in self.networks]
        names = self.names[0]
        self.names = ([names[old] for old in kept], self.names[1])
        return [self.formula(expression) for expression in asserted]

    def equalities(self, node: Anything) -> set[tuple[int, int]]:
        """Pairs (smaller, larger) of inputs that a conjunction says are equal."""
        p = self.package
        if isinstance(node, p.And):
            return {pair for part in node.args for pair in self.equalities(part)}
        if isinstance(node, p.Equal) and isinstance(node.lhs, p.Var) and isinstance(node.rhs, p.Var):
            (first, i), (second, j) = self.key(node.lhs), self.key(node.rhs)
            return set() if first or second else {(min(i, j), max(i, j))}
        return set()


def _line(node: Anything) -> str:
    """The line of the first variable or literal below a node."""
    line = getattr(node, "line", None)
    if line is not None:
        return f":{line}"
    return next((found for child in node.children() if (found := _line(child))), "")
