"""What is not imported before a command needs it: the reason why the first answer comes at once."""

from __future__ import annotations

import importlib
import itertools
import os
import re
import subprocess
import sys

import pytest

from dmpo.cli.main import CLOSING, COMMANDS
from dmpo.config.recipes import recipe_names

HEAVY = {"torch", "transformers", "accelerate", "peft", "pydantic", "numpy", "yaml"}


def imported(*arguments: str, **variables: str) -> tuple[set[str], str]:
    """Return the modules that a command imports, and what it prints."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "dmpo", *arguments],
        check=True,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    return set(re.findall(r"\|\s+([\w.]+)$", done.stderr, re.M)), done.stdout


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["--help"], "dmpo generate"),
        (["train", "--help"], "--likelihood"),
        (["config", "show", "--help"], "--recipe"),
        (["doctor", "--help"], "--no-network"),
        (["--version"], "dmpo "),
    ],
)
def test_help_and_version_import_nothing_heavy(arguments: list[str], printed: str) -> None:
    modules, out = imported(*arguments)
    assert printed in out
    assert modules & HEAVY == set()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("dmpo trai", "train"),
        ("dmpo train --policy lla", "llada"),
        ("dmpo train --training.learning", "--training.learning_rate"),
        ("dmpo eval --run no", ""),
    ],
)
def test_completion_imports_nothing_heavy(words: str, offered: str) -> None:
    count = str(len(words.split()) - 1)
    asked = {"_DMPO_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": count}
    modules, out = imported(**asked)
    assert out.strip() == offered
    assert modules & HEAVY == set()


def test_help_imports_the_module_of_no_command() -> None:
    modules, _ = imported("--help")
    commands = {"train", "generate", "evaluate", "compare", "export", "doctor", "plugins"}
    assert {f"dmpo.cli.{name}" for name in commands} & modules == set()


def test_every_listed_command_is_there_on_one_line() -> None:
    for each in COMMANDS:
        module, _, attribute = each.target.partition(":")
        assert callable(getattr(importlib.import_module(module), attribute))
        assert len(each.help) <= 60
    panels = [each.panel for each in COMMANDS]
    assert [panel for panel, _ in itertools.groupby(panels)] == ["Start", "Look", "Extend", "Check"]


def test_examples_of_the_help_are_commands_that_there_are() -> None:
    examples = [line.strip().split("  ")[0] for line in CLOSING if line.startswith("  dmpo")]
    assert len(examples) == 3
    for words in map(str.split, examples):
        assert words[1] in {each.name for each in COMMANDS}
        assert "--recipe" not in words or words[words.index("--recipe") + 1] in recipe_names()
    assert max(map(len, CLOSING)) <= 80
