"""From a resolved config to objects, each through its registry; contradictions are refused."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

import torch

from dmpo.config.preflight import canvas_length, check_prompts, check_task, named_prompts
from dmpo.config.run import EvaluationSection, PluginSection, RewardSection, RunConfig, SftConfig
from dmpo.errors import ConfigError
from dmpo.evaluation.evaluator import EvaluationSettings, Evaluator
from dmpo.likelihoods.base import Likelihood
from dmpo.objectives.base import Objective, ObjectiveParts
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Rewards, Rollouts
from dmpo.registry import (
    BASELINES,
    LIKELIHOODS,
    OBJECTIVES,
    POLICIES,
    REWARDS,
    SAMPLERS,
    TASKS,
    WEIGHTS,
)
from dmpo.rewards.base import RewardModel
from dmpo.rewards.composite import CompositeReward
from dmpo.rewards.guarded import GuardedReward
from dmpo.samplers.base import Sampler
from dmpo.tasks.base import Task
from dmpo.training.sft import SftTask
from dmpo.training.trainer import TrainingParts

__all__ = [
    "LightParts",
    "build_evaluator",
    "build_light_parts",
    "build_objective",
    "build_policy",
    "build_reward",
    "build_sampler",
    "build_sft_tasks",
    "build_task",
    "build_training_parts",
    "place_on_accelerator",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LightParts:
    """Every part of a run but the policy: built in an instant, so contradictions show first."""

    task: Task
    """Where prompts come from."""
    sampler: Sampler
    """How rollouts are made."""
    reward: RewardModel
    """What makes a rollout good."""
    objective: Objective
    """How rewards become a gradient."""
    evaluator: Evaluator
    """What measures the policy before and after."""


def build_policy(section: PluginSection) -> DiffusionPolicy:
    """Build the policy: this loads weights."""
    return POLICIES.build(section.name, section.parameters)


def build_task(section: PluginSection) -> Task:
    """Build the task."""
    return TASKS.build(section.name, section.parameters)


def build_sampler(section: PluginSection) -> Sampler:
    """Build a sampler from a section whose ``gen_length`` is filled in."""
    return SAMPLERS.build(section.name, section.parameters)


def build_reward(sections: Sequence[RewardSection]) -> RewardModel:
    """Build the weighted sum of the rewards; one of weight 1 stands for itself."""
    if len(sections) == 1 and sections[0].weight == 1:
        return _guarded(sections[0], _reward_name(sections[0]))
    parts: dict[str, tuple[float, RewardModel]] = {}
    for section in sections:
        name = _distinct(_reward_name(section), parts)
        parts[name] = (section.weight, _guarded(section, name))
    return CompositeReward([(name, weight, reward) for name, (weight, reward) in parts.items()])


def _guarded(section: RewardSection, name: str) -> RewardModel:
    built = REWARDS.build(section.name, section.parameters)
    if section.timeout is None and section.on_error == "stop":
        return built
    return GuardedReward(name, built, timeout=section.timeout, on_error=section.on_error)


def _reward_name(section: RewardSection) -> str:
    """Return how the log calls a reward: a function's own name."""
    return str(section.parameters.get("target", section.name)).rpartition(":")[2]


def _distinct(name: str, taken: Container[str]) -> str:
    names = itertools.chain([name], (f"{name}_{count}" for count in itertools.count(2)))
    return next(candidate for candidate in names if candidate not in taken)


def build_objective(
    config: RunConfig, score: Callable[[Rollouts], Rewards] | None = None
) -> Objective:
    """Build the objective and its exchangeable parts.

    Args:
        config: Names and parameters.
        score: Rewards of texts that an objective makes itself.

    Raises:
        ConfigError: If the parts contradict each other.
    """
    likelihood = _likelihood(config.likelihood)
    ratio = likelihood
    if config.ratio_likelihood is not None:
        ratio = _likelihood(config.ratio_likelihood)
    parts = ObjectiveParts(
        likelihood=likelihood,
        ratio_likelihood=ratio,
        weights=WEIGHTS.build(config.weights.name, config.weights.parameters),
        baseline=BASELINES.build(config.baseline.name, config.baseline.parameters),
        updates_per_buffer=config.training.updates_per_buffer,
        rows_per_forward=config.training.likelihood_rows or config.training.rows_per_forward,
        replays=config.training.replay_buffers > 1,
        score=score,
    )
    if parts.baseline.strength and not parts.weights.has_link:
        raise ConfigError(
            f"baseline: {config.baseline.name!r} goes through the link of the weights, and "
            f"{config.weights.name!r} weights have none; use baseline 'none' or other weights."
        )
    objective = OBJECTIVES.load(config.objective.name)
    parameters = OBJECTIVES.config(config.objective.name, config.objective.parameters)
    built = objective(parameters, parts)  # type: ignore[call-arg]  # by contract: cls(config, parts)
    if config.training.skip_below > 0 and not built.ignores_weightless_rows:
        raise ConfigError(
            f"training.skip_below: {config.objective.name} with these settings learns from rows of "
            "weight 0, too (a divergence or a square of its own), so none may be skipped; leave it "
            "at 0, or set objective.beta to 0 where there is one."
        )
    if config.training.micro_batch_views is not None and not built.is_sum_over_views:
        raise ConfigError(
            f"training.micro_batch_views: the loss of {config.objective.name} with these parts is "
            "no sum over views, so the views of a rollout stay together; leave it out, or make "
            "training.micro_batch_rows smaller."
        )
    return built


