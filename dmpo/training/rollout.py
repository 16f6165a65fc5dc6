"""Filling a buffer in as many forward passes as memory needs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import pad

from dmpo.errors import RewardError
from dmpo.policies.base import DiffusionPolicy
from dmpo.policies.portions import in_portions
from dmpo.records import Prompts, Rewards, Rollouts
from dmpo.rewards.running import row_name
from dmpo.samplers.base import Sampler
from dmpo.training.events import UnmaskedSample

__all__ = [
    "check_rewards",
    "flat_groups",
    "inverse",
    "joined",
    "joined_rewards",
    "joined_rollouts",
    "sample_rollouts",
    "token_texts",
    "unmasked_sample",
]

BROKEN = "\ufffd"
"""What a tokenizer makes of a token that is a part of a character."""


def sample_rollouts(
    policy: DiffusionPolicy,
    sampler: Sampler,
    prompts: Prompts,
    *,
    num_rollouts: int,
    rows_per_forward: int,
    generator: Callable[[Prompts], torch.Generator],
    on_portion: Callable[[Rollouts], None] | None = None,
) -> Rollouts:
    """Return N rollouts of each prompt, whole groups at a time.

    Prompts of about one length are sampled together, so that little is padded.

    Args:
        policy: The behaviour policy; in evaluation mode for the time.
        sampler: How completions are made.
        prompts: B prompts.
        num_rollouts: N.
        rows_per_forward: Rollouts sampled at once, at most; at least N. Fewer, down to N, where
            memory is too small.
        generator: The source of randomness of some of the prompts.
        on_portion: Told of the rollouts that are there, while others are still to come; in the
            order of the prompts' lengths.

    Returns:
        The rollouts in the order of the prompts.
    """
    prompts_at_once = max(1, rows_per_forward // num_rollouts)
    order = prompts.attention_mask.sum(dim=1).argsort(stable=True).tolist()

    def sampled(portion: slice) -> Rollouts:
        some = prompts.rows(order[portion]).trimmed()
        rollouts = sampler.sample(
            policy, some, num_rollouts=num_rollouts, generator=generator(some)
        )
        if on_portion is not None:
            on_portion(rollouts)
        return rollouts

    with policy.evaluating():
        parts = in_portions(len(order), prompts_at_once, sampled)
    if len(parts) == 1 and order == sorted(order):
        return parts[0]
    return joined_rollouts(parts).groups(inverse(order))


def inverse(order: Sequence[int]) -> list[int]:
    """Return where each thing lies that has been put into an order."""
    return sorted(range(len(order)), key=order.__getitem__)


def joined(parts: Sequence[tuple[Rollouts, Rewards]]) -> tuple[Rollouts, Rewards]:
    """Return several buffers' rollouts and rewards as one; prompts are padded to the longest."""
    if len(parts) == 1:
        return parts[0]
    rollouts, rewards = zip(*parts, strict=True)
    return joined_rollouts(rollouts), joined_rewards(rewards)


def joined_rewards(parts: Sequence[Rewards]) -> Rewards:
    """Return the rewards of several buffers as those of one."""
    names = dict.fromkeys(name for each in parts for name in each.components)
    nothing = [torch.full_like(each.total, torch.nan) for each in parts]
    return Rewards(
        total=torch.cat([each.total for each in parts]),
        components={
            # A reward that fails on a whole buffer has other components there.
            name: torch.cat(
                [each.components.get(name, nan) for each, nan in zip(parts, nothing, strict=True)]
            )
            for name in names
        },
    )


def flat_groups(rewards: Rewards) -> Bool[Tensor, " B"]:
    """Return the prompts whose rollouts all have one reward."""
    return rewards.total.amax(dim=1) == rewards.total.amin(dim=1)


def check_rewards(rewards: Rewards, rollouts: Rollouts) -> None:
    """Refuse what would train on nothing without a word.

    Raises:
        RewardError: If rewards are of another shape, whole numbers, or their total is not finite;
            naming what was given and what is expected.
    """
    expected = (rollouts.num_prompts, rollouts.num_rollouts)
    for name, values in {"total": rewards.total, **rewards.components}.items():
        if tuple(values.shape) != expected or not values.is_floating_point():
            raise RewardError(
                f"reward: {name} is {values.dtype} of shape {list(values.shape)}; expected "
                f"floating point of shape {list(expected)}."
            )
    wrong = (~rewards.total.isfinite()).flatten().nonzero()
    if len(wrong):
        row = int(wrong[0])
        value = float(rewards.total.flatten()[row])
        raise RewardError(
            f"reward: total of {row_name(row, rollouts.num_rollouts)} is {value}; finite numbers "
            "are expected."
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
        tokens=token_texts(policy.decode, tokens),
        commit_steps=tuple(rollouts.commit_step[row, best, :length].tolist()),
        reward=float(rewards[row, best]),
    )


def token_texts(
    decode: Callable[[Int[Tensor, "S D"]], Sequence[str]], tokens: Int[Tensor, " K"]
) -> tuple[str, ...]:
    """Return the text of each token; together they are the text of all.

    Of neighbours that are parts of characters the first has the text, the others an empty one.

    Args:
        decode: Reads rows of token ids, special tokens as empty text.
        tokens: Neighbours on a canvas.
    """
    texts = list(decode(tokens[:, None])) if len(tokens) else []
    parts = itertools.groupby(range(len(texts)), key=lambda at: BROKEN in texts[at])
    for places in [list(group) for is_broken, group in parts if is_broken]:
        (whole,) = decode(tokens[places[0] : places[-1] + 1][None])
        texts[places[0] : places[-1] + 1] = [whole, *[""] * (len(places) - 1)]
    return tuple(texts)


def joined_rollouts(parts: Sequence[Rollouts]) -> Rollouts:
    """Return the rollouts of several buffers as one; prompts are padded to the longest."""
    if len(parts) == 1:
        return parts[0]
    log_probs = [part.log_probs for part in parts if part.log_probs is not None]
    entropies = [part.entropies for part in parts if part.entropies is not None]
    return Rollouts(
        prompts=_joined_prompts([part.prompts for part in parts]),
        completions=torch.cat([part.completions for part in parts]),
        answer_mask=torch.cat([part.answer_mask for part in parts]),
        commit_step=torch.cat([part.commit_step for part in parts]),
        log_probs=torch.cat(log_probs) if len(log_probs) == len(parts) else None,
        entropies=torch.cat(entropies) if len(entropies) == len(parts) else None,
        temperature=parts[0].temperature,
        num_forwards=sum(part.num_forwards for part in parts),
        texts=tuple(texts for part in parts for texts in part.texts),
    )


def _joined_prompts(parts: Sequence[Prompts]) -> Prompts:
    longest = max(each.tokens.shape[1] for each in parts)
    pads = [longest - each.tokens.shape[1] for each in parts]
    index = [each.index for each in parts if each.index is not None]
    return Prompts(
        examples=tuple(example for each in parts for example in each.examples),
        tokens=torch.cat([pad(each.tokens, (n, 0)) for each, n in zip(parts, pads, strict=True)]),
        attention_mask=torch.cat(
            [pad(each.attention_mask, (n, 0)) for each, n in zip(parts, pads, strict=True)]
        ),
        index=torch.cat(index) if len(index) == len(parts) else None,
    )
