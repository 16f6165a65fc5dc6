"""Registered objectives with the parts their authors give them, and buffers that suit them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from dmpo.likelihoods.base import Likelihood
from dmpo.objectives.base import Objective, ObjectiveParts
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Example, Rewards, Rollouts
from dmpo.registry import BASELINES, LIKELIHOODS, OBJECTIVES, SAMPLERS, WEIGHTS
from tests.objectives.build import rng
from tests.oracles.records import rewards_of
from tests.oracles.tabular import LENGTH


def registered(
    name: str,
    *,
    updates: int = 2,
    likelihood: Likelihood | None = None,
    weights: dict[str, Any] | None = None,
    score: Callable[[Rollouts], Rewards] | None = None,
    **settings: Any,
) -> Any:
    """Return the objective, with its default parts where none are given."""
    plugin = OBJECTIVES.load(name)
    given = {part: dict(section) for part, section in plugin.default_parts.items()}
    if weights is not None:
        given["weights"] = dict(weights)
    registries = {"likelihood": LIKELIHOODS, "weights": WEIGHTS, "baseline": BASELINES}
    built: dict[str, Any] = {
        part: registry.build(given[part].pop("name"), given[part])
        for part, registry in registries.items()
    }
    built["likelihood"] = likelihood or built["likelihood"]
    parts = ObjectiveParts(
        **built,
        ratio_likelihood=built["likelihood"],
        updates_per_buffer=updates,
        rows_per_forward=64,
        score=score,
    )
    return plugin(OBJECTIVES.config(name, settings), parts)


def drawn_buffer(
    policy: DiffusionPolicy, *, num_rollouts: int = 4, seed: int = 0, tokens_per_step: int = 1
) -> tuple[Rollouts, Rewards]:
    """Two prompts answered along recorded paths; one answer is shorter than the canvas."""
    settings = {"gen_length": LENGTH, "temperature": 1.0, "tokens_per_step": tokens_per_step}
    sampler = SAMPLERS.build("roar", settings)
    prompts = policy.encode([Example(prompt=""), Example(prompt="")])
    rollouts = sampler.sample(policy, prompts, num_rollouts=num_rollouts, generator=rng(seed))
    answer = rollouts.answer_mask.clone()
    answer[0, 1, 2:] = False
    total = torch.rand(2, num_rollouts, generator=rng(seed + 1))
    return replace(rollouts, answer_mask=answer), rewards_of(total)


def first_tokens(rollouts: Rollouts) -> Rewards:
    """A reward of any text: its first token, as a number."""
    return rewards_of(rollouts.completions[..., 0].float())


def step(objective: Objective, policy: DiffusionPolicy, buffer: tuple[Rollouts, Rewards], seed=3):
    """Return the buffer's experience and the batch of its first step."""
    experience = objective.prepare(policy, *buffer, rng(seed))
    return experience, objective.draw(policy, experience, rng(seed + 1), update=0)
