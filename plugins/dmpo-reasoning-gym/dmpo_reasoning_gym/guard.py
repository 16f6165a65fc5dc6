"""What may be handed to scorers that evaluate text.

Some scorers of reasoning-gym run ``eval`` or sympy's ``parse_expr`` (which runs ``eval``) on
the answer. A model's text is untrusted, so it reaches them only if it is plainly harmless: a
bracketed list, arithmetic, or a formula of a few known functions with small exponents. And
one scorer is kept from ``nan``, which it takes for a right answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

from dmpo.tasks.expressions import ExpressionError, parse_expression

__all__ = ["GUARDS", "MAX_CHARACTERS", "is_safe"]

MAX_CHARACTERS = 4096
MAX_LITERAL_CHARACTERS = 1024
MAX_FORMULA_CHARACTERS = 400
MAX_EXPONENT_PRODUCT = 1_000

_HUGE_EXPONENT = re.compile(r"[eE][-+]?[0-9_]{4,}")
# No call, attribute, operator but minus, comprehension or f-string can be written with these.
_LITERAL = re.compile(r"""[0-9A-Z_,'"\[\]\s-]*""", re.ASCII)
_FORMULA = re.compile(
    r"""(?: [-+*/()\s]
        | [0-9]{1,12} (?:\.[0-9]{1,12})? (?![0-9.A-Za-z_])
        | (?:exp|log|sqrt|sin|cos|tan|asin|acos|atan|sinh|cosh|tanh|pi|[A-DF-HJ-MPRT-Za-z])
          (?![A-Za-z_0-9.])
        )*""",
    re.ASCII | re.VERBOSE,
)
_COMPLEX = re.compile(r"[-+*.0-9eEij()\s]*", re.ASCII)
_POWER = re.compile(r"(\)?)\s*\*\*\s*(?:\(?\s*-?\s*([0-9]{1,2})(?![0-9.]|\s*\*\*))?")


def is_safe(dataset: str, answer: str) -> bool:
    """Return whether a data set's scorer may see the answer."""
    if len(answer) > MAX_CHARACTERS or _HUGE_EXPONENT.search(answer):
        return False
    guard = GUARDS.get(dataset)
    return guard is None or guard(answer)


def _is_literal(answer: str) -> bool:
    return len(answer) <= MAX_LITERAL_CHARACTERS and _LITERAL.fullmatch(answer) is not None


def _is_arithmetic(answer: str) -> bool:
    try:
        parse_expression(answer)
    except ExpressionError:
        return False
    return True


def _is_complex_number(answer: str) -> bool:
    return _COMPLEX.fullmatch(answer) is not None


def _is_formula(answer: str) -> bool:
    if len(answer) > MAX_FORMULA_CHARACTERS or _FORMULA.fullmatch(answer) is None:
        return False
    powers = _POWER.findall(answer)
    if any(not exponent for _, exponent in powers):
        return False
    # Exponents of parentheses may be nested, so their product bounds the size of a tower.
    nested = math.prod(max(1, int(exponent)) for closing, exponent in powers if closing)
    return nested <= MAX_EXPONENT_PRODUCT


GUARDS: Mapping[str, Callable[[str], bool]] = {
    "binary_matrix": _is_literal,
    "n_queens": _is_literal,
    "spiral_matrix": _is_literal,
    "string_insertion": _is_literal,
    "countdown": _is_arithmetic,
    "puzzle24": _is_arithmetic,
    "intermediate_integration": _is_formula,
    "polynomial_multiplication": _is_formula,
    "simple_integration": _is_formula,
    "complex_arithmetic": _is_complex_number,
}
"""The data sets whose scorers cannot be given any text, and what they may be given."""
