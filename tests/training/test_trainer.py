from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, final

import pytest
import torch
from accelerate.state import AcceleratorState

from dmpo.errors import ConfigError, DivergenceError, RewardError
from dmpo.evaluation.evaluator import EvaluationSettings, Evaluator
from dmpo.objectives.base import Objective
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Batch, Experience, LossOutput, Prompts, Rewards, Rollouts
from dmpo.registry import SAMPLERS, PluginConfig
from dmpo.rewards.base import RewardModel
from dmpo.samplers.base import Sampler, SamplerConfig
from dmpo.tasks.base import Task
from dmpo.training.events import BufferFilled, StepDone
from dmpo.training.metrics import METRICS
from tests.training.runs import (
    CountingTask,
    Recorder,
    small_objective,
    small_parts,
    small_policy,
    small_settings,
    small_trainer,
    weights_of,
)


@final
class PoisonedObjective(Objective):
    """Another objective whose loss is not a number at one update of each buffer."""

    Config: ClassVar[type[PluginConfig]] = PluginConfig
    default_parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __init__(self, inner: Objective, update: int) -> None:
        self.inner, self.update, self.is_poisoned = inner, update, False

    @property
    def needs_reference(self) -> bool:
        return self.inner.needs_reference

    def prepare(
        self,
        policy: DiffusionPolicy,
        rollouts: Rollouts,
        rewards: Rewards,
        generator: torch.Generator,
    ) -> Experience:
        return self.inner.prepare(policy, rollouts, rewards, generator)

    def draw(
        self,
        policy: DiffusionPolicy,
        experience: Experience,
        generator: torch.Generator,
        *,
        update: int,
    ) -> Batch:
        self.is_poisoned = update == self.update
        return self.inner.draw(policy, experience, generator, update=update)

    def loss(self, policy: DiffusionPolicy, batch: Batch) -> LossOutput:
        output = self.inner.loss(policy, batch)
        return replace(output, loss=output.loss * math.nan) if self.is_poisoned else output


@final
class WatchingSampler(Sampler):
    """Another sampler, and whether the policy was in training mode when it was asked."""

    Config: ClassVar[type[SamplerConfig]] = SamplerConfig

    def __init__(self) -> None:
        self.modes: list[bool] = []

    def sample(
        self,
        policy: DiffusionPolicy,
        prompts: Prompts,
        *,
        num_rollouts: int,
        generator: torch.Generator,
    ) -> Rollouts:
        self.modes.append(policy.module.training)
        inner = SAMPLERS.build("roar", {"gen_length": 4})
        return inner.sample(policy, prompts, num_rollouts=num_rollouts, generator=generator)


