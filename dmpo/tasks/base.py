"""The contract of a task: where prompts come from and how an answer is read and graded."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

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

    @abstractmethod
    def demonstrate(self, example: Example, rng: random.Random) -> str:
        """Return an answer to learn from, for supervised fine-tuning.

        Raises:
            DataError: If the task knows no answers.
        """
