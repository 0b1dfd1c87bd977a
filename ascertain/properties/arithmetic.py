"""Exact linear expressions of inputs and outputs, and comparisons of them as formulas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ascertain.properties.formula import All, Any, Formula, Terms, atom

__all__ = ["Expression", "NotLinear", "apply", "compare"]

_MOST_BITS = 20_000
_NEGATED = {"<=": ">", ">=": "<", "<": ">=", ">": "<="}


class NotLinear(ValueError):
    """An expression that is no linear function of the variables; the message says why."""


@dataclass(frozen=True)
class Expression:
    """constant + sum of coefficient * variable; keys of ``terms``: (whether an output, flat index)."""

    constant: Fraction
    terms: Terms


def apply(operator: str, operands: Sequence[Expression]) -> Expression:
    """``operands[0] operator operands[1] ...`` for + - * /, and the negation for - with one operand."""
    least = 1 if operator == "-" else 2
    if len(operands) < least:
        raise NotLinear(f"'{operator}' has {len(operands)} operand(s), it needs at least {least}")
    if operator in ("+", "-"):
        sign = 1 if operator == "+" else -1
        first = 1 if len(operands) > 1 else sign
        return _total([(first, operands[0]), *((sign, operand) for operand in operands[1:])])
    product = operands[0]
    for operand in operands[1:]:
        if operand.terms and (product.terms or operator == "/"):
            raise NotLinear(f"'{operator}' of variables is not linear; multiply or divide variables by numbers only")
        if operator == "/" and operand.constant == 0:
            raise NotLinear("division by zero")
        factor, scaled = (product.constant, operand) if operand.terms else (operand.constant, product)
        factor = 1 / factor if operator == "/" else factor
        if max(map(_bits, (factor, scaled.constant, *scaled.terms.values()))) > _MOST_BITS:
            raise NotLinear("a product of numbers beyond the range of float64")
        product = Expression(scaled.constant * factor, {key: value * factor for key, value in scaled.terms.items()})
    return product


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _total(signed: Sequence[tuple[int, Expression]]) -> Expression:
    terms: dict[tuple[bool, int], Fraction] = {}
    for sign, operand in signed:
        for key, value in operand.terms.items():
            terms[key] = terms.get(key, Fraction(0)) + sign * value
    return Expression(sum((sign * operand.constant for sign, operand in signed), Fraction(0)), terms)


def compare(left: Expression, relation: str, right: Expression, negated: bool = False) -> Formula:
    """``left relation right`` for <= >= < > and =, or its negation."""
    if relation == "=":
        low, high = compare(left, "<=", right, negated), compare(left, ">=", right, negated)
        return Any((low, high)) if negated else All((low, high))
    relation = _NEGATED[relation] if negated else relation
    gap = _total([(1, left), (-1, right)]) if relation[0] == "<" else _total([(1, right), (-1, left)])
    return atom(gap.terms, -gap.constant, strict=len(relation) == 1)