def _lines(directory: Path) -> list[dict[str, float]]:
    text = (directory / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_training_goes_through_algorithm_1_in_order(tmp_path: Path) -> None:
    recorder = Recorder()
    small_trainer(tmp_path, observers=[recorder]).train()
    buffer, step = "BufferFilled", "StepDone"
    assert recorder.names == ["Started", buffer, *[step] * 4, buffer, *[step] * 2, "Finished"]


def test_evaluations_frame_the_run_and_may_come_in_between(tmp_path: Path) -> None:
    sampler = SAMPLERS.build("roar", {"gen_length": 4})
    evaluator = Evaluator(CountingTask(), sampler, EvaluationSettings())
    recorder, settings = Recorder(), small_settings(evaluate_every=4)
    small_trainer(tmp_path, settings, evaluator=evaluator, observers=[recorder]).train()
    evaluated = [e.step for e in recorder.events if type(e).__name__ == "EvaluationDone"]
    assert evaluated == [0, 4, 6]


@pytest.mark.parametrize("rows", [1, 5])
def test_cutting_a_buffer_into_micro_batches_changes_nothing(tmp_path: Path, rows: int) -> None:
    whole, cut = small_policy(), small_policy()
    objective = small_objective(baseline="model")
    # SGD-like epsilon: Adam's normalisation would blow rounding up to the learning rate.
    settings = small_settings(adam_epsilon=1.0)
    small_trainer(tmp_path / "a", settings, policy=whole, objective=objective).train()
    settings = small_settings(adam_epsilon=1.0, micro_batch_rows=rows)
    small_trainer(tmp_path / "b", settings, policy=cut, objective=objective).train()
    for name, tensor in weights_of(whole).items():
        torch.testing.assert_close(weights_of(cut)[name], tensor, rtol=1e-4, atol=1e-6)


def test_training_moves_the_weights_and_a_seed_decides_where_to(tmp_path: Path) -> None:
    policies = [small_policy() for _ in range(3)]
    for number, (policy, seed) in enumerate(zip(policies, (0, 0, 1), strict=True)):
        small_trainer(tmp_path / str(number), policy=policy, seed=seed).train()
    first, again, other = (weights_of(policy) for policy in policies)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_training_raises_the_reward_of_an_easy_task(tmp_path: Path) -> None:
    settings = small_settings(num_steps=48, prompts_per_buffer=6, rollouts_per_prompt=8)
    recorder = Recorder()
    objective = small_objective(alpha=0.0, updates=4)
    small_trainer(tmp_path, settings, objective=objective, observers=[recorder]).train()
    rewards = [e.metrics["reward/mean"] for e in recorder.events if isinstance(e, BufferFilled)]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.1


def test_every_step_reports_the_same_finite_metrics_that_the_table_knows(tmp_path: Path) -> None:
    small_trainer(tmp_path).train()
    lines = _lines(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    known = [re.escape(name).replace("<name>", ".+").replace("<phase>", ".+") for name in METRICS]
    for line in lines:
        assert line.keys() == lines[0].keys()
        assert all(math.isfinite(value) for value in line.values())
        assert all(any(re.fullmatch(k, name) for k in known) for name in line.keys() - {"step"})


def test_metrics_of_a_reference_appear_where_there_is_one(tmp_path: Path) -> None:
    small_trainer(tmp_path / "with").train()
    small_trainer(tmp_path / "without", objective=small_objective(alpha=0.0)).train()
    assert _lines(tmp_path / "with")[0]["log_ratio/std"] == 0  # π_v is still π_ref
    assert _lines(tmp_path / "with")[-1]["log_ratio/std"] > 0
    assert "log_ratio/std" not in _lines(tmp_path / "without")[-1]


def test_time_limit_ends_the_run_at_the_next_buffer(tmp_path: Path) -> None:
    finished = small_trainer(tmp_path, small_settings(num_steps=50, max_seconds=1e-6)).train()
    assert (finished.step, finished.reason) == (4, "max_seconds")


@pytest.mark.parametrize("limit", ["max_model_tokens", "max_model_flops"])
def test_run_stops_at_the_buffer_after_its_compute(tmp_path: Path, limit: str) -> None:
    settings = small_settings(num_steps=50, **{limit: 1.0})
    finished = small_trainer(tmp_path, settings).train()
    assert (finished.step, finished.reason) == (4, limit)


def test_step_without_a_finite_loss_is_skipped_and_counted(tmp_path: Path) -> None:
    policy = small_policy()
    objective = PoisonedObjective(small_objective(), update=1)
    small_trainer(tmp_path, policy=policy, objective=objective).train()
    assert [line["optimizer/skipped_steps"] for line in _lines(tmp_path)] == [0, 1, 1, 1, 1, 2]
    assert all(torch.isfinite(tensor).all() for tensor in weights_of(policy).values())


def test_run_stops_with_its_state_saved_when_steps_are_skipped_in_a_row(tmp_path: Path) -> None:
    policy = small_policy()
    objective = PoisonedObjective(small_objective(updates=1), update=0)
    settings = small_settings(updates_per_buffer=1, max_skipped_in_a_row=3)
    before = weights_of(policy)
    with pytest.raises(DivergenceError, match=r"3 steps in a row .* saved in .*step-000003"):
        small_trainer(tmp_path, settings, policy=policy, objective=objective).train()
    path = tmp_path / "checkpoints" / "step-000003"
    policy.load_weights(path / "policy")
    assert all(torch.equal(before[name], tensor) for name, tensor in weights_of(policy).items())
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    assert state["progress"]["skipped_in_a_row"] == 3


def test_skipped_steps_that_alternate_with_others_do_not_stop_a_run(tmp_path: Path) -> None:
    objective = PoisonedObjective(small_objective(updates=2), update=0)
    settings = small_settings(updates_per_buffer=2, max_skipped_in_a_row=2)
    assert small_trainer(tmp_path, settings, objective=objective).train().step == 6


@pytest.fixture
def another_precision() -> Iterator[None]:
    """Accelerate keeps one precision per process; let go of it before and after."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("another_precision")
def test_reference_has_the_precision_of_the_policy(tmp_path: Path) -> None:
    recorder = Recorder()
    settings = small_settings(num_steps=1, mixed_precision="bf16")
    small_trainer(tmp_path, settings, observers=[recorder]).train()
    (filled,) = [event for event in recorder.events if isinstance(event, BufferFilled)]
    assert filled.metrics["log_ratio/mean"] == 0  # π_v is still π_ref
    assert filled.metrics["log_ratio/std"] == 0


@final
class ShortReward(RewardModel):
    """Speaks of fewer prompts than there are."""

    Config: ClassVar[type[PluginConfig]] = PluginConfig

    def score(self, rollouts: Rollouts, task: Task) -> Rewards:
        total = torch.zeros(rollouts.num_prompts - 1, rollouts.num_rollouts)
        return Rewards(total=total, components={})


def test_rewards_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RewardError, match=r"total is torch\.float32 of shape \[2, 4\]; expected"):
        small_trainer(tmp_path, reward=ShortReward()).train()


def test_rollouts_are_drawn_in_evaluation_mode_and_training_mode_comes_back(
    tmp_path: Path,
) -> None:
    sampler, policy = WatchingSampler(), small_policy()
    small_trainer(tmp_path, policy=policy, sampler=sampler).train()
    assert sampler.modes == [False, False]
    assert policy.module.training


def test_buffer_sampled_in_parts_is_whole(tmp_path: Path) -> None:
    sampler, recorder = WatchingSampler(), Recorder()
    settings = small_settings(num_steps=1, rows_per_forward=9)
    small_trainer(tmp_path, settings, sampler=sampler, observers=[recorder]).train()
    (filled,) = [event for event in recorder.events if isinstance(event, BufferFilled)]
    rollouts = filled.experience.rollouts
    assert len(sampler.modes) == 2
    assert rollouts.completions.shape == (3, 4, 4)
    assert [len(texts) for texts in rollouts.texts] == [4, 4, 4]
    assert rollouts.log_probs is not None


def test_time_left_shrinks_to_nothing(tmp_path: Path) -> None:
    recorder = Recorder()
    small_trainer(tmp_path, observers=[recorder]).train()
    left = [event.seconds_left for event in recorder.events if isinstance(event, StepDone)]
    assert left[0] > 0
    assert left[-1] == 0


@pytest.mark.parametrize("limit", ["tokens", "flops"])
def test_time_left_is_that_of_the_budget_that_ends_first(limit: str) -> None:
    settings = small_settings(num_steps=1000, **{f"max_model_{limit}": 400.0})
    left = settings.seconds_left(10, 5.0, model_tokens=100, model_flops=100)
    assert left == pytest.approx(15)


def test_group_larger_than_a_forward_pass_is_refused() -> None:
    with pytest.raises(ValueError, match="rows_per_forward 2 is less than rollouts_per_prompt 4"):
        small_settings(rows_per_forward=2)


def test_reference_is_frozen_before_the_first_step(tmp_path: Path) -> None:
    parts = small_parts()
    with pytest.raises(ConfigError), parts.policy.reference():
        pass
    small_trainer(tmp_path, policy=parts.policy)
    with parts.policy.reference():
        pass
