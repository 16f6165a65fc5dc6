"""Closed, full and broken streams, narrow terminals, and encodings that lack characters."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.cli.command import SCRATCH, SMALL, assert_one_line, dmpo

TRAIN = ("train", *SMALL, "--set", SCRATCH, "--steps", "2", "--output", "out")
NARROW_MINDED = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
CONTROL_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def run(redirections: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run ``dmpo`` by a shell, with streams as it says."""
    script = f'exec "$0" -m dmpo "$@" {redirections}'
    command = ["sh", "-c", script, sys.executable, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, **options)


def test_run_needs_no_stream_at_all(tmp_path: Path) -> None:
    assert run("<&- >&- 2>&-", *TRAIN, cwd=tmp_path).returncode == 0
    assert len((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) == 2


def test_full_output_is_said_in_one_line() -> None:
    done = run("> /dev/full", "version")
    assert done.returncode == 1
    assert done.stderr.startswith("dmpo: error: standard output: cannot be written: No space left")
    assert done.stderr.count("\n") == 1


def test_exit_code_remains_where_nothing_can_be_said() -> None:
    assert run("2> /dev/full", "trian").returncode == 2
    assert run("2>&-", "trian").returncode == 2


def test_reader_that_leaves_early_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "dmpo", "--help"]
    done = subprocess.run(command, check=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def shown_on_a_terminal(command: list[str], *, columns: int, **environment: str) -> tuple[int, str]:
    """Run a command on a terminal of its own; return exit code and what it showed."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 10, columns, 0, 0))
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, **environment}
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    return process.wait(), shown.decode()


def test_terminal_of_twenty_columns_that_knows_ascii_shows_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "dmpo", *TRAIN]
    size = {"TERM": "xterm", "COLUMNS": "20", "LINES": "10"}
    code, shown = shown_on_a_terminal(command, columns=20, **size, **NARROW_MINDED)
    assert code == 0
    assert shown.isascii()
    lines = [CONTROL_CODES.sub("", line).rstrip() for line in re.split(r"[\r\n]+", shown)]
    assert max(map(len, lines)) <= 27  # words are not broken, only lines between them
    assert "finished: 2 steps in" in lines
    assert "[0.000, 0.490]" in lines
    assert "saved in    out" in lines


def test_name_that_the_locale_lacks_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsencode("ö").decode("ascii", "surrogateescape")
    assert_one_line(dmpo(capsys, "train", "--output", name), 2, "--output: ö is no name in this")


def test_error_keeps_to_one_line_without_control_codes(capsys: pytest.CaptureFixture[str]) -> None:
    said = dmpo(capsys, "train", "--recipe", "a\x1b[31m\n\u2028b")
    assert_one_line(said, 2, "recipe: unknown name")
    assert said.err.rstrip("\n").isprintable()
    said = dmpo(capsys, "config", "validate", "gone\x1b[31m\u2028.yaml")
    assert_one_line(said, 2, r"gone\x1b[31m .yaml: cannot be read")
