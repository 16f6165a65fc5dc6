"""How good a policy is on a split of a task, with honest intervals."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, final

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from dmpo.errors import DataError
from dmpo.evaluation.figures import Figure, pass_at_k, powers_up_to, summarize
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Example, Rollouts
from dmpo.samplers.base import Sampler
from dmpo.settings import Settings
from dmpo.tasks.base import Task

__all__ = ["EvaluatedCompletion", "EvaluationResult", "EvaluationSettings", "Evaluator"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedCompletion:
    """One completion with its grades."""

    index: int
    """Position of the problem in the split."""
    prompt: str
    """What the policy read."""
    completion: str
    """What it wrote."""
    answer: str | None
    """The answer in the task's canonical form, if one could be read."""
    grades: Mapping[str, float]
    """The task's figures."""
    length: int
    """Answer tokens, the first EOS included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """What an evaluation found."""

    split: str
    """Part of the task that was used."""
    headline: str
    """The figure that stands first."""
    figures: Mapping[str, Figure]
    """Every figure of the task's grader, the headline first."""
    num_examples: int
    """Problems tried."""
    samples_per_prompt: int
    """Completions of each."""
    response_length: float
    """Mean answer tokens, the first EOS included."""
    distinct_right: float | None
    """Mean number of distinct right answers per problem; None with one sample each."""
    num_forwards: int
    """Forward passes of the policy, over all batches."""
    seconds: float
    """Wall-clock seconds, sampling and grading."""
    tokens_per_second: float
    """Answer tokens written per second."""
    completions: tuple[EvaluatedCompletion, ...]
    """Every completion, problem by problem."""
    pass_at: Mapping[int, Figure] = field(default_factory=dict)
    """pass@k of the headline (a grade of 1 is right) for k = 1, 2, 4, …; empty with one sample."""
    entropy: float | None = None
    """Entropy of the distribution that an answer token was drawn from, before temperature, mean
    over answer tokens in nats; None where the sampler does not record it."""

    @property
    def score(self) -> float:
        """Mean of the headline figure."""
        return self.figures[self.headline].mean


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

    def evaluate(self, policy: DiffusionPolicy, generator: torch.Generator) -> EvaluationResult:
        """Return the policy's figures; the policy is in evaluation mode for the time.

        Raises:
            DataError: If the split is empty.
        """
        settings = self._settings
        examples = self._task.examples(settings.split)[: settings.num_examples]
        if not examples:
            raise DataError(f"evaluation: the {settings.split} split of the task is empty.")
        started = time.perf_counter()
        completions: list[EvaluatedCompletion] = []
        entropies: list[Tensor] = []
        num_forwards = 0
        prompts_at_once = max(1, settings.rows_per_forward // settings.samples_per_prompt)
        for start in range(0, len(examples), prompts_at_once):
            chunk = examples[start : start + prompts_at_once]
            with policy.evaluating():
                rollouts = self._sampler.sample(
                    policy,
                    policy.encode(chunk),
                    num_rollouts=settings.samples_per_prompt,
                    generator=generator,
                )
            num_forwards += rollouts.num_forwards
            completions += self._grade(chunk, rollouts, first_index=start)
            if rollouts.entropies is not None:
                entropies.append(rollouts.entropies[rollouts.answer_mask].double())
        entropy = float(torch.cat(entropies).mean()) if entropies else None
        return self._result(completions, len(examples), num_forwards, started, entropy)

    def _grade(
        self, examples: Sequence[Example], rollouts: Rollouts, *, first_index: int
    ) -> list[EvaluatedCompletion]:
        lengths = rollouts.answer_mask.sum(-1).tolist()
        return [
            EvaluatedCompletion(
                index=first_index + row,
                prompt=example.prompt,
                completion=text,
                answer=self._task.read_answer(example, text),
                grades=dict(self._task.grade(example, text)),
                length=length,
            )
            for row, example in enumerate(examples)
            for text, length in zip(rollouts.texts[row], lengths[row], strict=True)
        ]

    def _result(
        self,
        completions: Sequence[EvaluatedCompletion],
        num_examples: int,
        num_forwards: int,
        started: float,
        entropy: float | None,
    ) -> EvaluationResult:
        headline, samples = self._task.headline, self._settings.samples_per_prompt
        names = [headline, *(name for name in completions[0].grades if name != headline)]
        groups = [completions[i : i + samples] for i in range(0, len(completions), samples)]
        num_tokens = sum(completion.length for completion in completions)
        seconds = time.perf_counter() - started
        return EvaluationResult(
            split=self._settings.split,
            headline=headline,
            figures={
                name: summarize([[c.grades[name] for c in group] for group in groups])
                for name in names
            },
            num_examples=num_examples,
            samples_per_prompt=samples,
            response_length=num_tokens / len(completions),
            distinct_right=distinct_right(groups, headline) if samples > 1 else None,
            num_forwards=num_forwards,
            seconds=seconds,
            tokens_per_second=num_tokens / seconds,
            completions=tuple(completions),
            pass_at=passes_at(groups, headline) if samples > 1 else {},
            entropy=entropy,
        )


def distinct_right(groups: Sequence[Sequence[EvaluatedCompletion]], headline: str) -> float:
    """Return the mean number of distinct answers per problem whose headline figure is 1."""
    right = [{c.answer for c in group if c.grades[headline] == 1} for group in groups]
    return sum(map(len, right)) / len(right)


def passes_at(groups: Sequence[Sequence[EvaluatedCompletion]], headline: str) -> dict[int, Figure]:
    """Return pass@k over problems, for k = 1, 2, 4, … and the number of samples."""
    num_samples = len(groups[0])
    right = [sum(c.grades[headline] == 1 for c in group) for group in groups]
    return {
        k: summarize([[pass_at_k(num_samples, count, k)] for count in right])
        for k in powers_up_to(num_samples)
    }
