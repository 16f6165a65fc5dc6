"""The first half of a buffer: prompts, rollouts of each, rewards, and no group without signal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Example, Rewards, Rollouts
from dmpo.rewards.base import RewardModel
from dmpo.samplers.base import Sampler
from dmpo.tasks.base import Task
from dmpo.training.engine import Engine
from dmpo.training.phases import PhaseMeter
from dmpo.training.prompts import prompt_indices
from dmpo.training.rollout import check_rewards, flat_groups, joined, sample_rollouts
from dmpo.training.settings import TrainingSettings

__all__ = ["BufferFiller", "FilledBuffer"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FilledBuffer:
    """Rollouts with rewards, whole groups."""

    rollouts: Rollouts
    """Of this process's share of the prompts."""
    rewards: Rewards
    """Their rewards."""
    num_prompts_taken: int
    """Prompts used up, over all processes; more than B where flat groups were replaced."""
    num_discarded: int
    """Groups of this process that were sampled and scored in vain."""


@final
class BufferFiller:
    """Samples and scores; where it is asked to, replaces prompts whose rewards are all equal.

    Args:
        policy: What is trained.
        task: Where prompts come from.
        sampler: How rollouts are made.
        reward: What makes a rollout good.
        settings: How many of what.
        engine: The processes, which share the prompts of a buffer.
        meter: Books seconds and tokens of rollouts and rewards.
        seed: The run's.
    """

    def __init__(
        self,
        *,
        policy: DiffusionPolicy,
        task: Task,
        sampler: Sampler,
        reward: RewardModel,
        settings: TrainingSettings,
        engine: Engine,
        meter: PhaseMeter,
        seed: int,
    ) -> None:
        """Read the training problems.

        Raises:
            ConfigError: If the processes cannot share the prompts of a buffer evenly.
        """
        self._policy = policy
        self._task = task
        self._sampler = sampler
        self._reward = reward
        self._settings = settings
        self._engine = engine
        self._meter = meter
        self._seed = seed
        self._share = engine.share(settings.prompts_per_buffer, "prompts_per_buffer")
        self.examples = task.examples("train")

    def fill(self, cursor: int, generator: torch.Generator) -> FilledBuffer:
        """Return a whole buffer.

        Args:
            cursor: Prompts taken since the beginning, over all processes.
            generator: The only source of randomness.
        """
        settings, share = self._settings, self._share
        first = self._scored(cursor, share, generator)
        taken = share
        if settings.flat_groups != "replace":
            return self._filled([first], [], taken, num_discarded=0)
        varied, flat = _told_apart(first)
        parts = [varied]
        for _ in range(settings.replacement_rounds):
            missing = share - sum(rewards.total.shape[0] for _, rewards in parts)
            # Every process takes as many prompts as the one that lacks most: one cursor for all.
            asked = self._engine.largest(missing)
            if asked == 0:
                break
            more = self._scored(cursor + taken * self._engine.num_ranks, asked, generator)
            taken += asked
            varied, flat_more = _told_apart(more)
            parts.append(_first_groups(varied, missing))
            flat = joined([flat, flat_more])
        missing = share - sum(rewards.total.shape[0] for _, rewards in parts)
        return self._filled(parts, [_first_groups(flat, missing)], taken, taken - share)

    def _filled(
        self,
        varied: list[tuple[Rollouts, Rewards]],
        flat: list[tuple[Rollouts, Rewards]],
        taken: int,
        num_discarded: int,
    ) -> FilledBuffer:
        parts = [part for part in (*varied, *flat) if part[1].total.shape[0]]
        rollouts, rewards = joined(parts)
        return FilledBuffer(
            rollouts=rollouts,
            rewards=rewards,
            num_prompts_taken=taken * self._engine.num_ranks,
            num_discarded=num_discarded,
        )

    def _scored(
        self, cursor: int, count: int, generator: torch.Generator
    ) -> tuple[Rollouts, Rewards]:
        """Take this process's ``count`` of the next prompts, sample a group of each, score it."""
        settings = self._settings
        prompts = self._policy.encode(self._next_examples(cursor, count))
        with self._meter.phase("rollout"):
            rollouts = sample_rollouts(
                self._policy,
                self._sampler,
                prompts,
                num_rollouts=settings.rollouts_per_prompt,
                rows_per_forward=settings.rows_per_forward,
                generator=generator,
            )
        with self._meter.phase("reward"):
            rewards = self._reward.score(rollouts, self._task)
            check_rewards(rewards, rollouts)
        return rollouts, rewards

    def _next_examples(self, cursor: int, count: int) -> list[Example]:
        everyone = count * self._engine.num_ranks
        indices = prompt_indices(len(self.examples), seed=self._seed, cursor=cursor, count=everyone)
        first = self._engine.rank * count
        return [self.examples[index] for index in indices[first : first + count]]


def _told_apart(
    scored: tuple[Rollouts, Rewards],
) -> tuple[tuple[Rollouts, Rewards], tuple[Rollouts, Rewards]]:
    """Return the groups whose rewards differ, and those whose do not."""
    rollouts, rewards = scored
    flat = flat_groups(rewards).tolist()
    varied = [n for n, is_flat in enumerate(flat) if not is_flat]
    equal = [n for n, is_flat in enumerate(flat) if is_flat]
    return (
        (rollouts.groups(varied), rewards.groups(varied)),
        (rollouts.groups(equal), rewards.groups(equal)),
    )


def _first_groups(scored: tuple[Rollouts, Rewards], count: int) -> tuple[Rollouts, Rewards]:
    rollouts, rewards = scored
    index = range(min(count, rewards.total.shape[0]))
    return rollouts.groups(index), rewards.groups(index)
