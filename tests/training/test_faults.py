"""A run as a process of its own, killed without warning; ``benchmarks/faults.py`` is the long form.

One process after the other goes on with the same directory: each is killed at another moment,
the last one comes to the end, and nothing tells its run from one that was never killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.oracles import faults


def launch(arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("ab") as file:
        command = [sys.executable, "-m", "dmpo", *arguments]
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment)


def test_killed_and_stopped_run_ends_bit_for_bit_like_one_that_was_left_alone(
    tmp_path: Path,
) -> None:
    faults.complete(launch, tmp_path / "whole")
    seconds = json.loads((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()[-1])[
        "time/total"
    ]
    run = tmp_path / "cut"
    killed = faults.send_at(launch, run, 0.4 * seconds)
    stopped = faults.send_at(launch, run, 0.3 * seconds, signal.SIGTERM)
    said = faults.complete(launch, run)
    assert killed["exit_code"] == -signal.SIGKILL
    assert stopped["exit_code"] == 0
    assert 0 < stopped["steps"] < faults.NUM_STEPS
    assert "go on with  dmpo train --resume" in said
    assert "resume      " in said
    assert faults.trace(run) == faults.trace(tmp_path / "whole")
