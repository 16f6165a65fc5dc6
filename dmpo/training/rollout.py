"""Filling a buffer in as many forward passes as memory needs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn.functional import pad

from dmpo.errors import RewardError
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Prompts, Rewards, Rollouts
from dmpo.samplers.base import Sampler
from dmpo.training.events import UnmaskedSample

__all__ = ["check_rewards", "flat_groups", "joined", "sample_rollouts", "unmasked_sample"]


def sample_rollouts(
    policy: DiffusionPolicy,
    sampler: Sampler,
    prompts: Prompts,
    *,
    num_rollouts: int,
    rows_per_forward: int,
    generator: torch.Generator,
) -> Rollouts:
    """Return N rollouts of each prompt, whole groups at a time.

    Args:
        policy: The behaviour policy; in evaluation mode for the time.
        sampler: How completions are made.
        prompts: B prompts.
        num_rollouts: N.
        rows_per_forward: Rollouts sampled at once, at most; at least N.
        generator: The only source of randomness.

    Returns:
        The rollouts in the order of the prompts.
    """
    prompts_at_once = max(1, rows_per_forward // num_rollouts)
    with policy.evaluating():
        parts = [
            sampler.sample(
                policy,
                _rows(prompts, slice(start, start + prompts_at_once)),
                num_rollouts=num_rollouts,
                generator=generator,
            )
            for start in range(0, len(prompts.examples), prompts_at_once)
        ]
    return parts[0] if len(parts) == 1 else _joined(prompts, parts)


def joined(parts: Sequence[tuple[Rollouts, Rewards]]) -> tuple[Rollouts, Rewards]:
    """Return several buffers' rollouts and rewards as one; prompts are padded to the longest."""
    if len(parts) == 1:
        return parts[0]
    rollouts, rewards = zip(*parts, strict=True)
    names = dict.fromkeys(name for each in rewards for name in each.components)
    nothing = [torch.full_like(each.total, torch.nan) for each in rewards]
    return _joined(_padded([each.prompts for each in rollouts]), rollouts), Rewards(
        total=torch.cat([each.total for each in rewards]),
        components={
            # A reward that fails on a whole buffer has other components there.
            name: torch.cat(
                [each.components.get(name, nan) for each, nan in zip(rewards, nothing, strict=True)]
            )
            for name in names
        },
    )


def flat_groups(rewards: Rewards) -> Bool[Tensor, " B"]:
    """Return the prompts whose rollouts all have one reward."""
    return rewards.total.amax(dim=1) == rewards.total.amin(dim=1)


def check_rewards(rewards: Rewards, rollouts: Rollouts) -> None:
    """Refuse what would train on nothing without a word: rewards of another shape or of integers.

    Raises:
        RewardError: Naming what was given and what is expected.
    """
    expected = (rollouts.num_prompts, rollouts.num_rollouts)
    for name, values in {"total": rewards.total, **rewards.components}.items():
        if tuple(values.shape) != expected or not values.is_floating_point():
            raise RewardError(
                f"reward: {name} is {values.dtype} of shape {list(values.shape)}; expected "
                f"floating point of shape {list(expected)}."
            )


def unmasked_sample(
    policy: DiffusionPolicy, rollouts: Rollouts, rewards: Tensor, *, row: int
) -> UnmaskedSample:
    """Return the best rollout of one prompt, token by token.

    Args:
        policy: Whose tokenizer reads the tokens.
        rollouts: The buffer.
        rewards: Total rewards [B, N].
        row: Which prompt, from 0.
    """
    best = int(rewards[row].argmax())
    length = int(rollouts.answer_mask[row, best].sum())
    tokens = rollouts.completions[row, best, :length]
    return UnmaskedSample(
        prompt=rollouts.prompts.examples[row].prompt,
        tokens=tuple(policy.decode(tokens[:, None])),
        commit_steps=tuple(rollouts.commit_step[row, best, :length].tolist()),
        reward=float(rewards[row, best]),
    )


def _rows(prompts: Prompts, rows: slice) -> Prompts:
    return Prompts(
        examples=prompts.examples[rows],
        tokens=prompts.tokens[rows],
        attention_mask=prompts.attention_mask[rows],
    )


def _padded(prompts: Sequence[Prompts]) -> Prompts:
    longest = max(each.tokens.shape[1] for each in prompts)
    pads = [longest - each.tokens.shape[1] for each in prompts]
    return Prompts(
        examples=tuple(example for each in prompts for example in each.examples),
        tokens=torch.cat([pad(each.tokens, (n, 0)) for each, n in zip(prompts, pads, strict=True)]),
        attention_mask=torch.cat(
            [pad(each.attention_mask, (n, 0)) for each, n in zip(prompts, pads, strict=True)]
        ),
    )


def _joined(prompts: Prompts, parts: Sequence[Rollouts]) -> Rollouts:
    log_probs = [part.log_probs for part in parts if part.log_probs is not None]
    entropies = [part.entropies for part in parts if part.entropies is not None]
    return Rollouts(
        prompts=prompts,
        completions=torch.cat([part.completions for part in parts]),
        answer_mask=torch.cat([part.answer_mask for part in parts]),
        commit_step=torch.cat([part.commit_step for part in parts]),
        log_probs=torch.cat(log_probs) if len(log_probs) == len(parts) else None,
        entropies=torch.cat(entropies) if len(entropies) == len(parts) else None,
        temperature=parts[0].temperature,
        num_forwards=sum(part.num_forwards for part in parts),
        texts=tuple(texts for part in parts for texts in part.texts),
    )
