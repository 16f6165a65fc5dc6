"""Pressing Tab: as a shell's script asks, and once in a real shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dmpo.cli.completion import COMPLETION, SETTINGS_OF
from dmpo.cli.main import main
from tests.cli.command import dmpo

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


def completed(patch: Patch, capsys: Capture, *words: str) -> list[str]:
    """Return what bash is offered for the last of these words."""
    patch.setenv(COMPLETION, "complete_bash")
    patch.setenv("COMP_WORDS", "\n".join(["dmpo", *words]))
    patch.setenv("COMP_CWORD", str(len(words)))
    capsys.readouterr()
    assert main() == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["tr"], ["train"]),
        (["--ver"], ["--version"]),
        (["config", ""], ["show", "schema", "validate"]),
        (["train", "--pol"], ["--policy"]),
        (["train", "--policy", "ll"], ["llada"]),
        (["train", "--policy", "=", "ll"], ["llada"]),
        (["train", "--policy=ll"], ["llada"]),
        (["train", "--objective", "diffu"], ["diffu_grpo"]),
        (["train", "--weights.al"], ["--weights.alpha"]),
        (["train", "--sampler", "roar", "--sampler.thr"], []),
        (["eval", "--task", "sudoku,countd"], ["sudoku,countdown"]),
        (["sft", "--recipe", "tiny"], ["tiny_llada"]),
        (["generate", "--sampler.stop"], ["--sampler.stop_at_eos"]),
        (["config", "show", "--evaluation.samples"], ["--evaluation.samples_per_prompt"]),
        (["train", "--seed", "1", "--see"], []),
        (["train", "--output", "x"], []),
    ],
)
def test_a_word_is_completed(
    monkeypatch: Patch, capsys: Capture, words: list[str], offered: list[str]
) -> None:
    assert completed(monkeypatch, capsys, *words) == offered


def test_all_commands_are_offered_in_their_order(monkeypatch: Patch, capsys: Capture) -> None:
    names = completed(monkeypatch, capsys, "")
    assert names[0] == "train"
    assert "doctor" in names


def test_an_option_that_repeats_is_offered_again(monkeypatch: Patch, capsys: Capture) -> None:
    assert completed(monkeypatch, capsys, "train", "--set", "a=1", "--se") == ["--set", "--seed"]


def test_runs_complete_where_a_run_is_asked_for(
    monkeypatch: Patch, capsys: Capture, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/sudoku").mkdir(parents=True)
    Path("runs/sudoku/config.yaml").touch()
    assert completed(monkeypatch, capsys, "train", "--resume", "") == ["auto", "runs/sudoku"]
    assert completed(monkeypatch, capsys, "eval", "--run", "runs/") == ["runs/sudoku"]
    assert completed(monkeypatch, capsys, "export", "runs/s") == ["runs/sudoku"]


def test_zsh_and_fish_are_answered_in_their_own_form(monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "dmpo train --policy ll")
    monkeypatch.setenv(COMPLETION, "complete_zsh")
    assert main() == 0
    assert capsys.readouterr().out.strip() == "_arguments '*: :((\"llada\"))'"
    monkeypatch.setenv(COMPLETION, "complete_fish")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    assert main() == 0
    assert capsys.readouterr().out == "llada\n"


def test_every_command_that_takes_settings_completes_them() -> None:
    from dmpo.cli.main import COMMANDS

    taking = {each.name for each in COMMANDS if each.takes_settings}
    assert {*SETTINGS_OF} == taking | {"show"}


def environment(folder: Path, shell: str) -> dict[str, str]:
    """Return an environment with a ``dmpo`` and a home of its own."""
    (folder / "bin").mkdir()
    (folder / "bin" / "dmpo").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dmpo "$@"\n')
    (folder / "bin" / "dmpo").chmod(0o755)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "HOME": str(folder), "SHELL": f"/bin/{shell}"}


def test_bash_completes_with_the_installed_script(tmp_path: Path) -> None:
    asks = "COMP_WORDS=(dmpo train --sampler lo); COMP_CWORD=3; _dmpo_completion dmpo"
    script = f"""
        dmpo --install-completion && . "$HOME/.bashrc" && {asks}
        printf 'offered %s\\n' "${{COMPREPLY[@]}}"
        complete -p dmpo
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        check=True,
        env=environment(tmp_path, "bash"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    assert lines[0].startswith("bash: completion is installed in ")
    assert lines[1:] == ["offered low_confidence", "complete -o default -F _dmpo_completion dmpo"]


def shown(folder: Path, shell: str) -> subprocess.CompletedProcess[str]:
    """Ask for the script from a shell of this name."""
    variables = environment(folder, shell)
    (folder / "bin" / shell).symlink_to(shutil.which("sh") or "/bin/sh")
    return subprocess.run(
        [folder / "bin" / shell, "-c", "dmpo --show-completion; exit $?"],
        check=False,
        env=variables,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("shell", "head"),
    [("zsh", "#compdef dmpo"), ("fish", "complete --command dmpo --no-files")],
)
def test_the_script_is_that_of_the_shell(tmp_path: Path, shell: str, head: str) -> None:
    done = shown(tmp_path, shell)
    assert done.stdout.startswith(head)
    assert "_DMPO_COMPLETE=complete_" in done.stdout


def test_a_shell_without_a_script_is_named(tmp_path: Path) -> None:
    done = shown(tmp_path, "ksh")
    assert done.returncode == 2
    assert done.stderr.startswith("dmpo: error: shell: ksh found; completion is written for bash, ")


def test_version_is_an_option_as_well(capsys: Capture) -> None:
    from dmpo import __version__

    assert dmpo(capsys, "--version") == (0, f"dmpo {__version__}\n", "")
