"""Fine-tune diffusion language models by distribution matching policy optimization.

The public names are here and are imported when first asked for: ``import dmpo`` alone loads
neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmpo.config.assembly import build_light_parts, build_training_parts
    from dmpo.config.recipes import recipe_chain, recipe_names
    from dmpo.config.resolve import resolve_run, resolve_sft
    from dmpo.config.run import RunConfig, SftConfig
    from dmpo.config.training_run import TrainedRun, build_trainer, train
    from dmpo.errors import DmpoError
    from dmpo.evaluation.evaluator import EvaluationSettings, Evaluator
    from dmpo.evaluation.summary import EvaluationResult
    from dmpo.likelihoods.base import Likelihood, LikelihoodConfig
    from dmpo.objectives.base import Objective, ObjectiveParts
    from dmpo.policies.base import DiffusionPolicy
    from dmpo.records import (
        Batch,
        Example,
        Experience,
        LogRatio,
        LossOutput,
        Prompts,
        Rewards,
        Rollouts,
        Views,
        Weights,
    )
    from dmpo.registry import PluginConfig
    from dmpo.rewards.base import RewardModel
    from dmpo.samplers.base import Sampler, SamplerConfig
    from dmpo.tasks.base import Task
    from dmpo.training.events import Observer
    from dmpo.training.settings import TrainingSettings
    from dmpo.training.trainer import Trainer, TrainingParts
    from dmpo.weights.base import Baseline, WeightEstimator

__all__ = [
    "Baseline",
    "Batch",
    "DiffusionPolicy",
    "DmpoError",
    "EvaluationResult",
    "EvaluationSettings",
    "Evaluator",
    "Example",
    "Experience",
    "Likelihood",
    "LikelihoodConfig",
    "LogRatio",
    "LossOutput",
    "Objective",
    "ObjectiveParts",
    "Observer",
    "PluginConfig",
    "Prompts",
    "RewardModel",
    "Rewards",
    "Rollouts",
    "RunConfig",
    "Sampler",
    "SamplerConfig",
    "SftConfig",
    "Task",
    "TrainedRun",
    "Trainer",
    "TrainingParts",
    "TrainingSettings",
    "Views",
    "WeightEstimator",
    "Weights",
    "__version__",
    "build_light_parts",
    "build_trainer",
    "build_training_parts",
    "recipe_chain",
    "recipe_names",
    "resolve_run",
    "resolve_sft",
    "train",
]

__version__ = "0.1.0"

_HOMES = {
    "dmpo.config.assembly": ("build_light_parts", "build_training_parts"),
    "dmpo.config.recipes": ("recipe_chain", "recipe_names"),
    "dmpo.config.resolve": ("resolve_run", "resolve_sft"),
    "dmpo.config.run": ("RunConfig", "SftConfig"),
    "dmpo.config.training_run": ("TrainedRun", "build_trainer", "train"),
    "dmpo.errors": ("DmpoError",),
    "dmpo.evaluation.evaluator": ("EvaluationSettings", "Evaluator"),
    "dmpo.evaluation.summary": ("EvaluationResult",),
    "dmpo.likelihoods.base": ("Likelihood", "LikelihoodConfig"),
    "dmpo.objectives.base": ("Objective", "ObjectiveParts"),
    "dmpo.policies.base": ("DiffusionPolicy",),
    "dmpo.records": (
        "Batch",
        "Example",
        "Experience",
        "LogRatio",
        "LossOutput",
        "Prompts",
        "Rewards",
        "Rollouts",
        "Views",
        "Weights",
    ),
    "dmpo.registry": ("PluginConfig",),
    "dmpo.rewards.base": ("RewardModel",),
    "dmpo.samplers.base": ("Sampler", "SamplerConfig"),
    "dmpo.tasks.base": ("Task",),
    "dmpo.training.events": ("Observer",),
    "dmpo.training.settings": ("TrainingSettings",),
    "dmpo.training.trainer": ("Trainer", "TrainingParts"),
    "dmpo.weights.base": ("Baseline", "WeightEstimator"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name's module when the name is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
