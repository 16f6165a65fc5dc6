"""The contract of a task: where prompts come from and how an answer is read and graded."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from dmpo.errors import DataError
from dmpo.records import Example, Split
from dmpo.registry import PluginConfig

__all__ = ["Task"]


class Task(ABC):
    """A set of problems, disjoint in train, validation and test, and their grader.

    Pure: the same config gives the same examples, and text is never executed.
    """

    Config: ClassVar[type[PluginConfig]]

    reward_weights: Mapping[str, float]
    """Which of ``grade``'s figures make the task's own reward, and their factors."""
    headline: str
    """The figure of ``grade`` that stands first in tables."""
    response_length: int
    """Canvas length D that an answer needs, in tokens: the default of ``gen_length``."""

    @abstractmethod
    def examples(self, split: Split) -> Sequence[Example]:
        """Return the problems of a split, always in the same order.

        Raises:
            DataError: If the source is missing, unreadable or empty.
        """

    @abstractmethod
    def read_answer(self, example: Example, completion: str) -> str | None:
        """Return the answer in a canonical form, so that equal answers are equal text.

        None if no answer can be read. Never raises on any text.
        """

    @abstractmethod
    def grade(self, example: Example, completion: str) -> Mapping[str, float]:
        """Return named figures in [0, 1], the same names for every example.

        Never raises on any text.
        """

    def num_questions(self, example: Example) -> int:  # noqa: ARG002
        """Return how many yes-or-no questions the headline figure of a problem is a share of.

        Accuracy counts each of them once; 1 for a problem that is right or wrong.
        """
        return 1

    def from_record(self, record: Mapping[str, Any]) -> Example:
        """Return the problem of a saved completion, so that it can be graded again.

        Raises:
            DataError: If the record does not say which problem it answers.
        """
        prompt, columns = record.get("prompt"), record.get("columns")
        if not isinstance(prompt, str) or not isinstance(columns, Mapping):
            raise DataError(
                "it does not say which problem it answers: `prompt` and `columns` are needed, "
                f"given {', '.join(map(repr, record)) or 'nothing'}."
            )
        prefill = str(record.get("prefill", ""))
        return Example(prompt=prompt, columns=dict(columns), prefill=prefill)

    def grade_all(self, pairs: Sequence[tuple[Example, str]]) -> list[Mapping[str, float]]:
        """Return the figures of many completions, in order; a task may work on them at once."""
        return [self.grade(example, completion) for example, completion in pairs]

    @abstractmethod
    def demonstrate(self, example: Example, rng: random.Random) -> str:
        """Return an answer to learn from, for supervised fine-tuning.

        Raises:
            DataError: If the task knows no answers.
        """
