"""A slow, direct reading of VNN-LIB 1.0: the raw s-expressions evaluated at one input and output in rational arithmetic."""

from __future__ import annotations

import math
import operator
import re
from decimal import Decimal
from fractions import Fraction
from functools import cache, reduce

import numpy as np

RELATIONS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "=": operator.eq}


def parse(text: str) -> list:
    """Nested lists of words of all assertions."""
    stack: list[list] = [[]]
    for token in re.sub(r";.*", "", text).replace("(", " ( ").replace(")", " ) ").split():
        if token == "(":
            stack.append([])
        elif token == ")":
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    [commands] = stack
    return [command[1] for command in commands if command[0] == "assert"]


@cache
def literal(word: str) -> Decimal:
    return Decimal(word)


def value(e, x, y) -> Fraction:
    if isinstance(e, str):
        if e[0] in "XY":
            return Fraction(float((x if e[0] == "X" else y)[int(e[2:])]))
        return Fraction(e)
    parts = [value(part, x, y) for part in e[1:]]
    if e[0] == "-" and len(parts) == 1:
        return -parts[0]
    return reduce({"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}[e[0]], parts)


def holds(e, x, y) -> bool:
    """Truth of a formula. A bound on one input is rounded outward to float64, as boxes must be."""
    if isinstance(e, str):
        return {"true": True, "false": False}[e]
    if e[0] == "and":
        return all(holds(part, x, y) for part in e[1:])
    if e[0] == "or":
        return any(holds(part, x, y) for part in e[1:])
    if e[0] == "not":
        return not holds(e[1], x, y)
    if e[0] == "=>":
        return not holds(e[1], x, y) or holds(e[2], x, y)
    _, left, right = e
    if isinstance(left, str) and isinstance(right, str) and right[0] not in "XY" and left[0] in "XY":
        point, bound = float((x if left[0] == "X" else y)[int(left[2:])]), literal(right)
        if RELATIONS[e[0]](point, bound):
            return True
        if left[0] == "X" and e[0] == "<=":
            return math.nextafter(point, -math.inf) < bound
        return left[0] == "X" and e[0] == ">=" and math.nextafter(point, math.inf) > bound
    return RELATIONS[e[0]](value(left, x, y), value(right, x, y))


def satisfied(assertions: list, x: np.ndarray, y: np.ndarray) -> bool:
    return all(holds(assertion, x, y) for assertion in assertions)
