"""Arithmetic from text: a bounded parser and exact evaluation, for text a model wrote.

The grammar is whole numbers, ``+ - * /`` (also ``− × ÷``), signs and parentheses; no powers,
names or implicit products. Nothing is ever handed to Python's own evaluation. Length, nesting
and digits are bounded before any work is done, so that no text is slow; the value of an
accepted expression has at most as many digits as the text has characters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import final

__all__ = [
    "Expression",
    "ExpressionError",
    "Negation",
    "Number",
    "Operation",
    "evaluate",
    "format_expression",
    "numbers_in",
    "parse_expression",
]

MAX_CHARACTERS = 256
MAX_DEPTH = 32
MAX_DIGITS = 12

_TOKEN = re.compile(r"[ \t\n]*([0-9]+|[-+*/()])")
_SPELLINGS = str.maketrans({"−": "-", "×": "*", "÷": "/"})
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
_SIGN_PRECEDENCE = 3
_ATOM_PRECEDENCE = 4


class ExpressionError(ValueError):
    """Text that is not an expression, is too large, or divides by zero."""


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number."""

    value: int
    """At least 0."""


@dataclass(frozen=True, slots=True)
class Negation:
    """A minus sign before an expression."""

    operand: Expression
    """What is negated."""


@dataclass(frozen=True, slots=True)
class Operation:
    """Two expressions joined by an operator."""

    symbol: str
    """One of ``+ - * /``."""
    left: Expression
    """The left operand."""
    right: Expression
    """The right operand."""


Expression = Number | Negation | Operation
"""A parsed expression."""


def parse_expression(text: str) -> Expression:
    """Parse one whole expression, the usual precedence, operators grouping to the left.

    Args:
        text: Any text.

    Returns:
        The tree.

    Raises:
        ExpressionError: If the text is not one whole expression within the bounds.
    """
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(f"longer than {MAX_CHARACTERS} characters")
    parser = _Parser(_tokens(text.strip().translate(_SPELLINGS)))
    tree = parser.sum(depth=0)
    parser.expect_end()
    return tree


def evaluate(expression: Expression) -> Fraction:
    """Return the exact value.

    Raises:
        ExpressionError: If it divides by zero.
    """
    match expression:
        case Number(value):
            return Fraction(value)
        case Negation(operand):
            return -evaluate(operand)
        case Operation(symbol, left, right):
            return _apply(symbol, evaluate(left), evaluate(right))


def numbers_in(expression: Expression) -> tuple[int, ...]:
    """Return the numbers as written, from left to right."""
    match expression:
        case Number(value):
            return (value,)
        case Negation(operand):
            return numbers_in(operand)
        case Operation(_, left, right):
            return numbers_in(left) + numbers_in(right)


def format_expression(expression: Expression) -> str:
    """Return the text of a tree with no space and only the parentheses it needs.

    ``parse_expression`` gives the same tree back.
    """
    return _format(expression)[0]


def _apply(symbol: str, left: Fraction, right: Fraction) -> Fraction:
    match symbol:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
    if right == 0:
        raise ExpressionError("divides by zero")
    return left / right


def _format(expression: Expression) -> tuple[str, int]:
    match expression:
        case Number(value):
            return str(value), _ATOM_PRECEDENCE
        case Negation(operand):
            return f"-{_enclosed(operand, _SIGN_PRECEDENCE)}", _SIGN_PRECEDENCE
        case Operation(symbol, left, right):
            level = _PRECEDENCE[symbol]
            text = f"{_enclosed(left, level)}{symbol}{_enclosed(right, level + 1)}"
            return text, level


def _enclosed(expression: Expression, lowest: int) -> str:
    text, precedence = _format(expression)
    return f"({text})" if precedence < lowest else text


def _tokens(text: str) -> list[str]:
    tokens, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ExpressionError(f"unexpected {text[position]!r} at character {position + 1}")
        if len(match[1]) > MAX_DIGITS:
            raise ExpressionError(f"a number of more than {MAX_DIGITS} digits")
        tokens.append(match[1])
        position = match.end()
    return tokens


@final
class _Parser:
    """Recursive descent over tokens; ``depth`` counts open parentheses and signs."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._next = 0

    def expect_end(self) -> None:
        if self._peek() is not None:
            raise ExpressionError(f"unexpected {self._peek()!r} after the expression")

    def sum(self, depth: int) -> Expression:
        tree = self._product(depth)
        while (symbol := self._peek()) in ("+", "-"):
            self._next += 1
            tree = Operation(symbol, tree, self._product(depth))
        return tree

    def _product(self, depth: int) -> Expression:
        tree = self._operand(depth)
        while (symbol := self._peek()) in ("*", "/"):
            self._next += 1
            tree = Operation(symbol, tree, self._operand(depth))
        return tree

    def _operand(self, depth: int) -> Expression:
        if depth > MAX_DEPTH:
            raise ExpressionError(f"nested more than {MAX_DEPTH} deep")
        token = self._peek()
        self._next += 1
        if token == "-":
            return Negation(self._operand(depth + 1))
        if token == "+":
            return self._operand(depth + 1)
        if token == "(":
            tree = self.sum(depth + 1)
            if self._peek() != ")":
                raise ExpressionError("a parenthesis is not closed")
            self._next += 1
            return tree
        if token is None or token in "*/)":
            raise ExpressionError(f"a number is missing before {token or 'the end'!r}")
        return Number(int(token))

    def _peek(self) -> str | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None
