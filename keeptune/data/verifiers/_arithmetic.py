"""Arithmetic as text: numbers, + - * / and brackets, worked out without `eval`.

What a model writes is never run. The text is parsed into Python's syntax tree, and only these nodes are computed, in
exact fractions; anything else, and anything too long or too large, has no value.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction

LONGEST = 200
LARGEST = 10**18
LEADING_ZEROS = re.compile(r"(?<![\d.])0+(?=\d)")
"""`05` is no number in Python, and one on paper."""

_BINARY: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def value(text: str) -> Fraction | None:
    """The value of an expression, or None when it has none.

    Dollar signs, the commas of thousands, spaces and a final percent sign are read as people write them.

    >>> value("3/5*25"), value("$1,200 * 5%"), value(".5+(2-1)"), value("__import__('os')"), value("1/0")
    (Fraction(15, 1), Fraction(60, 1), Fraction(3, 2), None, None)
    """
    if len(text) > LONGEST:
        return None
    plain = text.replace("$", "").replace(",", "").replace(" ", "").replace("%", "/100").replace("x", "*")
    try:
        return _of(ast.parse(LEADING_ZEROS.sub("", plain), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _of(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _bounded(Fraction(str(node.value)))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        inner = _of(node.operand)
        return -inner if isinstance(node.op, ast.USub) else inner
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return _bounded(_BINARY[type(node.op)](_of(node.left), _of(node.right)))
    raise ValueError("not arithmetic")


def _bounded(number: Fraction) -> Fraction:
    if abs(number) > LARGEST or number.denominator > LARGEST:
        raise ValueError("too large")
    return number
