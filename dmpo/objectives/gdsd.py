"""GDSD (2605.29398): matching the policy of a proximal step by squared error.

The teacher p* ∝ p_v^(1−β) · p_ref^β · e^(ψA) is matched draw by draw of the likelihood, without a
ratio or a normaliser, since A has mean 0 in a group. It is DMPO's family of targets (β = c,
ψ = c/α); DMPO with `linear` weights and the `model` baseline is the same square with the group's
mean taken out.

As released the regression is never in force: the clamp acts on the sum over tokens with a bound
meant for one token, so the gradient is exactly 0 beyond ±4·10⁻⁴ nats of a whole sequence, and what
is left is a policy gradient behind a hard gate with a pull to the reference. ``reference: true``
reproduces that loss; here, by default, nothing is clamped, both squares are means over draws, and
both are divided by the response's length so that the scale is that of a token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from dmpo.errors import ConfigError
from dmpo.likelihoods.base import Likelihood, counted_coefficient, view_log_probs
from dmpo.likelihoods.elbo import ElboConfig
from dmpo.objectives.base import ObjectiveParts
from dmpo.objectives.ratio import FrozenViewsConfig, FrozenViewsObjective
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Batch, LossOutput, Views
from dmpo.registry import PluginConfig
from dmpo.weights.baselines import NoBaseline

__all__ = ["GdsdConfig", "GdsdObjective", "draw_estimates"]

_EPSILON = 4e-4


class GdsdConfig(FrozenViewsConfig):
    """How far the teacher leans towards reward and reference."""

    psi: float = Field(1.0, gt=0, description="ψ, nats per unit of advantage.")
    beta: float = Field(1e-3, ge=0, description="Factor of the square towards the reference.")
    reference: bool = Field(
        False,
        description="The released loss: the log-ratio of a draw clamped, then divided by the "
        "canvas length; summed over draws.",
    )
    epsilon: float = Field(
        _EPSILON, gt=0, lt=1, description="Bound of the ratio around 1 (reference: true)."
    )

    @model_validator(mode="after")
    def _check_epsilon(self) -> GdsdConfig:
        if self.epsilon != _EPSILON and not self.reference:
            raise ValueError(f"epsilon = {self.epsilon} has no effect without reference: true")
        return self


@final
class GdsdObjective(FrozenViewsObjective):
    """Mean over rollouts and draws of [(l_θ − l_v − ψA)² + β(l_θ − l_ref)²] / D."""

    Config: ClassVar[type[PluginConfig]] = GdsdConfig
    config: GdsdConfig
    default_parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "likelihood": {"name": "elbo"},
        "weights": {"name": "advantage", "centre": "leave_one_out"},
        "baseline": {"name": "none"},
    }
    level = "view"

    def __init__(self, config: Any, parts: ObjectiveParts) -> None:
        """Keep the config and the parts.

        Raises:
            ConfigError: If the parts ask for what a regression does not do.
        """
        super().__init__(config, parts)
        if parts.weights.has_link and isinstance(parts.baseline, NoBaseline):
            raise ConfigError(
                "weights: gdsd regresses on advantages of mean 0, and "
                f"{type(parts.weights).__name__} have mean 1; use 'advantage', or baseline 'mean' "
                "beside them."
            )

    @property
    def ignores_weightless_rows(self) -> bool:
        """Never: the square holds a rollout of advantage 0 where it was."""
        return False

    def loss(self, policy: DiffusionPolicy, batch: Batch) -> LossOutput:
        """Return the squares of a slice of rows over the rows of the buffer."""
        config, num_rows = self.config, batch.num_rows_in_buffer
        log_probs = view_log_probs(
            policy, batch.prompt_tokens, batch.prompt_mask, batch.completions, batch.views
        )
        # A token is counted by what the current policy says of it, whoever it is compared with.
        coefficient = counted_coefficient(batch.views, log_probs)
        views = Views(hidden=batch.views.hidden, coefficient=coefficient)
        targets = config.psi * batch.weights.to(log_probs.device).unsqueeze(-1)
        lengths = self.parts.likelihood.lengths(batch.answer_mask).clamp(min=1)
        stored = batch.behaviour_log_probs
        moved = self._moved(log_probs, log_probs.detach() if stored is None else stored, views)
        canvas = batch.completions.shape[1]
        if config.reference:
            low, high = math.log1p(-config.epsilon), math.log1p(config.epsilon)
            squares = (moved.clamp(low, high) / canvas - targets).square().sum(-1)
        else:
            squares = (moved - targets).square().mean(-1) / lengths.to(log_probs.device)
        regression = squares.sum() / num_rows
        metrics = {
            "regression": regression.detach(),
            "model_log_ratio": moved.detach().mean(-1).sum() / num_rows,
        }
        if not self.needs_reference or batch.reference_log_probs is None:
            return LossOutput(loss=regression, metrics=metrics)
        away = self._moved(log_probs, batch.reference_log_probs, views).square().mean(-1)
        divisors = 2 * canvas if config.reference else lengths.to(log_probs.device)
        divergence = (away / divisors).sum() / num_rows
        metrics["reference_square"] = divergence.detach()
        return LossOutput(loss=regression + config.beta * divergence, metrics=metrics)

    def _moved(
        self, log_probs: Float[Tensor, "S R D"], other: Float[Tensor, "S R D"], views: Views
    ) -> Float[Tensor, "S J"]:
        """Return l_θ − l of each draw."""
        difference = log_probs - other.to(log_probs.device)
        return draw_estimates(self.parts.likelihood, difference, views)


def draw_estimates(
    likelihood: Likelihood, token_log_ratios: Float[Tensor, "S R D"], views: Views
) -> Float[Tensor, "S J"]:
    """Return what each independent draw of a linear likelihood says of the response, in nats.

    A draw is one random subset or, of antithetic ones, a subset with its complement, in which every
    token stands once. Of a likelihood whose views are parts of one estimate (a path's steps, the
    nodes of a quadrature), J is 1.
    """
    of_views = likelihood.combine_views(token_log_ratios, views)
    config = likelihood.config
    if not isinstance(config, ElboConfig) or config.masking == "quadrature":
        return of_views.sum(dim=-1, keepdim=True)
    estimates = of_views * of_views.shape[-1]
    if config.antithetic:
        return torch.stack(estimates.chunk(2, dim=-1)).mean(dim=0)
    return estimates
