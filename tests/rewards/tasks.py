"""A task with a grader that can be made to misbehave."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, final

from dmpo.records import Example, Split
from dmpo.registry import PluginConfig
from dmpo.tasks.base import Task


@final
class LengthTask(Task):
    """Grades the length of a completion; counts how often it is asked."""

    Config = PluginConfig
    headline = "length"
    response_length = 4

    def __init__(self, figures: Mapping[str, Any] | None = None) -> None:
        self.reward_weights = {"length": 0.5, "even": 2.0}
        self.figures = figures
        self.graded: list[tuple[str, str]] = []

    def examples(self, split: Split) -> Sequence[Example]:
        return [Example(prompt=split)]

    def read_answer(self, example: Example, completion: str) -> str | None:
        return completion

    def grade(self, example: Example, completion: str) -> Mapping[str, float]:
        self.graded.append((example.prompt, completion))
        if completion == "raise":
            raise KeyError("no such cell")
        if self.figures is not None:
            return self.figures
        return {"length": len(completion), "even": len(completion) % 2 == 0, "other": 7.0}

    def grade_all(self, pairs: Sequence[tuple[Example, str]]) -> list[Mapping[str, float]]:
        # Unlike the library's own, unchecked: figures that are no numbers come through.
        return [self.grade(example, completion) for example, completion in pairs]

    def demonstrate(self, example: Example, rng: random.Random) -> str:
        return "x"
