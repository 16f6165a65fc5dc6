"""MATH-500: 500 held-out problems of MATH (arXiv 2103.03874), whose answer is LaTeX."""

from __future__ import annotations

import concurrent.futures
import os
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, final

from pydantic import Field

from dmpo.errors import DataError
from dmpo.records import Example, Split
from dmpo.tasks.base import Task
from dmpo.tasks.formats import boxed_format
from dmpo.tasks.mathematics import equivalent
from dmpo.tasks.prompting import MATH500_SYSTEM, PREFILL, paper_answer, user_message
from dmpo.tasks.published import published_math
from dmpo.tasks.reading import answer_candidates, boxed_contents, until_end_of_turn
from dmpo.tasks.word_problems import WordProblemsConfig, sourced_examples, text_column

__all__ = ["Math500Config", "Math500Task", "math500_example"]

MAX_CHARACTERS = 1000

_FORMULA = re.compile(r"\\\((.+?)\\\)|\\\[(.+?)\\\]|\$\$?([^$]+)\$", re.DOTALL)
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")


class Math500Config(WordProblemsConfig):
    """Parameters of :class:`Math500Task`."""

    train_source: str = Field(
        "ankner/math-500",
        min_length=1,
        description="Hub id, or a JSON, JSONL, CSV or Parquet file.",
    )
    test_source: str = Field(
        "HuggingFaceH4/MATH-500", min_length=1, description="The same for the test problems."
    )
    time_limit: float = Field(
        5.0, gt=0, le=60, description="Seconds for one comparison by math-verify; then: not equal."
    )


@final
class Math500Task(Task):
    r"""Give the answer in a box. The prompt and both rewards are those of the paper (C.1).

    ``right``: mathematically equal to the reference (:mod:`dmpo.tasks.mathematics`).
    ``format``: 1 for a box in an answer block, 0.75 for a block without a box, 0.5 for a box
    alone, 0.25 for neither. The reward is in [0.25, 3].

    A row of a source has ``problem`` (or ``question``) and ``answer``, or ``solution`` with
    the answer in its last box. Training problems that also stand in the test source are left
    out.
    """

    Config = Math500Config

    headline = "right"

    def __init__(self, config: Math500Config) -> None:
        """Keep the config; the sources are read when first asked for."""
        self.config = config
        self.reward_weights: Mapping[str, float] = {"right": 2.0, "format": 1.0}
        self.response_length = config.response_length

    def examples(self, split: Split) -> Sequence[Example]:
        """Return the problems of a split in the order of the source.

        Raises:
            DataError: If a source is missing, unreadable, empty, or not as described.
        """
        return sourced_examples(self.config, split, example_of=_example)

    def from_record(self, record: Mapping[str, Any]) -> Example:
        """Return the problem of a saved completion: ours, or ``question`` and ``reference``.

        Raises:
            DataError: If it has neither.
        """
        if "question" not in record or "reference" not in record:
            return super().from_record(record)
        return math500_example(text_column(record, "question"), text_column(record, "reference"))

    def read_answer(self, example: Example, completion: str) -> str | None:
        """Return the answer as written; the reference's writing if it equals the reference."""
        reference = str(example.columns["answer"])
        if self.config.grader == "published":
            return published_math(completion, reference)[0]
        answer = _read(completion)
        return reference if answer is not None and self._equal(answer, reference) else answer

    def grade(self, example: Example, completion: str) -> Mapping[str, float]:
        """Return ``right`` and ``format``."""
        reference = str(example.columns["answer"])
        if self.config.grader == "published":
            right = published_math(completion, reference)[1]
        else:
            answer = _read(completion)
            right = answer is not None and self._equal(answer, reference)
        answer_text = until_end_of_turn(example.prefill + completion)
        return {"right": float(right), "format": boxed_format(answer_text)}

    def grade_all(self, pairs: Sequence[tuple[Example, str]]) -> list[Mapping[str, float]]:
        """Return the figures of many completions; as many at once as there are processors."""
        if len(pairs) < 2 or self.config.grader == "published":
            return super().grade_all(pairs)
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
            return list(threads.map(lambda pair: self.grade(*pair), pairs))

    def demonstrate(self, example: Example, rng: random.Random) -> str:  # noqa: ARG002
        """Return the source's solution and answer in the paper's format.

        Raises:
            DataError: If the source has no solutions.
        """
        solution = example.columns.get("solution")
        if not solution:
            raise DataError(f"{example.columns['question']:.60}: the source has no solution.")
        return paper_answer(solution, f"\\boxed{{{example.columns['answer']}}}")

    def _equal(self, answer: str, reference: str) -> bool:
        return equivalent(answer, reference, seconds=self.config.time_limit)


def math500_example(question: str, answer: str, *, solution: str | None = None) -> Example:
    """Return a problem.

    Args:
        question: As the source has it.
        answer: LaTeX.
        solution: The way there, to learn from.
    """
    columns = {"question": question, "answer": answer}
    if solution is not None:
        columns["solution"] = solution
    prompt = user_message(MATH500_SYSTEM, question)
    return Example(prompt=prompt, columns=columns, prefill=PREFILL)


def _read(completion: str) -> str | None:
    answer = next(answer_candidates(until_end_of_turn(completion)), None)
    # A sentence gives its last formula.
    if answer is not None and len(answer) <= MAX_CHARACTERS and _WORD.search(answer):
        formulas = [next(filter(None, groups)) for groups in _FORMULA.findall(answer)]
        return formulas[-1].strip() if formulas else answer
    return answer


def _example(row: Mapping[str, Any]) -> Example:
    solution = str(row["solution"]) if row.get("solution") else None
    question = text_column(row, "problem", "question")
    if solution is not None and not row.get("answer"):
        boxes = boxed_contents(solution)
        if not boxes:
            raise DataError("there is neither an `answer` nor a box in the `solution`.")
        return math500_example(question, boxes[-1], solution=solution)
    return math500_example(question, text_column(row, "answer"), solution=solution)
