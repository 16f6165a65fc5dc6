"""A comparison's directory: where its runs lie, how far they are, and what it reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dmpo.config.comparison import (
    ComparisonConfig,
    PlannedRun,
    check_same_run,
)
from dmpo.config.layers import leaves, sourced
from dmpo.config.recipes import file_chain
from dmpo.config.resolve import resolve_run
from dmpo.errors import ConfigError
from dmpo.files import replace_text
from dmpo.reporting.comparison import (
    ArmReport,
    ComparisonReport,
    RunReport,
    RunState,
    comparison_json,
    comparison_markdown,
)
from dmpo.reporting.comparison_page import comparison_page
from dmpo.reporting.history import read_history, reason_of_end

__all__ = [
    "ERROR_START",
    "check_directory",
    "comparison_report",
    "config_path",
    "last_line",
    "log_path",
    "run_report",
    "write_comparison",
]

ERROR_START = "dmpo: error: "
"""How a line begins that says why a run failed."""


def config_path(output: Path, run: PlannedRun) -> Path:
    """Return where a run's settings lie, beside its directory."""
    return output / run.place.with_name(f"{run.place.name}.yaml")


def log_path(output: Path, run: PlannedRun) -> Path:
    """Return where what a run says is kept, beside its directory."""
    return output / run.place.with_name(f"{run.place.name}.log")


def check_directory(output: Path, runs: Sequence[PlannedRun]) -> None:
    """Refuse a directory that holds something else, or runs with other settings.

    Raises:
        ConfigError: Naming it, or the first difference.
    """
    if not output.exists():
        return
    is_taken = not output.is_dir() or any(path.name != ".lock" for path in output.iterdir())
    if is_taken and not (output / "spec.yaml").is_file():
        raise ConfigError(
            f"--output: {output} exists and holds no comparison; name one that does not."
        )
    for run in runs:
        saved = output / run.place / "config.yaml"
        if saved.is_file():
            check_same_run(run, resolve_run(file_chain(saved).layers).config)


def run_report(output: Path, run: PlannedRun, failure: str = "") -> RunReport:
    """Return how far a run is.

    Args:
        output: Directory of the comparison.
        run: Which one.
        failure: Why it failed, where that is known; else its log's last line tells.

    Raises:
        DataError: If a file of the run is damaged.
    """
    history = read_history(output / run.place)
    reason = reason_of_end(history, run.resolved.config.training)
    error = "" if reason else failure or _last_error(log_path(output, run))
    state: RunState = "finished" if reason else "failed" if error else "unfinished"
    return RunReport(
        seed=run.seed,
        place=run.place.as_posix(),
        state=state,
        history=history,
        stopped_by=reason,
        error=error,
    )


def comparison_report(
    spec: ComparisonConfig,
    runs: Sequence[PlannedRun],
    output: Path,
    *,
    title: str,
    failures: Mapping[Path, str] | None = None,
) -> ComparisonReport:
    """Return what all runs have written so far.

    Args:
        spec: What was asked for.
        runs: Every run of it.
        output: Directory of the comparison.
        title: What the page is called.
        failures: Why a run failed, by its place.
    """
    failed = failures or {}
    by_arm: dict[str, list[PlannedRun]] = {}
    for run in runs:
        by_arm.setdefault(run.arm, []).append(run)
    arms = tuple(
        ArmReport(
            name=name,
            settings=_settings(members[0]),
            runs=tuple(run_report(output, run, failed.get(run.place, "")) for run in members),
        )
        for name, members in by_arm.items()
    )
    return ComparisonReport(
        title=title,
        description=spec.description,
        metrics=spec.metrics,
        arms=arms,
        budget=None if spec.budget is None else spec.budget.limit,
    )


def write_comparison(report: ComparisonReport, output: Path) -> None:
    """Write comparison.json, comparison.md and comparison.html.

    Raises:
        OutputError: If one cannot be written.
    """
    replace_text(output / "comparison.json", comparison_json(report))
    replace_text(output / "comparison.md", comparison_markdown(report))
    replace_text(output / "comparison.html", comparison_page(report))


def _settings(run: PlannedRun) -> dict[str, object]:
    tree = sourced(run.resolved.plain(), "")
    return {path: leaf.value for path, leaf in leaves(tree).items() if path != "seed"}


def last_line(log: Path) -> str:
    """Return the last line of a run's log; empty if there is none."""
    if not log.is_file():
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _last_error(log: Path) -> str:
    """Return the error that a run ended with; empty if it ended otherwise."""
    last = last_line(log)
    if not last.startswith(ERROR_START) or last == f"{ERROR_START}interrupted.":
        return ""
    return last.removeprefix(ERROR_START)
