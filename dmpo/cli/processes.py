"""Several commands at once, each a process of its own that no other one's failure stops."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dmpo.files import writing
from dmpo.training.interruption import Interruption

__all__ = ["Command", "Ended", "num_cores", "run_commands"]

SECONDS_BETWEEN_LOOKS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What a process is to do."""

    name: str
    """How messages call it."""
    arguments: tuple[str, ...]
    """The program and its arguments."""
    log: Path
    """Where its output is added; the folder exists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A command that has ended."""

    command: Command
    """Which one."""
    code: int
    """Its exit code; below 0: the signal that ended it."""


def num_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_commands(
    commands: Sequence[Command],
    *,
    jobs: int,
    environment: Mapping[str, str],
    interruption: Interruption,
) -> Iterator[Ended]:
    """Run commands, so many at once, and yield each when it has ended.

    Every process has a group of its own, so that a terminal's Ctrl-C reaches it only through
    here, and once. When the interruption asks to stop, nothing more is started and those that run
    get a SIGINT; they are waited for.

    Args:
        commands: In the order of their start.
        jobs: Processes at once, at least 1.
        environment: Theirs.
        interruption: Asked all the time; it should have taken over the signals.

    Raises:
        OutputError: If a log cannot be written.
        KeyboardInterrupt: At a second SIGINT, when the processes, given it as well, have ended.
    """
    waiting = list(commands)
    running: list[tuple[Command, subprocess.Popen[bytes]]] = []
    is_told = False
    try:
        while running or (waiting and interruption.signal is None):
            while waiting and len(running) < jobs and interruption.signal is None:
                command = waiting.pop(0)
                running.append((command, _start(command, environment)))
            if interruption.signal is not None and not is_told:
                is_told = True
                _interrupt(running)
            ended = [(command, p.returncode) for command, p in running if p.poll() is not None]
            running = [(command, p) for command, p in running if p.returncode is None]
            for command, code in ended:
                yield Ended(command=command, code=code)
            if not ended:
                time.sleep(SECONDS_BETWEEN_LOOKS)
    finally:
        if running:
            _interrupt(running)
            for _, process in running:
                process.wait()


def _start(command: Command, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with writing(command.log), command.log.open("ab") as log:
        return subprocess.Popen(
            command.arguments,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )


def _interrupt(running: Sequence[tuple[Command, subprocess.Popen[bytes]]]) -> None:
    for _, process in running:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
