"""Run directories written by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from dmpo.evaluation.figures import summarize
from dmpo.evaluation.saved import write_tables
from dmpo.evaluation.summary import EvaluationResult


def evaluation(score: float, distinct: float) -> EvaluationResult:
    """Return an evaluation of ten problems with this share of right answers."""
    right = round(10 * score)
    grades = [[1.0, 1.0]] * right + [[0.0, 0.0]] * (10 - right)
    return EvaluationResult(
        split="test",
        headline="right",
        accuracy=summarize(grades).mean,
        accuracy_interval=(0.0, 1.0),
        figures={"right": summarize(grades)},
        num_examples=10,
        samples_per_prompt=2,
        response_length=4.0,
        distinct_right=distinct,
        num_forwards=8,
        seconds=1.0,
        tokens_per_second=80.0,
        completions=(),
    )


def write_run(
    run: Path,
    rewards: Mapping[int, float],
    scores: Mapping[int, float],
    *,
    tokens_per_step: float = 100.0,
) -> Path:
    """Write the metrics and evaluations of a run, and return its directory."""
    run.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "step": step,
            "reward/mean": reward,
            "loss/total": 0.5,
            "tokens/model_total": tokens_per_step * step,
            "time/total": 0.1 * step,
        }
        for step, reward in rewards.items()
    ]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    write_tables(run, {f"step {step}": evaluation(s, 3 * s) for step, s in scores.items()})
    return run
