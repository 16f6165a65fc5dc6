"""The two sides of ``benchmarks/step.py`` do the same mathematics, and a lost side is survived."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TINY = ["--size", "tiny", "--in-process", "--repeats", "0", "--num-views", "2"]


@pytest.fixture
def step(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("step")


def built(step, *arguments: str):
    options = step.parse([*TINY, *arguments])
    return options, step.build_stage(options)


def test_sides_agree_in_loss_and_gradient(step):
    _, stage = built(step, "--shares", "drawn")
    for share in ("drawn", "0.6", "1.0"):
        stage.share = share
        record = step.measure(stage, repeats=0)
        assert record["difference"]["loss"] < 1e-4
        assert record["difference"]["gradient"] < 1e-3


@pytest.mark.parametrize("side", ["official", "ours"])
def test_operations_are_those_that_pytorch_counts(step, side):
    _, stage = built(step, "--shares", "drawn", "--checkpointing")
    stage.policy.module.causal_lm.set_attn_implementation(
        "eager"
    )  # the fused kernel goes uncounted
    counter = FlopCounterMode(display=False)
    done = step.Done()
    with counter:
        step.STEPS[side](stage, done)
    assert done.flops == counter.get_total_flops()


def test_batch_is_halved_until_both_sides_fit(step, monkeypatch):
    options, stage = built(step, "--shares", "drawn", "--batch", "4")
    official = step.STEPS["official"]

    def small_official(stage, done):
        if stage.rollouts.num_rows > 2:
            raise torch.OutOfMemoryError("out of memory")
        official(stage, done)

    monkeypatch.setattr(step, "STEPS", {**step.STEPS, "official": small_official})
    bench = step.Bench(options=options)
    step.cases(bench, stage)
    rows = bench.record["cases"]
    assert [(row["batch"], sorted(row["sides"])) for row in rows] == [
        (4, ["ours"]),
        (2, ["official", "ours"]),
    ]
    assert "out of memory" in step.report(bench)
