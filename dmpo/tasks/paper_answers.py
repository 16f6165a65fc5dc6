r"""The Sudoku grid and the arithmetic expression in an answer in the paper's format.

Text is untrusted: every reader takes time linear in its length, and none raises. What is read
is text for a task's own grader; whether it is right is decided there.
"""

from __future__ import annotations

import collections
import re

from dmpo.tasks.reading import answer_candidates, until_end_of_turn

__all__ = ["read_expression", "read_sudoku"]

CELLS = 16
MAX_CHARACTERS = 1000
MAX_FRACTIONS = 8

_ROW_LABEL = re.compile(r"\b(?:row|line)\s*[0-9]\s*[:.)-]", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+")
_GRID = re.compile(rf"[0-9](?:[^\w]*+[0-9]){{{CELLS - 1}}}")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_EXPRESSION = re.compile(r"[-+*/() 0-9]*+")
_SPELLINGS = (
    (re.compile(r"\\(?:times|cdot|ast)(?![A-Za-z])|[×·∗⋅]"), "*"),
    (re.compile(r"\\div(?![A-Za-z])|÷"), "/"),
    (re.compile(r"[−–]"), "-"),
    (re.compile(r"(?<=[0-9)])(\s*)[xX](?=\s*[0-9(])"), "*"),
    (
        re.compile(
            r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\[,!;: ()\[\]]|\$|`|\*\*(?![0-9 ])"
        ),
        "",
    ),
    (re.compile(r"\\?[{\[]"), "("),
    (re.compile(r"\\?[}\]]"), ")"),
    (re.compile(r"\\(?:approx|neq?|to|rightarrow)(?![A-Za-z])|[≈≠→]"), "="),
)


def read_sudoku(text: str) -> str | None:
    """Return the digits of the grid in an answer, row by row; None without one.

    White space, row labels and separators of any kind are left out. No digit is added or cut,
    so the text may hold fewer or more than 16. An answer with words in it must hold 16 digits
    that nothing but separators stand between.

    Args:
        text: A completion. Only the last answer counts, not what the reasoning repeats.
    """
    answer = _answer(text)
    if answer is None:
        return None
    plain = _ROW_LABEL.sub(" ", answer)
    if any(not word.isdecimal() for word in _WORD.findall(plain)):
        last = collections.deque(_GRID.finditer(plain), maxlen=1)
        plain = last[0][0] if last else ""
    return "".join(character for character in plain if "0" <= character <= "9") or None


def read_expression(text: str) -> str | None:
    r"""Return the final expression of an answer in plain characters; None without one.

    LaTeX becomes ``+ - * / ( )``; of ``expression = number`` the expression is kept, and of a
    sentence the last run of arithmetic that holds an operator.

    Args:
        text: A completion.
    """
    plain = _answer(text)
    if plain is None:
        return None
    for _ in range(MAX_FRACTIONS):
        plain, count = _FRACTION.subn(r"((\1)/(\2))", plain)
        if not count:
            break
    for pattern, spelling in _SPELLINGS:
        plain = pattern.sub(spelling, plain)
    sides = [side.strip(" \t\n.,;:>*") for side in plain.split("=")]
    calculations = [side for side in sides if any(sign in side for sign in "+-*/")]
    side = next(iter(calculations), sides[0])
    if not _EXPRESSION.fullmatch(side.replace("\n", " ")):
        runs = (run.strip() for run in _EXPRESSION.findall(side))
        last = collections.deque((run for run in runs if re.search(r"[0-9)]\s*[-+*/]", run)), 1)
        side = last[0] if last else side
    return side if any("0" <= character <= "9" for character in side) else None


def _answer(text: str) -> str | None:
    answer = next(answer_candidates(until_end_of_turn(text)), None)
    return None if answer is None or len(answer) > MAX_CHARACTERS else answer
