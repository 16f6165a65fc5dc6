"""GSM8K (arXiv 2110.14168): word problems of grade-school mathematics whose answer is a number."""

from __future__ import annotations

import functools
import itertools
import math
import random
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, final

from pydantic import Field

from dmpo.errors import DataError
from dmpo.records import Example, Split
from dmpo.tasks.base import Task
from dmpo.tasks.formats import soft_format, strict_format, tag_count
from dmpo.tasks.numbers import exact_number, format_number, number_in
from dmpo.tasks.prompting import GSM8K_SYSTEM, PREFILL, paper_answer, user_message
from dmpo.tasks.published import published_gsm8k
from dmpo.tasks.reading import answer_candidates, until_end_of_turn
from dmpo.tasks.word_problems import WordProblemsConfig, sourced_examples, text_column

__all__ = ["Gsm8kConfig", "Gsm8kTask", "gsm8k_example"]

HUB_SUBSET = "main"
FINAL = "####"

_CALCULATION = re.compile(r"<<[^<>]*>>")


class Gsm8kConfig(WordProblemsConfig):
    """Parameters of :class:`Gsm8kTask`."""

    train_source: str = Field(
        "openai/gsm8k", min_length=1, description="Hub id, or a JSON, JSONL, CSV or Parquet file."
    )
    test_source: str = Field(
        "openai/gsm8k", min_length=1, description="The same for the test problems."
    )


@final
class Gsm8kTask(Task):
    r"""Find the number. The prompt and the five rewards are those of the paper (Appendix C.1).

    ``right``: the number read is the reference, exactly. ``integer``: it is a whole number.
    ``strict_format``, ``soft_format`` and ``xml_count`` look at the four tags
    (:mod:`dmpo.tasks.formats`); the last one is in [0, 0.5], the others are 0 or 1, so the
    reward is in [0, 4].

    A row of a source has ``question`` and ``answer``; the number is the whole answer or what
    follows its last ``####``. Training problems that also stand in the test source are left out.
    """

    Config = Gsm8kConfig

    headline = "right"

    def __init__(self, config: Gsm8kConfig) -> None:
        """Keep the config; the sources are read when first asked for."""
        self.config = config
        self.reward_weights: Mapping[str, float] = {
            "right": 2.0,
            "integer": 0.5,
            "strict_format": 0.5,
            "soft_format": 0.5,
            "xml_count": 1.0,
        }
        self.response_length = config.response_length

    def examples(self, split: Split) -> Sequence[Example]:
        """Return the problems of a split in the order of the source.

        Raises:
            DataError: If a source is missing, unreadable, empty, or not as described.
        """
        return sourced_examples(self.config, split, example_of=_example, subset=HUB_SUBSET)

    def from_record(self, record: Mapping[str, Any]) -> Example:
        """Return the problem of a saved completion: ours, or ``question`` and ``reference``.

        Raises:
            DataError: If it has neither.
        """
        if "question" not in record or "reference" not in record:
            return super().from_record(record)
        question, reference = text_column(record, "question"), record["reference"]
        return gsm8k_example(question, None if reference is None else str(reference))

    def read_answer(self, example: Example, completion: str) -> str | None:  # noqa: ARG002
        """Return the number in its shortest plain writing, or None."""
        if self.config.grader == "published":
            parsed, _ = published_gsm8k(completion, math.nan)
            return None if parsed is None else repr(parsed)
        number = _read(completion)
        return None if number is None else format_number(number)

    def grade(self, example: Example, completion: str) -> Mapping[str, float]:
        """Return ``right``, ``integer``, ``strict_format``, ``soft_format`` and ``xml_count``."""
        reference = _reference(example)
        if self.config.grader == "published":
            expected = math.nan if reference is None else float(reference)
            parsed, right = published_gsm8k(completion, expected)
            integer = parsed is not None and parsed.is_integer()
        else:
            number = _read(completion)
            right = number is not None and number == reference
            integer = number is not None and number.denominator == 1
        answer = until_end_of_turn(example.prefill + completion)
        return {
            "right": float(right),
            "integer": float(integer),
            "strict_format": strict_format(answer),
            "soft_format": soft_format(answer),
            "xml_count": tag_count(answer),
        }

    def demonstrate(self, example: Example, rng: random.Random) -> str:  # noqa: ARG002
        """Return the source's solution in the paper's format, without calculator annotations.

        Raises:
            DataError: If the source gives the number alone.
        """
        solution, reference = example.columns.get("solution"), _reference(example)
        if not solution or reference is None:
            raise DataError(f"{example.columns['question']:.60}: the source has no solution.")
        return paper_answer(solution, f"\\boxed{{{format_number(reference)}}}")


def gsm8k_example(question: str, answer: str | None, *, solution: str | None = None) -> Example:
    """Return a problem.

    Args:
        question: As the source has it.
        answer: A number as text; None where it is not known: then no answer is right.
        solution: The way there, to learn from.

    Raises:
        DataError: If the answer is no number.
    """
    number = None if answer is None else exact_number(answer)
    if answer is not None and number is None:
        raise DataError(f"the answer must be a number, found {answer!r:.60}.")
    columns: dict[str, Any] = {
        "question": question,
        "answer": None if number is None else format_number(number),
    }
    if solution is not None:
        columns["solution"] = solution
    prompt = user_message(GSM8K_SYSTEM, question)
    return Example(prompt=prompt, columns=columns, prefill=PREFILL)


def _read(completion: str) -> Fraction | None:
    text = until_end_of_turn(completion)
    behind_marker = text.rpartition(FINAL)[2].partition("\n")[0] if FINAL in text else ""
    candidates = itertools.chain(answer_candidates(text), [behind_marker])
    return next((found for each in candidates if (found := number_in(each)) is not None), None)


def _reference(example: Example) -> Fraction | None:
    answer = example.columns["answer"]
    return None if answer is None else _number(str(answer))


@functools.lru_cache(maxsize=65_536)
def _number(answer: str) -> Fraction | None:
    return exact_number(answer)


def _example(row: Mapping[str, Any]) -> Example:
    question, text = text_column(row, "question"), text_column(row, "answer")
    solution, marker, answer = text.rpartition(FINAL)
    way = _CALCULATION.sub("", solution).strip() if marker else None
    return gsm8k_example(question, answer, solution=way)
