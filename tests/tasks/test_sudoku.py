from __future__ import annotations

import csv
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dmpo.errors import DataError
from dmpo.registry import TASKS
from dmpo.tasks.sudoku import SudokuConfig, SudokuTask, solution_grids, sudoku_example
from tests.oracles.tasks import sudoku_solutions
from tests.paths import DATA, needs_data

SPLITS = ("train", "validation", "test")
SMALL = SudokuConfig(train_size=100, validation_size=60, test_size=60)
PUZZLE, SOLUTION = "1200000003414020", "1234341223414123"
EXAMPLE = sudoku_example(PUZZLE, SOLUTION)


@pytest.fixture(scope="module")
def task() -> SudokuTask:
    return SudokuTask(SMALL)


def test_sudoku_is_registered() -> None:
    assert TASKS.load("sudoku") is SudokuTask


def test_there_are_288_solution_grids_and_every_one_is_valid() -> None:
    assert len(set(solution_grids())) == 288
    assert all(sudoku_solutions(grid) == [grid] for grid in solution_grids())


def test_splits_share_no_solution_grid() -> None:
    task = SudokuTask(SudokuConfig())
    grids = [{e.columns["solution"] for e in task.examples(split)} for split in SPLITS]
    assert [len(task.examples(split)) for split in SPLITS] == [8192, 256, 256]
    assert [len(part) <= most for part, most in zip(grids, (192, 40, 56), strict=True)] == [
        True
    ] * 3
    assert len(grids[0] | grids[1] | grids[2]) == sum(map(len, grids))


@pytest.mark.parametrize("split", SPLITS)
def test_puzzles_are_distinct_and_have_one_solution(task: SudokuTask, split: str) -> None:
    examples = task.examples(split)
    assert len({example.prompt for example in examples}) == len(examples)
    for example in examples:
        assert sudoku_solutions(example.columns["puzzle"]) == [example.columns["solution"]]
        assert 6 <= example.columns["puzzle"].count("0") <= 10


def test_prompt_is_the_grid_and_an_equals_sign(task: SudokuTask) -> None:
    example = task.examples("train")[0]
    assert example.prompt == example.columns["puzzle"] + "="
    assert len(example.prompt) == 17


def test_examples_are_those_of_the_seed(task: SudokuTask) -> None:
    again, other = SudokuTask(SMALL), SudokuTask(SMALL.model_copy(update={"seed": 1}))
    prompts = [[e.prompt for e in t.examples("test")] for t in (task, again, other)]
    assert prompts[0] == prompts[1] != prompts[2]


def test_too_many_puzzles_are_refused() -> None:
    # 56 test grids of 16 cells: 896 puzzles of one blank
    config = SudokuConfig(min_blanks=1, max_blanks=1, test_size=900)
    with pytest.raises(DataError, match="found 896 distinct puzzles of 1 to 1 blanks, 900"):
        SudokuTask(config).examples("test")


def test_blanks_that_are_no_range_are_refused() -> None:
    with pytest.raises(ValidationError, match="min_blanks 9 is above max_blanks 8"):
        SudokuConfig(min_blanks=9, max_blanks=8)


@pytest.mark.parametrize(
    ("completion", "cells", "puzzles"),
    [
        (SOLUTION, 1, 1),
        ("1234 3412\n2341 4123 ", 1, 1),
        ("1243341223414123", 7 / 9, 0),  # two blanks exchanged, nine are blank
        ("2234341223414123", 1, 0),  # a given changed
        (SOLUTION + "1", 1, 0),  # too long
        (SOLUTION[:6], 4 / 9, 0),  # reaches blanks 3 to 6 of the nine
        ("", 0, 0),
        ("１２３４" * 4, 0, 0),  # full-width digits are not the digits
    ],
)
def test_grade_of_hand_checked_completions(
    task: SudokuTask, completion: str, cells: float, puzzles: float
) -> None:
    assert task.grade(EXAMPLE, completion) == pytest.approx({"cells": cells, "puzzles": puzzles})


def test_read_answer_is_the_digits_alone(task: SudokuTask) -> None:
    assert task.read_answer(EXAMPLE, " ".join(SOLUTION)) == SOLUTION
    assert task.read_answer(EXAMPLE, SOLUTION[:15]) is None
    assert task.read_answer(EXAMPLE, SOLUTION[:15] + "5") is None


@given(st.text() | st.text(alphabet="01234 =\n", max_size=40))
def test_grade_never_raises_and_stays_between_0_and_1(completion: str) -> None:
    task = SudokuTask(SMALL)
    figures = task.grade(EXAMPLE, completion)
    assert set(figures) == {"cells", "puzzles"}
    assert all(0 <= value <= 1 for value in figures.values())
    answer = task.read_answer(EXAMPLE, completion)
    assert figures["puzzles"] == float(answer == SOLUTION)


def test_demonstrations_mix_the_solution_with_the_lazy_answer(task: SudokuTask) -> None:
    rng = random.Random(0)
    answers = [task.demonstrate(EXAMPLE, rng) for _ in range(2000)]
    lazy = "1234123423414123"  # missing digits of each row in ascending order
    assert set(answers) == {SOLUTION, lazy}
    assert answers.count(lazy) / 2000 == pytest.approx(0.65, abs=0.04)


@needs_data
def test_published_solutions_are_right(task: SudokuTask) -> None:
    with (DATA / "sudoku_4x4_test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 500
    for row in rows:
        grades = task.grade(sudoku_example(row["Puzzle"], row["Solution"]), row["Solution"])
        assert grades == {"cells": 1, "puzzles": 1}
        assert row["Solution"] in solution_grids()
