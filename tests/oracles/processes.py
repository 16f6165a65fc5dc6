"""``dmpo`` as several processes of one run, started as a launcher does: by their environment."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}
"""What Accelerate's launcher tells its processes for FSDP2."""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def environments(number: int, extra: Mapping[str, str] | None = None) -> list[dict[str, str]]:
    """Return the environment of each process."""
    shared = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **(extra or {})}
    shared = {name: value for name, value in shared.items() if name not in ("RANK", "WORLD_SIZE")}
    if number == 1:
        return [shared]
    there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        {**shared, **there, "RANK": str(n), "LOCAL_RANK": str(n), "WORLD_SIZE": str(number)}
        for n in range(number)
    ]


def start(
    arguments: Sequence[str],
    number: int,
    log: Path,
    *,
    extra: Mapping[str, str] | None = None,
    program: Sequence[str] = ("-m", "dmpo"),
) -> list[subprocess.Popen[bytes]]:
    """Start the processes; all of them write to one log."""
    command = [sys.executable, *program, *arguments]
    with log.open("ab") as file:
        return [
            subprocess.Popen(command, stdout=file, stderr=file, env=environment)
            for environment in environments(number, extra)
        ]


def complete(
    arguments: Sequence[str],
    number: int,
    log: Path,
    *,
    extra: Mapping[str, str] | None = None,
    program: Sequence[str] = ("-m", "dmpo"),
) -> str:
    """Run the processes to their end; return what they said."""
    processes = start(arguments, number, log, extra=extra, program=program)
    codes = [process.wait(timeout=300) for process in processes]
    said = log.read_text(encoding="utf-8")
    assert codes == [0] * number, f"exit codes {codes}: {said}"
    return said


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    folder = run / f"checkpoints/step-{step:06d}/policy"
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def largest_difference(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    """Return the largest norm of a tensor's difference, relative to the tensor's own."""
    assert one.keys() == other.keys()
    return max(float((one[n] - other[n]).norm() / one[n].norm()) for n in one if one[n].any())
