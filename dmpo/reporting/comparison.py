"""Arms side by side: means and intervals over seeds, as JSON, Markdown and a table's cells."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import RenderableType

from dmpo.evaluation.table import FittedTable
from dmpo.reporting.history import AXES, RunHistory
from dmpo.reporting.intervals import MeanInterval, mean_interval
from dmpo.reporting.numbers import interval_text, short_number
from dmpo.training.events import StopReason

__all__ = [
    "ArmReport",
    "ComparisonReport",
    "RunReport",
    "RunState",
    "comparison_json",
    "comparison_markdown",
    "comparison_table",
    "settings_differences",
]

RunState = Literal["finished", "unfinished", "failed"]
"""Whether a run reached its limit, has to go on, or ended with an error."""

_COST_HEADINGS: Mapping[str, str] = {
    "steps": "steps",
    "model_tokens": "model tokens",
    "flops": "FLOPs",
    "seconds": "seconds",
}

ABSENT = "–"
"""Stands where there is no value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What became of one run."""

    seed: int
    """Seed of everything random in it."""
    place: str
    """Its directory, below the comparison's."""
    state: RunState
    """Only finished runs count in means."""
    history: RunHistory
    """The numbers that it wrote."""
    stopped_by: StopReason | None = None
    """The limit that it reached; None: none yet."""
    error: str = ""
    """The last line of a run that failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmReport:
    """The runs of one arm."""

    name: str
    """Its name."""
    settings: Mapping[str, Any]
    """Every setting by its dotted path, the seed left out."""
    runs: tuple[RunReport, ...]
    """One per seed."""

    @property
    def finished(self) -> tuple[RunReport, ...]:
        """The runs that count."""
        return tuple(run for run in self.runs if run.state == "finished")

    def figure(self, metric: str) -> MeanInterval | None:
        """Return the mean over seeds of a metric's last value; None if a run lacks it."""
        return _mean([run.history.final(metric) for run in self.finished])

    def cost(self, axis: str) -> MeanInterval | None:
        """Return the mean over seeds of how far the runs went along an axis."""
        return _mean([run.history.cost(axis) for run in self.finished])


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonReport:
    """All arms of a comparison."""

    title: str
    """What it is called."""
    description: str
    """What it is for; may be empty."""
    metrics: tuple[str, ...]
    """The columns and curves: see :meth:`dmpo.reporting.history.RunHistory.points`."""
    arms: tuple[ArmReport, ...]
    """In the order of the spec."""
    budget: StopReason | None = None
    """The limit that all runs were to stop at; None: their own."""

    @property
    def axes(self) -> dict[str, str]:
        """The axes that some run has logged, and their names in words."""
        runs = [run for arm in self.arms for run in arm.runs]
        return {
            axis: text
            for axis, text in AXES.items()
            if axis == "steps" or any(run.history.axis(axis) for run in runs)
        }

    def label(self, metric: str) -> str:
        """Return what a column is called: ``headline`` by the figure it stands for."""
        headlines = {run.history.headline for arm in self.arms for run in arm.runs} - {""}
        if metric == "headline" and len(headlines) == 1:
            return next(iter(headlines))
        return {"headline": "score", "distinct_right": "distinct right answers"}.get(
            metric, metric.removeprefix("evaluation/")
        )

    def headings(self) -> list[str]:
        """Return the table's headings behind the arm's name."""
        costs = [_COST_HEADINGS[axis] for axis in self.axes]
        return [*(self.label(metric) for metric in self.metrics), *costs, "runs"]

    def rows(self) -> list[tuple[str, list[str]]]:
        """Return each arm's name and cells."""
        return [(arm.name, self._cells(arm)) for arm in self.arms]

    def notes(self) -> list[str]:
        """Return a line for each run that failed, is not finished, or missed the budget."""
        lines = []
        for arm in self.arms:
            for run in arm.runs:
                name = f"{arm.name}, seed {run.seed}"
                if run.state == "failed":
                    lines.append(f"{name}: failed: {run.error}")
                elif run.state == "unfinished":
                    lines.append(f"{name}: not finished ({run.history.last_step} steps)")
                elif self.budget is not None and run.stopped_by != self.budget:
                    lines.append(
                        f"{name}: ended at training.{run.stopped_by}, before the budget "
                        f"(training.{self.budget})"
                    )
        return lines

    def _cells(self, arm: ArmReport) -> list[str]:
        figures = [arm.figure(metric) for metric in self.metrics]
        costs = [arm.cost(axis) for axis in self.axes]
        return [
            *(ABSENT if figure is None else interval_text(figure) for figure in figures),
            *(ABSENT if cost is None else short_number(cost.mean) for cost in costs),
            f"{len(arm.finished)} of {len(arm.runs)}",
        ]


