"""A ``dmpo`` command that does what it is told, in a few seconds."""

from __future__ import annotations

import atexit
import functools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.docs.fences import fences

TRAINING = (
    "--steps 1 --training.warmup_steps 0 --training.prompts_per_buffer 2 "
    "--training.rollouts_per_prompt 2 --training.updates_per_buffer 1 --evaluation.num_examples 2"
)
_SFT = "--steps 1 --training.warmup_steps 0 --training.batch_rows 4 --evaluation.num_examples 2"
_EVAL = "--num-examples 2"

_PREPARED = Path(__file__).with_name("prepared.py")
_SCRIPT = f"""#!/bin/sh
case "$1 $*" in
  *--dry-run*|*--help*) short="" ;;
  train*) short="{TRAINING}" ;;
  sft*) short="{_SFT}" ;;
  eval*) short="{_EVAL}" ;;
  *) short="" ;;
esac
exec "{sys.executable}" -S "{_PREPARED}" ask "@PLACE@" "$@" $short
"""


@functools.cache
def _place() -> Path:
    """Return where the process listens that becomes the commands; it starts with the first."""
    place = Path(tempfile.mkdtemp(prefix="dmpo")) / "commands"
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(_PREPARED), "serve", str(place)], env=os.environ | quiet
    )
    atexit.register(process.kill)
    while not place.exists():
        assert process.poll() is None, "the process that becomes the commands does not start"
        time.sleep(0.05)
    return place


def _already(variable: str) -> list[str]:
    return [text] if (text := os.environ.get(variable)) else []


def environment(directory: Path) -> dict[str, str]:
    """Return an environment whose ``dmpo`` cuts every run short."""
    programs = directory / "bin"
    programs.mkdir()
    (programs / "dmpo").write_text(_SCRIPT.replace("@PLACE@", str(_place())))
    (programs / "dmpo").chmod(0o755)
    return os.environ | {
        "PATH": os.pathsep.join(
            [str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]
        ),
        "PYTHONPATH": os.pathsep.join([str(directory), *_already("PYTHONPATH")]),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "NO_COLOR": "1",
    }


def type_commands(page: str, directory: Path) -> str:
    """Type a page's bash blocks one after the other, and return what they printed."""
    blocks = [fence.text for fence in fences(page) if fence.language == "bash"]
    run = subprocess.run(
        ["sh", "-c", "set -eu\n" + "".join(blocks)],
        cwd=directory,
        env=environment(directory),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    return run.stdout
