from __future__ import annotations

import subprocess
import sys

import pytest

from dmpo.cli import version
from tests.cli.command import assert_one_line, dmpo

LIGHT = """
import sys
import dmpo
from dmpo.cli.main import main
assert main(["--help"]) == 0
assert main(["train", "--help"]) == 0
assert main(["version"]) == 0
heavy = {"torch", "transformers", "peft", "accelerate"} & sys.modules.keys()
sys.exit(f"imported {heavy}" if heavy else 0)
"""


def test_import_help_and_version_load_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "--likelihood" in done.stdout


def test_module_runs_as_the_command_and_exits_with_its_code() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dmpo", "trian"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("dmpo: error: ")
    assert "'train'" in done.stderr


def test_command_alone_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    said = dmpo(capsys)
    assert said.code == 0
    assert "generate" in said.out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["train", "--steps", "many"], "'--steps': 'many' is not a whole number."),
        (["train", "--baselin", "mean"], "Did you mean '--baseline'?"),
        (["plugins", "shwo"], "show"),
        (["plugins", "show"], "Missing argument"),
        (["version", "--loud"], "--loud"),
    ],
)
def test_wrong_usage_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    assert_one_line(dmpo(capsys, *arguments), 2, text)


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(package: str) -> str:
        raise error

    monkeypatch.setattr(version.metadata, "version", fail)


def test_unexpected_error_is_one_line_and_offers_the_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(ZeroDivisionError("two\nlines"), monkeypatch)
    assert_one_line(dmpo(capsys, "version"), 1, "ZeroDivisionError: two lines (--debug shows")


@pytest.mark.parametrize("arguments", [["--debug", "version"], ["version", "--debug"]])
def test_debug_shows_the_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    fail_with(ZeroDivisionError("why"), monkeypatch)
    said = dmpo(capsys, *arguments)
    assert said.code == 1
    assert "Traceback" in said.err
    assert said.err.endswith("dmpo: error: ZeroDivisionError: why\n")


def test_interrupt_ends_with_its_own_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(KeyboardInterrupt(), monkeypatch)
    said = dmpo(capsys, "version")
    assert said.code == 130
    assert said.err.strip() == "dmpo: error: interrupted."


def test_version_names_what_runs(capsys: pytest.CaptureFixture[str]) -> None:
    lines = dmpo(capsys, "version").out.splitlines()
    assert [line.split()[0] for line in lines] == ["dmpo", "python", "torch", "transformers"]
