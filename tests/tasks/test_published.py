"""The published parser, rule by rule, beside the verdicts that it gave on real outputs."""

from __future__ import annotations

import functools
import json
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmpo.tasks.published import (
    published_countdown,
    published_gsm8k,
    published_math,
    published_sudoku,
)
from dmpo.tasks.published_arithmetic import python_value
from tests.paths import DATA, needs_data

PUZZLE, SOLUTION = "1200000003414020", "1234341223414123"
PIECES = ["\\boxed{", "}", "{", "\n", "1", "2.", "-", " ", "<answer>", "</answer>", "```", "..."]
markup = st.lists(st.sampled_from([*PIECES, "1" * 16, "<|eot_id|>", "٣", "="]), max_size=14).map(
    "".join
)


@functools.cache
def rows(task: str) -> list[dict[str, Any]]:
    path = DATA / "llada_outputs" / f"{task}_256.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@needs_data
def test_gsm8k_is_read_and_judged_as_published() -> None:
    for row in rows("gsm8k"):
        reference = math.nan if row["reference"] is None else row["reference"]
        read = published_gsm8k(row["completion"], reference)
        assert read == (row["parsed"], row["correct"])
    assert sum(row["correct"] for row in rows("gsm8k")) / 1130 == pytest.approx(0.7637, abs=5e-5)


@needs_data
def test_math_is_read_and_judged_as_published() -> None:
    for row in rows("math500"):
        read = published_math(row["completion"], row["reference"])
        assert read == (row["parsed"], row["correct"])
    assert sum(row["correct"] for row in rows("math500")) / 500 == 0.324


@needs_data
def test_countdown_is_read_and_judged_as_published() -> None:
    for row in rows("countdown"):
        read = published_countdown(row["completion"], *row["reference"])
        assert read == (row["parsed"], row["correct"])
    assert sum(row["correct"] for row in rows("countdown")) / 256 == pytest.approx(0.1953, abs=5e-5)


@needs_data
def test_sudoku_is_read_and_judged_as_published() -> None:
    right = blank = 0
    for row in rows("sudoku"):
        puzzle = row["question"].removeprefix("Solve the following Sudoku puzzle: ")[:16]
        read = published_sudoku(row["completion"], puzzle, row["reference"])
        assert read == (row["parsed"], row["correct_cells"], row["empty_cells"])
        right, blank = right + read[1], blank + read[2]
    assert right / blank == pytest.approx(0.0669, abs=5e-5)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (r"\boxed{5} \boxed{6}", 5.0),
        (r"\boxed{} \boxed{...} \boxed{x} \boxed{6}", 6.0),
        (r"\boxed{6,277}", 6.0),
        (r"\boxed{\frac{2}{3}}", 2.0),
        ("\\boxed{5\n} \\boxed{6}", 6.0),
        ("\\boxed{5 \\boxed{6}", 5.0),
        (r"\boxed{1_000}", 1000.0),
        (r"\boxed{inf}", math.inf),
        (r"\boxed{٣}", 3.0),
        ("<answer>3 of 4.</answer>", 4.0),
        ("<answer>\n</answer>", None),
        ("<answer>5", None),
        ("<answer>a</answer><answer>5</answer>", None),
        ("5", None),
    ],
)
def test_number_that_the_published_parser_reads(text: str, number: float | None) -> None:
    assert published_gsm8k(text, 5.0) == (number, number == 5.0)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{5} \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{5} \boxed 6$ or $7", "6"),
        (r"\fbox{5}", r"\fbox{5}"),
        (r"\boxedx{5}", r"\boxedx{5}"),
        ("\\boxed{5 <answer>6</answer>", "6"),
        (r"\boxed{5", None),
        (r"\boxed{}<answer> 6 </answer>", "6"),
        (r"\boxed{}", ""),
        ("no box: <answer>6</answer>", "no box: <answer>6</answer>"),
        ("", ""),
    ],
)
def test_answer_that_the_published_parser_reads_in_math(text: str, answer: str | None) -> None:
    assert published_math(text, "-")[0] == answer


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (r"\dfrac12", r"\frac{1}{2}", True),
        (r"\frac1{72}", r"\frac{1}{72}", True),
        ("0.5", r"\frac{1}{2}", True),
        (".5", r"\frac{1}{2}", True),
        ("1/2", r"\frac{1}{2}", True),
        ("01/2", r"\frac{1}{2}", False),
        ("x = 5", "5", True),
        ("xy = 5", "5", False),
        (r"\sqrt3", r"\sqrt{3}", True),
        (r"5 \text{ cm}", "5", True),
        (r"5\%", "5", True),
        ("5%", "5", False),
        (r"90^\circ", "90", True),
        (r"\left(1,2\right)", "(1, 2)", True),
        ("a/b", r"\frac{a}{b}", False),  # raises inside, so the writings are compared
        ("a/ b", "a/b", False),
        ("a/b", "a/b", True),
        (r"5 \text{ a} \text{ b}", "5", False),
        (r"\sqrt", r"\sqrt ", False),
        (r"\frac", r"\frac ", False),
        ("4210_5", "4210_{5}", False),
    ],
)
def test_equality_of_the_published_parser_in_math(first: str, second: str, same: bool) -> None:
    assert published_math(f"\\boxed{{{first}}}", second) == (first, same)


