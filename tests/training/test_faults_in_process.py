"""What goes wrong around a run, and what is only arranged otherwise: its numbers stay."""

from __future__ import annotations

import errno
import itertools
import json
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, final

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dmpo.errors import OutputError, RewardError
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Example, Rewards, Rollouts, Split
from dmpo.registry import REWARDS, PluginConfig
from dmpo.rewards.base import RewardModel
from dmpo.tasks.base import Task
from dmpo.training.checkpoint import verify_checkpoint
from dmpo.training.events import Event, StepDone, Warned
from tests.cli.command import SMALL, dmpo
from tests.training.runs import (
    CountingTask,
    Recorder,
    small_objective,
    small_policy,
    small_settings,
    small_trainer,
    weights_of,
)

OFTEN = {"checkpoint_every": 1, "keep_checkpoints": 9}


@final
class LongerTask(Task):
    """The counting task behind prompts of several lengths."""

    Config: ClassVar[type[PluginConfig]] = PluginConfig
    reward_weights: ClassVar[Mapping[str, float]] = CountingTask.reward_weights
    headline = CountingTask.headline
    response_length = CountingTask.response_length

    def examples(self, split: Split) -> Sequence[Example]:
        found = CountingTask().examples(split)
        return [replace(e, prompt="0" * (n % 4) + e.prompt) for n, e in enumerate(found)]

    def read_answer(self, example: Example, completion: str) -> str | None:
        return CountingTask().read_answer(example, completion)

    def grade(self, example: Example, completion: str) -> Mapping[str, float]:
        return CountingTask().grade(example, completion)

    def demonstrate(self, example: Example, rng: random.Random) -> str:
        return CountingTask().demonstrate(example, rng)


@final
class BrokenReward(RewardModel):
    """The task's reward with one number put in place of another, in the second buffer."""

    Config: ClassVar[type[PluginConfig]] = PluginConfig

    def __init__(self, value: float, *, in_component: bool = False) -> None:
        self.value, self.in_component, self.calls = value, in_component, 0

    def score(self, rollouts: Rollouts, task: Task) -> Rewards:
        self.calls += 1
        found = REWARDS.build("task").score(rollouts, task)
        if self.calls > 1:
            broken = found.components["share"] if self.in_component else found.total
            broken[0, 3] = self.value
        return found


@final
class At:
    """An observer that does something once a step is done."""

    def __init__(self, step: int, do: Callable[[], None]) -> None:
        self.step, self.do = step, do

    def notify(self, event: Event) -> None:
        if isinstance(event, StepDone) and event.step == self.step:
            self.do()


def full_disk(policy: DiffusionPolicy, at_saves: set[int]) -> DiffusionPolicy:
    """Return the policy; some of its saves find no room, after half of the work."""
    save, count = policy.save, itertools.count(1)

    def filling(directory: Path, *more: Any) -> None:
        save(directory, *more)
        if next(count) in at_saves:
            raise OSError(errno.ENOSPC, "No space left on device")

    policy.save = filling  # type: ignore[method-assign]
    return policy


def ended(directory: Path, **options: Any) -> dict[str, Tensor]:
    """Return the weights at the end of a run of the task with several lengths."""
    parts = {name: options.pop(name) for name in ("task", "policy") if name in options}
    policy = parts.pop("policy", None) or small_policy()
    named = {name: options.pop(name) for name in ("observers", "reward") if name in options}
    trainer = small_trainer(
        directory,
        small_settings(**options),
        policy=policy,
        task=parts.get("task", LongerTask()),
        objective=small_objective(baseline="model"),
        **named,
    )
    trainer.train()
    return weights_of(policy)


