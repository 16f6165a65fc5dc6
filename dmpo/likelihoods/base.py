"""A likelihood is a set of views: noised copies of a rollout whose log-probabilities add up.

Σ_r Σ_d coefficient[r, d] · log π(o_d | view r) estimates log p(o | q). So the policy, the
chunking, the micro-batches and the gradient are written once, here, and an estimator is one
short file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Rollouts, Views, expand_rows
from dmpo.registry import PluginConfig

__all__ = [
    "Likelihood",
    "LikelihoodConfig",
    "rollout_log_probs",
    "scored_tokens",
    "view_log_probs",
]


class LikelihoodConfig(PluginConfig):
    """What every likelihood can be told."""

    eos: Literal["answer", "canvas"] = Field(
        "answer",
        description="Which tokens count: through the first EOS, or the whole canvas.",
    )


class Likelihood(ABC):
    """An estimator of log p_θ(o | q), built as ``cls(config)``."""

    Config: ClassVar[type[LikelihoodConfig]]

    is_exact: ClassVar[bool]
    """Whether log-ratios from this estimator carry no Monte-Carlo noise."""
    needs_path: ClassVar[bool]
    """Whether rollouts must carry the path they were made along (``Sampler.records_path``)."""
    is_deterministic: bool
    """Whether two calls of ``views`` on the same rollouts always agree."""
    config: LikelihoodConfig

    @abstractmethod
    def views(self, rollouts: Rollouts, generator: torch.Generator) -> Views:
        """Draw the views [B, N, R, D] of every rollout.

        Raises:
            ConfigError: If the rollouts lack what the estimator needs (a path, for `path`).
        """

    @abstractmethod
    def standard_error(
        self, token_log_ratios: Float[Tensor, "*rows R D"], views: Views
    ) -> Float[Tensor, "*rows"] | None:
        """Return the standard error of the combined sum over independent replicates, in nats.

        Zero where the estimator is exact; None where a single replicate cannot tell.
        """

    def recorded_log_probs(
        self,
        rollouts: Rollouts,  # noqa: ARG002
        views: Views,  # noqa: ARG002
    ) -> Float[Tensor, "B N R D"] | None:
        """Return log π_v on the views as the sampler recorded it; None: it has to be evaluated."""
        return None

    def combine(
        self, token_log_probs: Float[Tensor, "*rows R D"], views: Views
    ) -> Float[Tensor, "*rows"]:
        """Return Σ_r Σ_d coefficient · log π, in nats."""
        coefficient = views.coefficient.to(token_log_probs.device)
        return (coefficient * token_log_probs).sum(dim=(-2, -1))

    def lengths(self, answer_mask: Bool[Tensor, "*rows D"]) -> Int[Tensor, "*rows"]:
        """Return the number of tokens that count, METHOD's D, for each rollout."""
        return scored_tokens(answer_mask, self.config.eos).sum(-1)


def scored_tokens(
    answer_mask: Bool[Tensor, "*rows D"], eos: Literal["answer", "canvas"]
) -> Bool[Tensor, "*rows D"]:
    """Return which completion tokens a likelihood counts: the answer's, or all."""
    return answer_mask if eos == "answer" else torch.ones_like(answer_mask)


def view_log_probs(
    policy: DiffusionPolicy,
    prompt_tokens: Int[Tensor, "S P"],
    prompt_mask: Bool[Tensor, "S P"],
    completions: Int[Tensor, "S D"],
    views: Views,
) -> Float[Tensor, "S R D"]:
    """Return log π(o_d | view) of the hidden tokens with a coefficient, zero elsewhere.

    Differentiable. The prompt is never scored and, unless the views say so, never hidden;
    padding is never hidden.

    Args:
        policy: The model.
        prompt_tokens: Prompts, padded on the left.
        prompt_mask: True on real prompt tokens.
        completions: Rollouts.
        views: Views in the flattened form [S, R, …].

    Returns:
        Log-probabilities in nats, float32.
    """
    num_rows, num_views, length = views.hidden.shape
    prompt_length = prompt_tokens.shape[1]
    tokens = torch.cat([prompt_tokens, completions], dim=1).to(policy.device)
    attention = torch.cat([prompt_mask, torch.ones_like(completions, dtype=torch.bool)], dim=1)
    tokens = expand_rows(tokens, num_views)
    attention = expand_rows(attention.to(policy.device), num_views)
    hidden = views.hidden.flatten(0, 1).to(policy.device)
    scored = hidden & (views.coefficient.flatten(0, 1).to(policy.device) != 0)
    if views.prompt_hidden is None:
        prompt_hidden = torch.zeros(
            num_rows * num_views, prompt_length, dtype=torch.bool, device=policy.device
        )
    else:
        prompt_hidden = views.prompt_hidden.flatten(0, 1).to(policy.device)
        prompt_hidden = prompt_hidden & attention[:, :prompt_length]
    noisy = policy.corrupt(tokens, torch.cat([prompt_hidden, hidden], dim=1))
    where = torch.cat([torch.zeros_like(prompt_hidden), scored], dim=1)
    log_probs = policy.token_logprobs(
        noisy, attention, tokens, where, temperature=views.temperature
    )
    return log_probs[:, prompt_length:].reshape(num_rows, num_views, length)


def rollout_log_probs(
    policy: DiffusionPolicy, rollouts: Rollouts, views: Views, *, rows_per_forward: int
) -> Float[Tensor, "B N R D"]:
    """Return the views' token log-probabilities of a whole buffer, without gradient.

    Args:
        policy: The model; it is put into evaluation mode for the time.
        rollouts: The buffer.
        views: Views [B, N, R, …] of it.
        rows_per_forward: Rollouts per forward pass (each with its R views), at least 1.

    Returns:
        Log-probabilities in nats, float32, on the policy's device. Neither the order of rows
        nor ``rows_per_forward`` changes them.
    """
    prompt_tokens = expand_rows(rollouts.prompts.tokens, rollouts.num_rollouts)
    prompt_mask = expand_rows(rollouts.prompts.attention_mask, rollouts.num_rollouts)
    completions = rollouts.completions.flatten(0, 1)
    flat = views.flatten_rows()
    parts = []
    with policy.evaluating():
        for start in range(0, rollouts.num_rows, rows_per_forward):
            rows = slice(start, start + rows_per_forward)
            parts.append(
                view_log_probs(
                    policy,
                    prompt_tokens[rows],
                    prompt_mask[rows],
                    completions[rows],
                    flat.rows(rows),
                )
            )
    return torch.cat(parts).reshape(views.hidden.shape)
