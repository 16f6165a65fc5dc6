"""What Python makes of arithmetic in text, without Python: for the published parser alone.

The published parser hands text to ``eval``. Its verdicts depend on what Python reads there:
``2**3`` and ``7//2``, points, line breaks within parentheses only, no leading zeros, floats
where the task asks for exact numbers. This reads the same and evaluates it within bounds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import final

__all__ = ["python_value"]

MAX_NESTING = 100
"""Of parentheses and signs. Python reads 200."""
MAX_POWER_BITS = 100_000

_Value = int | float | complex


def python_value(text: str) -> int | float | complex:
    """Return the value that Python gives to digits, points, ``+ - * / ** //`` and parentheses.

    Raises:
        ValueError: If Python would refuse the text, or it is too large.
        ArithmeticError: If an operation has no value.
    """
    return _Parser(text).value()


@final
class _Parser:
    _TOKEN = re.compile(r"[ \t\f]*(?:([0-9]+\.?[0-9]*|\.[0-9]+)|(\*\*|//|[-+*/()]))")
    _INNER_TOKEN = re.compile(r"[ \t\f\r\n]*(?:([0-9]+\.?[0-9]*|\.[0-9]+)|(\*\*|//|[-+*/()]))")

    def __init__(self, text: str) -> None:
        self._tokens = list(self._split(text))
        self._next = 0

    def value(self) -> _Value:
        value = self._sum(0)
        if self._next < len(self._tokens):
            raise ValueError("something follows the expression")
        return value

    @classmethod
    def _split(cls, text: str) -> Iterator[str]:
        position, open_parentheses = 0, 0
        while position < len(text):
            # Python lets a line break stand only within parentheses.
            pattern = cls._INNER_TOKEN if open_parentheses > 0 else cls._TOKEN
            match = pattern.match(text, position)
            if match is None:
                raise ValueError("not an expression")
            token = match[1] or match[2]
            open_parentheses += (token == "(") - (token == ")")
            if open_parentheses > MAX_NESTING:
                raise ValueError("nested too deep")
            yield token
            position = match.end()

    def _sum(self, depth: int) -> _Value:
        value = self._product(depth)
        while (token := self._peek()) in ("+", "-"):
            self._next += 1
            other = self._product(depth)
            value = value + other if token == "+" else value - other
        return value

    def _product(self, depth: int) -> _Value:
        value = self._signed(depth)
        while (token := self._peek()) in ("*", "/", "//"):
            self._next += 1
            value = _applied(token, value, self._signed(depth))
        return value

    def _signed(self, depth: int) -> _Value:
        if depth > MAX_NESTING:
            raise ValueError("nested too deep")
        token = self._peek()
        if token in ("+", "-"):
            self._next += 1
            value = self._signed(depth + 1)
            return value if token == "+" else -value
        return self._power(depth)

    def _power(self, depth: int) -> _Value:
        base = self._atom(depth)
        if self._peek() != "**":
            return base
        self._next += 1
        return _power(base, self._signed(depth + 1))

    def _atom(self, depth: int) -> _Value:
        token = self._peek()
        self._next += 1
        if token == "(":
            value = self._sum(depth + 1)
            if self._peek() != ")":
                raise ValueError("a parenthesis is not closed")
            self._next += 1
            return value
        if token is None or token[0] not in "0123456789.":
            raise ValueError("a number is missing")
        if "." in token:
            return float(token)
        if token[0] == "0" and token.strip("0"):
            raise ValueError("Python takes no leading zeros")
        return int(token)

    def _peek(self) -> str | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None


def _applied(operator: str | None, left: _Value, right: _Value) -> _Value:
    if operator == "*":
        return left * right
    if operator == "/":
        return left / right
    if isinstance(left, complex) or isinstance(right, complex):
        raise ValueError("complex numbers have no floor")
    return left // right


def _power(base: _Value, exponent: _Value) -> _Value:
    whole = isinstance(base, int) and isinstance(exponent, int)
    if whole and abs(base) > 1 and abs(exponent) * int(abs(base)).bit_length() > MAX_POWER_BITS:
        raise ValueError("a power too large")
    result: _Value = base**exponent
    return result
