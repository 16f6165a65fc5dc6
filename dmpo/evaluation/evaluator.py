"""How good a policy is on a split of a task, with honest intervals."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal, final

import torch
from pydantic import Field, PositiveInt

from dmpo.errors import DataError
from dmpo.evaluation.summary import (
    EvaluatedChunk,
    EvaluatedCompletion,
    EvaluationResult,
    evaluation_result,
)
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Example, Rollouts
from dmpo.samplers.base import Sampler
from dmpo.settings import Settings
from dmpo.tasks.base import Task

__all__ = ["EvaluationSettings", "Evaluator", "graded"]


class EvaluationSettings(Settings):
    """Which problems are tried, and how often each."""

    split: Literal["test", "validation"] = Field("test", description="Part of the task to use.")
    num_examples: PositiveInt | None = Field(
        None, description="The first so many problems of the split; null: all of them."
    )
    samples_per_prompt: PositiveInt = Field(
        1,
        description="Completions of each problem; above 1, distinct right answers are counted and "
        "pass@k is estimated.",
    )
    rows_per_forward: PositiveInt = Field(128, description="Completions sampled at once, at most.")


@final
class Evaluator:
    """Samples completions for a split of a task and grades them.

    Args:
        task: Where problems and the grader come from.
        sampler: How completions are made; it need not be the one that training uses.
        settings: Which problems, how often.
    """

    def __init__(self, task: Task, sampler: Sampler, settings: EvaluationSettings) -> None:
        """Keep the parts; nothing is read yet."""
        self._task = task
        self._sampler = sampler
        self._settings = settings

    def starts(self) -> range:
        """Return the position of the first problem of each chunk.

        Raises:
            DataError: If the split is empty.
        """
        prompts_at_once = self._settings.rows_per_forward // self._settings.samples_per_prompt
        return range(0, len(self._examples()), max(1, prompts_at_once))

    def evaluate(self, policy: DiffusionPolicy, generator: torch.Generator) -> EvaluationResult:
        """Return the policy's figures; the policy is in evaluation mode for the time.

        Raises:
            DataError: If the split is empty.
        """
        return self.result(
            [self.evaluate_chunk(policy, start, generator) for start in self.starts()]
        )

    def evaluate_chunk(
        self, policy: DiffusionPolicy, start: int, generator: torch.Generator
    ) -> EvaluatedChunk:
        """Sample and grade the chunk that starts at a problem.

        What is drawn depends on the generator's seed and on ``start`` alone, so chunks may be
        shared out to processes, or done later.

        Args:
            policy: What answers; in evaluation mode for the time.
            start: One of :meth:`starts`.
            generator: Seeds the draws; the first chunk draws from it.

        Returns:
            The graded completions.
        """
        began = time.perf_counter()
        chunk = self._examples()[start : start + self.starts().step]
        with policy.evaluating():
            rollouts = self._sampler.sample(
                policy,
                policy.encode(chunk),
                num_rollouts=self._settings.samples_per_prompt,
                generator=_generator(generator, start),
            )
        samples = self._settings.samples_per_prompt
        completions = graded(
            self._task,
            [(example, text) for n, example in enumerate(chunk) for text in rollouts.texts[n]],
            indices=[start + row // samples for row in range(rollouts.num_rows)],
            lengths=rollouts.answer_mask.sum(-1).flatten().tolist(),
            entropies=_mean_entropies(rollouts),
        )
        return EvaluatedChunk(
            first_index=start,
            num_forwards=rollouts.num_forwards,
            seconds=time.perf_counter() - began,
            completions=completions,
        )

    def result(self, chunks: Sequence[EvaluatedChunk]) -> EvaluationResult:
        """Return the figures of all chunks."""
        return evaluation_result(chunks, headline=self._task.headline, split=self._settings.split)

    def _examples(self) -> Sequence[Example]:
        settings = self._settings
        examples = self._task.examples(settings.split)[: settings.num_examples]
        if not examples:
            raise DataError(f"evaluation: the {settings.split} split of the task is empty.")
        return examples


def graded(
    task: Task,
    pairs: Sequence[tuple[Example, str]],
    *,
    indices: Sequence[int],
    lengths: Sequence[int | None],
    entropies: Sequence[float | None],
) -> tuple[EvaluatedCompletion, ...]:
    """Return completions with their grades.

    Args:
        task: Whose grader counts.
        pairs: Problem and completion, one a row.
        indices: Position of each row's problem in the split.
        lengths: Answer tokens of each row.
        entropies: Of each row, mean in nats.
    """
    rows = zip(pairs, task.grade_all(pairs), indices, lengths, entropies, strict=True)
    return tuple(
        EvaluatedCompletion(
            index=index,
            prompt=example.prompt,
            completion=text,
            answer=task.read_answer(example, text),
            grades=dict(grades),
            length=length,
            num_questions=task.num_questions(example),
            entropy=entropy,
            prefill=example.prefill,
            columns=example.columns,
        )
        for (example, text), grades, index, length, entropy in rows
    )


def _mean_entropies(rollouts: Rollouts) -> list[float | None]:
    if rollouts.entropies is None:
        return [None] * rollouts.num_rows
    mask = rollouts.answer_mask.flatten(0, 1)
    kept = rollouts.entropies.flatten(0, 1).double() * mask
    means: list[float | None] = (kept.sum(-1) / mask.sum(-1).clamp_min(1)).tolist()
    return means


def _generator(generator: torch.Generator, start: int) -> torch.Generator:
    """Return what a chunk draws from."""
    if start == 0:
        return generator
    seed = (generator.initial_seed() + start * 0x9E3779B97F4A7C15) % 2**63
    return torch.Generator(device=generator.device).manual_seed(seed)
