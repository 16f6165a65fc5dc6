"""The shell's completion: what it may ask, and the script that asks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import typer

__all__ = [
    "COMPLETION",
    "answer",
    "install",
    "plugins",
    "recipes",
    "registered",
    "resumable",
    "runs",
    "script",
    "setting_flags",
]

COMPLETION = "_DMPO_COMPLETE"
"""The variable in which a shell's script says that it wants a line completed, and for whom."""

PROGRAM = "dmpo"
SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")
_RUN = "dmpo.config.run:RunConfig"
SETTINGS_OF: Final[Mapping[str, str]] = {
    "train": _RUN,
    "eval": _RUN,
    "show": _RUN,
    "sft": "dmpo.config.run:SftConfig",
    "generate": "dmpo.config.run:GenerateConfig",
}
"""Where the settings of each command that takes them are declared."""


def registered(group: str) -> Callable[[str], list[str]]:
    """Return what completes an option that takes a registered name, or several with commas.

    Args:
        group: The registry's, for example ``samplers``.
    """

    def complete(incomplete: str) -> list[str]:
        from dmpo.config.candidates import registered_names

        before, comma, _ = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in registered_names(group)]

    return complete


def recipes(incomplete: str) -> list[str]:  # noqa: ARG001  (typer tells by the name)
    """Complete an option that takes a recipe; a path is left to the shell."""
    from dmpo.config.candidates import recipe_files

    return list(recipe_files())


def runs(incomplete: str) -> list[str]:
    """Complete an option that takes a run's directory."""
    from dmpo.config.candidates import run_places

    return list(run_places(incomplete))


def resumable(incomplete: str) -> list[str]:
    """Complete ``--resume``: a run's directory, or ``auto``."""
    return ["auto", *runs(incomplete)]


def plugins(incomplete: str) -> list[str]:  # noqa: ARG001
    """Complete an argument that takes a registered name of any group."""
    from dmpo.config.candidates import PLUGIN_GROUPS, registered_names

    return sorted({name for group in PLUGIN_GROUPS for name in registered_names(group)})


def setting_flags(command: str, chosen: Mapping[str, Any], incomplete: str) -> tuple[str, ...]:
    """Return the dotted flags of a command that go on from what is typed.

    Args:
        command: Its name.
        chosen: The values of its options that were given.
        incomplete: The flag so far.
    """
    from dmpo.config import candidates

    model = SETTINGS_OF.get(command)
    return candidates.setting_flags(model, chosen, incomplete) if model else ()


def answer(command: Any) -> int:
    """Tell the shell what it asked for, and return the exit code.

    Args:
        command: The program, as typer built it.
    """
    from typer.completion import completion_init  # type: ignore[attr-defined]

    completion_init()
    if {"COMP_WORDS", "COMP_CWORD"} <= os.environ.keys():
        words, at = os.environ["COMP_WORDS"].split("\n"), os.environ["COMP_CWORD"]
        if "=" in words and at.isdigit():
            words, place = _joined(words, int(at))
            os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = "\n".join(words), str(place)
    try:
        command.main([], prog_name=PROGRAM, complete_var=COMPLETION, standalone_mode=False)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def install() -> None:
    """Install the script for the shell that this runs in, and say where."""
    from typer.completion import install as install_script  # type: ignore[attr-defined]

    shell, path = install_script(shell=_shell(), prog_name=PROGRAM, complete_var=COMPLETION)
    typer.echo(f"{shell}: completion is installed in {path}; a new shell has it.")


def script() -> str:
    """Return the script for the shell that this runs in."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    return get_completion_script(prog_name=PROGRAM, complete_var=COMPLETION, shell=_shell())


def _shell() -> str:
    """Return the shell that started this; where no such process is found, the user's own.

    Raises:
        ConfigError: If typer writes no script for it.
    """
    import shellingham  # type: ignore[import-untyped,unused-ignore]

    from dmpo.errors import ConfigError

    found = [Path(os.environ.get("SHELL", "")).name]
    with contextlib.suppress(shellingham.ShellDetectionFailure):
        found.insert(0, str(shellingham.detect_shell()[0]))
    name = next((each for each in found if each in SHELLS), None)
    if name is None:
        raise ConfigError(
            f"shell: {found[0] or 'none'} found; completion is written for {', '.join(SHELLS)}; "
            "the variable SHELL may name one."
        )
    return name


def _joined(words: list[str], at: int) -> tuple[list[str], int]:
    """Return a command line of bash's without the ``=`` that it takes for a word of its own.

    Args:
        words: The command line, cut where bash cuts it.
        at: Which of them is completed.
    """
    kept = [n for n, word in enumerate(words) if word != "=" or n == at]
    return [words[n] for n in kept], sum(n < at for n in kept)
