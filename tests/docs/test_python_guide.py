"""The guide's scripts run as they stand, a little shorter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.docs.fences import write_titled
from tests.docs.short_runs import environment

PAGE = "guides/python.md"


def test_scripts_of_the_guide_run(tmp_path: Path) -> None:
    write_titled(PAGE, tmp_path)
    said, variables = {}, environment(tmp_path)
    for name in ("ten_lines.py", "by_hand.py"):
        done = subprocess.run(
            [sys.executable, name],
            cwd=tmp_path,
            env=variables,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        said[name] = done.stdout
    *_, before, after = said["ten_lines.py"].splitlines()
    assert before == "step 0: 0.570 of the cells are right"
    assert after.startswith("step 8: 0.7")
    assert said["by_hand.py"].splitlines()[-1] == "num_steps"
    assert (tmp_path / "runs/by_hand/checkpoints/step-000008").is_dir()
