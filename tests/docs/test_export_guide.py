"""The guide's commands run as typed."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from dmpo.cli.main import main
from tests.cli.command import SMALL
from tests.docs.fences import DOCS, fences

PAGE = "guides/export.md"


def test_commands_of_the_guide_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = (fence.text for fence in fences(PAGE) if fence.language == "bash")
    for line in block.splitlines():
        command, *arguments = shlex.split(line)
        assert command == "dmpo"
        short = ("--steps", "1", *SMALL[2:]) if arguments[0] == "train" else ()
        assert main([*arguments, *short]) == 0, line
    assert Path("models/adapter/adapter_model.safetensors").is_file()
    assert Path("models/mine/model.safetensors").is_file()


def test_guide_names_the_published_ids() -> None:
    from dmpo.policies.llada import PUBLISHED

    text = (DOCS / PAGE).read_text(encoding="utf-8")
    assert f"({PUBLISHED.mask}, {PUBLISHED.eos}, {PUBLISHED.eos})" in text
    assert f"{PUBLISHED.num_rows:,}" in text
