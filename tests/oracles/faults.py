"""A run that is killed, and what it must have left: the harness of the fault tests.

Two runs are the same if every figure, sample and evaluation that no clock decides is equal, and
every byte of the last checkpoint's weights and optimizer.
"""

from __future__ import annotations

import hashlib
import json
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

NUM_STEPS = 24
LAST = f"checkpoints/step-{NUM_STEPS:06d}"
SETTINGS = (
    *("--recipe", "sudoku", "--plain"),
    *("--set", "policy.scratch={d_model: 32, n_layers: 2, n_heads: 2, mlp_hidden_size: 48}"),
    *("--set", "policy.lora={rank: 4, dropout: 0.2}"),
    *("--weights.alpha", "0.1", "--baseline", "model", "--likelihood", "elbo"),
    *("--steps", str(NUM_STEPS), "--training.warmup_steps", "5"),
    *("--training.prompts_per_buffer", "3", "--training.rollouts_per_prompt", "4"),
    *("--training.updates_per_buffer", "4", "--training.sample_every", "8"),
    *("--training.checkpoint_every", "3", "--training.evaluate_every", "8"),
    *("--evaluation.num_examples", "8"),
)
"""A run of seconds: dropout, a reference, mid-buffer checkpoints, evaluations in between."""


class Process(Protocol):
    """A started run."""

    pid: int

    def poll(self) -> int | None: ...

    def wait(self) -> int: ...

    def send_signal(self, sig: int) -> None: ...


Launch = Callable[[Sequence[str], Path], Process]
"""Starts ``dmpo`` with arguments; what it says goes into a file."""


def arguments(run: Path) -> list[str]:
    """Return the command line that starts the run, and goes on with it."""
    return ["train", *SETTINGS, "--output", str(run), "--resume", "auto"]


def complete(launch: Launch, run: Path) -> str:
    """Start the run or go on with it, to its end; return what it said."""
    log = run.with_suffix(".log")
    code = launch(arguments(run), log).wait()
    said = log.read_text(encoding="utf-8")
    assert code == 0, f"exit code {code}: {said}"
    return said


def send_at(
    launch: Launch, run: Path, delay: float, number: int = signal.SIGKILL
) -> dict[str, Any]:
    """Start the run, send it a signal ``delay`` seconds after it begins; say where it was."""
    before = _written(run)
    process = launch(arguments(run), run.with_suffix(".log"))
    while process.poll() is None and _written(run) == before:
        time.sleep(0.005)
    time.sleep(delay)
    if process.poll() is None:
        process.send_signal(number)
    code = process.wait()
    metrics = run / "metrics.jsonl"
    return {
        "delay": round(delay, 3),
        "exit_code": code,
        "steps": len(metrics.read_bytes().splitlines()) if metrics.exists() else 0,
        "checkpoints": len(list((run / "checkpoints").glob("step-*"))),
        "in_a_checkpoint": bool(list((run / "checkpoints").glob(".*.partial"))),
    }


def trace(run: Path) -> Mapping[str, Any]:
    """Return everything about a finished run that must not depend on how often it was killed."""
    final = run / LAST
    files = sorted(path for path in final.rglob("*") if path.is_file() and "policy" in path.parts)
    files += sorted(final.glob("optimizer.*"))
    return {
        "metrics": _untimed(run / "metrics.jsonl"),
        "samples": _untimed(run / "samples.jsonl"),
        "evaluations": {
            heading: {k: v for k, v in record.items() if not _is_clocked(k)}
            for heading, record in json.loads((run / "evaluation.json").read_text()).items()
        },
        "completions": [_digest(path) for path in sorted((run / "evaluations").iterdir())],
        "weights": {path.relative_to(final).as_posix(): _digest(path) for path in files},
    }


def _written(run: Path) -> int | None:
    """Return when the run last began, as config.yaml tells."""
    path = run / "config.yaml"
    return path.stat().st_mtime_ns if path.exists() else None


def _untimed(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in line.items() if not _is_clocked(k)} for line in lines]


def _is_clocked(name: str) -> bool:
    return name.startswith("time/") or name in ("tokens/per_second", "tokens_per_second", "seconds")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
