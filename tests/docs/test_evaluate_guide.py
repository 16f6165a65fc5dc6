"""What the guides to evaluation show runs as it stands there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.docs.fences import fences
from tests.docs.short_runs import type_commands
from tests.evaluation.test_harness import tasks  # noqa: F401  (a fixture)


def test_commands_of_the_guide_run(tmp_path: Path) -> None:
    said = type_commands("guides/evaluate.md", tmp_path)
    assert "distinct right answers" in said
    assert "answer tokens" in said


def test_harness_runs_from_python_as_shown(tasks: Path) -> None:  # noqa: F811
    (code,) = (f.text for f in fences("guides/harness.md") if f.language == "python")
    for shown, here in (
        ('["puzzles"]', '["tiny_generate"]'),
        ('include_path="tasks"', f"include_path={str(tasks)!r}, include_defaults=False"),
    ):
        assert shown in code
        code = code.replace(shown, here)
    found: dict[str, Any] = {}
    exec(code, found)
    assert "tiny_generate" in found["results"]["results"]
