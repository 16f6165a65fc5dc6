"""Training from Python does what the command line does, with the same settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

import dmpo
from dmpo.config.training_run import view_for
from dmpo.errors import ConfigError, UnknownNameError
from dmpo.objectives.dmpo import DmpoObjective
from dmpo.training import events
from dmpo.training.live import PlainView

SHORT = {
    "steps": 2,
    "training": {
        "warmup_steps": 0,
        "prompts_per_buffer": 2,
        "rollouts_per_prompt": 2,
        "updates_per_buffer": 1,
    },
    "evaluation": {"num_examples": 2},
}


def lengths(prompts, completions, **columns):
    """Return the length of each completion."""
    return [float(len(text)) for text in completions]


def nested():
    """Return a function that no module has at its top."""
    return lambda prompts, completions: [float(len(prompts) == len(completions))]


class OwnObjective(DmpoObjective):
    """An objective that no package registers."""


class Watcher:
    def __init__(self) -> None:
        self.seen: list[events.Event] = []

    def notify(self, event: events.Event) -> None:
        self.seen.append(event)


def metrics(run: dmpo.TrainedRun) -> list[dict[str, float]]:
    lines = (run.directory / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    timed = ("time/", "tokens/per_second")
    return [{k: v for k, v in each.items() if not k.startswith(timed)} for each in records]


def test_run_is_returned_with_settings_evaluations_and_policy(tmp_path: Path) -> None:
    run = dmpo.train(output=tmp_path / "run", progress=False, baseline="mean", **SHORT)
    assert (run.directory, run.finished.step) == (tmp_path / "run", 2)
    assert run.config.baseline.name == "mean"
    assert list(run.evaluations) == [0, 2]
    assert run.policy.forward_tokens > 0
    assert (run.directory / "config.yaml").read_text().count("name: mean\n") == 1


def test_same_settings_give_the_numbers_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dmpo.cli.main import main

    monkeypatch.chdir(tmp_path)
    run = dmpo.train("sudoku", output="python", progress=False, seed=3, **SHORT)
    flags = [f"--training.{k}={v}" for k, v in SHORT["training"].items()]
    words = ["train", "--recipe", "sudoku", "--seed", "3", "--steps", "2", *flags]
    assert main([*words, "--evaluation.num_examples", "2", "--output", "typed"]) == 0
    lines = (tmp_path / "typed/metrics.jsonl").read_text().splitlines()
    typed = [json.loads(line) for line in lines]
    for mine, theirs in zip(metrics(run), typed, strict=True):
        assert mine.items() <= theirs.items()


def test_function_and_class_stand_where_a_name_does(tmp_path: Path) -> None:
    run = dmpo.train(
        output=tmp_path / "run",
        progress=False,
        objective=OwnObjective,
        reward=["task", lengths],
        **SHORT,
    )
    assert run.config.objective.name == f"{__name__}:OwnObjective"
    assert {"reward/component/task", "reward/component/lengths"} <= metrics(run)[0].keys()


def test_observer_is_told_and_silence_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watcher = Watcher()
    dmpo.train(output=tmp_path / "run", progress=False, observers=[watcher], **SHORT)
    assert capsys.readouterr().out == ""
    kinds = [type(event).__name__ for event in watcher.seen]
    assert kinds[:2] == ["Started", "EvaluationDone"]
    assert kinds.count("StepDone") == 2


def test_progress_is_printed_in_lines_where_there_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dmpo.train(output=tmp_path / "run", **SHORT)
    assert "finished: 2 steps" in capsys.readouterr().out
    assert isinstance(view_for(Console(force_terminal=True), plain=True), PlainView)


def test_resume_goes_on_and_ends_like_one_run(tmp_path: Path) -> None:
    whole = dmpo.train(output=tmp_path / "whole", progress=False, **SHORT)
    first = {**SHORT, "steps": 1}
    dmpo.train(output=tmp_path / "parts", progress=False, resume=True, **first)
    parts = dmpo.train(output=tmp_path / "parts", progress=False, resume=True, **SHORT)
    assert metrics(parts) == metrics(whole)


def test_resume_with_other_mathematics_is_refused(tmp_path: Path) -> None:
    dmpo.train(output=tmp_path / "run", progress=False, **SHORT)
    with pytest.raises(ConfigError, match=r"other mathematics \(seed: 0, now 1"):
        dmpo.train(output=tmp_path / "run", progress=False, resume=True, seed=1, **SHORT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weigths": "tilted"}, r"weigths: unknown key; .*Did you mean 'weights'"),
        ({"baseline": "medn"}, r"baseline: unknown name 'medn'; .*Did you mean 'mean'"),
        ({"training": {"steps": 3}}, r"training\.steps: unknown key"),
        ({"reward": nested()}, r"reward: nested.* is not found"),
        ({"reward": ["task", len]}, r"reward\.target: .*takes 'obj' by position|needs 'obj'"),
        ({"task": object()}, r"task: a value of type object cannot be written"),
        ({"objective": Watcher}, r"objective '.*:Watcher' does not derive from dmpo"),
    ],
)
def test_wrong_setting_is_named_and_nothing_is_written(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises((ConfigError, ImportError), match=message):
        dmpo.train(output=tmp_path / "run", progress=False, **settings)
    assert not (tmp_path / "run").exists()


def test_unknown_recipe_and_taken_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"sudoko.*Did you mean 'sudoku'"):
        dmpo.train("sudoko")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        dmpo.train(output=tmp_path)
