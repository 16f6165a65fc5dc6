"""What a run can be told: one frozen model per command, made of plugin sections and settings.

A section names a plugin and gives its parameters beside the name, which the plugin's own
``Config`` checks. Sections that are left out are filled by :mod:`dmpo.config.resolve`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveFloat, model_validator

from dmpo.evaluation.evaluator import EvaluationSettings
from dmpo.settings import Settings
from dmpo.training.settings import TrainingSettings
from dmpo.training.sft import SftSettings
from dmpo.training.tracker_kinds import TrackingSettings

__all__ = [
    "DEFAULT_RECIPE",
    "DEFAULT_SFT_RECIPE",
    "EvaluationSection",
    "PAPER_RECIPE",
    "GenerateConfig",
    "PluginSection",
    "RewardSection",
    "RunConfig",
    "SftConfig",
    "TaskSection",
]

DEFAULT_RECIPE: Final = "sudoku"
"""What ``dmpo train`` runs if nothing else is named."""
PAPER_RECIPE: Final = "paper_eval"
"""How ``dmpo eval`` measures a checkpoint other than the packaged one if nothing else is named."""
DEFAULT_SFT_RECIPE: Final = "tiny_llada"
"""What ``dmpo sft`` runs if nothing else is named."""


class PluginSection(Settings):
    """A plugin's registered name, and its parameters beside it: ``{name: elbo, …}``."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(description="A registered name.")

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        if not isinstance(value, str | Mapping | PluginSection):
            raise ValueError("must be a name, or a mapping with a `name`")
        return {"name": value} if isinstance(value, str) else value

    @property
    def parameters(self) -> dict[str, Any]:
        """What the plugin's own ``Config`` is validated from."""
        return dict(self.model_extra or {})


class RewardSection(PluginSection):
    """A reward and its share of the total.

    A name with a colon, ``module:function`` or ``file.py:function``, is a function in TRL's
    signature.
    """

    weight: float = Field(1.0, description="Factor of this reward in the sum of all.")
    timeout: PositiveFloat | None = Field(
        None, description="Seconds for a buffer, at most; null: no limit."
    )
    on_error: Literal["stop", "missing"] = Field(
        "stop",
        description="`stop`: a reward that raises or takes too long ends the run; `missing`: the "
        "rows it fails on count nothing.",
    )


class TaskSection(PluginSection):
    """A task and its share of a mixture."""

    weight: PositiveFloat = Field(1.0, description="Share of examples, relative to the others.")


class EvaluationSection(EvaluationSettings):
    """How a policy is evaluated, with a sampler of its own."""

    sampler: PluginSection = Field(
        PluginSection(name="low_confidence", temperature=0.0),
        description="How completions are made; gen_length: that of training.",
    )


class RunConfig(Settings):
    """Everything ``dmpo train`` can be told."""

    seed: NonNegativeInt = Field(0, description="Seed of everything random in the run.")
    policy: PluginSection = Field(PluginSection(name="llada"), description="What is trained.")
    task: PluginSection = Field(description="Where prompts come from and how answers are graded.")
    sampler: PluginSection = Field(
        PluginSection(name="roar"), description="How rollouts are made; gen_length: the task's."
    )
    rewards: tuple[RewardSection, ...] = Field(
        (RewardSection(name="task"),),
        min_length=1,
        description="What training maximises: the weighted sum of these.",
    )
    likelihood: PluginSection = Field(
        description="Whose views the loss is taken on; left out: the objective's own."
    )
    ratio_likelihood: PluginSection | None = Field(
        None,
        description="Whose views the reference, the behaviour and the current policy are "
        "compared on; null: the same as likelihood.",
    )
    weights: PluginSection = Field(
        description="How rewards become weights; left out: the objective's own."
    )
    baseline: PluginSection = Field(
        description="What is subtracted from the weights; left out: the objective's own."
    )
    objective: PluginSection = Field(PluginSection(name="dmpo"), description="What is minimised.")
    training: TrainingSettings = Field(
        default_factory=TrainingSettings, description="The loop and the optimizer."
    )
    evaluation: EvaluationSection = Field(
        default_factory=EvaluationSection, description="What is measured before and after."
    )
    tracking: TrackingSettings = Field(
        default_factory=TrackingSettings, description="Where figures go beside metrics.jsonl."
    )


class GenerateConfig(Settings):
    """Everything ``dmpo generate`` can be told."""

    seed: NonNegativeInt = Field(0, description="Seed of the draws.")
    policy: PluginSection = Field(PluginSection(name="llada"), description="What answers.")
    sampler: PluginSection = Field(
        PluginSection(name="low_confidence", temperature=0.0),
        description="How completions are made; gen_length: 128, stop_at_eos: true.",
    )


class SftConfig(Settings):
    """Everything ``dmpo sft`` can be told."""

    seed: NonNegativeInt = Field(0, description="Seed of everything random in the run.")
    policy: PluginSection = Field(PluginSection(name="llada"), description="What is trained.")
    tasks: tuple[TaskSection, ...] = Field(
        min_length=1, description="Tasks whose demonstrations are learnt."
    )
    training: SftSettings = Field(
        default_factory=SftSettings, description="The loop and the optimizer."
    )
    evaluation: EvaluationSection = Field(
        default_factory=EvaluationSection, description="What is measured after."
    )
