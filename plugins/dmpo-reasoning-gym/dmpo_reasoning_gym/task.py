"""Any data set of reasoning-gym as a task: ``--task reasoning_gym/leg_counting``."""

from __future__ import annotations

import hashlib
import math
import os
import random
import warnings
from collections.abc import Mapping, Sequence, Set
from typing import Any, final

from pydantic import Field

from dmpo.errors import ConfigError, DataError, UnknownNameError
from dmpo.records import Example, Split
from dmpo.registry import PluginConfig
from dmpo.tasks.base import Task
from dmpo_reasoning_gym.guard import is_safe
from dmpo_reasoning_gym.library import (
    HASH_DEPENDENT,
    Dataset,
    build_dataset,
    dataset_names,
    undisturbed,
)

__all__ = ["ReasoningGymConfig", "ReasoningGymTask"]

DRAWS_PER_ITEM = 4
SPARE_DRAWS = 64
MAX_LIBRARY_SEED = 2**31


class ReasoningGymConfig(PluginConfig):
    """Parameters of :class:`ReasoningGymTask`."""

    variant: str = Field(description="Name of the data set: what stands after reasoning_gym/.")
    params: Mapping[str, Any] = Field(
        default_factory=dict, description="Fields of the data set's own config."
    )
    seed: int = Field(0, ge=0, description="Seed of the items.")
    train_size: int = Field(512, ge=1, description="Distinct training questions.")
    validation_size: int = Field(64, ge=1, description="Distinct validation questions.")
    test_size: int = Field(64, ge=1, description="Distinct test questions.")
    response_length: int = Field(256, ge=1, description="Tokens that an answer needs.")


@final
class ReasoningGymTask(Task):
    """A data set of reasoning-gym under the library's own scorer.

    Every split is drawn from a seed of its own, test first; a question that was drawn before,
    in its own split or an earlier one, is left out, so no question stands in two splits;
    nor does one that an empty answer solves, or whose reference answer the guard would not let
    through. The answer is the whole completion, stripped.

    ``score`` is the library's, in [0, 1]; 0 where the scorer raises. Some scorers evaluate
    text as Python: they see an answer only if it is harmless by :mod:`dmpo_reasoning_gym.guard`,
    and are given an empty answer otherwise.
    """

    Config = ReasoningGymConfig

    headline = "score"

    def __init__(self, config: ReasoningGymConfig) -> None:
        """Build the data set once, so that a wrong name or parameter is reported here.

        Raises:
            UnknownNameError: If the library has no such data set.
            ConfigError: If the data set refuses ``params``.
        """
        if config.variant not in dataset_names():
            raise UnknownNameError("task reasoning_gym", config.variant, dataset_names())
        self.config = config
        self.reward_weights: Mapping[str, float] = {"score": 1.0}
        self.response_length = config.response_length
        self._scorer = self._dataset("test")
        self._examples: dict[Split, tuple[Example, ...]] = {}
        if config.variant in HASH_DEPENDENT and not os.environ.get("PYTHONHASHSEED", "").isdigit():
            warnings.warn(
                f"reasoning_gym/{config.variant}: its items depend on Python's hash seed; set "
                "PYTHONHASHSEED to a number to get the same items in every process.",
                stacklevel=2,
            )

    def examples(self, split: Split) -> Sequence[Example]:
        """Return the questions of a split, always in the same order.

        Raises:
            DataError: If the data set has not as many distinct questions.
        """
        # Test is drawn without regard to the others, so it stays when their sizes change.
        order: tuple[Split, ...] = ("test", "validation", "train")
        for each in order[: order.index(split) + 1]:
            if each not in self._examples:
                earlier = {e.prompt for part in self._examples.values() for e in part}
                self._examples[each] = self._draw(each, earlier)
        return self._examples[split]

    def read_answer(self, example: Example, completion: str) -> str | None:  # noqa: ARG002
        """Return the completion, stripped; None if nothing is left."""
        return completion.strip() or None

    def grade(self, example: Example, completion: str) -> Mapping[str, float]:
        """Return ``score``."""
        entry = {"question": example.prompt, **example.columns}
        answer = completion.strip()
        if not self._may_see(example, answer):
            answer = ""
        try:
            with undisturbed(0):
                score = float(self._scorer.score_answer(answer, entry))
        except Exception:  # scorers raise whatever their parsing raises
            return {"score": 0.0}
        return {"score": min(1.0, max(0.0, score)) if math.isfinite(score) else 0.0}

    def demonstrate(self, example: Example, rng: random.Random) -> str:  # noqa: ARG002
        """Return the data set's reference answer.

        Raises:
            DataError: If the data set gives none (it only scores answers).
        """
        answer = example.columns["answer"]
        if not isinstance(answer, str):
            raise DataError(
                f"reasoning_gym/{self.config.variant} knows no answers, it only scores them; "
                "supervised fine-tuning needs another task."
            )
        return answer

    def _is_fair(self, example: Example) -> bool:
        """Return whether there is something to answer, and the reference answer can be scored.

        A cube's scramble may undo itself; the answer to an integral may be ``Integral(…)``.
        """
        answer = example.columns["answer"]
        if isinstance(answer, str):
            return self._may_see(example, answer.strip())
        return self.grade(example, "")["score"] < 1

    def _may_see(self, example: Example, answer: str) -> bool:
        # A composite hands the answer on to the scorer of the item's own data set.
        source = example.columns["metadata"].get("source_dataset", self.config.variant)
        return all(is_safe(name, answer) for name in {source, self.config.variant})

    def _size(self, split: Split) -> int:
        config = self.config
        sizes = {
            "train": config.train_size,
            "validation": config.validation_size,
            "test": config.test_size,
        }
        return sizes[split]

    def _seed(self, split: Split) -> int:
        # The library draws item i from seed + i: neighbouring seeds would share their items.
        digest = hashlib.sha256(f"{self.config.seed} {split}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % MAX_LIBRARY_SEED

    def _dataset(self, split: Split) -> Dataset:
        variant, params = self.config.variant, self.config.params
        for name in ("seed", "size"):
            if name in params:
                raise ConfigError(f"task.params.{name}: set by task.seed and the split sizes.")
        size = DRAWS_PER_ITEM * self._size(split) + SPARE_DRAWS
        try:
            return build_dataset(variant, params, seed=self._seed(split), size=size)
        except Exception as error:  # the library's checks raise what they like
            raise ConfigError(
                f"task.params: reasoning_gym/{variant} refuses {dict(params)!r}: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _draw(self, split: Split, earlier: Set[str]) -> tuple[Example, ...]:
        dataset, count = self._dataset(split), self._size(split)
        found: dict[str, Example] = {}
        with undisturbed(self._seed(split)):
            for index in range(DRAWS_PER_ITEM * count + SPARE_DRAWS):
                entry = dataset[index]
                columns = {"answer": entry["answer"], "metadata": entry["metadata"]}
                example = Example(prompt=entry["question"], columns=columns)
                is_known = example.prompt in earlier or example.prompt in found
                if not is_known and self._is_fair(example):
                    found[example.prompt] = example
                if len(found) == count:
                    return tuple(found.values())
        raise DataError(
            f"reasoning_gym/{self.config.variant}: found {len(found)} distinct {split} questions "
            f"that no other split has, {count} were asked for; lower task.{split}_size."
        )
