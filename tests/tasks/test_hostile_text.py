"""Text that would hang, crash or mislead a careless reader is answered at once, and rightly."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from dmpo.tasks.expressions import ExpressionError, parse_expression
from dmpo.tasks.gsm8k import Gsm8kConfig, Gsm8kTask, gsm8k_example
from dmpo.tasks.math500 import Math500Config, Math500Task, math500_example
from dmpo.tasks.paper_answers import read_expression, read_sudoku
from dmpo.tasks.published import (
    published_countdown,
    published_gsm8k,
    published_math,
    published_sudoku,
)

SIZE = 50_000
SECONDS = 2.0

GSM8K = Gsm8kTask(Gsm8kConfig())
MATH = Math500Task(Math500Config(time_limit=1.0))
NUMBER = gsm8k_example("q", "72")
FORMULA = math500_example("q", "x+7")
GRID = "1234341223414123"

UNITS = [
    "\\boxed{", "\\boxed{}", "\\boxed{1}", "\\fbox{", "boxed ", "{", "}", "{}", "\\", "(", ")",
    "<answer>", "</answer>", "<answer>1</answer>", "<", "<|", "1", "1 ", "1,", "1.", "1=", "=",
    "-", " ", "\n", "\u2003", "```", "```1", "\\frac{", "\\sqrt", "\\text{ ", "/", "#### ", "²",
    "\0", "\ud800", "**", "9**",
]  # fmt: skip

READERS: dict[str, Callable[[str], Any]] = {
    "gsm8k": lambda text: GSM8K.grade(NUMBER, text)["right"],
    "math500": lambda text: MATH.grade(FORMULA, text)["right"],
    "expression": lambda text: read_expression(text) == "1+2",
    "sudoku": lambda text: read_sudoku(text) == GRID,
    "published gsm8k": lambda text: published_gsm8k(text, 72.0)[1],
    "published math": lambda text: published_math(text, "x+7")[1],
    "published countdown": lambda text: published_countdown(text, [1, 2], 3)[1],
    "published sudoku": lambda text: published_sudoku(text, "0" * 16, GRID)[1],
}


@pytest.mark.parametrize("name", READERS)
def test_long_repetitions_are_answered_in_seconds_and_never_right(name: str) -> None:
    for unit in UNITS:
        text = unit * (SIZE // len(unit))
        for hostile in (text, f"<answer>{text}", f"\\boxed{{{text}}}</answer>"):
            start = time.process_time()
            right = READERS[name](hostile)
            assert time.process_time() - start < SECONDS, unit
            # 16 digits of a published grid may agree with any solution by chance.
            assert not right or name == "published sudoku"


@pytest.mark.parametrize("before", ["x" * 10_000_000, "\\boxed{} " * 50_000, "{" * 100_000 + "\n"])
def test_an_answer_behind_much_text_is_found(before: str) -> None:
    end = "</reasoning>\n<answer>\n{}\n</answer><|eot_id|>"
    assert READERS["gsm8k"](before + end.replace("{}", "\\boxed{72}"))
    assert READERS["math500"](before + end.replace("{}", "\\boxed{x+7}"))
    assert READERS["expression"](before + end.replace("{}", "\\boxed{1+2}"))
    assert READERS["sudoku"](before + end.replace("{}", GRID))


@pytest.mark.parametrize(
    "inside",
    [
        "9**9**9**9",
        "9^{9^{9^{9}}}",
        "(" * 100_000 + "72" + ")" * 100_000,
        "\\frac{" * 400 + "1" + "}" * 400,
        "((((10!)!)!)!)!",
        "72\0",
        "7\ud8002",
        "７２",
        "٧٢",
        "72²",
        "__import__('os')._exit(1)",
        "\\input{/etc/passwd}",
    ],
)
def test_a_bomb_in_a_box_is_wrong(inside: str) -> None:
    text = f"</reasoning><answer>\\boxed{{{inside}}}</answer>"
    start = time.monotonic()
    assert not READERS["math500"](text)
    assert not READERS["published math"](text)
    assert not READERS["expression"](text)
    assert not READERS["published countdown"](text)
    assert not READERS["sudoku"](text)
    is_number_with_something_behind = inside in ("72\0", "72²")
    assert READERS["gsm8k"](text) in ((0, 1) if is_number_with_something_behind else (0,))
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    "text",
    [
        "<answer>1</answer>" * 1000 + "<answer>72</answer>",
        "<answer>" * 1000 + "72",
        "<answer>71</answer><answer>\\boxed{72",
        "\\boxed{71}</reasoning><answer>72</answer><|eot_id|><answer>71</answer>",
    ],
)
def test_the_last_answer_of_many_counts(text: str) -> None:
    assert READERS["gsm8k"](text) == 1


def test_an_expression_of_a_hostile_answer_does_not_parse() -> None:
    read = read_expression("<answer>9**9**9**9</answer>")
    with pytest.raises(ExpressionError):
        parse_expression(read or "")
