"""What ``--dry-run`` looks at: one rollout through every part, and an estimate of memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from dmpo.config.run import RunConfig
from dmpo.policies.base import DiffusionPolicy
from dmpo.registry import LIKELIHOODS
from dmpo.training.settings import TrainingSettings
from dmpo.training.trainer import TrainingParts

__all__ = ["Rehearsal", "estimate_memory", "rehearse"]

ADAM_STATES = 2
"""Moments AdamW keeps of each trained parameter."""
MAX_LOGITS_AT_ONCE = 1024
"""Positions projected onto the vocabulary at a time, unless the policy is told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What a dry run found."""

    num_parameters: int
    """Parameters of the policy."""
    num_trained: int
    """Those that take gradients."""
    num_examples: Mapping[str, int]
    """Problems in each split."""
    num_views: int
    """Views R of a rollout that the loss is taken on."""
    sequence_length: int
    """Positions T of the rehearsed sequence."""
    reward: float
    """Reward of the rehearsed rollout."""
    memory: Mapping[str, int]
    """Estimated bytes by use, at the peak of a gradient step."""
    device: str
    """Where the policy is."""


def rehearse(parts: TrainingParts, config: RunConfig) -> Rehearsal:
    """Take one prompt through sampler, reward and likelihood; nothing is written or trained.

    Args:
        parts: The parts of the run.
        config: What they were built from.

    Raises:
        ConfigError: If the likelihood cannot look at what the sampler makes.
        DataError: If a split cannot be read, or the prompt does not fit.
        RewardError: If the reward fails on the rollout.
    """
    generator = torch.Generator().manual_seed(0)
    policy, task = parts.policy, parts.task
    sizes = {split: len(task.examples(split)) for split in ("train", "validation", "test")}
    with policy.evaluating():
        rollouts = parts.sampler.sample(
            policy,
            policy.encode(task.examples("train")[:1]),
            num_rollouts=1,
            generator=generator,
        )
    rewards = parts.reward.score(rollouts, task)
    likelihood = LIKELIHOODS.build(config.likelihood.name, config.likelihood.parameters)
    num_views = likelihood.views(rollouts, generator).hidden.shape[2]
    length = rollouts.prompts.tokens.shape[1] + rollouts.completions.shape[2]
    weights = list(policy.module.parameters())
    return Rehearsal(
        device=str(policy.device),
        num_parameters=sum(weight.numel() for weight in weights),
        num_trained=sum(weight.numel() for weight in weights if weight.requires_grad),
        num_examples=sizes,
        num_views=num_views,
        sequence_length=length,
        reward=rewards.total.item(),
        memory=estimate_memory(
            policy,
            config.training,
            num_views=num_views,
            sequence_length=length,
            needs_reference=parts.objective.needs_reference
            or config.training.measure_drift_every is not None,
        ),
    )


def estimate_memory(
    policy: DiffusionPolicy,
    settings: TrainingSettings,
    *,
    num_views: int,
    sequence_length: int,
    needs_reference: bool,
) -> dict[str, int]:
    """Return the bytes a gradient step is expected to hold at its peak, by use.

    An estimate: what the linear layers keep for the backward pass stands for all activations
    (attention, norms and the allocator's slack come on top), without checkpointing.

    Args:
        policy: Whose module is counted.
        settings: The sizes of the run.
        num_views: R, views of a rollout.
        sequence_length: T.
        needs_reference: Whether the objective compares with π_ref.
    """
    parameters = list(policy.module.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    rows = settings.micro_batch_rows or settings.prompts_per_buffer * settings.rollouts_per_prompt
    positions = rows * num_views * sequence_length
    # Adapters leave the reference in place: only where every weight is trained is it a copy.
    copy = parameters if needs_reference and len(trained) == len(parameters) else []
    return {
        "parameters": _num_bytes(parameters),
        "gradients": _num_bytes(trained),
        "optimizer": ADAM_STATES * _num_bytes(trained),
        "reference": _num_bytes(copy),
        "logits": 2 * 4 * min(MAX_LOGITS_AT_ONCE, positions) * policy.vocab_size,
        "activations": positions * _bytes_kept_per_position(policy),
    }


def _num_bytes(parameters: list[nn.Parameter]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def _bytes_kept_per_position(policy: DiffusionPolicy) -> int:
    """Return input and output bytes of every linear layer but the vocabulary projection."""
    layers = [module for module in policy.module.modules() if isinstance(module, nn.Linear)]
    return sum(
        (layer.in_features + layer.out_features) * layer.weight.element_size()
        for layer in layers
        if layer.out_features != policy.vocab_size
    )
