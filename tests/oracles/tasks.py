"""Slow, plain versions of what the tasks compute quickly."""

from __future__ import annotations

import itertools
import re
from fractions import Fraction

BOXES = [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
ROWS = [[4 * row + column for column in range(4)] for row in range(4)]
COLUMNS = [[4 * row + column for row in range(4)] for column in range(4)]


def sudoku_solutions(puzzle: str) -> list[str]:
    """Return every solution of a 4x4 puzzle by trying digits cell by cell."""
    if "0" not in puzzle:
        units = ROWS + COLUMNS + BOXES
        fits = all(sorted(puzzle[cell] for cell in unit) == list("1234") for unit in units)
        return [puzzle] if fits else []
    cell = puzzle.index("0")
    seen = {puzzle[other] for unit in ROWS + COLUMNS + BOXES if cell in unit for other in unit}
    tries = (puzzle[:cell] + digit + puzzle[cell + 1 :] for digit in "1234" if digit not in seen)
    return [solution for filled in tries for solution in sudoku_solutions(filled)]


def digit_sum_answers(total: int, forbidden: str) -> list[str]:
    """Return the right answers of the digit sum task by looking at all ten thousand."""
    texts = (f"{number:04}" for number in range(10_000))
    return [
        text
        for text in texts
        if sum(int(digit) for digit in text) == total and not any(c in text for c in forbidden)
    ]


def python_value(text: str) -> Fraction | None:
    """Return Python's own exact value of an expression that a test made; None for x/0."""
    assert re.fullmatch(r"[-+*/() 0-9]*", text)
    try:
        return Fraction(eval(re.sub(r"([0-9]+)", r"Fraction(\1)", text)))
    except ZeroDivisionError:
        return None


def countdown_is_solvable(numbers: tuple[int, ...], target: int) -> bool:
    """Try every order, operators and grouping of three numbers with exact fractions."""
    for a, b, c in itertools.permutations(numbers):
        for p, q in itertools.product("+-*/", repeat=2):
            for text in (f"({a}{p}{b}){q}{c}", f"{a}{p}({b}{q}{c})"):
                if python_value(text) == target:
                    return True
    return False
