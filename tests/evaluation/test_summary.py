from __future__ import annotations

from collections.abc import Sequence

import pytest

from dmpo.evaluation.figures import pooled, summarize
from dmpo.evaluation.grid import grid_markdown
from dmpo.evaluation.summary import (
    EvaluatedChunk,
    EvaluatedCompletion,
    EvaluationResult,
    evaluation_result,
)


def completion(
    index: int, grade: int | float, answer: str | None, size: int = 1
) -> EvaluatedCompletion:
    return EvaluatedCompletion(
        index=index,
        prompt="",
        completion="",
        answer=answer,
        grades={"right": float(grade)},
        length=4,
        num_questions=size,
    )


def result(completions: Sequence[EvaluatedCompletion]) -> EvaluationResult:
    chunk = EvaluatedChunk(
        first_index=0, num_forwards=2, seconds=0.5, completions=tuple(completions)
    )
    return evaluation_result([chunk], headline="right", split="test")


def test_accuracy_counts_each_question_once() -> None:
    found = result([completion(0, 0.5, "a", size=2), completion(1, 1.0, "b", size=8)])
    assert found.accuracy == pytest.approx(9 / 10)
    assert found.score == 0.75
    alike = result([completion(0, 0.5, "a", size=4), completion(1, 1.0, "b", size=4)])
    assert alike.accuracy == alike.score


def test_pooled_share_of_equal_sizes_is_the_mean() -> None:
    grades = [[0.25], [0.5], [1.0]]
    assert pooled(grades, [4, 4, 4]).mean == pytest.approx(summarize(grades).mean)
    equal = pooled(grades, [4, 4, 4]).standard_error
    assert equal == pytest.approx(summarize(grades).standard_error)


def test_majority_is_the_most_frequent_answer_and_of_equals_the_first() -> None:
    group = [completion(0, 0, "x"), completion(0, 1, "y"), completion(0, 1, "y")]
    tie = [completion(1, 0, "p"), completion(1, 1, "q"), completion(1, 0, None)]
    silent = [completion(2, 0, None)] * 3
    found = result([*group, *tie, *silent])
    assert found.majority is not None
    assert found.majority.mean == pytest.approx(1 / 3)
    assert result([completion(0, 1, "x")]).majority is None


def test_chunks_in_any_order_give_the_order_of_the_split() -> None:
    chunks = [
        EvaluatedChunk(
            first_index=n, num_forwards=1, seconds=0.5, completions=(completion(n, n, "a"),)
        )
        for n in (1, 0)
    ]
    found = evaluation_result(chunks, headline="right", split="test")
    assert [each.index for each in found.completions] == [0, 1]
    assert (found.num_forwards, found.seconds, found.tokens_per_second) == (2, 1.0, 8.0)


def test_grid_has_a_row_for_each_task_and_a_column_for_each_length() -> None:
    one = result([completion(0, 1, "a"), completion(1, 0, "b")])
    text = grid_markdown({("sudoku", 128): one, ("sudoku", 256): one, ("gsm8k", 256): one})
    assert "| task | 128 | 256 |" in text
    assert "| sudoku | 50.0% [9.5%, 90.5%] | 50.0% [9.5%, 90.5%] |" in text
    assert "| gsm8k |  | 50.0% [9.5%, 90.5%] |" in text
    assert "| sudoku | 4 | 4 |" in text
