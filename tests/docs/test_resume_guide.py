"""The guide's commands run as typed; its list of free settings is the code's."""

from __future__ import annotations

from pathlib import Path

from dmpo.config.runs import FREE_SETTINGS
from tests.docs.fences import DOCS
from tests.docs.short_runs import type_commands

PAGE = "guides/resume.md"


def test_commands_of_the_guide_run(tmp_path: Path) -> None:
    said = type_commands(PAGE, tmp_path)
    assert "resume      runs/long/checkpoints/step-000001" in said
    assert (tmp_path / "runs/queued/checkpoints/step-000001").is_dir()


def test_guide_lists_what_a_resume_may_change() -> None:
    text = (DOCS / PAGE).read_text(encoding="utf-8")
    assert [name for name in FREE_SETTINGS if f"`{name}`" not in text] == []
