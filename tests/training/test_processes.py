"""Several processes of one run (gloo, CPU): they find what one process finds."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.oracles import processes

NUM_STEPS = 20
SETTINGS = (
    *("train", "--recipe", "sudoku", "--plain"),
    *("--set", "policy.scratch={d_model: 32, n_layers: 2, n_heads: 2, mlp_hidden_size: 48}"),
    *("--weights.alpha", "0.1", "--baseline", "none", "--likelihood", "elbo"),
    *("--training.prompts_per_buffer", "5", "--training.rollouts_per_prompt", "4"),
    *("--training.updates_per_buffer", "4", "--training.micro_batch_rows", "6"),
    *("--training.warmup_steps", "3", "--evaluation.num_examples", "8"),
)
"""Five groups are shared by two processes, three and two of them; a buffer takes four steps."""


def arguments(run: Path, *more: str, steps: int = NUM_STEPS) -> Sequence[str]:
    return (*SETTINGS, "--steps", str(steps), "--output", str(run), "--resume", "auto", *more)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("alone") / "run"
    processes.complete(arguments(run), 1, run.with_suffix(".log"))
    return run


def assert_same_run(found: Path, expected: Path, *, tolerance: float = 1e-6) -> None:
    one, other = processes.metrics(expected), processes.metrics(found)
    assert [line["step"] for line in other] == list(range(1, NUM_STEPS + 1))
    for before, after in zip(one, other, strict=True):
        for name in ("loss/total", "loss/cross_entropy", "optimizer/gradient_norm"):
            assert after[name] == pytest.approx(before[name], rel=tolerance), (name, before["step"])
        for name in ("reward/mean", "reward/std", "rollout/length", "weights/max"):
            assert after[name] == pytest.approx(before[name], rel=1e-4, abs=1e-9), name
    weights = [processes.weights(run, NUM_STEPS) for run in (expected, found)]
    assert processes.largest_difference(*weights) < tolerance


@pytest.mark.parametrize("extra", [{}, processes.FSDP2], ids=["ddp", "fsdp2"])
def test_two_processes_find_what_one_finds(
    alone: Path, tmp_path: Path, extra: dict[str, str]
) -> None:
    run = tmp_path / "run"
    said = processes.complete(arguments(run), 2, tmp_path / "log", extra=extra)
    assert said.count("finished: 20 steps") == 1
    assert_same_run(run, alone)


def test_a_run_goes_on_with_another_number_of_processes(alone: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    processes.complete(arguments(run, steps=6), 2, log)
    processes.complete(arguments(run, steps=13), 1, log)
    processes.complete(arguments(run), 2, log, extra=processes.FSDP2)
    assert_same_run(run, alone)


def test_adapters_and_replaced_groups_are_shared_out_as_well(tmp_path: Path) -> None:
    more = (
        *("--set", "policy.lora={rank: 4, dropout: 0.0}"),
        *("--training.flat_groups", "replace", "--training.overlap_rewards", "true"),
        *("--training.rows_per_forward", "8", "--training.offload_buffers", "true"),
    )
    for name, number, extra in (("one", 1, {}), ("two", 2, processes.FSDP2)):
        run = tmp_path / name
        processes.complete(arguments(run, *more), number, tmp_path / "log", extra=extra)
    # The adapters begin at zero, where rounding is a large part of a gradient.
    assert_same_run(tmp_path / "two", tmp_path / "one", tolerance=1e-5)


MEMORY_OF_THE_SECOND = """
import os, sys, torch
from dmpo.cli.main import main
from dmpo.policies.denoiser import Denoiser

forward = Denoiser.forward

def limited(self, tokens, *arguments, **more):
    if os.environ.get("RANK") == "1" and torch.is_grad_enabled() and len(tokens) > 9:
        raise torch.OutOfMemoryError(f"{len(tokens)} sequences")
    return forward(self, tokens, *arguments, **more)

Denoiser.forward = limited
sys.exit(main(sys.argv[1:]))
"""


def test_where_one_process_runs_out_of_memory_all_take_the_step_again(
    alone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    processes.complete(
        arguments(run, "--auto-micro-batch"),
        2,
        tmp_path / "log",
        program=("-c", MEMORY_OF_THE_SECOND),
    )
    assert_same_run(run, alone)
    state = json.loads((run / f"checkpoints/step-{NUM_STEPS:06d}/state.json").read_text())
    assert state["progress"]["micro_batch_rows"] < 6


def test_a_process_that_dies_takes_the_others_with_it_and_the_run_goes_on(
    alone: Path, tmp_path: Path
) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    often = ("--training.checkpoint_every", "3")
    started = processes.start(arguments(run, *often, "--training.process_timeout", "60"), 2, log)
    metrics = run / "metrics.jsonl"
    while not (metrics.exists() and len(metrics.read_bytes().splitlines()) > 5):
        time.sleep(0.01)
    started[1].send_signal(signal.SIGKILL)
    assert started[1].wait() == -signal.SIGKILL
    assert started[0].wait(timeout=100) == 1
    assert "process 1 of 2 (" in log.read_text()
    processes.complete(arguments(run, *often), 2, log)
    assert_same_run(run, alone)


def test_a_process_that_hangs_is_named_after_the_time_limit(tmp_path: Path) -> None:
    log = tmp_path / "log"
    started = processes.start(
        arguments(tmp_path / "run", "--training.process_timeout", "4", steps=100000), 2, log
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not metrics.exists():
        time.sleep(0.01)
    started[1].send_signal(signal.SIGSTOP)
    try:
        assert started[0].wait(timeout=60) == 1
    finally:
        started[1].send_signal(signal.SIGKILL)
        started[1].wait()
    assert "process 1 of 2" in log.read_text()
    assert "within 4 s (training.process_timeout: 4)" in log.read_text()
