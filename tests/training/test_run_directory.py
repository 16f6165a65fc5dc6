from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dmpo.errors import CheckpointError, ConfigError, OutputError
from dmpo.training.run_directory import RunDirectory, list_checkpoints, newest_checkpoint
from tests.training.runs import small_settings, small_trainer

WHOLE = (
    '{"format": 1, "files": {"state.json": {"size": 2, "sha256": '
    '"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}}}'
)


def checkpoint(run: Path, step: int, manifest: str = WHOLE) -> Path:
    path = run / "checkpoints" / f"step-{step:06d}"
    path.mkdir(parents=True)
    (path / "state.json").write_text("{}")
    (path / "manifest.json").write_text(manifest)
    return path


def write_lines(path: Path, *steps: int, rest: str = "") -> None:
    path.write_text("".join(f'{{"step": {step}}}\n' for step in steps) + rest)


def steps_of(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_newest_checkpoint_that_verifies_is_found(tmp_path: Path) -> None:
    checkpoint(tmp_path, 5)
    newest = checkpoint(tmp_path, 10)
    assert newest_checkpoint(tmp_path) == (newest, [])


def test_steps_of_seven_digits_come_after_those_of_six(tmp_path: Path) -> None:
    paths = [checkpoint(tmp_path, step) for step in (999_999, 1_000_000)]
    assert list_checkpoints(tmp_path) == paths


def test_damaged_checkpoint_is_skipped_with_its_name_and_reason(tmp_path: Path) -> None:
    older = checkpoint(tmp_path, 5)
    checkpoint(tmp_path, 10, "not json")
    path, (reason,) = newest_checkpoint(tmp_path)
    assert path == older
    assert "step-000010: manifest.json is unreadable" in reason


def test_run_that_has_saved_nothing_has_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / ".step-000009.partial").mkdir(parents=True)
    assert newest_checkpoint(tmp_path) == (None, [])


def test_run_whose_checkpoints_are_all_damaged_is_refused(tmp_path: Path) -> None:
    for step in (5, 10):
        checkpoint(tmp_path, step, "{")
    with pytest.raises(CheckpointError, match=r"no checkpoint is whole: .*000010.*000005"):
        newest_checkpoint(tmp_path)


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    paths = [checkpoint(tmp_path, step) for step in (1, 2, 3, 4)]
    RunDirectory(tmp_path).prune(2)
    assert list_checkpoints(tmp_path) == paths[2:]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_newest_whole_checkpoint_outlives_damaged_ones_that_are_newer(tmp_path: Path) -> None:
    checkpoint(tmp_path, 1)
    whole = checkpoint(tmp_path, 2)
    damaged = [checkpoint(tmp_path, step, "{") for step in (3, 4)]
    RunDirectory(tmp_path).prune(2)
    assert list_checkpoints(tmp_path) == [whole, *damaged]


def test_going_back_cuts_off_what_was_written_later(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    write_lines(tmp_path / "metrics.jsonl", 1, 2, 3, 4, rest='{"step": 5, "lo')
    write_lines(tmp_path / "samples.jsonl", 0, 0, 2, 2)
    directory.go_back(4)
    assert steps_of(tmp_path / "metrics.jsonl") == [1, 2, 3, 4]
    directory.go_back(2)
    assert steps_of(tmp_path / "metrics.jsonl") == [1, 2]
    assert steps_of(tmp_path / "samples.jsonl") == [0, 0]  # that of step 2 is filled again


def test_lines_are_cut_at_line_feeds_alone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "text": "a\u2028b\x85c"}\n{"step": 2}', encoding="utf-8")
    RunDirectory(tmp_path).go_back(2)
    assert path.read_text(encoding="utf-8") == '{"step": 1, "text": "a\u2028b\x85c"}\n{"step": 2}\n'


def test_going_back_removes_later_evaluations(tmp_path: Path) -> None:
    (tmp_path / "evaluations").mkdir()
    for step in (0, 4, 8):
        (tmp_path / "evaluations" / f"step-{step:06d}.jsonl").write_text("")
    RunDirectory(tmp_path).go_back(4)
    names = sorted(path.name for path in (tmp_path / "evaluations").iterdir())
    assert names == ["step-000000.jsonl", "step-000004.jsonl"]


def test_run_that_begins_leaves_another_runs_checkpoints_alone(tmp_path: Path) -> None:
    small_trainer(tmp_path, small_settings(num_steps=1)).train()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=r"holds checkpoints of a run \(step-000001\)"):
        small_trainer(tmp_path, small_settings(num_steps=1)).train()
    assert sorted(tmp_path.rglob("*")) == before


def test_going_back_removes_what_was_not_finished(tmp_path: Path) -> None:
    kept = checkpoint(tmp_path, 3)
    for name in (".step-000004.partial", ".step-000001.removed"):
        (tmp_path / "checkpoints" / name).mkdir()
    RunDirectory(tmp_path).go_back(3)
    assert list((tmp_path / "checkpoints").iterdir()) == [kept]


def test_directory_belongs_to_one_run_at_a_time(tmp_path: Path) -> None:
    first, second = RunDirectory(tmp_path), RunDirectory(tmp_path)
    first.claim()
    first.claim()
    with pytest.raises(ConfigError, match="another run is writing to"):
        second.claim()
    first.release()
    second.claim()
    second.release()


def test_second_trainer_in_a_directory_is_refused_and_leaves_it_alone(tmp_path: Path) -> None:
    owner = RunDirectory(tmp_path)
    owner.claim()
    with pytest.raises(ConfigError, match="another run"):
        small_trainer(tmp_path).train()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    owner.release()
    small_trainer(tmp_path, small_settings(num_steps=1)).train()


def test_trainer_lets_go_of_the_directory_when_it_ends(tmp_path: Path) -> None:
    small_trainer(tmp_path, small_settings(num_steps=1)).train()
    claimed = RunDirectory(tmp_path)
    claimed.claim()
    claimed.release()


def test_directory_that_cannot_be_made_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written: Not a directory"):
        RunDirectory(tmp_path / "file" / "run").claim()


def test_checkpoint_that_vanishes_leaves_the_others(tmp_path: Path) -> None:
    paths = [checkpoint(tmp_path, step) for step in (1, 2)]
    shutil.rmtree(paths[1])
    assert newest_checkpoint(tmp_path) == (paths[0], [])


def test_abandoned_folder_is_as_it_was_before_the_claim(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "runs" / "a")
    directory.claim()
    (directory.path / "evaluations").mkdir()
    (directory.path / "config.yaml").write_text("seed: 0\n")
    directory.abandon()
    directory.release()
    assert list(tmp_path.iterdir()) == []


def test_abandoning_keeps_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    directory = RunDirectory(tmp_path)
    directory.claim()
    directory.abandon()
    directory.release()
    assert (tmp_path / "mine.txt").exists()
