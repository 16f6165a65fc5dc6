"""What a run directory says about a run: its figures by step, its evaluations, how it ended."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dmpo.errors import DataError, reading_failure
from dmpo.evaluation.saved import read_tables
from dmpo.evaluation.summary import EvaluationResult
from dmpo.evaluation.table import evaluation_record
from dmpo.files import read_lines
from dmpo.training.events import StopReason
from dmpo.training.settings import TrainingSettings

__all__ = [
    "AXES",
    "RunHistory",
    "evaluation_step",
    "evaluation_tables",
    "read_history",
    "reason_of_end",
]

AXES: Final[Mapping[str, str]] = {
    "steps": "gradient steps",
    "model_tokens": "model tokens",
    "flops": "model FLOPs",
    "seconds": "seconds of training",
}
"""What curves are drawn against, and its name in words."""

_AXIS_METRICS: Final[Mapping[str, str]] = {
    "model_tokens": "tokens/model_total",
    "flops": "flops/total",
    "seconds": "time/total",
}

Points = Mapping[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHistory:
    """The numbers that a run has written so far."""

    metrics: Mapping[str, Points]
    """Of metrics.jsonl: by name, the value at each step that has a finite one."""
    evaluations: Mapping[str, Points]
    """Of evaluation.json: ``headline``, ``distinct_right`` and ``evaluation/<name>`` by step."""
    headline: str
    """Name of the evaluation's first figure; empty without an evaluation."""
    last_step: int
    """Gradient steps taken, 0 at the beginning."""
    num_damaged: int = 0
    """Lines of metrics.jsonl that could not be read and were left out."""

    def points(self, name: str) -> Points:
        """Return a metric by step; nothing if the run has none of this name."""
        return self.evaluations.get(name, self.metrics.get(name, {}))

    def axis(self, name: str) -> Points:
        """Return the position on an axis of :data:`AXES` of each step; nothing if not logged."""
        if name == "steps":
            return {step: float(step) for step in range(self.last_step + 1)}
        positions = self.metrics.get(_AXIS_METRICS[name], {})
        return {0: 0.0, **positions} if positions else {}

    def cost(self, axis: str) -> float | None:
        """Return how far along an axis the run has come; None if that was not logged."""
        return self.axis(axis).get(self.last_step)

    def final(self, name: str) -> float | None:
        """Return the last value of a metric; None if there is none."""
        points = self.points(name)
        return points[max(points)] if points else None


def read_history(run: Path, *, is_lenient: bool = False) -> RunHistory:
    """Return what a run directory holds; an empty history if the run has not begun.

    A last line that is being written this moment is left out.

    Args:
        run: Its directory.
        is_lenient: Leave damaged lines and evaluations out, and count the lines, in place of
            raising.

    Raises:
        DataError: If a file of the run cannot be read or, without ``is_lenient``, is not what was
            written.
    """
    metrics: dict[str, dict[int, float]] = {}
    last_step = num_damaged = 0
    for record in _records(run / "metrics.jsonl", is_lenient=is_lenient):
        if record is None:
            num_damaged += 1
            continue
        last_step = int(record["step"])
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float) and math.isfinite(value):
                metrics.setdefault(name, {})[last_step] = float(value)
    evaluations: dict[str, dict[int, float]] = {}
    tables = evaluation_tables(run, is_lenient=is_lenient)
    for heading, result in tables.items():
        if (step := evaluation_step(heading)) is None:
            continue
        for name, value in _evaluation_figures(result).items():
            evaluations.setdefault(name, {})[step] = value
    headline = next((result.headline for result in tables.values()), "")
    return RunHistory(
        metrics=metrics,
        evaluations=evaluations,
        headline=headline,
        last_step=last_step,
        num_damaged=num_damaged,
    )


def evaluation_tables(run: Path, *, is_lenient: bool = False) -> dict[str, EvaluationResult]:
    """Return a run's evaluations by their headings.

    Args:
        run: Its directory.
        is_lenient: Return none, in place of raising, where evaluation.json is damaged.

    Raises:
        DataError: If it is, without ``is_lenient``.
    """
    try:
        return read_tables(run)
    except DataError:
        if is_lenient:
            return {}
        raise


def evaluation_step(heading: str) -> int | None:
    """Return the step of an evaluation called ``step 96``; None for one called otherwise."""
    match = re.fullmatch(r"step (\d+)", heading)
    return int(match[1]) if match else None


def reason_of_end(history: RunHistory, settings: TrainingSettings) -> StopReason | None:
    """Return which limit a run has reached, its last evaluation made; None: it has to go on.

    Args:
        history: What the run wrote.
        settings: The run's, its limits among them.
    """
    step = history.last_step
    if step == 0 or step not in history.evaluations.get("headline", {}):
        return None
    return settings.limit_reached(
        step,
        model_tokens=history.cost("model_tokens"),
        model_flops=history.cost("flops"),
        seconds=history.cost("seconds"),
    )


def _evaluation_figures(result: EvaluationResult) -> dict[str, float]:
    record = evaluation_record(result)
    figures = {f"evaluation/{name}": figure.mean for name, figure in result.figures.items()}
    others = {
        f"evaluation/{name}": float(value)
        for name, value in record.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    passes = {f"evaluation/pass@{k}": f["mean"] for k, f in record.get("pass_at", {}).items()}
    distinct = {} if result.distinct_right is None else {"distinct_right": result.distinct_right}
    return {**others, **figures, **passes, **distinct, "headline": result.score}


def _records(path: Path, *, is_lenient: bool) -> Iterator[dict[str, Any] | None]:
    """Yield the lines of a run, None for a damaged one where those are left out."""
    if not path.exists():
        return
    try:
        lines: Sequence[str | bytes] = (
            _byte_lines(path.read_bytes()) if is_lenient else read_lines(path)
        )
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {reading_failure(error)}.") from None
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            int(record["step"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if number == len(lines):
                return
            if not is_lenient:
                raise DataError(f"{path}: line {number} is no line of a run ({error}).") from None
            record = None
        yield record


def _byte_lines(content: bytes) -> list[bytes]:
    """Return lines that need not be UTF-8, cut at line feeds alone."""
    lines = content.split(b"\n")
    return lines if lines[-1] else lines[:-1]