def lines(directory: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """Return the lines of a run without what a clock decides."""
    found = [json.loads(line) for line in (directory / name).read_text().splitlines()]
    clocked = ("time/", "tokens/per_second")
    return [{k: v for k, v in line.items() if not k.startswith(clocked)} for line in found]


def assert_same_run(found: Path, expected: Path) -> None:
    """Assert that two runs did the very same, by their lines and by their last weights."""
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert lines(found, name) == lines(expected, name)
    weights = "checkpoints/step-000006/policy/model.safetensors"
    assert (found / weights).read_bytes() == (expected / weights).read_bytes()


def saved(directory: Path) -> list[str]:
    """Return the names of the checkpoints, each of which is whole, and of whatever is beside."""
    paths = sorted((directory / "checkpoints").iterdir())
    for path in paths:
        verify_checkpoint(path)
    return [path.name for path in paths]


def test_run_goes_on_after_a_checkpoint_that_found_no_room(tmp_path: Path) -> None:
    recorder, policy = Recorder(), full_disk(small_policy(), {2, 3})
    options = {"on_save_error": "continue", **OFTEN}
    ended(tmp_path / "full", policy=policy, observers=[recorder], **options)
    warned = [event for event in recorder.events if isinstance(event, Warned)]
    assert [event.step for event in warned] == [2, 3]
    for event in warned:
        assert "no checkpoint: " in event.text
        assert f"step-00000{event.step}: cannot be written: No space left" in event.text
    assert saved(tmp_path / "full") == [f"step-00000{step}" for step in (1, 4, 5, 6)]
    ended(tmp_path / "roomy", **OFTEN)
    assert_same_run(tmp_path / "full", tmp_path / "roomy")


def test_older_checkpoints_are_kept_while_newer_ones_cannot_be_written(tmp_path: Path) -> None:
    options = {"on_save_error": "continue", "checkpoint_every": 1, "keep_checkpoints": 1}
    policy = full_disk(small_policy(), {2, 3, 4})
    seen: list[list[str]] = []
    look = [At(step, lambda: seen.append(saved(tmp_path))) for step in (2, 3, 4, 5)]
    ended(tmp_path, policy=policy, observers=look, **options)
    assert seen == [["step-000001"]] * 4
    assert saved(tmp_path) == ["step-000006"]


def test_run_stops_at_a_checkpoint_that_found_no_room_unless_told_otherwise(
    tmp_path: Path,
) -> None:
    recorder, policy = Recorder(), full_disk(small_policy(), {2})
    with pytest.raises(OutputError, match=r"step-000002: cannot be written: No space left"):
        ended(tmp_path, policy=policy, observers=[recorder], **OFTEN)
    assert recorder.names[-1] == "StepDone"
    assert saved(tmp_path) == ["step-000001"]


def test_the_last_checkpoint_is_not_left_out_without_an_error(
    tmp_path: Path, file_size_limit: Callable[[int], None]
) -> None:
    recorder = Recorder()
    fill_up = At(2, lambda: file_size_limit(16_384))
    with pytest.raises(OutputError, match=r"step-000006: cannot be written: .*too large"):
        ended(tmp_path, observers=[recorder, fill_up], on_save_error="continue", **OFTEN)
    warned = [event.step for event in recorder.events if isinstance(event, Warned)]
    assert warned == [2, 3, 4, 5, 6]
    assert saved(tmp_path) == ["step-000001"]
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("overlap", [False, True])
def test_a_reward_that_is_no_number_is_refused_by_its_row(
    tmp_path: Path, value: float, overlap: bool
) -> None:
    reward = BrokenReward(value)
    text = rf"reward: total of row 3 \(prompt 0, rollout 3\) is {value}; finite numbers are"
    with pytest.raises(RewardError, match=text):
        ended(tmp_path, task=CountingTask(), reward=reward, overlap_rewards=overlap, **OFTEN)
    assert saved(tmp_path) == [f"step-00000{step}" for step in (1, 2, 3, 4)]
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


def test_a_component_that_a_rollout_does_not_have_is_no_error(tmp_path: Path) -> None:
    reward = BrokenReward(math.nan, in_component=True)
    ended(tmp_path, task=CountingTask(), reward=reward)
    assert all(math.isfinite(line["reward/component/share"]) for line in lines(tmp_path))


def test_a_wall_clock_that_jumps_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(tmp_path / "calm", sample_every=1, **OFTEN)
    jumps, now = itertools.cycle([0.0, -86_400.0, 10 * 86_400.0, -3.0]), time.time
    monkeypatch.setattr(time, "time", lambda: now() + next(jumps))
    recorder = Recorder()
    ended(tmp_path / "jumping", sample_every=1, max_seconds=600, observers=[recorder], **OFTEN)
    assert_same_run(tmp_path / "jumping", tmp_path / "calm")
    done = [event for event in recorder.events if isinstance(event, StepDone)]
    seconds = [event.seconds for event in done]
    assert seconds == sorted(seconds)
    assert all(0 <= event.seconds_left < 600 for event in done)


@pytest.mark.parametrize(
    "options",
    [
        {"overlap_rewards": True},
        {"overlap_rewards": True, "flat_groups": "replace"},
        {"offload_buffers": True},
        {"offload_buffers": True, "replay_buffers": 2, "updates_per_buffer": 2},
        {"offload_buffers": True, "micro_batch_rows": 5, "flat_groups": "skip"},
        {"offload_buffers": True, "skip_below": 0.1},
    ],
    ids=" ".join,
)
def test_what_runs_beside_or_lies_elsewhere_leaves_the_run_as_it_is(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    arranged = {"overlap_rewards", "offload_buffers"}
    plain = {name: value for name, value in options.items() if name not in arranged}
    shared = {"rows_per_forward": 4, "sample_every": 1, **OFTEN}
    ended(tmp_path / "plain", **shared, **plain)
    ended(tmp_path / "arranged", **shared, **options)
    assert_same_run(tmp_path / "arranged", tmp_path / "plain")


def test_run_with_buffers_elsewhere_resumes_as_one_without(tmp_path: Path) -> None:
    ended(tmp_path / "whole")
    path: Path | None = None
    for offload, steps in [(True, 2), (False, 5), (True, 6)]:
        settings = small_settings(offload_buffers=offload, num_steps=steps)
        objective = small_objective(baseline="model")
        trainer = small_trainer(tmp_path / "cut", settings, task=LongerTask(), objective=objective)
        if path is not None:
            trainer.restore(path)
        path = trainer.train().checkpoint
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_the_number_of_rows_whose_likelihood_is_taken_at_once_changes_rounding_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights: dict[str, dict[str, Tensor]] = {}
    for rows in ("null", "1", "3"):
        run = tmp_path / rows
        options = ("--baseline", "model", "--training.adam_epsilon", "1.0", "--steps", "3")
        rows_at_once = ("--training.likelihood_rows", rows)
        said = dmpo(capsys, "train", *SMALL, *options, *rows_at_once, "--output", str(run))
        assert (said.code, said.err) == (0, "")
        policy = run / "checkpoints/step-000003/policy"
        weights[rows] = _weights_in(policy)
        for found, expected in zip(lines(run), lines(tmp_path / "null"), strict=True):
            # Equal rows run once where they come together: what it costs is another matter.
            of_costs = [name for name in found if name.startswith(("tokens/", "flops/"))]
            found = {**found, **{name: expected[name] for name in of_costs}}
            assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)
    for rows in ("1", "3"):
        for name, tensor in weights["null"].items():
            torch.testing.assert_close(weights[rows][name], tensor, rtol=1e-4, atol=1e-6)


def _weights_in(directory: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in directory.glob("*.safetensors"):
        found |= load_file(file)
    return found
