"""Rows that are left out of a run by option: what every command says of them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Literal

import pytest

from tests.cli.command import SCRATCH, SMALL, assert_one_line, dmpo

Capture = pytest.CaptureFixture[str]

GOOD = [json.dumps({"prompt": f"{n}+1=", "answer": str(n + 1)}) for n in range(20)]
COMMANDS = {
    "train": ("train", *SMALL, "--set", SCRATCH, "--steps", "1", "--plain", "--output", "out"),
    "dry run": ("train", *SMALL, "--set", SCRATCH, "--dry-run"),
    "eval": ("eval", "--set", SCRATCH, "--output", "out"),
}


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Options that name a file with two rows that are no problem."""
    monkeypatch.chdir(tmp_path)
    lines = [*GOOD[:3], "{", *GOOD[3:], '{"prompt": ""}']
    # What was read is kept by its path, which therefore is another one in every test.
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    return ("--task", "file", "--task.path", str(path), "--task.response_length", "4")


@pytest.fixture(params=COMMANDS)
def command(request: pytest.FixtureRequest, task: tuple[str, ...]) -> tuple[str, ...]:
    """A command on that file."""
    return (*COMMANDS[request.param], *task)


def test_a_bad_row_ends_the_command(capsys: Capture, command: tuple[str, ...]) -> None:
    said = dmpo(capsys, *command)
    assert_one_line(said, 2, "mine.jsonl, line 4: not JSON: ")
    assert not Path("out").exists()


@pytest.mark.parametrize("filters", ["default", "ignore"])
def test_skipped_rows_are_counted_and_said_in_one_line(
    capsys: Capture, command: tuple[str, ...], filters: Literal["default", "ignore"]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter(filters)
        said = dmpo(capsys, *command, "--task.on_bad_row", "skip")
    assert said.code == 0
    (line,) = [line for line in said.err.splitlines() if line.startswith("dmpo: ")]
    assert line.startswith("dmpo: warning: task.path: ")
    assert "mine.jsonl: 2 of 22 rows skipped; the first: line 4: not JSON: " in line


def test_one_process_of_several_says_it(
    capsys: Capture, task: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    said = dmpo(capsys, *COMMANDS["dry run"], *task, "--task.on_bad_row", "skip")
    assert said.code == 0
    assert "dmpo: warning" not in said.err


def test_another_word_is_refused_with_those_that_are_accepted(
    capsys: Capture, command: tuple[str, ...]
) -> None:
    said = dmpo(capsys, *command, "--task.on_bad_row", "skp")
    assert_one_line(said, 2, "task.on_bad_row: must be 'stop' or 'skip'; given 'skp'.")
    assert "Did you mean 'skip'?" in said.err
