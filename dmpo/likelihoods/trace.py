"""States of the rollout's own path: merged, sampled, or those of highest entropy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, final

import torch
from jaxtyping import Float, Int
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from dmpo.diffusion.steps import (
    PathSteps,
    distinct_draws,
    path_steps,
    step_means,
    systematic_draws,
)
from dmpo.errors import ConfigError
from dmpo.likelihoods.base import Likelihood, LikelihoodConfig
from dmpo.records import Rollouts, Views

__all__ = ["TraceConfig", "TraceLikelihood"]

DEFAULT_VIEWS = 8
"""Views of a rollout where neither ``num_views`` nor ``merge`` is given (d2, EGSPO)."""


class TraceConfig(LikelihoodConfig):
    """Which states of the path are looked at, and how their tokens count."""

    steps: Literal["merged", "sampled", "entropy"] = Field(
        "merged",
        description="merged: every token once, under the state before its run of steps (TraceRL, "
        "d2). sampled: the tokens of steps drawn at random (AGRPO, Drift). entropy: those of the "
        "steps of highest mean entropy (EGSPO).",
    )
    num_views: PositiveInt | None = Field(
        None,
        description="merged: equal segments of the row's steps; else steps per rollout. "
        f"{DEFAULT_VIEWS} unless merge is given.",
    )
    merge: PositiveInt | None = Field(
        None, description="merged: steps per view, in place of num_views (TraceRL: 8)."
    )
    probability: Literal["uniform", "confidence", "entropy"] = Field(
        "uniform",
        description="sampled: all steps alike; softmax of minus the mean recorded log-probability; "
        "or in proportion to the mean entropy.",
    )
    sampling_temperature: float = Field(
        1.0, gt=0, description="Temperature of that softmax, with probability: confidence."
    )
    correct: bool = Field(
        True,
        description="sampled: weigh each step by the inverse of its probability, so that the sum "
        "over all steps is met on average; false: different steps, weight 1 (Drift).",
    )
    clip_clean_state: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Above 0, the other hidden tokens count too where the policy's probability "
        "reaches this (Drift: 0.6).",
    )

    @model_validator(mode="before")
    @classmethod
    def _follow(cls, given: Any) -> Any:
        """Fill in the number of views where nothing else says it."""
        if not isinstance(given, Mapping):
            return given
        if given.get("merge") is None and given.get("num_views") is None:
            return dict(given) | {"num_views": DEFAULT_VIEWS}
        return given

    @model_validator(mode="after")
    def _check(self) -> TraceConfig:
        if self.merge is not None and self.num_views is not None:
            raise ValueError(
                f"merge is {self.merge} and num_views {self.num_views}, and one follows from the "
                "other; give one and leave out the other, or set it to null"
            )
        if self.steps != "merged" and self.merge is not None:
            raise ValueError(f"merge goes with steps: merged alone; given steps {self.steps!r}")
        if self.steps != "sampled":
            for name in ("probability", "correct"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} goes with steps: sampled; given {self.steps!r}")
        if self.probability != "confidence" and self.sampling_temperature != 1:
            raise ValueError(
                "sampling_temperature goes with probability: confidence; given "
                f"{self.probability!r}"
            )
        return self


@final
class TraceLikelihood(Likelihood):
    """Tokens of the path's steps, each under a state that the rollout went through.

    The state before step s hides what was committed in s or later. Steps that commit no token
    that counts are left out; the others are numbered per row, because rollouts differ in them.
    Read at the temperature the tokens were drawn at, or 1 where that was 0. ``merge: 1`` is
    `path`, but for samplers whose rule looks at the tokens, too: there the choice of positions
    does not cancel between policies. Any other choice leaves out terms or conditions: not exact.

    As AGRPO, ``correct`` weighs by the inverse probability, and also draws the last step, which
    its uniform mode never does; a step of entropy 0 is never drawn by entropy. Drift and EGSPO
    do not correct. Drift divides by dummy steps as well; here surplus views weigh nothing.
    """

    Config: ClassVar[type[LikelihoodConfig]] = TraceConfig
    is_exact = False

    def __init__(self, config: TraceConfig) -> None:
        """Keep the config."""
        self.config: TraceConfig = config
        self.is_deterministic = config.steps != "sampled"
        self.needs_path = config.probability == "confidence"

    def views(self, rollouts: Rollouts, generator: torch.Generator) -> Views:
        """Choose states of each row's path; rows with few steps leave some views empty.

        Raises:
            ConfigError: If steps are chosen by what the sampler did not record.
        """
        scored = self.scored(rollouts.answer_mask)
        steps = path_steps(rollouts.commit_step, scored)
        if self.config.steps == "merged":
            first, end = self._runs(steps)
            factor = (first < end).float()
        else:
            first, factor = self._single_steps(rollouts, steps, generator)
            end = first + 1
        at = first.clamp(0, steps.number.shape[-1] - 1)
        state = steps.number.gather(-1, at).unsqueeze(-1)
        hidden = rollouts.commit_step.unsqueeze(-2) >= state
        rank = steps.rank.unsqueeze(-2)
        own = (rank >= first.unsqueeze(-1)) & (rank < end.unsqueeze(-1)) & scored.unsqueeze(-2)
        clips = self.config.clip_clean_state > 0
        counted = hidden & scored.unsqueeze(-2) if clips else own
        return Views(
            hidden=hidden,
            coefficient=counted * factor.unsqueeze(-1),
            temperature=rollouts.temperature if rollouts.temperature > 0 else 1.0,
            threshold=self.config.clip_clean_state,
            always=own if clips else None,
        )

    def _runs(self, steps: PathSteps) -> tuple[Int[Tensor, "*rows R"], Int[Tensor, "*rows R"]]:
        """Return the first step of each view, and the one behind its last."""
        count, merge = steps.count.unsqueeze(-1), self.config.merge
        if merge is None:
            edge = torch.arange(_given(self.config.num_views) + 1, device=count.device)
            edges = edge * count // _given(self.config.num_views)
        else:
            num_views = -(-steps.number.shape[-1] // merge)
            edge = torch.arange(num_views + 1, device=count.device)
            edges = torch.minimum(edge * merge, count)
        return edges[..., :-1], edges[..., 1:]

    def _single_steps(
        self, rollouts: Rollouts, steps: PathSteps, generator: torch.Generator
    ) -> tuple[Int[Tensor, "*rows R"], Float[Tensor, "*rows R"]]:
        """Return the step of each view, and how much it counts."""
        num_views = _given(self.config.num_views)
        if self.config.steps == "entropy":
            means = _entropies(rollouts, steps).masked_fill(~steps.exists, -torch.inf)
            best = means.topk(min(num_views, means.shape[-1]), dim=-1)
            return best.indices, best.values.isfinite().float()
        chance = self._probabilities(rollouts, steps)
        if not self.config.correct:
            drawn = distinct_draws(chance.log(), num_views, generator)
            return drawn, (drawn >= 0).float()
        counts = steps.count.clamp(max=num_views)
        drawn = systematic_draws(chance, counts, num_views, generator)
        hits = (drawn.unsqueeze(-1) == drawn.unsqueeze(-2)).sum(-1)
        # A step that was hit again is one view, and costs one forward pass.
        is_first = torch.ones_like(drawn, dtype=torch.bool)
        is_first[..., 1:] = drawn.diff(dim=-1) != 0
        expected = counts.unsqueeze(-1) * chance.gather(-1, drawn.clamp(min=0))
        factor = (hits / expected).where(is_first & (drawn >= 0), 0.0)
        return drawn, factor.float()

    def _probabilities(self, rollouts: Rollouts, steps: PathSteps) -> Float[Tensor, "*rows T"]:
        """Return P(s), which adds up to 1 over the steps of a row."""
        uniform = steps.exists.double() / steps.count.clamp(min=1).unsqueeze(-1)
        if self.config.probability == "uniform":
            return uniform
        if self.config.probability == "confidence":
            doubts = -step_means(_log_probs(rollouts), steps) / self.config.sampling_temperature
            return torch.softmax(doubts.masked_fill(~steps.exists, -torch.inf), dim=-1)
        entropies = _entropies(rollouts, steps).clamp(min=0)
        total = entropies.sum(-1, keepdim=True)
        return torch.where(total > 0, entropies / total.where(total > 0, 1.0), uniform)

    def standard_error(
        self,
        token_log_ratios: Float[Tensor, "*rows R D"],
        views: Views,  # noqa: ARG002
    ) -> Float[Tensor, "*rows"] | None:
        """Return zero where nothing is drawn; None for sampled steps, a single replicate."""
        if self.is_deterministic:
            return torch.zeros_like(token_log_ratios[..., 0, 0])
        return None

    def recorded_log_probs(
        self, rollouts: Rollouts, views: Views
    ) -> Float[Tensor, "B N R D"] | None:
        """Return what the sampler recorded, where views score the tokens of a single step."""
        config = self.config
        is_single = config.merge == 1 or config.steps != "merged"
        if rollouts.log_probs is None or not is_single or config.clip_clean_state > 0:
            return None
        recorded = rollouts.log_probs.unsqueeze(-2)
        return recorded.masked_fill(views.coefficient.to(recorded.device) == 0, 0.0)


def _given(num_views: int | None) -> int:
    assert num_views is not None, "the config has num_views wherever it has no merge"
    return num_views


def _log_probs(rollouts: Rollouts) -> Float[Tensor, "B N D"]:
    if rollouts.log_probs is None:
        raise ConfigError(
            "likelihood.probability: confidence needs the log-probabilities at which tokens were "
            f"drawn, and these rollouts (temperature {rollouts.temperature}) carry none; use "
            "uniform or entropy, or a sampler whose rule does not look at the drawn tokens, at a "
            "temperature above 0."
        )
    return rollouts.log_probs


def _entropies(rollouts: Rollouts, steps: PathSteps) -> Float[Tensor, "B N T"]:
    if rollouts.entropies is None:
        raise ConfigError(
            "likelihood.steps: entropies are needed to choose steps by them, and these rollouts "
            "carry none; use steps 'merged', or 'sampled' with probability 'uniform'."
        )
    return step_means(rollouts.entropies, steps)
