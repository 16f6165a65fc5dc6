from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.command import assert_one_line, dmpo
from tests.reporting.test_run_page import run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder whose ``runs`` hold a finished run and a stopped one."""
    run(tmp_path / "runs" / "first")
    stopped = run(tmp_path / "runs" / "second", training={"num_steps": 9})
    (stopped / "checkpoints" / "step-000004").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_runs_lists_what_is_below_runs_and_how_to_go_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = dmpo(capsys, "runs", "--sort", "name")
    head, first, second, _, command = said.out.splitlines()
    assert said.code == 0
    assert head.split()[:3] == ["run", "state", "task"]
    assert first.split()[:5] == ["runs/first", "finished", "sudoku", "dmpo", "4/4"]
    assert "right 0.100 → 0.700" in first
    assert second.split()[:5] == ["runs/second", "stopped", "sudoku", "dmpo", "4/9"]
    assert command == "go on with  dmpo train --resume runs/second"


def test_runs_are_chosen_by_state_and_told_as_json(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = dmpo(capsys, "runs", "runs", "--state", "finished", "--json")
    (only,) = json.loads(said.out)
    assert (only["path"], only["state"], only["last_score"]) == ("runs/first", "finished", 0.7)


def test_listing_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    dmpo(capsys, "runs")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_no_runs_are_said_to_be_none(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dmpo(capsys, "runs", "--state", "failed").out == "no runs in runs that are failed\n"
    monkeypatch.chdir(folder / "runs" / "first")
    assert dmpo(capsys, "runs").out == "no runs in runs\n"
    assert json.loads(dmpo(capsys, "runs", "--json").out) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "FOLDER: nowhere is not a directory"),
        (("--sort", "scores"), "--sort: unknown name 'scores'"),
        (("--state", "finish"), "Did you mean 'finished'?"),
    ],
)
def test_a_wrong_option_is_named(
    arguments: tuple[str, ...],
    message: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert_one_line(dmpo(capsys, "runs", *arguments), 2, message)
