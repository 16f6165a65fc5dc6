from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dmpo.errors import ConfigError, DivergenceError, OutputError
from dmpo.evaluation.evaluator import EvaluationSettings, Evaluator
from dmpo.registry import POLICIES, SAMPLERS
from dmpo.training.interruption import Interruption
from dmpo.training.sft import SftSettings, SftTask, SftTrainer, chosen_task
from tests.training.runs import CountingTask, Recorder, small_policy, weights_of

SETTINGS = {"num_steps": 40, "batch_rows": 9, "log_every": 10, "learning_rate": 1e-2}


def _evaluator() -> Evaluator:
    sampler = SAMPLERS.build("roar", {"gen_length": 4, "temperature": 0.0})
    return Evaluator(CountingTask(), sampler, EvaluationSettings())


def test_fine_tuning_learns_what_is_demonstrated_and_leaves_everything_behind(
    tmp_path: Path,
) -> None:
    policy, recorder = small_policy(), Recorder()
    tasks = [SftTask(name="count", task=CountingTask(), evaluator=_evaluator())]
    before = _evaluator().evaluate(policy, torch.Generator())
    trainer = SftTrainer(
        policy, tasks, SftSettings(**SETTINGS), seed=0, output=tmp_path, observers=[recorder]
    )
    results = trainer.train()
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [json.loads(line)["loss/total"] for line in lines]
    assert len(losses) == 4
    assert losses[-1] < 0.75 * losses[0]
    assert results["count"].figures["share"].mean > before.figures["share"].mean
    figures = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))["count"]
    assert figures["figures"]["right"]["mean"] == results["count"].score
    assert "| right |" in (tmp_path / "evaluation.md").read_text(encoding="utf-8")
    assert recorder.names == ["StepDone"] * 4
    again = POLICIES.build("llada", {"model": str(tmp_path)})
    saved = weights_of(again)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in weights_of(policy).items())


def test_fine_tuning_tells_what_it_cost_in_tokens_and_operations(tmp_path: Path) -> None:
    policy = small_policy()
    tasks = [SftTask(name="count", task=CountingTask())]
    SftTrainer(policy, tasks, SftSettings(**SETTINGS), seed=0, output=tmp_path).train()
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    metrics = [json.loads(line) for line in lines]
    assert metrics[-1]["tokens/model_total"] == 3 * policy.forward_tokens
    assert sum(line["tokens/backward"] for line in metrics) == policy.forward_tokens
    assert metrics[-1]["flops/total"] == policy.forward_flops + policy.backward_flops
    assert policy.backward_flops > policy.forward_flops > 0
    assert all(line["tokens/per_second"] > 0 for line in metrics)


@pytest.mark.parametrize("masking", ["count", "bernoulli"])
def test_seed_decides_the_outcome_and_the_cut_does_not(tmp_path: Path, masking: str) -> None:
    outcomes = []
    for number, (seed, rows) in enumerate([(0, None), (0, 2), (1, None)]):
        policy = small_policy()
        changes = {"num_steps": 4, "micro_batch_rows": rows, "masking": masking}
        settings = SftSettings(**{**SETTINGS, **changes}, adam_epsilon=1.0)
        tasks = [SftTask(name="count", task=CountingTask())]
        SftTrainer(policy, tasks, settings, seed=seed, output=tmp_path / str(number)).train()
        outcomes.append(weights_of(policy))
    whole, cut, other = outcomes
    for name, tensor in whole.items():
        torch.testing.assert_close(cut[name], tensor, rtol=1e-4, atol=1e-6)
    assert not all(torch.equal(whole[name], other[name]) for name in whole)


def test_signal_ends_fine_tuning_after_the_step_with_the_policy_saved(tmp_path: Path) -> None:
    policy = small_policy()
    tasks = [SftTask(name="count", task=CountingTask(), evaluator=_evaluator())]
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGTERM)
        results = SftTrainer(
            policy,
            tasks,
            SftSettings(**SETTINGS),
            seed=0,
            output=tmp_path,
            interruption=interruption,
        ).train()
    assert results == {}
    (line,) = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["step"] == 1
    saved = weights_of(POLICIES.build("llada", {"model": str(tmp_path)}))
    assert all(torch.equal(tensor, saved[name]) for name, tensor in weights_of(policy).items())


def test_fine_tuning_that_diverges_stops_with_the_policy_saved(tmp_path: Path) -> None:
    policy = small_policy()
    canvas = torch.zeros(1, 4, dtype=torch.long)
    with torch.no_grad():
        # Weights that are bad in their first pass are refused as a checkpoint's.
        policy.logits(canvas, torch.ones_like(canvas, dtype=torch.bool), canvas)
        next(policy.module.parameters()).fill_(math.nan)
    tasks = [SftTask(name="count", task=CountingTask())]
    settings = SftSettings(**SETTINGS, max_skipped_in_a_row=2)
    with pytest.raises(DivergenceError, match="2 steps in a row"):
        SftTrainer(policy, tasks, settings, seed=0, output=tmp_path).train()
    assert (tmp_path / "model.safetensors").exists()


def test_policy_that_finds_no_room_is_not_there_in_part(
    tmp_path: Path, file_size_limit: Callable[[int], None]
) -> None:
    tasks = [SftTask(name="count", task=CountingTask())]
    trainer = SftTrainer(small_policy(), tasks, SftSettings(**SETTINGS), seed=0, output=tmp_path)
    file_size_limit(8_192)
    with pytest.raises(OutputError, match="cannot be written"):
        trainer.train()
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "metrics.jsonl"}


def test_mixture_takes_its_tasks_by_weight() -> None:
    task = CountingTask()
    tasks = [SftTask(name="often", task=task, weight=3.0), SftTask(name="rare", task=task)]
    chosen = [chosen_task(tasks, seed=0, step=step).name for step in range(2000)]
    assert chosen == [chosen_task(tasks, seed=0, step=step).name for step in range(2000)]
    assert 0.22 < chosen.count("rare") / 2000 < 0.28


def test_response_is_filled_up_with_eos(tmp_path: Path) -> None:
    policy = small_policy()
    tasks = [SftTask(name="count", task=CountingTask(), response_length=6)]
    trainer = SftTrainer(policy, tasks, SftSettings(**SETTINGS), seed=0, output=tmp_path)
    responses = trainer._batch(0).responses
    assert (responses[:, 4:] == policy.eos_token_id).all()
    assert (responses[:, :3] != policy.eos_token_id).all()


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ([], "give at least one"),
        ([("a", 1.0), ("a", 1.0)], "each name once"),
        ([("a", 0.0)], "weight of 'a' must be positive"),
    ],
)
def test_mixture_that_makes_no_sense_is_refused(
    tmp_path: Path, mixture: list[tuple[str, float]], message: str
) -> None:
    tasks = [SftTask(name=name, task=CountingTask(), weight=w) for name, w in mixture]
    with pytest.raises(ConfigError, match=message):
        SftTrainer(small_policy(), tasks, SftSettings(**SETTINGS), seed=0, output=tmp_path)
