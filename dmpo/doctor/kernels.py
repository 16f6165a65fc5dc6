"""Kernels and back ends: tried in a process of its own, which may crash or hang."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Final

from dmpo.doctor.base import Check, State

__all__ = ["KERNELS", "Trial", "kernel_checks", "run_trials"]

KERNELS: Final[Mapping[str, str]] = {
    "sdpa": "attention sdpa",
    "eager": "attention eager",
    "flex_attention": "attention flex_attention",
    "flash_attention_2": "attention flash_attention_2",
    "flash_attention_3": "attention flash_attention_3",
    "bf16": "mixed precision bf16",
    "threads": "threads",
    "nf4": "weights in 4 bits (nf4)",
    "liger": "fused projection (liger)",
    "compile": "torch.compile",
    "gloo": "processes over gloo",
    "nccl": "processes over nccl",
    "rehearsal": "dmpo train --dry-run",
}
"""What is tried for training, and how it is called."""
NEEDED: Final = ("sdpa", "rehearsal")
SECONDS: Final[Mapping[str, float]] = {
    "torch": 180.0,
    "plugins": 180.0,
    "rehearsal": 300.0,
    "flex_attention": 240.0,
    "compile": 240.0,
    "hub": 10.0,
}
SECONDS_OF_OTHERS: Final = 120.0
"""Until a trial counts as hung."""
PROGRAM: Final = ("-m", "dmpo.doctor.trials")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How something went that was tried."""

    name: str
    """What, as :mod:`dmpo.doctor.trials` names it."""
    state: State
    """``ok``; ``absent``: it is not here to be tried; ``failed``."""
    detail: str
    """What was seen, or why not; one line."""
    seconds: float = 0.0
    """That it took."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """What else it found."""


def run_trials(
    names: Iterable[str],
    *,
    program: Sequence[str] = PROGRAM,
    seconds: Callable[[str], float] = lambda name: SECONDS.get(name, SECONDS_OF_OTHERS),
    needed: Collection[str] = ("torch",),
    on_begin: Callable[[str], None] = lambda name: None,  # noqa: ARG005
) -> dict[str, Trial]:
    """Try things one after the other in another process, and return how each went.

    Where the process ends in a trial, or does not come back from one, that trial has failed and
    another process goes on with the next.

    Args:
        names: Of trials.
        program: What Python runs; the names follow it.
        seconds: After which a trial counts as hung.
        needed: Trials without which there is no sense in those that follow.
        on_begin: Called with the name of each trial that begins.
    """
    waiting = list(names)
    found: dict[str, Trial] = {}
    while waiting and not any(found[name].state == "failed" for name in needed if name in found):
        trials = _one_process(waiting, program, seconds, needed, on_begin)
        if not trials:  # it did not even begin
            trials = [Trial(name=waiting[0], state="failed", detail="no process starts")]
        found |= {trial.name: trial for trial in trials}
        waiting = [name for name in waiting if name not in found]
    return found


def _one_process(
    names: Sequence[str],
    program: Sequence[str],
    seconds: Callable[[str], float],
    needed: Collection[str],
    on_begin: Callable[[str], None],
) -> list[Trial]:
    """Return the trials that a process came to the end of, and the one it did not survive."""
    trials: list[Trial] = []
    begun: str | None = None
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, *program, *names],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1"},
            start_new_session=True,
        )
        assert process.stdout is not None
        lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
        hung = False
        try:
            while True:
                try:
                    line = lines.get(timeout=seconds(begun or names[0]))
                except queue.Empty:
                    hung = True
                    break
                if line is None:
                    break
                record = json.loads(line)
                if "begun" in record:
                    begun = record["begun"]
                    on_begin(str(begun))
                else:
                    trials.append(_trial(record))
                    begun = None
                    if trials[-1].state == "failed" and trials[-1].name in needed:
                        process.kill()
                        return trials
        finally:
            _end(process)
        if begun is not None or hung:
            name = begun or names[0]
            limit = f"did not come back within {seconds(name):.0f} s"
            detail = limit if hung else _ending(process.returncode, errors)
            trials.append(Trial(name=name, state="failed", detail=detail))
        elif not trials:
            detail = _ending(process.returncode, errors)
            trials.append(Trial(name=names[0], state="failed", detail=detail))
    return trials


def _read(stream: IO[bytes], lines: queue.SimpleQueue[bytes | None]) -> None:
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and those it started, if it has not ended by itself."""
    try:
        process.wait(timeout=0.5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _trial(record: Mapping[str, Any]) -> Trial:
    return Trial(
        name=record["ended"],
        state=record["state"],
        detail=" ".join(str(record["detail"]).split()),
        seconds=record["seconds"],
        values=record["values"],
    )


def _ending(code: int, errors: IO[bytes]) -> str:
    """Return in words how a process ended, with the last line it said."""
    how = (
        f"the process was ended by {signal.Signals(-code).name}"
        if code < 0
        else (f"the process ended with exit code {code}")
    )
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return f"{how}: {lines[-1].strip()}" if lines and code > 0 else how


def kernel_checks(trials: Mapping[str, Trial]) -> tuple[Check, ...]:
    """Return a check of each kernel and back end that was tried."""
    return tuple(
        Check(
            area="kernels",
            name=called,
            state=trials[name].state,
            detail=trials[name].detail,
            is_needed=name in NEEDED,
        )
        for name, called in KERNELS.items()
        if name in trials
    )
