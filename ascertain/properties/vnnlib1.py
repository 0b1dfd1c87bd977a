"""VNN-LIB 1.0: real constants X_i and Y_i, and assertions whose joint solutions are the counterexamples."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import NoReturn

from ascertain.errors import PropertyError
from ascertain.properties.arithmetic import Expression, NotLinear, apply, compare
from ascertain.properties.decimals import LiteralError, exact, round_literal
from ascertain.properties.formula import All, Any, Bound, Formula, Variables, cases
from ascertain.properties.property import Property

__all__ = ["parse_vnnlib1"]

_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_END = r"(?=[\s();]|\Z)"
# Whole declarations and whole atoms `variable against number`, nearly all of a large file, are one match each.
_BLANK = r"(?:\s++|;[^\n]*+)*+"
_SPACE = re.compile(_BLANK)
_TOKEN = re.compile(
    rf"{_BLANK}(?:"
    rf"\(\s*(<=|>=|<|>)\s+([XY])_(0|[1-9][0-9]{{0,8}})\s+({_NUMBER})\s*\)"  # 1 relation, 2 kind, 3 index, 4 number
    r"|\(\s*declare-const\s+([XY])_(0|[1-9][0-9]{0,8})\s+Real\s*\)"  # 5 kind, 6 index
    r"|(\()|(\))"  # 7 open, 8 close
    rf"|({_NUMBER}){_END}"  # 9 number
    rf"|([XY])_(0|[1-9][0-9]{{0,8}}){_END}"  # 10 kind, 11 index
    r"|([^\s();]+)"  # 12 word
    r"|\Z)"
)
_ATOM, _DECLARE, _OPEN, _CLOSE, _LITERAL, _VARIABLE, _WORD = 4, 6, 7, 8, 9, 11, 12
_FLIP = {"<=": ">", ">=": "<", "<": ">=", ">": "<="}
_DEEPEST = 200


def parse_vnnlib1(text: str, where: str = "<text>", name: str = "") -> Property:
    """The property that a VNN-LIB 1.0 text states; raises PropertyError with line and column."""
    return _Parser(text, where).property(name)


class _Parser:
    def __init__(self, text: str, where: str) -> None:
        self.text = text
        self.where = where
        self.tokens: Iterator[re.Match[str]] = _TOKEN.finditer(text)
        self.token = next(self.tokens)
        self.declared: dict[str, set[int]] = {"X": set(), "Y": set()}
        self.rounded: dict[tuple[str, bool], tuple[float, bool]] = {}

    # Reading ------------------------------------------------------------------------------------------------------------

    def advance(self) -> re.Match[str]:
        self.token = next(self.tokens)
        return self.token

    def fail(self, problem: str, token: re.Match[str] | None = None, group: int = 0) -> NoReturn:
        """Raises PropertyError at a token (the current one) or at a group of it."""
        token = token or self.token
        start = token.start(group) if group else self.start(token)
        line = self.text.count("\n", 0, start) + 1
        column = start - self.text.rfind("\n", 0, start)
        raise PropertyError(f"{self.where}:{line}:{column}: {problem}.")

    def start(self, token: re.Match[str]) -> int:
        """Where a token begins, after the space and comments that its match swallowed."""
        return _SPACE.match(self.text, token.start()).end()  # type: ignore[union-attr]

    def shown(self) -> str:
        token = self.token
        if token.lastindex is None:
            return "the end of the file"
        return repr(self.text[self.start(token) : token.end()][:40])

    def close(self, what: str) -> None:
        if self.token.lastindex != _CLOSE:
            self.fail(f"expected ')' after {what}, found {self.shown()}")
        self.advance()

    def word(self, expected: str) -> str:
        if self.token.lastindex != _WORD:
            self.fail(f"expected {expected}, found {self.shown()}")
        return self.token.group(_WORD)

    # Commands -----------------------------------------------------------------------------------------------------------

    def property(self, name: str) -> Property:
        asserted: list[Formula] = []
        while self.token.lastindex is not None:
            if self.token.lastindex == _DECLARE:
                self.declare(5)
                self.advance()
                continue
            if self.token.lastindex != _OPEN:
                self.fail(f"expected '(declare-const' or '(assert', found {self.shown()}")
            self.advance()
            command = self.word("'declare-const' or 'assert'")
            if command == "assert":
                self.advance()
                asserted.append(self.formula(False, 0))
                self.close("an assertion")
            elif command == "declare-const":
                self.slow_declaration()
            else:
                self.fail(f"unknown command {command!r}; VNN-LIB 1.0 has 'declare-const' and 'assert'")
        sizes = [self.count(kind, word) for kind, word in (("X", "input"), ("Y", "output"))]
        names = [tuple(f"{kind}_{i}" for i in range(n)) for kind, n in zip("XY", sizes, strict=True)]
        if not asserted:
            self.fail("no assertion; state the inputs and the unsafe outputs with (assert ...)")
        try:
            return Property(cases(All(tuple(asserted)), Variables(names[0], names[1])), name)
        except PropertyError as error:
            raise PropertyError(f"{self.where}: {error}") from None

    def slow_declaration(self) -> None:
        self.advance()
        if self.token.lastindex != _VARIABLE:
            self.fail(f"expected a variable X_i or Y_i with a plain number i, found {self.shown()}")
        self.declare(10)
        self.advance()
        if self.word("the type 'Real'") != "Real":
            self.fail(f"expected the type 'Real', found {self.shown()}")
        self.advance()
        self.close("a declaration")

    def declare(self, group: int) -> None:
        """Declares the variable whose kind and index are two groups of the current token."""
        kind, digits = self.token.group(group, group + 1)
        if int(digits) in self.declared[kind]:
            self.fail(f"{kind}_{digits} is declared twice; remove one declaration", group=group)
        self.declared[kind].add(int(digits))

    def count(self, kind: str, word: str) -> int:
        seen = self.declared[kind]
        if not seen:
            self.fail(f"no {word} {kind}_0 is declared; add (declare-const {kind}_0 Real)")
        missing = next((i for i in range(len(seen)) if i not in seen), None)
        if missing is not None:
            self.fail(f"{kind}_{max(seen)} is declared but {kind}_{missing} is not; declare {kind}_0 to {kind}_{max(seen)}")
        return len(seen)

    # Formulas -----------------------------------------------------------------------------------------------------------

    def formula(self, negated: bool, depth: int) -> Formula:
        token = self.token
        if token.lastindex == _ATOM:
            result = self.bound(token, negated)
            self.advance()
            return result
        if token.lastindex == _WORD and token.group(_WORD) in ("true", "false"):
            self.advance()
            return All(()) if (token.group(_WORD) == "true") != negated else Any(())
        if token.lastindex != _OPEN:
            self.fail(f"expected a formula such as (<= X_0 1.0), found {self.shown()}")
        if depth > _DEEPEST:
            self.fail(f"formulas are nested deeper than {_DEEPEST}")
        self.advance()
        head = self.word("'and', 'or', 'not', '=>' or a comparison")
        start = self.token
        self.advance()
        if head in ("and", "or"):
            parts = self.formulas(negated, depth)
            if not parts:
                self.fail(f"'{head}' has no operands", start)
            return All(tuple(parts)) if (head == "and") != negated else Any(tuple(parts))
        if head in ("not", "=>"):
            return self.negation(head, negated, depth, start)
        if head in ("<=", ">=", "<", ">", "="):
            return self.comparison(head, negated, depth, start)
        self.fail(f"unknown operator {head!r}; expected 'and', 'or', 'not', '=>', '<=', '>=', '<', '>' or '='", start)

    def formulas(self, negated: bool, depth: int) -> list[Formula]:
        """Operands up to and including the closing parenthesis."""
        parts: list[Formula] = []
        while self.token.lastindex != _CLOSE:
            if self.token.lastindex == _ATOM:
                parts.append(self.bound(self.token, negated))
                self.token = next(self.tokens)
            else:
                parts.append(self.formula(negated, depth + 1))
        self.advance()
        return parts

    def negation(self, head: str, negated: bool, depth: int, start: re.Match[str]) -> Formula:
        if head == "not":
            result = self.formula(not negated, depth + 1)
            self.close("the one operand of 'not'")
            return result
        first = self.formula(not negated, depth + 1)
        second = self.formula(negated, depth + 1)
        self.close("the two operands of '=>'")
        return All((first, second)) if negated else Any((first, second))

    def bound(self, token: re.Match[str], negated: bool) -> Bound:
        relation, kind, digits, literal = token.group(1, 2, 3, 4)
        index = int(digits)
        if index not in self.declared[kind]:
            self.fail(f"{kind}_{index} is not declared; add (declare-const {kind}_{index} Real) above", token, 2)
        if negated:
            relation = _FLIP[relation]
        upper = relation[0] == "<"
        found = self.rounded.get((literal, upper))
        if found is None:
            try:
                found = self.rounded[literal, upper] = round_literal(literal, upper)
            except LiteralError as error:
                self.fail(f"cannot read {error}", token, 4)
        output = kind == "Y"
        return Bound(output, index, upper, found[0], len(relation) == 1 or (output and not found[1]))

    def comparison(self, relation: str, negated: bool, depth: int, start: re.Match[str]) -> Formula:
        left, right = self.expression(depth), self.expression(depth)
        self.close(f"the two operands of '{relation}'")
        try:
            return compare(left, relation, right, negated)
        except LiteralError as error:
            self.fail(f"cannot read {error}", start)

    # Arithmetic ---------------------------------------------------------------------------------------------------------

    def expression(self, depth: int) -> Expression:
        token = self.token
        if token.lastindex == _LITERAL:
            self.advance()
            try:
                return Expression(exact(token.group(_LITERAL)), {})
            except LiteralError as error:
                self.fail(f"cannot read {error}", token)
        if token.lastindex == _VARIABLE:
            kind, digits = token.group(10, 11)
            if int(digits) not in self.declared[kind]:
                self.fail(f"{kind}_{digits} is not declared; add (declare-const {kind}_{digits} Real) above")
            self.advance()
            return Expression(Fraction(0), {(kind == "Y", int(digits)): Fraction(1)})
        if token.lastindex == _WORD:
            self.fail(f"unknown variable {self.shown()}; expected X_i, Y_i, a number or an arithmetic expression")
        if token.lastindex != _OPEN:
            self.fail(f"expected X_i, Y_i, a number or an arithmetic expression, found {self.shown()}")
        if depth > _DEEPEST:
            self.fail(f"expressions are nested deeper than {_DEEPEST}")
        self.advance()
        head = self.word("'+', '-', '*' or '/'")
        if head not in ("+", "-", "*", "/"):
            self.fail(f"unknown operator {head!r}; expected '+', '-', '*' or '/'")
        start = self.token
        self.advance()
        operands = []
        while self.token.lastindex != _CLOSE:
            operands.append(self.expression(depth + 1))
        self.advance()
        try:
            return apply(head, operands)
        except NotLinear as error:
            self.fail(str(error), start)
