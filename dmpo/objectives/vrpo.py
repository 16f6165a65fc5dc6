"""Preferences with little variance: DPO on the ELBO (VRPO of LLaDA 1.5, 2505.19223).

Pairs are formed inside each group, by reward; texts given as data come with sampler ``given`` and
reward ``given_order``. Policy and reference look through the same views, antithetic and stored with
the buffer, so most of their noise cancels in the margin. The ELBO is a sum over tokens, as in the
paper; the public re-implementation in DARE divides it by the padded length, which makes β smaller
by as much.

The gradient of −log σ(margin) is that of a weighted sum over rows, the weights being σ(−margin)·β.
They are computed before the step without gradient, so a pair need not lie in one micro-batch. What
is minimised has DPO's gradient but another value; DPO's own is the metric ``preference_loss``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, final

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from dmpo.diffusion.losses import preference_margins, preference_weights
from dmpo.errors import ConfigError
from dmpo.likelihoods.base import view_log_probs
from dmpo.objectives.base import Objective, ObjectiveParts
from dmpo.objectives.frozen import StoredViews, buffer_log_probs, view_sets
from dmpo.objectives.metrics import real_weight_metrics, weight_metrics
from dmpo.objectives.rows import batch_rows
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Batch, Experience, LossOutput, Rewards, Rollouts, Views
from dmpo.registry import PluginConfig
from dmpo.weights.advantage import AdvantageConfig, AdvantageWeights
from dmpo.weights.baselines import NoBaseline

__all__ = ["VrpoConfig", "VrpoObjective", "preference_pairs"]


class VrpoConfig(PluginConfig):
    """Which pairs, and how strongly they pull."""

    beta: float = Field(0.2, gt=0, description="β, factor of the margin, in 1/nats.")
    pairs: Literal["best_worst", "all"] = Field(
        "best_worst",
        description="Which rollouts of a group make a pair: the best and the worst, or every two "
        "of different reward.",
    )
    sft: float = Field(
        0.0, ge=0, description="Factor of the cross-entropy per token of the chosen ones."
    )
    views: StoredViews = "per_update"


@final
class VrpoObjective(Objective):
    """− mean over pairs of log σ(β[(l_θ − l_ref)(chosen) − (l_θ − l_ref)(rejected)])."""

    Config: ClassVar[type[PluginConfig]] = VrpoConfig
    default_parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "likelihood": {"name": "elbo", "num_views": 8},
        "weights": {"name": "advantage"},
        "baseline": {"name": "none"},
    }

    def __init__(self, config: VrpoConfig, parts: ObjectiveParts) -> None:
        """Keep the config and the parts.

        Raises:
            ConfigError: If the parts ask for what pairs do not do.
        """
        self.config = config
        self.parts = parts
        weights = parts.weights
        is_plain = isinstance(weights, AdvantageWeights) and weights.config == AdvantageConfig()
        if not (is_plain and isinstance(parts.baseline, NoBaseline)):
            raise ConfigError(
                "weights, baseline: vrpo asks rewards for their order alone, so these have no "
                "effect; leave both out (weights 'advantage' without settings, baseline 'none')."
            )
        if not parts.share_likelihood:
            raise ConfigError(
                "ratio_likelihood: vrpo compares policies on the views of its loss, so one of its "
                "own has no effect; leave it out."
            )

    @property
    def needs_reference(self) -> bool:
        """Always."""
        return True

    @property
    def is_sum_over_views(self) -> bool:
        """Whether the likelihood is linear."""
        return self.parts.likelihood.is_linear

    def prepare(
        self,
        policy: DiffusionPolicy,
        rollouts: Rollouts,
        rewards: Rewards,
        generator: torch.Generator,
    ) -> Experience:
        """Freeze, for each update, views of the rollouts in a pair, with log π_ref on them."""
        parts = self.parts
        weights = parts.weights.estimate(rewards.total.to(policy.device), None)
        views = view_sets(
            parts, self.config.views, lambda: self._views(rollouts, rewards, generator)
        )
        with policy.reference():
            reference = tuple(buffer_log_probs(parts, policy, rollouts, each) for each in views)
        return Experience(
            rollouts=rollouts,
            rewards=rewards,
            weights=weights,
            baseline_weights=None,
            log_ratio=None,
            views=views,
            behaviour_log_probs=(),
            reference_log_probs=reference,
            metrics=weight_metrics(weights),
        )

    def _views(self, rollouts: Rollouts, rewards: Rewards, generator: torch.Generator) -> Views:
        """Return views that score nothing, and so cost nothing, where a rollout has no pair."""
        views = self.parts.likelihood.views(rollouts, generator)
        paired = torch.zeros(rollouts.num_rows, device=views.coefficient.device)
        paired[preference_pairs(rewards.total, self.config.pairs).flatten().to(paired.device)] = 1
        rows = paired.reshape(rollouts.num_prompts, rollouts.num_rollouts, 1, 1)
        return replace(views, coefficient=views.coefficient * rows)

    def draw(
        self,
        policy: DiffusionPolicy,
        experience: Experience,
        generator: torch.Generator,  # noqa: ARG002
        *,
        update: int,
    ) -> Batch:
        """Weigh each pair by how little the current policy tells it apart."""
        config, likelihood, rollouts = self.config, self.parts.likelihood, experience.rollouts
        index = update % len(experience.views)
        views = experience.views[index]
        current = buffer_log_probs(self.parts, policy, rollouts, views)
        reference = experience.reference_log_probs[index].to(current.device)
        log_ratio = likelihood.log_ratio(current, reference, views).flatten()
        pairs = preference_pairs(experience.rewards.total, config.pairs).to(current.device)
        margins = preference_margins(log_ratio, pairs, config.beta)
        weights = preference_weights(margins, pairs, rollouts.num_rows, config.beta)
        lengths = likelihood.lengths(rollouts.answer_mask).flatten().to(current.device)
        if config.sft > 0:
            share = config.sft / max(1, pairs.shape[1])
            added = share / lengths.clamp(min=1)[pairs[0]]
            weights = weights.index_add(0, pairs[0], added.to(weights.dtype))
        # In units of a mean over pairs, so that weights are of the size of β, and those of other
        # processes' pairs may be added.
        count = pairs.shape[1]
        real = (weights * max(1, count)).reshape(rollouts.num_prompts, -1)
        return batch_rows(
            experience,
            views,
            real,
            num_tokens=float(count),  # what is counted here are pairs
            metrics={**real_weight_metrics(real, None, None), **_pair_metrics(margins)},
        )

    def loss(self, policy: DiffusionPolicy, batch: Batch) -> LossOutput:
        """Return −Σ weight · log p̂_θ of a slice, over the pairs of the buffer."""
        log_probs = view_log_probs(
            policy, batch.prompt_tokens, batch.prompt_mask, batch.completions, batch.views
        )
        log_likelihood = self.parts.likelihood.combine(log_probs, batch.views)
        weights = batch.weights.to(log_likelihood.device)
        num_pairs = batch.num_tokens_in_buffer or 1.0
        return LossOutput(loss=-(weights * log_likelihood).sum() / num_pairs)


def preference_pairs(
    rewards: Float[Tensor, "B N"], which: Literal["best_worst", "all"]
) -> Int[Tensor, "2 K"]:
    """Return the pairs of each group as rows of B·N: the better ones, then the worse ones.

    Args:
        rewards: Of whole groups; one without spread gives no pair.
        which: The best and the worst of a group, or every two of different reward.
    """
    num_prompts, size = rewards.shape
    first = torch.arange(num_prompts, device=rewards.device) * size
    if which == "all":
        group, better, worse = (rewards.unsqueeze(2) > rewards.unsqueeze(1)).nonzero().unbind(1)
        return torch.stack([first[group] + better, first[group] + worse])
    varied = rewards.amax(dim=1) > rewards.amin(dim=1)
    return torch.stack([first + rewards.argmax(dim=1), first + rewards.argmin(dim=1)])[:, varied]


def _pair_metrics(margins: Float[Tensor, " K"]) -> dict[str, float]:
    """Describe the pairs of a step; zeros where there are none."""
    count = margins.numel()
    return {
        "pairs": float(count),
        "preference_loss": float(-logsigmoid(margins).mean()) if count else 0.0,
        "preference_accuracy": float((margins > 0).double().mean()) if count else 0.0,
        "margin": float(margins.mean()) if count else 0.0,
    }
