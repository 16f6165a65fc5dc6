"""The published parser of d1 (arXiv 2504.12216), for figures that compare with printed ones.

Several of its rules are wrong: the first box counts for GSM8K and the last one for MATH, a box
ends at its first brace for the one and at the matching brace for the other, a point between
digits makes two numbers of one. They are kept here, rule by rule, because published figures
were computed with them; the tasks' default graders do not use them.

Three things differ: every reader takes linear time, nothing raises, and arithmetic is evaluated
within bounds instead of by Python (``9**9**9**9`` and more than 100 parentheses inside each
other have no value here).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from dmpo.tasks.published_arithmetic import python_value

__all__ = [
    "published_countdown",
    "published_gsm8k",
    "published_math",
    "published_sudoku",
    "uses_numbers",
]

CELLS = 16
TOLERANCE = 1e-5
BOXED = "\\boxed"
BOXED_AND_BRACE = "\\boxed{"
BOXED_AND_SPACE = "\\boxed "
OPEN, CLOSE = "<answer>", "</answer>"
ENDS = ("<|eot_id|>", "<|endoftext|>")

_NUMBER = re.compile(r"-?\d+\.?\d*")
_WHOLE = re.compile(r"\d+")
_ARITHMETIC = re.compile(r"[\d+\-*/().\s]+")
_DIGITS_AND_SPACES = re.compile(r"[\d\s]*")
_ALONE = re.compile(rf"\b(\d{{{CELLS}}})\b")
_TAIL = re.compile(rf"\d{{{CELLS}}}")
_EQUALS = re.compile(r"(?<=[0-9+\-*/() ])=(?=[0-9. ])")


def published_gsm8k(text: str, reference: int | float) -> tuple[float | None, bool]:
    """Return the number that the published parser reads, and whether it is the reference."""
    parsed = _boxed_number(text)
    if parsed is None:
        parsed = _number(_answer(text) or "", last=True)
    return parsed, parsed is not None and parsed == reference


def published_math(text: str, reference: str) -> tuple[str | None, bool]:
    """Return the answer that the published parser reads, and whether it equals the reference."""
    parsed = _last_boxed(text)
    if not parsed:
        answer = _answer(text)
        parsed = parsed if answer is None else answer
    return parsed, parsed is not None and _same_in_math(parsed, reference)


def published_countdown(text: str, numbers: Sequence[int], target: int | float) -> tuple[str, bool]:
    """Return the expression that the published parser reads, and whether it makes the target."""
    parsed = _last_boxed(text)
    if parsed is None:
        answer = _answer(text)
        parsed = text if answer is None else answer
    for command, operator in (("\\div", "/"), ("\\times", "*"), ("\\cdot", "*")):
        parsed = parsed.replace(command, operator)
    parsed = _before_equals(parsed)
    return parsed, uses_numbers(parsed, numbers) and _makes(parsed, target)


def published_sudoku(text: str, puzzle: str, solution: str) -> tuple[str, int, int]:
    """Return the grid that the published parser reads, its right cells, and the blank cells.

    A cell is right if it was blank (0) and now holds the solution's digit. The published
    figure is the sum of right cells over the sum of blank cells.
    """
    readings = (read(text) for read in _GRID_READERS)
    grid = "".join(next(filter(None, readings), "").split())
    if grid:
        grid = grid[:CELLS].ljust(CELLS, "0")
    blanks = [cell for cell in range(CELLS) if puzzle[cell] == "0"]
    right = sum(grid[cell] == solution[cell] for cell in blanks) if grid else 0
    return grid, right, len(blanks)


def _boxed_number(text: str) -> float | None:
    for content in _boxes_to_first_brace(text):
        inside = content.strip()
        if inside.strip("."):
            number = _number(inside, last=False)
            if number is not None:
                return number
    return None


def _boxes_to_first_brace(text: str) -> Iterator[str]:
    r"""Yield what stands between each ``\boxed{`` and the first ``}`` of the same line."""
    start, brace, line_end = text.find(BOXED_AND_BRACE), -1, -1
    while start >= 0:
        inside = start + len(BOXED_AND_BRACE)
        # Both are looked for again only once passed, which keeps the whole linear.
        if brace < inside:
            brace = text.find("}", inside)
            if brace < 0:
                return
        if line_end < inside:
            line_end = text.find("\n", inside) % (len(text) + 1)
        if brace < line_end:
            yield text[inside:brace]
            inside = brace + 1
        start = text.find(BOXED_AND_BRACE, inside)


def _number(text: str, *, last: bool) -> float | None:
    stripped = text.strip()
    try:
        return float(stripped)
    except ValueError:
        pass
    found: str | None = None
    for match in _NUMBER.finditer(stripped):
        found = match[0]
        if not last:
            break
    return None if found is None else float(found)


def _answer(text: str) -> str | None:
    start = text.find(OPEN)
    end = text.find(CLOSE, start)
    return text[start + len(OPEN) : end].strip() if 0 <= start < end else None


def _last_boxed(text: str) -> str | None:
    """Return the content of the last box, the whole text without one, None if it stays open."""
    if BOXED_AND_SPACE in text:
        return text[text.rindex(BOXED_AND_SPACE) + len(BOXED_AND_SPACE) :].split("$")[0]
    start = text.rfind(BOXED)
    if start < 0:
        start = text.rfind("\\fbox")
    if start < 0:
        return _unboxed(text)
    depth = 0
    for brace in re.finditer(r"[{}]", text[start:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0 and brace[0] == "}":
            return _unboxed(text[start : start + brace.end()])
    return None


def _unboxed(text: str) -> str:
    whole = text.startswith(BOXED_AND_BRACE) and text.endswith("}")
    return text[len(BOXED_AND_BRACE) : -1] if whole else text


def _same_in_math(first: str, second: str) -> bool:
    try:
        return _normalised(first) == _normalised(second)
    except (ValueError, IndexError):
        return first == second


def _normalised(text: str) -> str:
    """Return the MATH data set's normal form of an answer.

    Raises:
        ValueError: As the original does, for more than one unit or a quotient that is not of
            whole numbers.
        IndexError: As the original does, where nothing follows a root or a fraction.
    """
    for old, new in (
        ("\n", ""),
        ("\\!", ""),
        ("\\\\", "\\"),
        ("tfrac", "frac"),
        ("dfrac", "frac"),
        ("\\left", ""),
        ("\\right", ""),
        ("^{\\circ}", ""),
        ("^\\circ", ""),
        ("\\$", ""),
    ):
        text = text.replace(old, new)
    text, *units = text.split("\\text{ ")
    if len(units) > 1:
        raise ValueError("more than one unit")
    text = text.replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    if text[0] == ".":
        text = f"0{text}"
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:
        text = sides[1]
    text = _with_braced_fractions(_with_braced_roots(text).replace(" ", ""))
    return _with_fraction("\\frac{1}{2}" if text == "0.5" else text)


def _with_braced_roots(text: str) -> str:
    head, *tails = text.split("\\sqrt")
    braced = [tail if tail[0] == "{" else f"{{{tail[0]}}}{tail[1:]}" for tail in tails]
    return "\\sqrt".join([head, *braced])


def _with_braced_fractions(text: str) -> str:
    head, *tails = text.split("\\frac")
    parts = [head]
    for tail in tails:
        if tail[0] == "{":
            parts.append(tail)
        elif len(tail) < 2:
            return text
        else:
            denominator = tail[1] if tail[1] == "{" else f"{{{tail[1]}}}"
            parts.append(f"{{{tail[0]}}}{denominator}{tail[2:]}")
    return "\\frac".join(parts)


def _with_fraction(text: str) -> str:
    sides = text.split("/")
    if len(sides) != 2:
        return text
    numerator, denominator = int(sides[0]), int(sides[1])
    if text != f"{numerator}/{denominator}":
        return text
    return f"\\frac{{{numerator}}}{{{denominator}}}"


def _before_equals(text: str) -> str:
    """Return the first run of arithmetic that ``= number`` follows; the text without one."""
    equals = _EQUALS.search(text)
    if equals is None:
        return text
    before = text[: equals.start()]
    return before[len(before.rstrip("0123456789+-*/() ")) :].strip()


def uses_numbers(text: str, numbers: Sequence[int]) -> bool:
    """Return whether the whole numbers written in a text are these, in any order."""
    written: list[int] = []
    for match in _WHOLE.finditer(text):
        if len(written) == len(numbers):
            return False
        try:
            written.append(int(match[0]))
        except ValueError:  # more digits than Python converts
            return False
    return sorted(written) == sorted(numbers)


def _makes(text: str, target: int | float) -> bool:
    if not _ARITHMETIC.fullmatch(text):
        return False
    try:
        return abs(python_value(text.strip()) - target) < TOLERANCE
    except (ValueError, ArithmeticError):
        return False


def _fenced_grid(text: str) -> str:
    answer = text.find(OPEN)
    fence = text.find("```", answer + len(OPEN)) if answer >= 0 else -1
    while fence >= 0:
        run = _DIGITS_AND_SPACES.match(text, fence + 3)
        if run and run[0] and text.startswith("```", run.end()):
            return run[0].strip()
        fence = text.find("```", fence + 1)
    return ""


def _grid_in_answer(text: str) -> str:
    _, tag, behind = text.partition(OPEN)
    end = _first_of((*ENDS, CLOSE), behind)
    return behind[:end].strip() if tag and end is not None else ""


def _grid_behind_answer(text: str) -> str:
    _, tag, behind = text.partition(CLOSE)
    return behind[: _first_of(ENDS, behind)].strip() if tag else ""


def _grid_before_close(text: str) -> str:
    close = text.find(CLOSE)
    while close >= 0:
        end = close
        while end > 0 and text[end - 1].isspace():
            end -= 1
        tail = text[max(0, end - CELLS) : end]
        if _TAIL.fullmatch(tail):
            return tail
        close = text.find(CLOSE, close + 1)
    return ""


def _grid_alone(text: str) -> str:
    match = _ALONE.search(text)
    return match[1] if match else ""


_GRID_READERS = (
    _fenced_grid,
    _grid_in_answer,
    _grid_behind_answer,
    _grid_before_close,
    _grid_alone,
)


def _first_of(tokens: Sequence[str], text: str) -> int | None:
    return min((place for token in tokens if (place := text.find(token)) >= 0), default=None)
