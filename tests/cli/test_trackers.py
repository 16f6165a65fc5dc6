from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from dmpo.config.yaml_text import read_yaml_file
from tests.cli.command import SMALL, assert_one_line, dmpo

RUN = ("train", *SMALL, "--steps", "2", "--output", "out")
OWN = "tests.training.own_trackers:Noted"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_tensorboard_is_the_default_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    said = dmpo(capsys, *RUN)
    assert (said.code, said.err) == (0, "")
    assert "curves      tensorboard --logdir out" in said.out
    assert list(Path("out/tensorboard").glob("events*"))
    assert not Path("out/trackers.json").exists()


def test_none_leaves_the_files_alone(capsys: pytest.CaptureFixture[str]) -> None:
    said = dmpo(capsys, *RUN, "--tracker", "none")
    assert (said.code, said.err) == (0, "")
    assert "curves" not in said.out
    assert not Path("out/tensorboard").exists()
    assert len(Path("out/metrics.jsonl").read_text().splitlines()) == 2
    assert read_yaml_file(Path("out/config.yaml"))["tracking"]["trackers"] == []


def test_trackers_add_up_and_are_told_all_settings(capsys: pytest.CaptureFixture[str]) -> None:
    said = dmpo(
        capsys, *RUN, "--tracker", "tensorboard", "--tracker", OWN, "--tracking.project", "mine"
    )
    assert (said.code, said.err) == (0, "")
    assert list(Path("out/tensorboard").glob("events*"))
    told = [json.loads(line) for line in Path("out/noted.jsonl").read_text().splitlines()]
    assert told[0] == ["start", "mine"]
    assert told[1][1]["training.num_steps"] == 2
    assert told[1][1]["rewards.0.name"] == "task"
    assert [each[1] for each in told if each[0] == "log"] == [0, 1, 2, 2]


def test_resume_may_change_the_trackers(capsys: pytest.CaptureFixture[str]) -> None:
    assert dmpo(capsys, *RUN, "--tracker", "none").code == 0
    said = dmpo(capsys, "train", "--resume", "out", "--steps", "3", "--tracker", OWN)
    assert (said.code, said.err) == (0, "")
    assert "changed     tracking.trackers" in said.out
    told = [json.loads(line) for line in Path("out/noted.jsonl").read_text().splitlines()]
    assert [each[1] for each in told if each[0] == "log"] == [3, 3]


@pytest.mark.parametrize("ending", [(), ("--dry-run",)])
def test_tracker_that_is_not_installed_is_named_before_anything_is_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, ending: tuple[str, ...]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    said = dmpo(capsys, *RUN, "--tracker", "wandb", *ending)
    assert_one_line(said, 2, "tracking.trackers: wandb is not installed; pip install wandb.")
    assert said.out == ""
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("wandbb",), "Did you mean 'wandb'?"),
        (("none", "wandb"), "`none` stands alone"),
        (("nowhere.py:Mine",), "no file nowhere.py"),
        (("",), "unknown name ''"),
    ],
)
def test_tracker_that_does_not_exist_is_refused(
    capsys: pytest.CaptureFixture[str], given: tuple[str, ...], message: str
) -> None:
    flags = [part for name in given for part in ("--tracker", name)]
    assert_one_line(dmpo(capsys, *RUN, *flags), 2, message)
    assert list(Path().iterdir()) == []


def test_misspelt_setting_of_tracking_names_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = dmpo(capsys, *RUN, "--tracking.projekt", "mine")
    assert_one_line(said, 2, "tracking.projekt: unknown key")
    assert "Did you mean 'project'?" in said.err
