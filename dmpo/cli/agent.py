"""Starts the processes of a run through Accelerate's launcher, and says which of them died.

    python -m dmpo.cli.agent <arguments of accelerate launch>

A process of its own: the launcher has handlers for signals that would end the others within half
a minute, while ``dmpo train`` wants them to save first (:mod:`dmpo.cli.launching`).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from typing import Any

__all__ = ["main"]

SECONDS_BETWEEN_LOOKS = 1.0


def main(arguments: list[str]) -> int:
    """Run the launcher and return the exit code that the run should have."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
    # What it logs of a process that fails is said below, or by the process itself.
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    try:
        launch_command(launch_command_parser().parse_args(arguments))
    except ChildFailedError as error:
        failures: dict[int, Any] = error.failures
        rank, first = min(failures.items(), key=lambda item: item[1].timestamp)
        if first.exitcode > 0:
            return int(first.exitcode)  # it has said why
        name = signal.Signals(-first.exitcode).name
        sys.stderr.write(f"dmpo: error: process {rank} (pid {first.pid}) was ended by {name}.\n")
        return 1
    except SignalException:  # from below, and nobody is left to be told
        return 1
    return 0


def _follow(parent: int) -> None:
    """End with who started this, however that ended; the processes are asked to save first."""
    while os.getppid() == parent:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os.killpg(os.getpgrp(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
