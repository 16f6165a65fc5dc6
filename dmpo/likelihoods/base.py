"""A likelihood is a set of views: noised copies of a rollout whose log-probabilities add up.

Σ_r Σ_d coefficient[r, d] · log π(o_d | view r) estimates log p(o | q). So the policy, the
chunking, the micro-batches and the gradient are written once, here, and an estimator is one
short file.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from dmpo.diffusion.masking import context_masks
from dmpo.policies.base import DiffusionPolicy
from dmpo.policies.portions import in_portions
from dmpo.records import Rollouts, Views, expand_rows, first_used_column
from dmpo.registry import PluginConfig

__all__ = [
    "Likelihood",
    "LikelihoodConfig",
    "counted_coefficient",
    "hidden_prompts",
    "noised_views",
    "rollout_log_probs",
    "scored_tokens",
    "scored_views",
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

    is_exact: bool
    """Whether log-ratios from this estimator carry no Monte-Carlo noise."""
    needs_path: bool
    """Whether rollouts must carry the path they were made along (``Sampler.records_path``)."""
    is_linear: ClassVar[bool] = True
    """Whether ``combine`` is a sum over tokens, so that differences may be combined."""
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
        return self.combine_views(token_log_probs, views).sum(dim=-1)

    def combine_views(
        self, token_log_probs: Float[Tensor, "*rows R D"], views: Views
    ) -> Float[Tensor, "*rows R"]:
        """Return Σ_d coefficient · log π of each view, in nats."""
        return (counted_coefficient(views, token_log_probs) * token_log_probs).sum(dim=-1)

    def log_ratio(
        self,
        token_log_probs: Float[Tensor, "*rows R D"],
        other_log_probs: Float[Tensor, "*rows R D"],
        views: Views,
    ) -> Float[Tensor, "*rows"]:
        """Return log p − log p' from the token log-probabilities of two policies, in nats.

        Where views have a threshold, tokens count by what the first policy says of them.
        """
        if self.is_linear:
            # Subtracted token by token, large sums do not cancel in float32.
            coefficient = counted_coefficient(views, token_log_probs)
            return (coefficient * (token_log_probs - other_log_probs)).sum(dim=(-2, -1))
        return self.combine(token_log_probs, views) - self.combine(other_log_probs, views)

    def scored(self, answer_mask: Bool[Tensor, "*rows D"]) -> Bool[Tensor, "*rows D"]:
        """Return which completion tokens count."""
        return scored_tokens(answer_mask, self.config.eos)

    def lengths(self, answer_mask: Bool[Tensor, "*rows D"]) -> Int[Tensor, "*rows"]:
        """Return the number of tokens that count, METHOD's D, for each rollout."""
        return self.scored(answer_mask).sum(-1)


def scored_tokens(
    answer_mask: Bool[Tensor, "*rows D"], eos: Literal["answer", "canvas"]
) -> Bool[Tensor, "*rows D"]:
    """Return which completion tokens a likelihood counts: the answer's, or all."""
    return answer_mask if eos == "answer" else torch.ones_like(answer_mask)


def counted_coefficient(
    views: Views, token_log_probs: Float[Tensor, "*rows R D"]
) -> Float[Tensor, "*rows R D"]:
    """Return the coefficients, zero on tokens that are too improbable to count (Drift, 2605.25638).

    Args:
        views: With or without a threshold.
        token_log_probs: Of the policy that is asked; no gradient goes through the choice.
    """
    coefficient = views.coefficient.to(token_log_probs.device)
    if views.threshold <= 0:
        return coefficient
    counts = token_log_probs.detach() >= math.log(views.threshold)
    if views.always is not None:
        counts = counts | views.always.to(counts.device)
    return coefficient * counts


def hidden_prompts(
    rollouts: Rollouts, num_views: int, probability: float, generator: torch.Generator
) -> Bool[Tensor, "B N R P"]:
    """Return R draws per rollout, each of which hides every real prompt token by itself.

    Args:
        rollouts: The buffer.
        num_views: R.
        probability: Of hiding a token.
        generator: The source of randomness.
    """
    real = expand_rows(rollouts.prompts.attention_mask, rollouts.num_rollouts)
    real = real.reshape(rollouts.num_prompts, rollouts.num_rollouts, -1)
    return context_masks(real, num_views, probability, generator)