def settings_differences(arms: Sequence[ArmReport]) -> list[tuple[str, list[str]]]:
    """Return each setting that is not the same in all arms, with its value in each."""
    paths = dict.fromkeys(path for arm in arms for path in arm.settings)
    rows = []
    for path in paths:
        values = [_shown(arm.settings[path]) if path in arm.settings else ABSENT for arm in arms]
        if len(set(values)) > 1:
            rows.append((path, values))
    return rows


def comparison_table(report: ComparisonReport) -> RenderableType:
    """Return the table for a terminal; where it is too narrow, every figure gets a line."""
    return FittedTable(report.headings(), report.rows())


def comparison_markdown(report: ComparisonReport) -> str:
    """Return the table, the differences between arms and the notes as Markdown."""
    lines = [f"# {report.title}", ""]
    if report.description:
        lines += [report.description, ""]
    lines += [*_markdown_table(["arm", *report.headings()], report.rows()), ""]
    lines += ["Means over seeds ± half of Student's 95% interval.", ""]
    lines += [f"- {note}" for note in report.notes()]
    if differences := settings_differences(report.arms):
        lines += ["", "## Settings that differ", ""]
        lines += _markdown_table(["setting", *(arm.name for arm in report.arms)], differences)
    return "\n".join(lines).rstrip() + "\n"


def comparison_json(report: ComparisonReport) -> str:
    """Return every number, per run and over seeds, as JSON text."""
    differing = [path for path, _ in settings_differences(report.arms)]
    record = {
        "title": report.title,
        "description": report.description,
        "metrics": report.metrics,
        "arms": [
            {
                "name": arm.name,
                "settings": {path: arm.settings.get(path) for path in differing},
                "figures": {name: _record(arm.figure(name)) for name in report.metrics},
                "cost": {axis: _record(arm.cost(axis)) for axis in report.axes},
                "runs": [_run_record(run, report) for run in arm.runs],
            }
            for arm in report.arms
        ],
    }
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def _mean(values: Sequence[float | None]) -> MeanInterval | None:
    known = [value for value in values if value is not None]
    return mean_interval(known) if known and len(known) == len(values) else None


def _record(figure: MeanInterval | None) -> dict[str, Any] | None:
    if figure is None:
        return None
    half = figure.half_width
    ends = {} if half is None else {"low": figure.mean - half, "high": figure.mean + half}
    return {**asdict(figure), **ends}


def _run_record(run: RunReport, report: ComparisonReport) -> dict[str, Any]:
    return {
        "seed": run.seed,
        "place": run.place,
        "state": run.state,
        "stopped_by": run.stopped_by,
        "error": run.error,
        "figures": {name: run.history.final(name) for name in report.metrics},
        "cost": {axis: run.history.cost(axis) for axis in report.axes},
    }


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _markdown_table(headings: Sequence[str], rows: Sequence[tuple[str, list[str]]]) -> list[str]:
    cells = [list(headings), *([label, *values] for label, values in rows)]
    first, *others = [
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells
    ]
    return [first, "| --- |" + " ---: |" * (len(headings) - 1), *others]
