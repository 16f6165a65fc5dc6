"""EGSPO (2603.12554): denoising as a decision process, at the steps of the highest entropy.

An action is a step, its ratio that of all tokens it commits; log ρ and the divergence are divided
by their number, so that every step weighs alike. EGSPO-SA (λ > 0) also asks what the answer would
be worth if the state were completed at once, greedily: R = (r + λ(r − r̂))/(1 + λ), and the
advantage compares steps of the same rank by entropy inside a group. Such a text is graded against
its own prompt; the authors' code grades all of a device's texts against its first row's answer.
They call the gradient exact; that the policy also chooses the positions is left out of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from dmpo.errors import ConfigError
from dmpo.objectives.base import ObjectiveParts
from dmpo.objectives.completions import complete_views, score_completions
from dmpo.objectives.ratio import RatioConfig, RatioObjective
from dmpo.objectives.units import Normalisation
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Rewards, Rollouts, Views
from dmpo.registry import PluginConfig

__all__ = ["EgspoConfig", "EgspoObjective", "stepwise_rewards"]


class EgspoConfig(RatioConfig):
    """The authors' settings, and how much a step's own part in the reward counts."""

    epsilon: float = Field(0.2, gt=0, lt=1, description="Clip range of the ratio below 1.")
    epsilon_high: float | None = Field(0.5, gt=0, description="Clip range above 1.")
    beta: float = Field(0.04, ge=0, description="Factor of the divergence.")
    stepwise: float = Field(
        0.5,
        ge=0,
        allow_inf_nan=False,
        description="λ, weight of the reward minus that of the state completed at once (EGSPO-SA); "
        "0 is EGSPO and scores no other text.",
    )
    normalisation: Normalisation = Field(
        "response",
        description="Mean over responses of means over steps (view is the same), mean over the "
        "steps of the buffer (token), or their sum over a constant canvas length.",
    )


@final
class EgspoObjective(RatioObjective):
    """− min(ρA, clip(ρ)·A) + β·k3 of denoising steps, each with an advantage of its own."""

    Config: ClassVar[type[PluginConfig]] = EgspoConfig
    config: EgspoConfig
    default_parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "likelihood": {"name": "trace", "steps": "entropy", "num_views": 8},
        "weights": {"name": "advantage"},
        "baseline": {"name": "none"},
    }
    level = "view"
    divides_by_size = True

    def __init__(self, config: Any, parts: ObjectiveParts) -> None:
        """Keep the config and the parts.

        Raises:
            ConfigError: If the parts ask for what this objective does not do.
        """
        super().__init__(config, parts)
        if not parts.likelihood.is_deterministic and self.config.views != "shared":
            raise ConfigError(
                "objective.views: egspo gives every step an advantage once, so all updates look at "
                f"the same steps, and {type(parts.likelihood).__name__} draws them anew; given "
                f"{self.config.views!r}, accepted is 'shared' (or likelihood 'trace' with steps "
                "'entropy' or 'merged')."
            )

    def view_weights(
        self,
        policy: DiffusionPolicy,
        rollouts: Rollouts,
        rewards: Rewards,
        views: tuple[Views, ...],
        generator: torch.Generator,
    ) -> Float[Tensor, "B N R"]:
        """Return the advantage of each step among the steps of its rank in the group.

        Raises:
            ConfigError: If λ > 0 and nothing can score a text.
        """
        (seen,) = views
        counts = (seen.coefficient != 0).any(-1).to(policy.device)
        total = rewards.total.to(policy.device).unsqueeze(-1).expand(counts.shape)
        if self.config.stepwise > 0:
            greedy = self._greedy_rewards(policy, rollouts, seen, generator).to(total)
            total = stepwise_rewards(total, greedy, self.config.stepwise)
        # Rollouts with fewer steps stand at the mean of the others and get nothing.
        sums, sizes = (total * counts).sum(1, keepdim=True), counts.sum(1, keepdim=True)
        total = torch.where(counts, total, sums / sizes.clamp(min=1))
        ranks = [self._advantages(of_rank) for of_rank in total.unbind(-1)]
        return torch.stack(ranks, dim=-1) * counts

    def _greedy_rewards(
        self,
        policy: DiffusionPolicy,
        rollouts: Rollouts,
        views: Views,
        generator: torch.Generator,
    ) -> Float[Tensor, "B N R"]:
        parts = self.parts
        if parts.score is None:
            raise ConfigError(
                f"objective.stepwise: {self.config.stepwise} needs the rewards of completed "
                "states, and this objective was given nothing that scores texts (parts.score); "
                "set it to 0."
            )
        completions = complete_views(
            policy,
            rollouts,
            views,
            generator,
            temperature=0.0,
            rows_per_forward=parts.rows_per_forward,
        )
        return score_completions(policy, parts.score, rollouts, completions)

    def _advantages(self, rewards: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        weights, baseline = self.parts.weights, self.parts.baseline
        estimated = weights.estimate(rewards, None)
        subtracted = baseline.weights(weights, rewards, None, estimated, None)
        return estimated.values - baseline.strength * subtracted


def stepwise_rewards(
    rewards: Float[Tensor, "B N R"], greedy: Float[Tensor, "B N R"], strength: float
) -> Float[Tensor, "B N R"]:
    """Return (r + λ(r − r̂))/(1 + λ): what a step has done beyond its state (EGSPO-SA).

    Args:
        rewards: r of each response, the same for all its steps.
        greedy: r̂ of the text that completes the step's state at once.
        strength: λ, at least 0.
    """
    return (rewards + strength * (rewards - greedy)) / (1 + strength)
