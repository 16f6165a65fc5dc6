"""What a gradient step looks at: replay, rows without weight, groups without spread."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dmpo.records import Example
from dmpo.tasks.base import Task
from dmpo.training.events import BufferFilled, StepDone
from tests.training.runs import (
    CountingTask,
    Recorder,
    small_objective,
    small_policy,
    small_settings,
    small_trainer,
    weights_of,
)


class Flat(Task):
    """Every answer to an even problem is worth the same."""

    Config = CountingTask.Config
    reward_weights = CountingTask.reward_weights
    headline = CountingTask.headline
    response_length = CountingTask.response_length

    def __init__(self) -> None:
        self._task = CountingTask()

    def examples(self, split):
        found = self._task.examples(split)
        return [replace(e, columns={**e.columns, "flat": n % 2 == 0}) for n, e in enumerate(found)]

    def read_answer(self, example: Example, completion: str) -> str | None:
        return self._task.read_answer(example, completion)

    def grade(self, example: Example, completion: str) -> Mapping[str, float]:
        grades = self._task.grade(example, completion)
        return dict.fromkeys(grades, 0.0) if example.columns["flat"] else grades

    def demonstrate(self, example: Example, rng: random.Random) -> str:
        return self._task.demonstrate(example, rng)


def steps(recorder: Recorder) -> list[Mapping[str, float]]:
    return [event.metrics for event in recorder.events if isinstance(event, StepDone)]


def buffers(recorder: Recorder) -> list[BufferFilled]:
    return [event for event in recorder.events if isinstance(event, BufferFilled)]


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_turns_use_every_stored_buffer_and_count_its_updates(num_replayed, share, stored):
    stored = min(stored, num_replayed)
    total = num_replayed * share
    settings = small_settings(updates_per_buffer=total, replay_buffers=num_replayed)
    turns = [settings.turn(range(stored), update) for update in range(total)]
    assert turns[0] == (0, 0)  # the newest first, when the policy is still the one that made it
    assert {age for age, _ in turns} == set(range(min(stored, total)))
    assert len(set(turns)) == total
    assert all(0 <= update < total for _, update in turns)


def test_every_buffer_is_used_f_times_once_the_replay_is_full():
    settings = small_settings(updates_per_buffer=6, replay_buffers=3)
    ages = [settings.turn("abc", update) for update in range(6)]
    uses = sorted(update for _, update in ages)
    assert uses == list(range(6))


def test_updates_that_buffers_cannot_share_are_refused():
    with pytest.raises(ValidationError, match="updates_per_buffer 4 is no multiple"):
        small_settings(replay_buffers=3)


def test_replayed_run_goes_on_with_the_very_same_weights(tmp_path: Path) -> None:
    options = {"replay_buffers": 2, "updates_per_buffer": 2, "num_steps": 7}
    whole, first, second = small_policy(), small_policy(), small_policy()
    objective = small_objective(baseline="model", updates=2)
    small_trainer(
        tmp_path / "a", small_settings(**options), policy=whole, objective=objective
    ).train()
    settings = small_settings(**{**options, "num_steps": 4})  # between two buffers
    trainer = small_trainer(tmp_path / "b", settings, policy=first, objective=objective)
    path = trainer.train().checkpoint
    trainer = small_trainer(
        tmp_path / "c", small_settings(**options), policy=second, objective=objective
    )
    trainer.restore(path)
    trainer.train()
    expected, found = weights_of(whole), weights_of(second)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_rows_below_the_threshold_cost_nothing(tmp_path: Path) -> None:
    recorders = [Recorder(), Recorder()]
    for number, threshold in enumerate((0.0, 1.5)):
        small_trainer(
            tmp_path / str(number),
            small_settings(skip_below=threshold, num_steps=1),
            observers=[recorders[number]],
            objective=small_objective(baseline="none"),
        ).train()
    every, some = (steps(recorder)[0] for recorder in recorders)
    assert some["tokens/loss"] < every["tokens/loss"]
    assert some["tokens/rollout"] == every["tokens/rollout"]


def test_skipping_rows_of_no_weight_changes_no_weight_of_the_model(tmp_path: Path) -> None:
    policies = [small_policy(), small_policy()]
    for number, kind in enumerate(("keep", "skip")):
        # At alpha 0 a group without spread has real weights 0 under the mean baseline.
        small_trainer(
            tmp_path / kind,
            small_settings(flat_groups=kind, num_steps=2, adam_epsilon=1.0),
            policy=policies[number],
            objective=small_objective(alpha=0),
            task=Flat(),
        ).train()
    one, other = map(weights_of, policies)
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-6)


def test_step_without_any_row_leaves_the_weights_alone(tmp_path: Path) -> None:
    policy = small_policy()
    before = weights_of(policy)
    settings = small_settings(skip_below=1e9, num_steps=2, weight_decay=0.0)
    finished = small_trainer(tmp_path, settings, policy=policy).train()
    assert finished.step == 2
    after = weights_of(policy)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_flat_groups_are_replaced_and_their_cost_is_counted(tmp_path: Path) -> None:
    recorders = {kind: Recorder() for kind in ("keep", "replace")}
    for kind, recorder in recorders.items():
        settings = small_settings(
            flat_groups=kind, num_steps=1, replacement_rounds=9, prompts_per_buffer=4
        )
        small_trainer(tmp_path / kind, settings, observers=[recorder], task=Flat()).train()
    kept, replaced = (buffers(recorder)[0].metrics for recorder in recorders.values())
    assert kept["reward/flat_groups"] >= 0.25
    assert replaced["reward/flat_groups"] == 0
    assert replaced["rollout/discarded_groups"] >= 1
    tokens = [steps(recorder)[0]["tokens/rollout"] for recorder in recorders.values()]
    assert tokens[1] > tokens[0]
    shape = buffers(recorders["replace"])[0].experience.rewards.total.shape
    assert shape == (4, 4)


def test_flat_groups_fill_the_buffer_when_no_round_is_left(tmp_path: Path) -> None:
    class AllFlat(Flat):
        def grade(self, example, completion):
            return {"share": 0.0, "right": 0.0}

    recorder = Recorder()
    settings = small_settings(flat_groups="replace", num_steps=1, replacement_rounds=2)
    small_trainer(tmp_path, settings, observers=[recorder], task=AllFlat()).train()
    (filled,) = buffers(recorder)
    assert filled.experience.rewards.total.shape == (3, 4)
    assert filled.metrics["rollout/discarded_groups"] == 6


def test_replacing_run_resumes_where_its_prompts_ended(tmp_path: Path) -> None:
    options = {"flat_groups": "replace", "updates_per_buffer": 1, "num_steps": 4}
    objective = small_objective(updates=1)
    whole, second = small_policy(), small_policy()
    small_trainer(
        tmp_path / "a", small_settings(**options), policy=whole, objective=objective, task=Flat()
    ).train()
    settings = small_settings(**{**options, "num_steps": 2})
    path = small_trainer(tmp_path / "b", settings, objective=objective, task=Flat()).train()
    trainer = small_trainer(
        tmp_path / "c", small_settings(**options), policy=second, objective=objective, task=Flat()
    )
    trainer.restore(path.checkpoint)
    trainer.train()
    expected, found = weights_of(whole), weights_of(second)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
