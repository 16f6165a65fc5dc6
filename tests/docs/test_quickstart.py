"""The quickstart's commands run as typed, one after the other."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.docs.fences import fences, write_titled
from tests.docs.short_runs import environment

PAGE = "quickstart.md"


def test_quickstart_commands_run_in_their_order(tmp_path: Path) -> None:
    write_titled(PAGE, tmp_path)
    blocks = [fence.text for fence in fences(PAGE) if fence.language == "bash"]
    script = "set -eu\n" + "".join(blocks)
    run = subprocess.run(
        ["sh", "-c", script],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    assert script.count("dmpo ") >= 5
    assert (tmp_path / "runs" / "first" / "metrics.jsonl").is_file()
