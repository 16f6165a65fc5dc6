"""Sudoku and Countdown as the paper asks them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmpo.errors import DataError
from dmpo.registry import TASKS
from dmpo.tasks.base import Task
from tests.paths import DATA, needs_data

PUZZLE, SOLUTION = "3102200002100320", "3142243142131324"
OTHER_SOLUTION = "1234341221434321"


def build(name: str, **parameters: object) -> Task:
    return TASKS.build(name, {"format": "paper", **parameters})


def test_problems_of_both_forms_are_the_same_in_other_words() -> None:
    for name in ("sudoku", "countdown"):
        compact, paper = TASKS.build(name).examples("test"), build(name).examples("test")
        assert [dict(e.columns) for e in compact] == [dict(e.columns) for e in paper]
        assert {e.prefill for e in paper} == {"<reasoning>"}
        assert {e.prefill for e in compact} == {""}


@pytest.mark.parametrize(
    ("completion", "cells"),
    [
        (f"so\n</reasoning>\n<answer>\n{SOLUTION}\n</answer>", 1.0),
        (f"<answer>{' '.join(SOLUTION)}</answer><|eot_id|><answer>{PUZZLE}</answer>", 1.0),
        (f"<answer>{PUZZLE}</answer>", 0.0),
        (SOLUTION, 0.0),
        ("", 0.0),
    ],
)
def test_the_last_answer_block_is_the_grid(completion: str, cells: float) -> None:
    task = build("sudoku")
    example = task.from_record({"question": f"Solve: {PUZZLE}\n", "reference": SOLUTION})
    assert task.grade(example, completion)["cells"] == cells
    assert task.num_questions(example) == PUZZLE.count("0")


def test_any_solution_of_a_puzzle_with_several_is_right() -> None:
    task = build("sudoku")
    example = task.from_record({"question": "0" * 16, "reference": SOLUTION})
    answer = f"<answer>{OTHER_SOLUTION}</answer>"
    assert task.grade(example, answer) == {"cells": 1.0, "puzzles": 1.0}
    published = build("sudoku", grader="published")
    assert published.grade(example, answer)["puzzles"] == 0.0


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        (r"</reasoning><answer>\boxed{49 + 55 - 53}</answer>", 1.0),
        (r"<answer>49 \times 55 - 53 = 2642</answer>", 0.1),
        (r"\boxed{49 + 55}", 0.0),
        ("49 + 55 - 53", 0.0),
    ],
)
def test_the_expression_is_read_from_box_or_tags(completion: str, score: float) -> None:
    task = build("countdown")
    example = task.from_record({"question": "", "reference": [[49, 55, 53], 51]})
    assert task.grade(example, completion)["score"] == score


@given(st.text() | st.text("0123456789+-*/()=\\boxed{}<answer>/ \n", max_size=60))
def test_any_text_gets_figures_within_bounds_from_both_graders(text: str) -> None:
    records = {
        "sudoku": {"question": PUZZLE, "reference": SOLUTION},
        "countdown": {"question": "", "reference": [[1, 2, 3], 6]},
    }
    for name, record in records.items():
        for grader in ("default", "published"):
            task = build(name, grader=grader)
            example = task.from_record(record)
            assert all(0 <= figure <= 1 for figure in task.grade(example, text).values())
            assert isinstance(task.read_answer(example, text), str | None)


def test_demonstrations_are_in_the_papers_format() -> None:
    for name in ("sudoku", "countdown"):
        task = build(name, lazy_fraction=0.0)
        example = task.examples("train")[0]
        shown = task.demonstrate(example, random.Random(0))
        assert task.grade(example, shown)[task.headline] == 1
        assert shown.endswith("</answer>")


@needs_data
def test_published_test_sets_are_sources() -> None:
    countdown = build("countdown", test_source=str(DATA / "countdown_cd3_test.jsonl"))
    sudoku = build("sudoku", test_source=str(DATA / "sudoku_4x4_test.csv"))
    assert (len(countdown.examples("test")), len(sudoku.examples("test"))) == (256, 500)
    first = countdown.examples("test")[0]
    assert first.columns == {"numbers": (30, 100, 93), "target": 23}
    assert first.prompt.endswith("Numbers: [30, 100, 93]\nTarget: 23")
    for task in (countdown, sudoku):
        train = {example.prompt for example in task.examples("train")}
        assert not train & {example.prompt for example in task.examples("test")}


def test_a_training_source_is_cut_and_loses_what_test_asks(tmp_path: Path) -> None:
    rows = [{"nums": [n, 2, 3], "target": n + 5} for n in range(1, 41)]
    file = tmp_path / "train.jsonl"
    rows.append({"nums": [1, 2, 3, 4], "target": 10})
    file.write_text("\n".join(map(json.dumps, rows)))
    test = tmp_path / "test.jsonl"
    test.write_text('{"input": "3,2,1", "output": "6"}')
    task = build("countdown", train_source=str(file), test_source=str(test), validation_size=5)
    numbers = [sorted(e.columns["numbers"]) for e in task.examples("train")]
    assert len(numbers) == 34
    assert len(task.examples("validation")) == 5
    assert [1, 2, 3] not in numbers
    assert all(len(each) == 3 for each in numbers)


@pytest.mark.parametrize("name", ["countdown", "sudoku"])
def test_a_training_source_loses_the_test_problems_that_are_made_here(
    name: str, tmp_path: Path
) -> None:
    made = build(name, test_size=8)
    rows = [dict(e.columns) for e in (*made.examples("test"), *made.examples("train")[:40])]
    file = tmp_path / "train.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    task = build(name, test_size=8, train_source=str(file), validation_size=5)
    asked = {example.prompt for example in task.examples("test")}
    assert asked == {example.prompt for example in made.examples("test")}
    learnt = {e.prompt for split in ("train", "validation") for e in task.examples(split)}
    assert len(learnt) == 40
    assert not learnt & asked


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("sudoku", {"puzzle": PUZZLE, "solution": OTHER_SOLUTION}, "is no solution of the puzzle"),
        ("sudoku", {"grid": PUZZLE}, "text under 'puzzle' or 'Puzzle' is needed"),
        ("countdown", {"nums": ["x"], "target": 3}, "numbers .* and a target"),
        ("countdown", {"numbers": "1,2,3"}, "the row has 'numbers'"),
    ],
)
def test_rows_that_are_no_problems_are_named(
    tmp_path: Path, name: str, row: dict[str, object], message: str
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row))
    with pytest.raises(DataError, match=f"task.test_source: .*line 1: .*{message}"):
        build(name, test_source=str(file)).examples("test")
