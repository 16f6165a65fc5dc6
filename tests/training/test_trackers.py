from __future__ import annotations

import json
from pathlib import Path

import pytest

from dmpo.errors import ConfigError
from dmpo.evaluation.evaluator import EvaluationSettings, Evaluator
from dmpo.registry import SAMPLERS
from dmpo.training.events import Warned
from dmpo.training.tracker_kinds import TrackingSettings
from dmpo.training.trackers import SECONDS_TO_RETRY, TRIES, Trackers
from tests.training import own_trackers
from tests.training.runs import CountingTask, Recorder, small_settings, small_trainer

HERE = "tests.training.own_trackers"


def tracking(*names: str, **settings: str) -> TrackingSettings:
    return TrackingSettings(trackers=[f"{HERE}:{name}" for name in names], **settings)


def evaluator() -> Evaluator:
    sampler = SAMPLERS.build("roar", {"gen_length": 4})
    return Evaluator(CountingTask(), sampler, EvaluationSettings(num_examples=2))


def noted(run: Path) -> list[list]:
    return [json.loads(line) for line in (run / "noted.jsonl").read_text().splitlines()]


def steps(run: Path, name: str) -> list[int]:
    return [said[1] for said in noted(run) if said[0] == "log" and name in said[2]]


def test_tracker_is_told_settings_steps_evaluations_and_the_end(tmp_path: Path) -> None:
    small_trainer(
        tmp_path,
        small_settings(num_steps=3, evaluate_every=2),
        tracking=tracking("Noted", project="digits"),
        evaluator=evaluator(),
        config_text="seed: 3\ntask: {name: counting}\n",
    ).train()
    told = noted(tmp_path)
    assert told[0] == ["start", "digits"]
    assert told[1] == ["config", {"seed": 3, "task.name": "counting"}]
    assert told[-1] == ["finish"]
    assert steps(tmp_path, "reward/mean") == steps(tmp_path, "loss/total") == [1, 2, 3]
    assert steps(tmp_path, "evaluation/right") == [0, 2, 3]


def test_resume_tells_no_step_twice_and_settings_once(tmp_path: Path) -> None:
    settings = small_settings(num_steps=5, evaluate_every=2, checkpoint_every=1, keep_checkpoints=9)
    options = {"tracking": tracking("Noted"), "evaluator": evaluator(), "config_text": "seed: 0\n"}
    small_trainer(tmp_path, settings, **options).train()
    for num_steps in (5, 7):  # back twice: what lay behind the checkpoint was told long ago
        trainer = small_trainer(
            tmp_path, settings.model_copy(update={"num_steps": num_steps}), **options
        )
        trainer.restore(tmp_path / "checkpoints" / "step-000002")
        trainer.train()
    assert steps(tmp_path, "reward/mean") == [1, 2, 3, 4, 5, 6, 7]
    assert steps(tmp_path, "evaluation/right") == [0, 2, 4, 5, 6, 7]
    assert len([said for said in noted(tmp_path) if said[0] == "config"]) == 1


def test_another_project_is_another_run(tmp_path: Path) -> None:
    settings = small_settings(num_steps=2)
    path = small_trainer(tmp_path, settings, tracking=tracking("Noted")).train().checkpoint
    other = small_trainer(
        tmp_path, small_settings(num_steps=3), tracking=tracking("Noted", project="other")
    )
    other.restore(path)
    other.train()
    assert [said[1] for said in noted(tmp_path) if said[0] == "start"] == ["dmpo", "other"]
    assert len([said for said in noted(tmp_path) if said[0] == "config"]) == 2


def test_damaged_record_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "trackers.json").write_text('{"noted": 3')
    trackers = Trackers(tracking("Noted"), tmp_path, warn=pytest.fail)
    trackers.start(first_step=0, config_text="")
    trackers.log({"a": 1.0}, 1)
    assert steps(tmp_path, "a") == [1]


def test_tracker_that_cannot_be_reached_ends_no_run(tmp_path: Path) -> None:
    recorder = Recorder()
    finished = small_trainer(
        tmp_path, observers=[recorder], tracking=tracking("Unreachable", "Noted")
    ).train()
    warnings = [event.text for event in recorder.events if isinstance(event, Warned)]
    assert finished.step == 6
    assert steps(tmp_path, "reward/mean") == [1, 2, 3, 4, 5, 6]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 6
    assert [text.partition(" ")[2].partition(":")[0] for text in warnings] == [
        "does not take figures",
        "did not take 6 lines of figures; metrics.jsonl has them",
        "did not close",
    ]
    assert all("\n" not in text for text in warnings)


def started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: list[int]
) -> tuple[Trackers, list[float], list[str]]:
    """Return trackers whose only one fails at the named calls of its log; a clock; warnings."""
    log, calls = own_trackers.Noted.log, iter(range(1000))

    def sometimes(self: own_trackers.Noted, values: dict[str, float], step: int) -> None:
        if next(calls) in failing:
            raise ConnectionError("gone")
        log(self, values, step)

    monkeypatch.setattr(own_trackers.Noted, "log", sometimes)
    now, said = [0.0], []
    trackers = Trackers(tracking("Noted"), tmp_path, warn=said.append, now=lambda: now[0])
    trackers.start(first_step=0, config_text="")
    return trackers, now, said


def test_lines_wait_for_a_tracker_and_keep_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trackers, now, said = started(tmp_path, monkeypatch, failing=[1])
    for step in (1, 2, 3):
        trackers.log({"a": 1.0}, step)
    assert steps(tmp_path, "a") == [1]  # it is too early to try again
    now[0] += SECONDS_TO_RETRY
    trackers.log({"a": 1.0}, 4)
    assert steps(tmp_path, "a") == [1, 2, 3, 4]
    trackers.close("finished")
    assert len(said) == 1


def test_line_that_is_never_taken_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trackers, now, said = started(tmp_path, monkeypatch, failing=list(range(TRIES)))
    trackers.log({"bad": 1.0}, 1)
    for step in range(2, 2 + TRIES):
        now[0] += 4 * SECONDS_TO_RETRY
        trackers.log({"a": 1.0}, step)
    trackers.close("finished")
    assert steps(tmp_path, "bad") == []
    assert steps(tmp_path, "a") == list(range(2, 2 + TRIES))
    assert said[-1].endswith("did not take 1 lines of figures; metrics.jsonl has them")


def test_tracker_that_does_not_open_ends_a_run_that_begins(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path / "run", tracking=tracking("Closed"))
    with pytest.raises(ConfigError, match=r"Closed cannot be opened: no key is known\.$"):
        trainer.train()
    assert not (tmp_path / "run").exists()


def test_tracker_that_does_not_open_is_left_out_of_a_resume(tmp_path: Path) -> None:
    path = small_trainer(tmp_path, small_settings(num_steps=2)).train().checkpoint
    recorder = Recorder()
    trainer = small_trainer(tmp_path, observers=[recorder], tracking=tracking("Closed", "Noted"))
    trainer.restore(path)
    assert trainer.train().step == 6
    assert "Warned" in recorder.names
    assert steps(tmp_path, "reward/mean") == [3, 4, 5, 6]
