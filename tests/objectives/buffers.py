"""Small buffers and policies that the tests of objectives share."""

from __future__ import annotations

from dataclasses import replace

import torch

from dmpo.records import Prompts, Rewards, Rollouts
from tests.objectives.build import rng
from tests.oracles.records import rewards_of, rollouts_of
from tests.oracles.tabular import RESPONSES, TabularPolicy, random_table


def move(policy: TabularPolicy, seed: int = 5, scale: float = 0.3) -> None:
    with torch.no_grad():
        policy.table.add_(random_table(seed, scale))


def moved_policy(seed: int = 1) -> TabularPolicy:
    """A policy that has already left its reference."""
    policy = TabularPolicy(random_table(seed))
    policy.freeze_reference()
    move(policy, seed + 1)
    return policy


def two_groups(seed: int = 0, num_rollouts: int = 4) -> tuple[Rollouts, Rewards]:
    """Two prompts; one answer is shorter than the canvas."""
    index = torch.randint(0, 81, (2, num_rollouts), generator=rng(seed))
    prompts = torch.zeros(2, 1, dtype=torch.long)
    answer = torch.ones(2, num_rollouts, 4, dtype=torch.bool)
    answer[0, 1, 2:] = False
    rollouts = rollouts_of(prompts, RESPONSES[index], answer_mask=answer)
    return rollouts, rewards_of(torch.rand(2, num_rollouts, generator=rng(seed + 1)))


def padded(rollouts: Rollouts, width: int = 3) -> Rollouts:
    """The same rollouts, their prompts padded on the left."""
    prompts = rollouts.prompts
    left = torch.zeros(rollouts.num_prompts, width, dtype=torch.long)
    return replace(
        rollouts,
        prompts=Prompts(
            examples=prompts.examples,
            tokens=torch.cat([left, prompts.tokens], dim=1),
            attention_mask=torch.cat([left.bool(), prompts.attention_mask], dim=1),
        ),
    )
