from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from dmpo.training.run_directory import RunDirectory
from tests.cli.command import SMALL, assert_one_line, dmpo

RUN = ("train", *SMALL, "--training.updates_per_buffer", "2", "--training.checkpoint_every", "1")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Path:
    assert dmpo(capsys, *RUN, "--steps", "3", "--output", "out").code == 0
    return Path("out")


def test_auto_begins_where_nothing_is_and_goes_on_where_something_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    auto = (*RUN, "--resume", "auto", "--output", "out", "--steps")
    first = dmpo(capsys, *auto, "2")
    assert (first.code, first.err) == (0, "")
    assert "resume" not in first.out
    again = dmpo(capsys, *auto, "3")
    assert "resume      out/checkpoints/step-000002" in again.out
    assert "changed     training.num_steps: 2, now 3" in again.out
    assert "before" in again.out
    assert len(Path("out/metrics.jsonl").read_text().splitlines()) == 3


def test_auto_needs_a_place_and_other_paths_have_theirs(
    capsys: pytest.CaptureFixture[str], run: Path
) -> None:
    assert_one_line(dmpo(capsys, *RUN, "--resume", "auto"), 2, "--resume: auto needs --output")
    said = dmpo(capsys, "train", "--resume", str(run), "--output", "other")
    assert_one_line(said, 2, "--resume: the run has its settings and its place already")


def test_checkpoint_is_named_by_its_path(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    said = dmpo(capsys, "train", "--resume", str(run / "checkpoints/step-000002"), "--steps", "4")
    assert (said.code, said.err) == (0, "")
    assert (run / "checkpoints/step-000004").exists()
    assert (run / "checkpoints/step-000003.aside").exists()


def test_damaged_checkpoint_is_skipped_by_name(
    capsys: pytest.CaptureFixture[str], run: Path
) -> None:
    (run / "checkpoints/step-000003/optimizer.safetensors").unlink()
    said = dmpo(capsys, "train", "--resume", str(run))
    assert said.code == 0
    assert "skipped     out/checkpoints/step-000003: optimizer.safetensors is missing" in said.out
    assert "resume      out/checkpoints/step-000002" in said.out
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3


def test_run_without_a_whole_checkpoint_is_refused_and_stays(
    capsys: pytest.CaptureFixture[str], run: Path
) -> None:
    for path in (run / "checkpoints").iterdir():
        (path / "manifest.json").write_text("")
    before = sorted(run.rglob("*"))
    assert_one_line(dmpo(capsys, "train", "--resume", str(run)), 2, "no checkpoint is whole")
    assert sorted(run.rglob("*")) == before


def test_run_that_had_saved_nothing_begins_again(
    capsys: pytest.CaptureFixture[str], run: Path
) -> None:
    shutil.rmtree(run / "checkpoints")
    said = dmpo(capsys, "train", "--resume", str(run))
    assert "no checkpoint yet: from the beginning" in said.out
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3


def test_resume_with_other_mathematics_is_refused_with_both_values(
    capsys: pytest.CaptureFixture[str], run: Path
) -> None:
    said = dmpo(capsys, "train", "--resume", str(run), "--training.learning_rate", "0.5")
    assert_one_line(said, 2, "training.learning_rate: 0.0002, now 0.5")


def test_directory_of_a_live_run_is_refused(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    owner = RunDirectory(run)
    owner.claim()
    said = dmpo(capsys, "train", "--resume", str(run), "--steps", "4")
    assert_one_line(said, 2, "another run is writing to out")
    owner.release()


def test_signal_ends_the_command_well_and_it_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("stop.py").write_text(
        "import os, signal\n"
        "def stop(completions):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return [0.0] * len(completions)\n"
    )
    before = signal.getsignal(signal.SIGTERM)
    said = dmpo(capsys, *RUN, "--reward", "stop.py:stop", "--steps", "9", "--output", "out")
    assert said.code == 0
    assert "stopped: 1 steps" in said.out
    assert "go on with  dmpo train --resume out" in said.out
    assert signal.getsignal(signal.SIGTERM) == before
    assert os.listdir("out/checkpoints") == ["step-000001"]


def test_evaluation_takes_a_checkpoint_of_a_run(
    capsys: pytest.CaptureFixture[str], run: Path
) -> None:
    path = run / "checkpoints/step-000002"
    assert "step-000002" in dmpo(capsys, "eval", "--run", str(path), "--num-examples", "2").out
    assert_one_line(dmpo(capsys, "eval", "--run", "gone"), 2, "--run: gone is neither")
    shutil.rmtree(run / "checkpoints")
    said = dmpo(capsys, "eval", "--run", str(run))
    assert_one_line(said, 2, "--run: out has not saved a checkpoint yet")
