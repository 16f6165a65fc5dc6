"""What a reader should know of a run before believing its curves: a sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import fmean

from dmpo.evaluation.summary import EvaluationResult
from dmpo.reporting.history import RunHistory, evaluation_step
from dmpo.reporting.run_contents import RunContents
from dmpo.reporting.run_summary import RunSummary

__all__ = ["run_notes"]

WORTH_A_NOTE = 0.25
"""Share of flat groups, of unreadable answers or of noisy buffers from which they are told of."""


def run_notes(run: RunContents) -> list[str]:
    """Return what stands out in a run, the most pressing first."""
    return [
        *_standing_notes(run.summary),
        *_signal_notes(run.history),
        *_evaluation_notes(run.evaluations),
        *run.problems,
    ]


def _standing_notes(summary: RunSummary) -> Iterator[str]:
    steps = f"{summary.step:,}" + (f" of {summary.num_steps:,}" if summary.num_steps else "")
    if summary.state == "running":
        yield f"The run goes on: {steps} steps when this was written."
    elif summary.state == "stopped":
        yield f"The run is not finished: {steps} steps. Go on with: {summary.resume}"
    elif summary.state == "failed":
        yield f"The run ended at {steps} steps without a checkpoint: nothing to go on from."


def _signal_notes(history: RunHistory) -> Iterator[str]:
    noisy = _mean(history, "log_ratio/noise_exceeds_reward")
    if noisy > 0:
        yield (
            f"In {noisy:.0%} of the buffers the noise of the log-ratio exceeded the spread of r/α"
            + (": weights followed the noise." if noisy >= WORTH_A_NOTE else ".")
        )
    missing = _mean(history, "reward/missing")
    if missing > 0:
        yield f"{missing:.1%} of the rollouts had no reward at all and counted as 0."
    skipped = history.final("optimizer/skipped_steps") or 0
    if skipped > 0:
        yield f"{skipped:.0f} steps were skipped: their loss or gradient was not finite."
    flat = _mean(history, "reward/flat_groups")
    if flat >= WORTH_A_NOTE:
        yield f"{flat:.0%} of the groups had one reward throughout: they carried no signal."
    unreadable = _mean(history, "rollout/unreadable")
    if unreadable >= WORTH_A_NOTE:
        yield f"{unreadable:.0%} of the rollouts had no readable answer."


def _evaluation_notes(evaluations: Mapping[str, EvaluationResult]) -> Iterator[str]:
    tables = [
        table for heading, table in evaluations.items() if evaluation_step(heading) is not None
    ]
    if not evaluations:
        yield "There is no evaluation: rewards are those of training prompts."
    elif len(tables) > 1:
        first, last = tables[0], tables[-1]
        if last.accuracy_interval[1] < first.accuracy_interval[0]:
            yield "The last evaluation is worse than the first, beyond their intervals."


def _mean(history: RunHistory, metric: str) -> float:
    points = history.points(metric)
    return fmean(points.values()) if points else 0.0
