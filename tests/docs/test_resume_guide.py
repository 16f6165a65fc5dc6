"""The guide's commands run as typed; its list of free settings is the code's."""

from __future__ import annotations

import subprocess
from pathlib import Path

from dmpo.config.runs import FREE_SETTINGS
from tests.docs.fences import DOCS, fences
from tests.docs.short_runs import environment

PAGE = "guides/resume.md"


def test_commands_of_the_guide_run(tmp_path: Path) -> None:
    text = "".join(fence.text for fence in fences(PAGE) if fence.language == "bash")
    run = subprocess.run(
        ["sh", "-c", f"set -eu\n{text}"],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    assert "resume      runs/long/checkpoints/step-000001" in run.stdout
    assert (tmp_path / "runs/queued/checkpoints/step-000001").is_dir()


def test_guide_lists_what_a_resume_may_change() -> None:
    text = (DOCS / PAGE).read_text(encoding="utf-8")
    assert [name for name in FREE_SETTINGS if f"`{name}`" not in text] == []
