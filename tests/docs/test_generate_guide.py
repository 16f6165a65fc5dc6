"""The guide's commands run as typed, and its table is what is written."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from dmpo.cli.main import main
from dmpo.config.generation import Completed
from tests.docs.fences import DOCS, fences

PAGE = "guides/generate.md"


def test_commands_of_the_guide_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = [fence.text for fence in fences(PAGE) if fence.language == "bash"]
    for line in "".join(blocks).splitlines():
        before, _, command = line.rpartition("dmpo ")
        if not command.startswith(("generate", "plugins")):
            before, command = line, ""
        typed = subprocess.run(
            before.rstrip("| ") or ":", shell=True, capture_output=True, text=True
        )
        monkeypatch.setattr("sys.stdin", io.StringIO(typed.stdout))
        assert not command or main(shlex.split(command)) == 0, line
    prompts = [
        json.loads(line)["prompt"] for line in Path("answers.jsonl").read_text().splitlines()
    ]
    assert prompts == Path("prompts.txt").read_text().splitlines()


def test_table_lists_the_keys_of_a_line() -> None:
    text = (DOCS / PAGE).read_text(encoding="utf-8")
    keys = re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)
    written = Completed(prompt="a", completions=("b",), num_tokens=(1,), num_forwards=1).record()
    assert keys == list(written)
