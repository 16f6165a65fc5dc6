"""``--processes K``: the same command on several processes of this machine, and its signals."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import Final

from dmpo.cli.processes import num_cores

__all__ = [
    "SHARDINGS",
    "TRY_AGAIN",
    "check_processes",
    "is_launched",
    "is_time_up",
    "launch",
    "without_options",
]

SHARDINGS: Final[dict[str, tuple[str, ...]]] = {
    "ddp": ("--multi_gpu",),
    "fsdp2": (
        *("--use_fsdp", "--fsdp_version", "2"),
        *("--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"),
        *("--fsdp_state_dict_type", "FULL_STATE_DICT"),
        *("--fsdp_cpu_ram_efficient_loading", "false"),
    ),
    "zero2": ("--use_deepspeed", "--zero_stage", "2"),
    "zero3": ("--use_deepspeed", "--zero_stage", "3"),
}
"""How weights may lie on the processes, and what Accelerate's launcher calls it."""
TRY_AGAIN: Final = 75
"""Exit code of a run that a scheduler stopped before its end: EX_TEMPFAIL of sysexits.h."""
SECONDS_BETWEEN_LOOKS = 0.1
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def is_time_up(signal_name: str | None) -> bool:
    """Return whether a signal is a scheduler's, which will want to know that the run is not done.

    SIGUSR1 is sent by nobody else; SIGTERM is what Slurm sends to a job that it preempts.
    """
    return signal_name == "SIGUSR1" or (signal_name == "SIGTERM" and "SLURM_JOB_ID" in os.environ)


def is_launched() -> bool:
    """Return whether this process is one of several that a launcher has started."""
    return "WORLD_SIZE" in os.environ


def check_processes(processes: int | None, sharding: str | None, *, is_dry: bool) -> None:
    """Refuse what cannot be started here, before anything is.

    Args:
        processes: How many; None: not given.
        sharding: One of :data:`SHARDINGS`; None: not given.
        is_dry: Whether the run is only planned: then it may be for another machine.

    Raises:
        ConfigError: If it is no such name or there is nothing to share out, there are too few
            GPUs, or DeepSpeed is missing.
    """
    from dmpo.errors import ConfigError, nearest_name

    if processes is not None and processes < 1:
        raise ConfigError(f"--processes: {processes} given; at least 1 is accepted.")
    if sharding is not None and sharding not in SHARDINGS:
        near = nearest_name(sharding, SHARDINGS)
        raise ConfigError(
            f"--sharding: {sharding!r} given; {', '.join(SHARDINGS)} are accepted."
            + (f" Did you mean {near!r}?" if near else "")
        )
    if sharding is not None and processes is None and not is_dry:
        raise ConfigError(
            "--sharding: goes with --processes; other launchers are told by their configuration "
            "(examples/cluster)."
        )
    if is_dry or processes is None:
        return
    if sharding is not None and sharding.startswith("zero"):
        from accelerate.utils import is_deepspeed_available

        if not is_deepspeed_available():
            raise ConfigError(
                f"--sharding: {sharding} is DeepSpeed's, which is not installed; fsdp2 shares the "
                "weights out as zero3 does and needs nothing more."
            )
    import torch

    if torch.cuda.is_available() and processes > torch.cuda.device_count():
        raise ConfigError(
            f"--processes: {processes} given, and this machine has {torch.cuda.device_count()} "
            "GPUs, one for each."
        )


def without_options(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return a command line without some options and their values."""
    kept: list[str] = []
    is_value = False
    for argument in arguments:
        if is_value:
            is_value = False
        elif argument in names:
            is_value = True
        elif argument.partition("=")[0] not in names:
            kept.append(argument)
    return kept


def launch(processes: int, sharding: str, arguments: Sequence[str]) -> int:
    """Run ``dmpo`` with these arguments on several processes and return its exit code.

    SIGINT and SIGTERM go on to the processes, which save and end, and SIGHUP, of a terminal that is
    closed, as SIGTERM. So does SIGUSR1, the warning of
    a scheduler that time is up; the exit code is then :data:`TRY_AGAIN` (:func:`is_time_up`).

    Args:
        processes: How many, one for each GPU or, where there is none, sharing the cores.
        sharding: One of :data:`SHARDINGS`.
        arguments: What follows ``dmpo``.
    """
    command = [
        *(sys.executable, "-m", "dmpo.cli.agent", *SHARDINGS[sharding]),
        *("--num_processes", str(processes), "--num_machines", "1", "--main_process_port", "0"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "-m", "dmpo", *arguments),
    ]
    threads = str(max(1, num_cores() // processes))
    environment = {"OMP_NUM_THREADS": threads, **os.environ}
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        received.append(number)

    before = {number: signal.signal(number, remember) for number in SIGNALS}
    agent = subprocess.Popen(command, env=environment, start_new_session=True)
    is_over, told = False, 0
    try:
        while agent.poll() is None:
            for number in received[told:]:
                is_over |= is_time_up(signal.Signals(number).name)
                # Before it has started any, there is nobody to tell yet.
                if not _tell(
                    agent.pid, signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
                ):
                    break
                told += 1
            time.sleep(SECONDS_BETWEEN_LOOKS)
    finally:
        if agent.poll() is None:
            agent.terminate()  # which ends its processes, after half a minute by force
        for number, handler in before.items():
            signal.signal(number, handler)
    return TRY_AGAIN if is_over and agent.returncode == 0 else agent.returncode


def _tell(agent: int, number: int) -> bool:
    """Send a signal to the processes that an agent has started, not to the agent.

    Returns:
        Whether there are any.
    """
    import psutil

    try:
        children = psutil.Process(agent).children()
    except psutil.NoSuchProcess:
        return False
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.send_signal(number)
    return bool(children)
