"""A run small enough to be repeated in a test: two-digit problems, a LLaDA of a few numbers."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, final

import torch

from dmpo.objectives.base import Objective, ObjectiveParts
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Example, Split
from dmpo.registry import (
    BASELINES,
    LIKELIHOODS,
    OBJECTIVES,
    POLICIES,
    REWARDS,
    SAMPLERS,
    WEIGHTS,
    PluginConfig,
)
from dmpo.tasks.base import Task
from dmpo.training.events import Event
from dmpo.training.settings import TrainingSettings
from dmpo.training.tracker_kinds import TrackingSettings
from dmpo.training.trainer import Trainer, TrainingParts

SHAPE = {"d_model": 16, "n_layers": 1, "n_heads": 2, "mlp_hidden_size": 32, "characters": "012="}


@final
class CountingTask(Task):
    """The share of tokens that repeat the prompt's digit: every group has some spread."""

    Config: ClassVar[type[PluginConfig]] = PluginConfig
    reward_weights: ClassVar[Mapping[str, float]] = {"share": 1.0}
    headline = "right"
    response_length = 4

    def examples(self, split: Split) -> Sequence[Example]:
        offset = {"train": 0, "validation": 1, "test": 2}[split]
        digits = [f"{(i + offset) % 3}{i % 3}" for i in range(9)]
        return [Example(prompt=f"{d}=", columns={"digit": d[0]}) for d in digits]

    def read_answer(self, example: Example, completion: str) -> str | None:
        return completion if completion.isdigit() else None

    def grade(self, example: Example, completion: str) -> Mapping[str, float]:
        share = completion.count(example.columns["digit"]) / self.response_length
        return {"share": share, "right": float(share == 1)}

    def demonstrate(self, example: Example, rng: random.Random) -> str:
        return str(example.columns["digit"]) * rng.choice([3, 4])


@final
class Recorder:
    """An observer that keeps what it was told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def notify(self, event: Event) -> None:
        self.events.append(event)

    @property
    def names(self) -> list[str]:
        return [type(event).__name__ for event in self.events]


def small_policy(**parameters: Any) -> DiffusionPolicy:
    return POLICIES.build("llada", {"scratch": SHAPE, **parameters})


def small_objective(*, baseline: str = "mean", alpha: float = 0.5, updates: int = 4) -> Objective:
    weights = {"alpha": alpha} if alpha else {"alpha": 0, "eta": 10}
    parts = ObjectiveParts(
        likelihood=LIKELIHOODS.build("elbo", {"num_views": 2}),
        ratio_likelihood=LIKELIHOODS.build("elbo", {"num_views": 4}),
        weights=WEIGHTS.build("tilted", weights),
        baseline=BASELINES.build(baseline),
        updates_per_buffer=updates,
        rows_per_forward=8,
    )
    objective: Any = OBJECTIVES.load("dmpo")
    return objective(objective.Config(), parts)


def small_parts(**changes: Any) -> TrainingParts:
    parts = TrainingParts(
        policy=changes.pop("policy", None) or small_policy(),
        task=CountingTask(),
        sampler=SAMPLERS.build("roar", {"gen_length": 4}),
        reward=REWARDS.build("task"),
        objective=changes.pop("objective", None) or small_objective(),
    )
    return replace(parts, **changes)


def small_settings(**changes: Any) -> TrainingSettings:
    numbers = {
        "num_steps": 6,
        "prompts_per_buffer": 3,
        "rollouts_per_prompt": 4,
        "updates_per_buffer": 4,
        "learning_rate": 1e-2,
    }
    return TrainingSettings(**{**numbers, **changes})


def small_trainer(
    directory: Path, settings: TrainingSettings | None = None, **changes: Any
) -> Trainer:
    named = ("seed", "evaluator", "observers", "tracking", "interruption", "config_text")
    given = {name: changes.pop(name) for name in named if name in changes}
    options = {"seed": 0, "tracking": TrackingSettings(trackers=()), **given}
    parts = small_parts(**changes)
    return Trainer(parts, settings or small_settings(), run_directory=directory, **options)


def weights_of(policy: DiffusionPolicy) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in policy.module.state_dict().items()}
