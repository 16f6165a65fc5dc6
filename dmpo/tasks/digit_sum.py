"""Four digits with a given sum and two forbidden digits: many right answers, jointly decided.

The prompt ``17!38=`` asks for four digits that add up to 17 and are neither 3 nor 8. There are
17 sums (10 to 26) times 45 pairs of digits, 765 prompts, each with 10 to 344 right answers.
Every digit alone is nearly free; only the four together are right or wrong.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Mapping, Sequence
from typing import final

from pydantic import Field, model_validator

from dmpo.records import Example, Split
from dmpo.registry import PluginConfig
from dmpo.tasks.base import Task
from dmpo.tasks.splits import shuffled_split

__all__ = ["DigitSumConfig", "DigitSumTask"]

NUM_DIGITS = 4
SUMS = range(10, 27)
DIGITS = "0123456789"


class DigitSumConfig(PluginConfig):
    """Parameters of :class:`DigitSumTask`."""

    seed: int = Field(0, ge=0, description="Seed of the shuffle that cuts the 765 prompts.")
    test_size: int = Field(96, ge=1, description="Prompts held out for the final figures.")
    validation_size: int = Field(96, ge=1, description="Prompts held out for choosing settings.")
    right_fraction: float = Field(
        0.35, ge=0, le=1, description="Share of demonstrations that are right, drawn uniformly."
    )
    joint_fault_fraction: float = Field(
        0.40,
        ge=0,
        le=1,
        description="Share of demonstrations of allowed digits whose sum is one too high; what "
        "is left over has the right sum and a forbidden digit.",
    )

    @model_validator(mode="after")
    def _fractions_are_a_mixture(self) -> DigitSumConfig:
        total = self.right_fraction + self.joint_fault_fraction
        if total > 1 + 1e-9:
            raise ValueError(
                f"right_fraction and joint_fault_fraction add up to {total:g}; at most 1 is left."
            )
        return self


@final
class DigitSumTask(Task):
    """Digits that only count together.

    A completion is read as an answer when, white space left out, it is exactly four ASCII
    digits; anything longer or shorter is wrong.
    """

    Config = DigitSumConfig

    headline = "right"
    response_length = NUM_DIGITS

    def __init__(self, config: DigitSumConfig) -> None:
        """Keep the config; the prompts are made when first asked for."""
        self.config = config
        self.reward_weights: Mapping[str, float] = {"right": 1.0}

    def examples(self, split: Split) -> Sequence[Example]:
        """Return the prompts of a split, always in the same order."""
        config = self.config
        return _examples(config.seed, config.test_size, config.validation_size)[split]

    def right_answers(self, example: Example) -> tuple[str, ...]:
        """Return every right answer of a prompt, in ascending order."""
        total, forbidden = _question(example)
        return _answers(total, forbidden)

    def read_answer(self, example: Example, completion: str) -> str | None:  # noqa: ARG002
        """Return the four digits, or None where the text is anything else."""
        text = "".join(completion.split())
        if len(text) == NUM_DIGITS and all(character in DIGITS for character in text):
            return text
        return None

    def grade(self, example: Example, completion: str) -> Mapping[str, float]:
        """Return ``right``: 1 if the sum is right and no forbidden digit occurs."""
        answer = self.read_answer(example, completion)
        if answer is None:
            return {"right": 0.0}
        total, forbidden = _question(example)
        allowed = not set(answer) & set(forbidden)
        return {"right": float(allowed and sum(map(int, answer)) == total)}

    def demonstrate(self, example: Example, rng: random.Random) -> str:
        """Return a right answer, one with a joint fault, or one with a marginal fault."""
        total, forbidden = _question(example)
        draw = rng.random()
        if draw < self.config.right_fraction:
            return rng.choice(_answers(total, forbidden))
        if draw < self.config.right_fraction + self.config.joint_fault_fraction:
            return rng.choice(_answers(total + 1, forbidden))
        return rng.choice(_answers_with(total, forbidden))


def _question(example: Example) -> tuple[int, str]:
    return int(example.columns["sum"]), str(example.columns["forbidden"])


def _example(question: tuple[int, str]) -> Example:
    total, forbidden = question
    return Example(prompt=f"{total}!{forbidden}=", columns={"sum": total, "forbidden": forbidden})


@functools.lru_cache(maxsize=8)
def _examples(seed: int, num_test: int, num_validation: int) -> Mapping[Split, tuple[Example, ...]]:
    pairs = ["".join(pair) for pair in itertools.combinations(DIGITS, 2)]
    parts = shuffled_split(
        list(itertools.product(SUMS, pairs)),
        num_test=num_test,
        num_validation=num_validation,
        seed=seed,
    )
    return {split: tuple(_example(question) for question in part) for split, part in parts.items()}


@functools.cache
def _responses(total: int) -> tuple[str, ...]:
    tuples = ("".join(digits) for digits in itertools.product(DIGITS, repeat=NUM_DIGITS))
    return tuple(text for text in tuples if sum(map(int, text)) == total)


@functools.cache
def _answers(total: int, forbidden: str) -> tuple[str, ...]:
    return tuple(text for text in _responses(total) if not set(text) & set(forbidden))


@functools.cache
def _answers_with(total: int, forbidden: str) -> tuple[str, ...]:
    return tuple(text for text in _responses(total) if set(text) & set(forbidden))
