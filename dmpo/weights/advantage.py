"""The GRPO family's group-relative advantage, as a weight (2402.03300, 2503.20783)."""

from __future__ import annotations

from typing import ClassVar, Literal, NoReturn, final

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from dmpo.diffusion.tilting import effective_sample_size, group_advantages
from dmpo.errors import ConfigError
from dmpo.records import LogRatio, Weights
from dmpo.registry import PluginConfig
from dmpo.weights.base import WeightEstimator

__all__ = ["AdvantageConfig", "AdvantageWeights"]

_EPSILON = 1e-4


class AdvantageConfig(PluginConfig):
    """What is subtracted from a reward, and what it is divided by."""

    centre: Literal["mean", "leave_one_out"] = Field(
        "mean", description="Mean of the group, or of the other rollouts."
    )
    scale: Literal["none", "std", "population_std"] = Field(
        "none",
        description="Divide by the group's standard deviation, or not; population_std divides its "
        "sum of squares by N, not N − 1.",
    )
    epsilon: float = Field(
        _EPSILON, ge=0, description="Added to the standard deviation, where it is divided by."
    )
    floor: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="The least to divide by, so that a small spread is not blown up.",
    )

    @model_validator(mode="after")
    def _check_scale(self) -> AdvantageConfig:
        if self.scale != "none":
            return self
        for name, default in (("epsilon", _EPSILON), ("floor", 0.0)):
            if (given := getattr(self, name)) != default:
                raise ValueError(
                    f"{name} = {given} has no effect without scale: std or population_std"
                )
        return self


@final
class AdvantageWeights(WeightEstimator):
    """A = (r − mean) / max(std + ε, floor) in each group, 0 in one without spread.

    It sums to 0, so no baseline goes with it.
    """

    Config: ClassVar[type[PluginConfig]] = AdvantageConfig
    has_link = False

    def __init__(self, config: AdvantageConfig) -> None:
        """Keep the config."""
        self.config = config

    @property
    def needs_reference(self) -> bool:
        """Never."""
        return False

    def log_weights(
        self,
        rewards: Float[Tensor, "B N"],  # noqa: ARG002
        log_ratio: LogRatio | None,  # noqa: ARG002
        coefficient: Float[Tensor, " B"],  # noqa: ARG002
    ) -> Float[Tensor, "B N"]:
        """Refuse: an advantage has no log weight."""
        _refuse()

    def link(
        self,
        log_weights: Float[Tensor, "B N"],  # noqa: ARG002
    ) -> Float[Tensor, "B N"]:
        """Refuse: an advantage has no link."""
        _refuse()

    def estimate(
        self,
        rewards: Float[Tensor, "B N"],
        log_ratio: LogRatio | None,  # noqa: ARG002
    ) -> Weights:
        """Return the advantages; the ESS is that of their absolute values.

        Raises:
            ConfigError: If a group is too small for ``leave_one_out``.
        """
        config = self.config
        leave_one_out = config.centre == "leave_one_out"
        if leave_one_out and rewards.shape[-1] < 2:
            raise ConfigError(
                "weights.centre: leave_one_out needs at least 2 rollouts per prompt; "
                f"given {rewards.shape[-1]}."
            )
        values = group_advantages(
            rewards,
            leave_one_out=leave_one_out,
            scale_epsilon=None if config.scale == "none" else config.epsilon,
            of_population=config.scale == "population_std",
            floor=config.floor,
        )
        return Weights(
            values=values,
            log_weights=None,
            ess=effective_sample_size(values.abs()),
            coefficient=rewards.new_ones(rewards.shape[0]),
        )


def _refuse() -> NoReturn:
    raise ConfigError(
        "weights: 'advantage' is centred already and has no link for a baseline to go through; "
        "use baseline 'none', or the weights tilted, tilted_adaptive or linear."
    )
