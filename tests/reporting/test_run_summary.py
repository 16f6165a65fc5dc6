from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dmpo.errors import DataError
from dmpo.reporting.run_summary import find_runs, last_record, read_settings, run_summary
from dmpo.training.run_directory import RunDirectory
from tests.reporting.runs import write_run

REWARDS = {1: 0.25, 2: 0.5}
SETTINGS = {
    "seed": 3,
    "policy": {"name": "llada", "model": "tiny"},
    "task": {"name": "sudoku"},
    "objective": {"name": "dmpo"},
    "training": {"num_steps": 2, "updates_per_buffer": 2},
}


def run(path: Path, scores: dict[int, float], **training: object) -> Path:
    place = write_run(path, REWARDS, scores)
    settings = {**SETTINGS, "training": {**SETTINGS["training"], **training}}  # type: ignore[dict-item]
    (place / "config.yaml").write_text(yaml.safe_dump(settings))
    return place


def test_summary_says_what_ran_and_how_far_it_came(tmp_path: Path) -> None:
    summary = run_summary(run(tmp_path, {0: 0.1, 2: 0.6}))
    assert (summary.task, summary.objective, summary.policy) == ("sudoku", "dmpo", "llada tiny")
    assert (summary.step, summary.num_steps, summary.seed, summary.reward) == (2, 2, 3, 0.5)
    assert (summary.headline, summary.first_score, summary.last_score) == ("right", 0.1, 0.6)
    assert (summary.model_tokens, summary.seconds) == (200, 0.2)


@pytest.mark.parametrize(
    ("training", "limit"),
    [
        ({}, "num_steps"),
        ({"num_steps": 9, "max_model_tokens": 200}, "max_model_tokens"),
        ({"num_steps": 9, "max_seconds": 0.2}, "max_seconds"),
        ({"num_steps": 9, "max_seconds": 0.3}, None),
    ],
)
def test_a_run_at_its_limit_is_finished(
    tmp_path: Path, training: dict[str, object], limit: str | None
) -> None:
    summary = run_summary(run(tmp_path, {0: 0.1, 2: 0.6}, **training))
    assert summary.stopped_by == limit
    assert summary.state == ("finished" if limit else "failed")


def test_a_run_with_a_checkpoint_and_steps_to_go_is_stopped(tmp_path: Path) -> None:
    place = run(tmp_path / "a run", {0: 0.1}, num_steps=9)
    (place / "checkpoints" / "step-000002").mkdir(parents=True)
    summary = run_summary(place)
    assert summary.state == "stopped"
    assert summary.resume == f"dmpo train --resume '{place}'"


def test_a_run_whose_last_evaluation_is_missing_is_not_finished(tmp_path: Path) -> None:
    place = run(tmp_path, {0: 0.1})
    (place / "checkpoints" / "step-000002").mkdir(parents=True)
    assert run_summary(place).state == "stopped"


def test_a_run_that_a_process_holds_is_running(tmp_path: Path) -> None:
    directory = RunDirectory(run(tmp_path, {0: 0.1}, num_steps=9))
    directory.claim()
    assert run_summary(tmp_path).state == "running"
    directory.release()
    assert run_summary(tmp_path).state == "failed"


def test_a_run_that_left_nothing_but_its_lock_is_empty(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    summary = run_summary(tmp_path)
    assert (summary.state, summary.step, summary.task) == ("empty", 0, "")


def test_a_supervised_run_is_finished_after_its_steps(tmp_path: Path) -> None:
    place = write_run(tmp_path, REWARDS, {})
    settings = {"tasks": [{"name": "a"}, {"name": "b"}], "training": {"num_steps": 2}}
    (place / "config.yaml").write_text(yaml.safe_dump(settings))
    summary = run_summary(place)
    assert (summary.state, summary.task, summary.objective) == ("finished", "a, b", "sft")


@pytest.mark.parametrize(
    "files",
    [
        {"config.yaml": "{unclosed", "evaluation.json": "[]"},
        {"config.yaml": "training: [1]\ntask: 7\nseed: x\n", "evaluation.json": '{"step 2": {}}'},
        {"metrics.jsonl": "\x00\nnonsense\n[1]\n"},
        {"metrics.jsonl": '{"step": "x", "reward/mean": NaN}\n', "evaluation.json": "{"},
    ],
)
def test_damaged_files_leave_open_what_they_said(tmp_path: Path, files: dict[str, str]) -> None:
    place = run(tmp_path, {0: 0.1, 2: 0.6})
    for name, text in files.items():
        (place / name).write_text(text)
    assert run_summary(place).reward in (0.5, None)


def test_runs_are_found_below_a_folder_and_not_inside_of_runs(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", REWARDS, {})
    write_run(first / "checkpoints" / "step-000002", REWARDS, {})
    arm = write_run(tmp_path / "compared" / "runs" / "arm" / "seed-0", REWARDS, {})
    write_run(tmp_path / ".hidden", REWARDS, {})
    write_run(tmp_path / "a" / "b" / "c" / "d" / "too deep", REWARDS, {})
    (tmp_path / "compared" / ".lock").touch()
    (tmp_path / "compared" / "spec.yaml").touch()
    (tmp_path / "again").symlink_to(first)
    assert find_runs(tmp_path) == [tmp_path / "again", arm]
    assert find_runs(first) == [first]


def test_last_record_is_the_last_whole_line_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    filler = "x" * 200_000
    lines = [json.dumps({"step": step, "text": filler}) for step in (1, 2)]
    path.write_text("\n".join([*lines, '{"step": 3, "te']))
    record = last_record(path)
    assert record is not None
    assert record["step"] == 2
    assert last_record(tmp_path / "none") is None


def test_settings_that_are_no_yaml_are_named_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: 1\nb: {\n")
    with pytest.raises(DataError, match=r"config\.yaml: cannot be read: it is not YAML .*line 3"):
        read_settings(tmp_path)
    (tmp_path / "config.yaml").write_text("- a\n")
    with pytest.raises(DataError, match="it holds no settings"):
        read_settings(tmp_path)


def test_listing_runs_does_not_load_torch() -> None:
    script = "import sys, dmpo.reporting.run_table; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
