from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from dmpo.reporting.locks import is_locked
from dmpo.training.run_directory import RunDirectory

HOLD = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    input()
"""


def test_a_lock_that_another_process_holds_is_seen(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert is_locked(path)
        holder.communicate("\n")
    assert not is_locked(path)


def test_looking_makes_no_file_and_leaves_the_lock_to_others(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    assert not is_locked(path)
    assert not path.exists()
    path.touch()
    assert not is_locked(path)
    with FileLock(path, timeout=0):
        pass
    run = RunDirectory(tmp_path)
    run.claim()
    assert is_locked(path)
    run.release()


def test_a_file_that_may_only_be_read_will_do(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.touch()
    path.chmod(0o400)
    os.utime(path, (1, 1))
    assert not is_locked(path)
    assert path.stat().st_mtime == 1
