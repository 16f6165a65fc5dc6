"""What plugins are tried on: the packaged tiny LLaDA, a few prompts, a buffer of rollouts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from dmpo.policies.base import DiffusionPolicy
from dmpo.policies.llada import LladaConfig, LladaPolicy
from dmpo.records import Example, Prompts, Rewards, Rollouts
from dmpo.samplers.roar import RoarConfig, RoarSampler
from dmpo.training.randomness import group_generator

__all__ = [
    "EXAMPLES",
    "LENGTH",
    "copied",
    "difference",
    "generator",
    "grouped",
    "nudge",
    "padded",
    "put_state",
    "recorded_rollouts",
    "rewards_of",
    "same_tensors",
    "state_of",
    "tiny_policy",
    "with_places",
]

LENGTH = 6
"""D of the rollouts."""
NUM_ROLLOUTS = 3

EXAMPLES = (
    Example(prompt="17!38=", columns={"sum": 17, "forbidden": "38", "answer": "1952"}),
    Example(prompt="9!04=", columns={"sum": 9, "forbidden": "04", "answer": "1233"}),
)
"""Two problems that the tiny LLaDA was trained on, of different lengths, so that one is padded."""


def tiny_policy() -> DiffusionPolicy:
    """Return the packaged policy, new, so that it may be changed."""
    return LladaPolicy(LladaConfig())


def generator(seed: int = 0) -> torch.Generator:
    """Return a plain generator."""
    return torch.Generator().manual_seed(seed)


def grouped(prompts: Prompts, purpose: str, seed: int = 0) -> torch.Generator:
    """Return the generator that training hands out: a stream for each prompt's place in the run."""
    return group_generator(seed, 0, purpose, prompts)


def with_places(prompts: Prompts) -> Prompts:
    """Return prompts that know their places in the run."""
    return dataclasses.replace(prompts, index=torch.arange(len(prompts.examples)))


def recorded_rollouts(policy: DiffusionPolicy) -> Rollouts:
    """Return two groups drawn along recorded paths; two answers end before the canvas does."""
    prompts = with_places(policy.encode(EXAMPLES))
    sampler = RoarSampler(RoarConfig(gen_length=LENGTH))
    rollouts = sampler.sample(
        policy, prompts, num_rollouts=NUM_ROLLOUTS, generator=grouped(prompts, "rollout")
    )
    answer = rollouts.answer_mask.clone()
    answer[0, 1, 3:] = False
    answer[1, 2, 5:] = False
    return dataclasses.replace(rollouts, answer_mask=answer)


def rewards_of(rollouts: Rollouts) -> Rewards:
    """Return rewards in [0, 1], all different inside a group."""
    shape = (rollouts.num_prompts, rollouts.num_rollouts)
    total = torch.rand(shape, generator=generator(5))
    return Rewards(total=total, components={"some": total.clone()})


def padded(prompts: Prompts, width: int = 3) -> Prompts:
    """Return the same prompts with more padding on the left, of tokens that say something."""
    nothing = torch.zeros(len(prompts.examples), width, dtype=torch.bool)
    noise = prompts.tokens[:, -1:].expand(-1, width)
    return dataclasses.replace(
        prompts,
        tokens=torch.cat([noise, prompts.tokens], dim=1),
        attention_mask=torch.cat(
            [nothing.to(prompts.attention_mask.device), prompts.attention_mask], 1
        ),
    )


@torch.no_grad()
def nudge(policy: DiffusionPolicy, seed: int, share: float = 0.03) -> None:
    """Move every trained weight by some of its own size."""
    source = generator(seed)
    for weight in policy.module.parameters():
        if weight.requires_grad:
            noise = torch.randn(weight.shape, generator=source).to(weight)
            weight.add_(share * noise * weight.abs().mean().clamp(min=0.01))


def state_of(policy: DiffusionPolicy) -> dict[str, Tensor]:
    """Return copies of all trained weights."""
    return {
        name: weight.detach().clone()
        for name, weight in policy.module.named_parameters()
        if weight.requires_grad
    }


@torch.no_grad()
def put_state(policy: DiffusionPolicy, state: Mapping[str, Tensor]) -> None:
    """Put copied weights back."""
    for name, weight in policy.module.named_parameters():
        if name in state:
            weight.copy_(state[name])


def difference(one: Tensor, other: Tensor) -> float:
    """Return the largest distance of two tensors' numbers, as a share of the larger's size.

    Infinite where shapes differ or a number is none.
    """
    if one.shape != other.shape:
        return float("inf")
    if not one.numel():
        return 0.0
    one, other = one.double(), other.double()
    size = max(1.0, float(one.abs().max()), float(other.abs().max()))
    distance = float((one - other).abs().max()) / size
    return distance if distance == distance else float("inf")


def same_tensors(one: Any, other: Any) -> bool:
    """Return whether two records hold the same numbers, bit for bit."""
    pairs = list(zip(_tensors(one), _tensors(other), strict=False))
    return len(list(_tensors(one))) == len(list(_tensors(other))) and all(
        a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())
        if a.is_floating_point() and b.is_floating_point()
        else torch.equal(a, b)
        for a, b in pairs
    )


def copied(record: Any) -> list[Tensor]:
    """Return copies of all tensors of a record."""
    return [tensor.clone() for tensor in _tensors(record)]


def _tensors(record: Any) -> Iterator[Tensor]:
    if isinstance(record, Tensor):
        yield record
    elif dataclasses.is_dataclass(record) and not isinstance(record, type):
        for each in dataclasses.fields(record):
            yield from _tensors(getattr(record, each.name))
    elif isinstance(record, Mapping):
        for value in record.values():
            yield from _tensors(value)
    elif isinstance(record, list | tuple):
        for value in record:
            yield from _tensors(value)
