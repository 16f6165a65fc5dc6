"""The first half of a buffer: prompts, rollouts of each, rewards, and no group without signal."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch

from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Prompts, Rewards, Rollouts
from dmpo.rewards.base import RewardModel
from dmpo.rewards.running import InBackground
from dmpo.samplers.base import Sampler
from dmpo.tasks.base import Task
from dmpo.training.engine import Engine
from dmpo.training.phases import PhaseMeter
from dmpo.training.prompts import prompt_indices
from dmpo.training.randomness import group_generator
from dmpo.training.regroup import on_device, part_of, pinned
from dmpo.training.rollout import (
    check_rewards,
    flat_groups,
    inverse,
    joined,
    joined_rewards,
    sample_rollouts,
)
from dmpo.training.settings import TrainingSettings

__all__ = ["BufferFiller", "FilledBuffer"]

Scored = tuple[Rollouts, Rewards]


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
    """Groups, over all processes, that were sampled and scored in vain."""


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
            ConfigError: If there are more processes than prompts in a buffer.
        """
        self._policy = policy
        self._task = task
        self._sampler = sampler
        self._reward = reward
        self._settings = settings
        self._engine = engine
        self._meter = meter
        self._seed = seed
        settings.check_shared_by(engine.num_ranks)
        self.examples = task.examples("train")

    def fill(self, cursor: int, step: int) -> FilledBuffer:
        """Return this process's part of a buffer; all processes together have B groups.

        Args:
            cursor: Prompts taken since the beginning, over all processes.
            step: Gradient steps taken: what is drawn is seeded by it and by each prompt's place.
        """
        wanted = self._settings.prompts_per_buffer
        first = self._scored(cursor, wanted, step)
        if self._settings.flat_groups != "replace":
            return self._filled(first, wanted)
        varied, flat = _told_apart(first)
        taken, missing = wanted, wanted - self._engine.total(len(varied))
        for _ in range(self._settings.replacement_rounds):
            if missing == 0:
                break
            more, flat_more = _told_apart(self._scored(cursor + taken, missing, step))
            taken += missing
            varied, flat = varied + more, flat + flat_more
            missing -= self._engine.total(len(more))
        return self._filled(self._dealt_out(varied, flat), taken)

    def _dealt_out(self, varied: list[Scored], flat: list[Scored]) -> list[Scored]:
        """Share the groups with signal evenly; the first flat ones fill up what is missing."""
        wanted, engine = self._settings.prompts_per_buffer, self._engine
        if engine.num_ranks == 1:
            return [*varied, *flat[: wanted - len(varied)]]
        everyone = engine.gathered((pinned(varied), pinned(flat)))
        all_varied = sorted((g for own, _ in everyone for g in own), key=_place)
        all_flat = sorted((g for _, own in everyone for g in own), key=_place)
        groups = [*all_varied, *all_flat[: wanted - len(all_varied)]]
        mine = part_of(wanted, engine.rank, engine.num_ranks)
        return on_device([groups[place] for place in mine], self._policy.device)

    def _filled(self, groups: list[Scored], taken: int) -> FilledBuffer:
        rollouts, rewards = joined(groups)
        return FilledBuffer(
            rollouts=rollouts,
            rewards=rewards,
            num_prompts_taken=taken,
            num_discarded=taken - self._settings.prompts_per_buffer,
        )

    def _scored(self, cursor: int, count: int, step: int) -> list[Scored]:
        """Take this process's part of the next ``count`` prompts, sample a group of each, score it.

        Returns:
            What there is, in one piece; nothing where there are more processes than prompts.
        """
        mine = part_of(count, self._engine.rank, self._engine.num_ranks)
        if not mine:
            return []
        prompts = self._encoded(cursor, count, mine)
        overlap = self._settings.overlap_rewards
        background = InBackground[Rewards]() if overlap else None
        order: list[int] = []

        def score(rollouts: Rollouts) -> Rewards:
            return self._reward.score(rollouts, self._task)

        def begin_scoring(rollouts: Rollouts) -> None:
            assert background is not None
            assert rollouts.prompts.index is not None
            order.extend(rollouts.prompts.index.tolist())
            background.add(functools.partial(score, rollouts))

        with self._meter.phase("rollout"):
            rollouts = sample_rollouts(
                self._policy,
                self._sampler,
                prompts,
                num_rollouts=self._settings.rollouts_per_prompt,
                rows_per_forward=self._settings.rows_per_forward,
                generator=functools.partial(group_generator, self._seed, step, "rollout"),
                on_portion=None if background is None else begin_scoring,
            )
        with self._meter.phase("reward"):
            if background is None:
                rewards = score(rollouts)
            else:
                found = joined_rewards(background.results())
                rewards = found.groups(inverse([place - cursor - mine.start for place in order]))
            check_rewards(rewards, rollouts)
        return [(rollouts, rewards)]

    def _encoded(self, cursor: int, count: int, mine: range) -> Prompts:
        indices = prompt_indices(len(self.examples), seed=self._seed, cursor=cursor, count=count)
        prompts = self._policy.encode([self.examples[indices[place]] for place in mine])
        return replace(prompts, index=torch.arange(cursor + mine.start, cursor + mine.stop))


def _told_apart(scored: Sequence[Scored]) -> tuple[list[Scored], list[Scored]]:
    """Return the groups whose rewards differ, and those whose do not, one by one."""
    varied: list[Scored] = []
    flat: list[Scored] = []
    for rollouts, rewards in scored:
        for n, is_flat in enumerate(flat_groups(rewards).tolist()):
            (flat if is_flat else varied).append((rollouts.groups([n]), rewards.groups([n])))
    return varied, flat


def _place(group: Scored) -> int:
    index = group[0].prompts.index
    assert index is not None
    return int(index[0])
