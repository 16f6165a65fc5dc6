"""The likelihood of the path that was taken, one view per denoising step (METHOD, way 1)."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from dmpo.errors import ConfigError
from dmpo.likelihoods.base import Likelihood, LikelihoodConfig
from dmpo.records import Rollouts, Views

__all__ = ["PathConfig", "PathLikelihood"]


class PathConfig(LikelihoodConfig):
    """The path likelihood has nothing of its own to set.

    ``eos: canvas`` counts every token drawn, so the log-ratio is that of the whole path measure;
    ``answer`` leaves out what was drawn behind the first EOS.
    """


@final
class PathLikelihood(Likelihood):
    """Σ over steps of log π of the tokens committed in it, given what was visible before it.

    Exact wherever the sampler's rule chose positions without looking at the drawn tokens: the
    rule then cancels between π_ref and π_v. Read at the temperature the tokens were drawn at.
    """

    Config: ClassVar[type[LikelihoodConfig]] = PathConfig
    is_exact = True
    needs_path = True
    is_deterministic = True

    def __init__(self, config: PathConfig) -> None:
        """Keep the config."""
        self.config: PathConfig = config

    def views(self, rollouts: Rollouts, generator: torch.Generator) -> Views:  # noqa: ARG002
        """Replay the canvas before each step, as far as a step committed a token that counts.

        Raises:
            ConfigError: If the sampler recorded no path.
        """
        _recorded(rollouts)
        scored = self.scored(rollouts.answer_mask)
        steps = rollouts.commit_step.unsqueeze(-2)
        last = int(rollouts.commit_step.masked_fill(~scored, 0).max())
        step = torch.arange(last + 1, device=steps.device).unsqueeze(-1)
        committed = (steps == step) & scored.unsqueeze(-2)
        return Views(
            hidden=steps >= step,
            coefficient=committed.float(),
            temperature=rollouts.temperature,
        )

    def standard_error(
        self,
        token_log_ratios: Float[Tensor, "*rows R D"],
        views: Views,  # noqa: ARG002
    ) -> Float[Tensor, "*rows"] | None:
        """Return zero: nothing is drawn."""
        return torch.zeros_like(token_log_ratios[..., 0, 0])

    def recorded_log_probs(
        self, rollouts: Rollouts, views: Views
    ) -> Float[Tensor, "B N R D"] | None:
        """Return the log-probabilities at which the tokens were drawn: no pass is needed."""
        recorded = _recorded(rollouts).unsqueeze(-2)
        return recorded.masked_fill(views.coefficient.to(recorded.device) == 0, 0.0)


def _recorded(rollouts: Rollouts) -> Float[Tensor, "B N D"]:
    if rollouts.log_probs is None:
        raise ConfigError(
            "likelihood: path needs the log-probabilities at which tokens were drawn, and these "
            f"rollouts (temperature {rollouts.temperature}) carry none; samplers record them where "
            "the unmasking rule does not look at the drawn tokens: roar, random, peaked or "
            "entropy_bound, at a temperature above 0, without guidance."
        )
    return rollouts.log_probs
