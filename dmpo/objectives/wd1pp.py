"""wd1++ (2507.08838, version 2): exponential weights for what is predicted along the path.

From states of the path the policy fills in everything at once; each such text is scored, weighed
against all of its group by the exponential of its reward, and learnt from where it was drawn from.

The released code centres rewards in the numerator of its weights alone, over the rollouts of all
prompts, so negative weights outweigh positive ones by e^(2m), m the mean reward. Here both are
softmaxes over the texts of one prompt, so they sum to the same; nothing behind a text's first EOS
is scored, unless the likelihood says so. The likelihood gives the states; how it weighs them is of
no consequence. There is no ratio: a buffer used several times keeps the states, texts and weights
it was made with. The authors take 16 of 128 steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, final

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from dmpo.diffusion.losses import k2_divergence
from dmpo.errors import ConfigError
from dmpo.likelihoods.base import view_log_probs
from dmpo.objectives.base import Objective, ObjectiveParts
from dmpo.objectives.completions import complete_views, score_completions
from dmpo.objectives.frozen import buffer_log_probs
from dmpo.objectives.metrics import weight_metrics
from dmpo.objectives.rows import batch_rows
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Batch, Experience, LossOutput, Rewards, Rollouts, Views
from dmpo.registry import PluginConfig
from dmpo.samplers.canvas import through_first_eos
from dmpo.weights.advantage import AdvantageConfig, AdvantageWeights
from dmpo.weights.baselines import NoBaseline

__all__ = ["Wd1ppConfig", "Wd1ppObjective", "signed_softmax_weights"]


class Wd1ppConfig(PluginConfig):
    """How sharply texts are told apart, and how strongly the reference pulls."""

    psi: float = Field(1.0, gt=0, description="ψ, nats per unit of reward in the softmaxes.")
    beta: float = Field(0.04, ge=0, description="Factor of the divergence to the reference (k2).")
    confidence: bool = Field(
        False, description="Weigh each token by the probability it was predicted with."
    )


@final
class Wd1ppObjective(Objective):
    """− mean over states of (w⁺ − w⁻)·(D/m)·mean log π(text) + β·k2, m hidden tokens of D."""

    Config: ClassVar[type[PluginConfig]] = Wd1ppConfig
    default_parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "likelihood": {"name": "trace", "steps": "sampled", "num_views": 4, "correct": False},
        "weights": {"name": "advantage"},
        "baseline": {"name": "none"},
    }

    def __init__(self, config: Wd1ppConfig, parts: ObjectiveParts) -> None:
        """Keep the config and the parts.

        Raises:
            ConfigError: If parts are chosen that have no effect.
        """
        self.config = config
        self.parts = parts
        weights = parts.weights
        is_plain = isinstance(weights, AdvantageWeights) and weights.config == AdvantageConfig()
        if not (is_plain and isinstance(parts.baseline, NoBaseline)):
            raise ConfigError(
                "weights, baseline: wd1pp weighs states, not rollouts, by softmaxes of its own "
                "(objective.psi), so these have no effect; leave both out (weights 'advantage' "
                "without settings, baseline 'none')."
            )
        if not parts.share_likelihood:
            raise ConfigError("ratio_likelihood: wd1pp has no ratio, so it has no effect.")

    @property
    def needs_reference(self) -> bool:
        """Whether a divergence counts."""
        return self.config.beta > 0

    @property
    def ignores_weightless_rows(self) -> bool:
        """Whether there is no divergence."""
        return self.config.beta == 0

    @property
    def is_sum_over_views(self) -> bool:
        """Always: every state is learnt from by itself."""
        return True

    @property
    def draw_asks_policy(self) -> bool:
        """Never."""
        return False

    def prepare(
        self,
        policy: DiffusionPolicy,
        rollouts: Rollouts,
        rewards: Rewards,
        generator: torch.Generator,
    ) -> Experience:
        """Freeze states, the texts predicted from them, and their weights.

        Raises:
            ConfigError: If nothing can score the texts.
        """
        if self.parts.score is None:
            raise ConfigError("objective: wd1pp scores texts of its own and was given no reward.")
        states = self.parts.likelihood.views(rollouts, generator)
        texts = complete_views(
            policy,
            rollouts,
            states,
            generator,
            temperature=rollouts.temperature,
            rows_per_forward=self.parts.rows_per_forward,
        )
        total = score_completions(policy, self.parts.score, rollouts, texts).to(policy.device)
        views = self._scored_views(states, texts, policy.eos_token_id)
        used = (views.coefficient != 0).any(dim=-1)
        weights = self.parts.weights.estimate(rewards.total.to(policy.device), None)
        behaviour: tuple[Tensor, ...] = ()
        if self.config.confidence and not self.parts.is_on_policy:
            behaviour = (buffer_log_probs(self.parts, policy, rollouts, views, targets=texts),)
        reference: tuple[Tensor, ...] = ()
        if self.needs_reference:
            with policy.reference():
                reference = (buffer_log_probs(self.parts, policy, rollouts, views, targets=texts),)
        return Experience(
            rollouts=rollouts,
            rewards=rewards,
            weights=weights,
            baseline_weights=None,
            log_ratio=None,
            views=(views,),
            behaviour_log_probs=behaviour,
            reference_log_probs=reference,
            view_weights=signed_softmax_weights(self.config.psi * total, used),
            view_targets=texts,
            metrics={**weight_metrics(weights), "state_reward": _mean(total, used)},
        )

    def _scored_views(
        self, states: Views, texts: Int[Tensor, "B N R D"], eos_token_id: int
    ) -> Views:
        """Return the states with coefficients D/m² on the m hidden tokens of each text."""
        counts = torch.ones_like(states.hidden)
        if self.parts.likelihood.config.eos == "answer":
            counts = through_first_eos(texts, eos_token_id).to(states.hidden.device)
        is_state = (states.coefficient != 0).any(dim=-1, keepdim=True)
        scored = states.hidden & counts & is_state
        sizes = scored.sum(dim=-1, keepdim=True).clamp(min=1)
        lengths = counts.sum(dim=-1, keepdim=True)
        return replace(
            states, coefficient=scored * (lengths / sizes.square()), threshold=0.0, always=None
        )

    def draw(
        self,
        policy: DiffusionPolicy,  # noqa: ARG002
        experience: Experience,
        generator: torch.Generator,  # noqa: ARG002
        *,
        update: int,  # noqa: ARG002
    ) -> Batch:
        """Take states, texts and weights from the buffer; nothing is drawn."""
        weights, texts = experience.view_weights, experience.view_targets
        if weights is None or texts is None:
            raise ConfigError("experience: wd1pp needs the texts and weights it prepared.")
        behaviour, reference = experience.behaviour_log_probs, experience.reference_log_probs
        batch = batch_rows(
            experience,
            experience.views[0],
            weights,
            num_tokens=float(weights.numel()),
            behaviour_log_probs=behaviour[0] if behaviour else None,
            reference_log_probs=reference[0] if reference else None,
        )
        return replace(batch, view_targets=texts.flatten(0, 1))

    def loss(self, policy: DiffusionPolicy, batch: Batch) -> LossOutput:
        """Return the loss of a slice of rows over the states of the buffer."""
        views = batch.views
        log_probs = view_log_probs(
            policy,
            batch.prompt_tokens,
            batch.prompt_mask,
            batch.completions,
            views,
            targets=batch.view_targets,
        )
        coefficient = views.coefficient.to(log_probs.device)
        scored = (coefficient != 0).to(log_probs.dtype)
        confidence = torch.ones_like(log_probs)
        if self.config.confidence:
            stored = batch.behaviour_log_probs
            confidence = (log_probs.detach() if stored is None else stored).exp().to(scored.device)
        num_states = batch.num_tokens_in_buffer  # what is counted here are states
        of_states = (coefficient * confidence * log_probs).sum(dim=-1)
        weights = batch.weights.to(log_probs.device)
        loss = -(weights * of_states).sum() / num_states
        if not self.needs_reference or batch.reference_log_probs is None:
            return LossOutput(loss=loss)
        squares = k2_divergence(log_probs, batch.reference_log_probs.to(log_probs.device))
        sizes = scored.sum(dim=-1).clamp(min=1)
        divergence = ((scored * confidence * squares).sum(dim=-1) / sizes).sum() / num_states
        return LossOutput(
            loss=loss + self.config.beta * divergence, metrics={"kl": divergence.detach()}
        )


def signed_softmax_weights(
    log_weights: Float[Tensor, "B N R"], used: Bool[Tensor, "B N R"]
) -> Float[Tensor, "B N R"]:
    """Return N·R·(softmax(ℓ) − softmax(−ℓ)) over the N·R states of each prompt; they sum to 0.

    Args:
        log_weights: ψ times the reward of each text.
        used: States that count; the others get 0.
    """
    shape = log_weights.shape
    flat, counts = log_weights.flatten(1), used.flatten(1)

    def shares(values: Float[Tensor, "B NR"]) -> Float[Tensor, "B NR"]:
        # Where a prompt has no state at all, a softmax over nothing would not be a number.
        return torch.softmax(values.masked_fill(~counts, -torch.inf), dim=1).nan_to_num(0.0)

    return (flat.shape[1] * (shares(flat) - shares(-flat))).reshape(shape)


def _mean(values: Float[Tensor, "*any"], where: Bool[Tensor, "*any"]) -> float:
    return float(values[where].mean()) if where.any() else 0.0