def _likelihood(section: PluginSection) -> Likelihood:
    return LIKELIHOODS.build(section.name, section.parameters)


def build_evaluator(section: EvaluationSection, task: Task) -> Evaluator:
    """Build the evaluator with its own sampler.

    Raises:
        ConfigError: If several samples of a problem are asked for, and all would be alike.
    """
    settings = EvaluationSettings.model_validate(section.model_dump(exclude={"sampler"}))
    sampler = build_sampler(section.sampler)
    if settings.samples_per_prompt > 1 and sampler.is_deterministic:
        raise ConfigError(
            f"evaluation.samples_per_prompt: {settings.samples_per_prompt} samples by "
            f"{section.sampler.name!r} at temperature 0 would be alike; set "
            "evaluation.sampler.temperature above 0."
        )
    return Evaluator(task, sampler, settings)


def build_light_parts(config: RunConfig) -> LightParts:
    """Build everything but the policy and check that the parts go together.

    Raises:
        ConfigError: If they contradict each other; the message names the fields.
    """
    task = build_task(config.task)
    sampler = build_sampler(config.sampler)
    _check_path(config, sampler)
    _check_group(config, sampler)
    reward = build_reward(config.rewards)
    return LightParts(
        task=task,
        sampler=sampler,
        reward=reward,
        objective=build_objective(config, lambda rollouts: reward.score(rollouts, task)),
        evaluator=build_evaluator(config.evaluation, task),
    )


def _check_path(config: RunConfig, sampler: Sampler) -> None:
    """Refuse a likelihood of the path where the sampler records none."""
    if sampler.records_path:
        return
    for field in ("likelihood", "ratio_likelihood"):
        section: PluginSection | None = getattr(config, field)
        if section is not None and _likelihood(section).needs_path:
            raise ConfigError(
                f"{field}: {section.name!r} needs the path of each rollout, and sampler "
                f"{config.sampler.name!r} with these settings records none; use sampler 'roar', "
                "'peaked' or 'entropy_bound' at a temperature above 0, or another likelihood."
            )


def _check_group(config: RunConfig, sampler: Sampler) -> None:
    """Refuse an N that the sampler cannot have, and groups of equal rollouts."""
    asked = config.training.rollouts_per_prompt
    if sampler.is_deterministic:
        raise ConfigError(
            f"sampler: the {asked} rollouts of a prompt by {config.sampler.name!r} at temperature "
            "0 would be alike, and a group without spread teaches nothing; set "
            "sampler.temperature above 0."
        )
    if sampler.num_rollouts not in (None, asked):
        raise ConfigError(
            f"training.rollouts_per_prompt: {asked} rollouts are asked for, and sampler "
            f"{config.sampler.name!r} has {sampler.num_rollouts} of each prompt; set it to "
            f"{sampler.num_rollouts}."
        )


def build_training_parts(config: RunConfig, light: LightParts) -> TrainingParts:
    """Build the policy, on the accelerator, and put all parts of a run together.

    Raises:
        DataError: If a prompt is not for this policy: too long, or not expressible.
    """
    policy = build_policy(config.policy)
    prompts = named_prompts(light.task.examples("train"), "task, train problem")
    check_prompts(policy, prompts, room=canvas_length(config.sampler))
    room = canvas_length(config.evaluation.sampler)
    check_task(policy, light.task, config.evaluation, room=room, name="task")
    place_on_accelerator(policy)
    return TrainingParts(
        policy=policy,
        task=light.task,
        sampler=light.sampler,
        reward=light.reward,
        objective=light.objective,
    )


def build_sft_tasks(config: SftConfig) -> list[SftTask]:
    """Build the mixture that supervised fine-tuning learns from; each has its own canvas."""
    tasks: dict[str, SftTask] = {}
    for section in config.tasks:
        task = build_task(section)
        name = _distinct(section.name, tasks)
        sampler = {**config.evaluation.sampler.model_dump(), "gen_length": task.response_length}
        evaluation = config.evaluation.model_copy(update={"sampler": PluginSection(**sampler)})
        tasks[name] = SftTask(
            name=name,
            task=task,
            weight=section.weight,
            evaluator=build_evaluator(evaluation, task),
        )
    return list(tasks.values())


def place_on_accelerator(policy: DiffusionPolicy) -> None:
    """Move the policy to this process's accelerator, if there is one."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    # Apple's has no float64, which masks and weights are drawn and computed in.
    if accelerator is not None and accelerator.type != "mps":
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        policy.module.to(torch.device(accelerator.type, local_rank))