def view_log_probs(
    policy: DiffusionPolicy,
    prompt_tokens: Int[Tensor, "S P"],
    prompt_mask: Bool[Tensor, "S P"],
    completions: Int[Tensor, "S D"],
    views: Views,
    *,
    targets: Int[Tensor, "S R D"] | None = None,
) -> Float[Tensor, "S R D"]:
    """Return log π(o_d | view) of the hidden tokens with a coefficient, zero elsewhere.

    Differentiable. The prompt is never scored and, unless the views say so, never hidden;
    padding is never hidden. A view that scores nothing costs no forward pass, nor does padding
    that all rows have in common.

    Args:
        policy: The model.
        prompt_tokens: Prompts, padded on the left.
        prompt_mask: True on real prompt tokens.
        completions: Rollouts.
        views: Views in the flattened form [S, R, …].
        targets: What is scored in place of the completions, per view; what a view leaves
            visible is always the completion.

    Returns:
        Log-probabilities in nats, float32.
    """
    num_rows, num_views, length = views.hidden.shape
    if (first := first_used_column(prompt_mask)) > 0:
        prompt_tokens, prompt_mask = prompt_tokens[:, first:], prompt_mask[:, first:]
        if views.prompt_hidden is not None:
            views = replace(views, prompt_hidden=views.prompt_hidden[..., first:])
    prompt_length, device = prompt_tokens.shape[1], policy.device
    scored = scored_views(views, device)
    used = scored.any(dim=1).nonzero().squeeze(1)
    if not len(used):  # one view runs at least, so that a gradient exists
        used = torch.zeros(1, dtype=torch.long, device=device)
    tokens, noisy, attention = noised_views(
        policy, prompt_tokens, prompt_mask, completions, views, used
    )
    where = torch.nn.functional.pad(scored[used], (prompt_length, 0))
    if targets is not None:
        wanted = targets.flatten(0, 1).to(device)[used]
        tokens = torch.cat([tokens[:, :prompt_length], wanted], dim=1)
    log_probs = policy.token_logprobs(
        noisy, attention, tokens, where, temperature=views.temperature
    )[:, prompt_length:]
    if len(used) < len(scored):
        everything = log_probs.new_zeros(len(scored), length)
        log_probs = everything.index_copy(0, used, log_probs)
    return log_probs.reshape(num_rows, num_views, length)


def scored_views(views: Views, device: torch.device) -> Bool[Tensor, "SR D"]:
    """Return the tokens that views [S, R, …] score, view by view."""
    counts = views.coefficient.flatten(0, 1).to(device) != 0
    return views.hidden.flatten(0, 1).to(device) & counts


def noised_views(
    policy: DiffusionPolicy,
    prompt_tokens: Int[Tensor, "S P"],
    prompt_mask: Bool[Tensor, "S P"],
    completions: Int[Tensor, "S D"],
    views: Views,
    used: Int[Tensor, " U"],
) -> tuple[Int[Tensor, "U T"], Int[Tensor, "U T"], Bool[Tensor, "U T"]]:
    """Return whole sequences, the same with noise as views say, and which tokens are real.

    Args:
        policy: Whose noise it is.
        prompt_tokens: Prompts, padded on the left.
        prompt_mask: True on real prompt tokens; padding is never hidden.
        completions: Rollouts.
        views: Views [S, R, …] of them.
        used: Which of the S·R views.
    """
    device, row = policy.device, used // views.hidden.shape[1]
    completions, real = completions.to(device)[row], prompt_mask.to(device)[row]
    tokens = torch.cat([prompt_tokens.to(device)[row], completions], dim=1)
    attention = torch.cat([real, torch.ones_like(completions, dtype=torch.bool)], dim=1)
    prompt_hidden = torch.zeros_like(real)
    if views.prompt_hidden is not None:
        prompt_hidden = views.prompt_hidden.flatten(0, 1).to(device)[used] & real
    hidden = views.hidden.flatten(0, 1).to(device)[used]
    return tokens, policy.corrupt(tokens, torch.cat([prompt_hidden, hidden], dim=1)), attention


def rollout_log_probs(
    policy: DiffusionPolicy,
    rollouts: Rollouts,
    views: Views,
    *,
    rows_per_forward: int,
    targets: Int[Tensor, "B N R D"] | None = None,
) -> Float[Tensor, "B N R D"]:
    """Return the views' token log-probabilities of a whole buffer, without gradient.

    Args:
        policy: The model; it is put into evaluation mode for the time.
        rollouts: The buffer.
        views: Views [B, N, R, …] of it.
        rows_per_forward: Rollouts per forward pass (each with its R views), at least 1; fewer
            where memory is too small. Rows with prompts of one length run together.
        targets: What is scored in place of the completions, per view.

    Returns:
        Log-probabilities in nats, float32, on the policy's device. Neither the order of rows
        nor ``rows_per_forward`` changes them.
    """
    prompt_tokens = expand_rows(rollouts.prompts.tokens, rollouts.num_rollouts)
    prompt_mask = expand_rows(rollouts.prompts.attention_mask, rollouts.num_rollouts)
    completions = rollouts.completions.flatten(0, 1)
    flat = views.flatten_rows()
    wanted = None if targets is None else targets.flatten(0, 1)
    # Sorted by length, so that few rows are padded; groups stay together.
    order = prompt_mask.sum(dim=1).argsort(stable=True)

    def log_probs_of(portion: slice) -> Float[Tensor, "S R D"]:
        rows = order[portion]
        there = rows.to(completions.device)
        return view_log_probs(
            policy,
            prompt_tokens[rows],
            prompt_mask[rows],
            completions[there],
            flat.rows(rows.to(flat.hidden.device)),
            targets=None if wanted is None else wanted[rows.to(wanted.device)],
        )

    with policy.evaluating():
        parts = torch.cat(in_portions(rollouts.num_rows, rows_per_forward, log_probs_of))
    sorted_back = torch.empty_like(parts).index_copy(0, order.to(parts.device), parts)
    return sorted_back.reshape(views.hidden.shape)
