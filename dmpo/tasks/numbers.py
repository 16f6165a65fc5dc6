r"""The number in an answer, exactly: ``$1,234.50``, ``3/4``, ``\frac{3}{4}``, ``20\%``, ``6 km``.

Only the digits 0 to 9 are digits. Length and digits are bounded before any work is done, so no
text is slow, and no reader raises.
"""

from __future__ import annotations

import collections
import re
from fractions import Fraction

from dmpo.tasks.expressions import ExpressionError, evaluate, parse_expression

__all__ = ["exact_number", "format_number", "number_in"]

MAX_CHARACTERS = 1000
MAX_DIGITS = 60
MAX_EXPONENT = 60

_COMMANDS = (
    (re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox|operatorname)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\[dt]?frac\s*\{\s*([^{}]+?)\s*\}\s*\{\s*([^{}]+?)\s*\}"), r" (\1)/(\2) "),
    (re.compile(r"\\[dt]?frac\s*([0-9])\s*([0-9])"), r" (\1)/(\2) "),
    (re.compile(r"(?<=[0-9])(?:\{,\}|,?\\[,!;: ]\s*)(?=[0-9]{3})"), ","),
    (re.compile(r"\\(?:left|right|displaystyle|[,!;: ()\[\]])"), " "),
    (re.compile(r"\\times|\\cdot|×|·"), "*"),
    (re.compile(r"\\div|÷"), "/"),
    (re.compile(r"\\approx|≈"), "="),
    (re.compile(r"\\?[$%]|[€£]|\\(?:degree|deg)\b|\^\s*\{?\s*\\circ\s*\}?|°|~|`"), " "),
    (re.compile(r"(?<![0-9)])\*\*|\*\*(?![0-9(])|\*(?=[^\W\d_])|(?<=[^\W\d_])\*"), " "),
)
_DIGITS = re.compile(rf"[0-9]{{1,{MAX_DIGITS}}}")
_MINUS = str.maketrans("−–", "--")
_WHOLE = r"(?:[0-9]{1,3}(?:[, ][0-9]{3})+(?![0-9])|[0-9]+)"
_DECIMAL = rf"(?:{_WHOLE}(?:\.[0-9]+)?|\.[0-9]+)"
_NUMBER = re.compile(
    rf"""
    (?<![A-Za-z0-9_^.\\])(?<![0-9][:,]|\*\*)        # not a part of a name, a number or an exponent
    (?P<sign>(?:(?<![0-9)A-Za-z])-\s?)?)
    (?:
        (?P<mixed>{_WHOLE}\s+)?\(?(?P<over>-?{_DECIMAL})\)?\s?/\s?\(?(?P<under>{_DECIMAL})\)?
      | (?P<number>{_DECIMAL})(?:(?:\s?\*\s?10\s?\^\s?\{{?|[eE])(?P<power>-?[0-9]{{1,3}})\}}?)?
    )
    (?![.:,]?[0-9]|\s?(?:\^|\*\*))                     # the whole number was read
    """,
    re.VERBOSE,
)
_FULL_HOUR = re.compile(r"\b([0-9]{1,2}):00\b")
_LIST = re.compile(
    r"[\s(\[{]*+[-0-9./$]++(?:\s*+(?:,|;|\band\b|\bor\b)\s*+[-0-9./$]++)++[\s)\]}.]*+"
)


def number_in(text: str) -> Fraction | None:
    """Return the number that a text gives as its answer, exactly; None if it gives none.

    Of ``expression = number`` the right-hand side counts. An unfinished calculation of whole
    numbers (``3 + 4``) counts as its value. Of several numbers in a sentence the last one
    counts; a bare list of numbers is no answer to a question for one.
    """
    if _DIGITS.fullmatch(text):
        return Fraction(text)
    plain = _plain(text)
    if plain is None:
        return None
    for side in reversed(plain.split("=")):
        value = _value(side)
        if value is not None:
            return value
        if any("0" <= character <= "9" for character in side):
            return None
    return None


def exact_number(text: str) -> Fraction | None:
    """Return the number that a text is, with nothing beside it but ``$``, ``%``, ``°``; or None."""
    plain = _plain(text)
    match = _NUMBER.fullmatch(plain.strip().removesuffix(".")) if plain else None
    return _exact(match) if match else None


def format_number(number: Fraction) -> str:
    """Return the shortest plain writing: ``18``, ``16.5``, or ``2/3`` where no decimal is exact."""
    below = number.denominator
    twos = fives = 0
    while below % 2 == 0:
        below, twos = below // 2, twos + 1
    while below % 5 == 0:
        below, fives = below // 5, fives + 1
    places = max(twos, fives)
    if below != 1:
        return str(number)
    digits = f"{abs(number.numerator) * 10**places // number.denominator:0{places + 1}d}"
    sign = "-" if number < 0 else ""
    return f"{sign}{digits}" if not places else f"{sign}{digits[:-places]}.{digits[-places:]}"


def _plain(text: str) -> str | None:
    if len(text) > MAX_CHARACTERS:
        return None
    text = text.translate(_MINUS)
    for pattern, plain in _COMMANDS:
        text = pattern.sub(plain, text)
    return _FULL_HOUR.sub(r"\1", text)


def _value(text: str) -> Fraction | None:
    if not _LIST.fullmatch(text):
        try:
            return evaluate(parse_expression(text))
        except ExpressionError:
            pass
    elif len(_NUMBER.findall(text)) != 1:
        return None
    last = collections.deque(_NUMBER.finditer(text), maxlen=1)
    return _exact(last[0]) if last else None


def _exact(match: re.Match[str]) -> Fraction | None:
    if sum("0" <= character <= "9" for character in match[0]) > MAX_DIGITS:
        return None
    sign = -1 if match["sign"] else 1
    if match["number"] is not None:
        power = int(match["power"] or 0)
        if abs(power) > MAX_EXPONENT:
            return None
        number = sign * _decimal(match["number"])
        return number * Fraction(10) ** power if power else number
    under = _decimal(match["under"])
    if under == 0:
        return None
    whole = _decimal(match["mixed"]) if match["mixed"] else Fraction(0)
    return sign * (whole + _decimal(match["over"]) / under)


def _decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", "").replace(" ", ""))