@pytest.mark.parametrize(
    ("text", "expression", "right"),
    [
        (r"\boxed{25 \times 3 - 7}", "25 * 3 - 7", True),
        (r"\boxed{25 * 3 - 7 = 68}", "25 * 3 - 7", True),
        ("25*3-7 = 68, 1+1 = 2", "25*3-7", True),
        (r"\boxed{25*3-7.}", "25*3-7.", True),
        (r"\boxed{25*03-7}", "25*03-7", False),
        (r"\boxed{25*3+7}", "25*3+7", False),
        (r"\boxed{25*(3-7}", "25*(3-7", False),
        (r"\boxed{25*3", r"\boxed{25*3", False),
        ("\\boxed{25*3 <answer>25*3-7</answer>", "25*3-7", True),
        (r"\boxed{}", "", False),
    ],
)
def test_expression_that_the_published_parser_reads(
    text: str, expression: str, right: bool
) -> None:
    assert published_countdown(text, [25, 3, 7], 68) == (expression, right)


@pytest.mark.parametrize(
    ("text", "grid", "right"),
    [
        (f"<answer>{SOLUTION}</answer>", SOLUTION, 9),
        (f"<answer> x ```\n{SOLUTION}\n```", SOLUTION, 9),
        (f"<answer></answer> {SOLUTION}<|eot_id|>", SOLUTION, 9),
        (f"a{SOLUTION}\n</answer>", SOLUTION, 9),
        (f"it is {SOLUTION}.", SOLUTION, 9),
        (f"it is {SOLUTION}1.", "", 0),
        (f"<answer>{SOLUTION[:6]}</answer>", "1234340000000000", 4),
        (f"<answer>{SOLUTION}99</answer>", SOLUTION, 9),
        ("<answer>no way</answer>", "noway00000000000", 0),
        ("", "", 0),
    ],
)
def test_grid_that_the_published_parser_reads(text: str, grid: str, right: int) -> None:
    assert published_sudoku(text, PUZZLE, SOLUTION) == (grid, right, 9)


@given(markup)
def test_boxes_to_the_first_brace_are_those_of_the_plain_pattern(text: str) -> None:
    assert published_gsm8k(text, 0.0)[0] == _plain_number(text)


@given(markup)
def test_grids_are_those_of_the_plain_patterns(text: str) -> None:
    assert published_sudoku(text, PUZZLE, SOLUTION)[0] == _plain_grid(text)


@given(st.text(alphabet="12 =+.x\n", max_size=20))
def test_expression_before_equals_is_that_of_the_plain_pattern(text: str) -> None:
    match = re.search(r"([0-9+\-*/() ]+)=[0-9. ]+", text)
    assert published_countdown(text, [1], 1)[0] == (match[1].strip() if match else text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2**3", 8),
        ("-2**2", -4),
        ("2**-1", 0.5),
        ("7//2", 3),
        ("(1\n+2)", 3),
        ("1.5 + .5", 2),
        ("00", 0),
        ("1**9**9", 1),
    ],
)
def test_value_is_what_python_gives(text: str, value: float) -> None:
    assert python_value(text) == value


@pytest.mark.parametrize(
    "text", ["9**9**9**9", "1\n+2", "07", "2(3)", "()", "", "1+", "(" * 101 + "1" + ")" * 101, "٣"]
)
def test_what_python_refuses_or_never_ends_has_no_value(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        python_value(text)


def _plain_number(text: str) -> float | None:
    for inside in re.findall(r"\\boxed{(.*?)}", text):
        if inside.strip() and not re.match(r"^\.+$", inside.strip()):
            found = _as_number(inside.strip(), 0)
            if found is not None:
                return found
    match = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
    return _as_number(match[1].strip(), -1) if match and match[1].strip() else None


def _as_number(text: str, place: int) -> float | None:
    try:
        return float(text)
    except ValueError:
        found = re.findall(r"-?\d+\.?\d*", text)
        return float(found[place]) if found else None


def _plain_grid(text: str) -> str:
    end = r"<\|eot_id\|>|<\|endoftext\|>"
    for pattern in (
        r"<answer>.*?```\s*([\d\s]+)```",
        rf"<answer>(.*?)(?:{end}|</answer>)",
        rf"</answer>\s*(.*?)(?:{end}|$)",
        r".*?(\d{16})\s*</answer>",
        r"\b(\d{16})\b",
    ):
        match = re.search(pattern, text, re.DOTALL)
        if match and match[1].strip():
            return "".join(match[1].split())[:16].ljust(16, "0")
    return ""
