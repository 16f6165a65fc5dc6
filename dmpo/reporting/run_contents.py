"""Everything that a run directory holds and a page shows, read at once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmpo.errors import DataError, nearest_name, reading_failure
from dmpo.evaluation.summary import EvaluationResult
from dmpo.reporting.history import RunHistory, evaluation_tables, read_history
from dmpo.reporting.run_summary import RunSummary, find_runs, is_run, read_settings, run_summary
from dmpo.reporting.samples import SavedSamples, read_samples
from dmpo.reporting.visible import visible
from dmpo.settings import flattened

__all__ = [
    "RunContents",
    "chosen_runs",
    "distinct_names",
    "read_run",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContents:
    """A run, as far as it has got."""

    name: str
    """What the page calls it."""
    summary: RunSummary
    """How it stands."""
    history: RunHistory
    """Its figures by step; damaged lines left out."""
    settings: Mapping[str, Any]
    """Every setting by its dotted path."""
    settings_text: str
    """The same as config.yaml has them."""
    environment: Mapping[str, Any]
    """What environment.json says; nothing if it is not there or damaged."""
    evaluations: Mapping[str, EvaluationResult]
    """By heading, the first one first."""
    samples: SavedSamples
    """Rollouts with their weights."""
    problems: tuple[str, ...]
    """What could not be read, a sentence each."""


def chosen_runs(paths: Sequence[Path]) -> list[Path]:
    """Return the runs that are meant: directories of runs, or folders with runs below.

    Raises:
        DataError: Naming a path that is neither, and what is missing there.
    """
    found: dict[str, Path] = {}
    for path in paths:
        for run in _runs_of(path):
            found.setdefault(os.path.realpath(run), run)
    return list(found.values())


def _runs_of(path: Path) -> list[Path]:
    if not path.exists():
        raise DataError(f"RUN: {path}: there is no such directory.{_near(path)}")
    if not path.is_dir():
        raise DataError(f"RUN: {path} is a file; name a run's directory.")
    if (path / "metrics.jsonl").is_file():
        return [path]
    below = [] if is_run(path) else find_runs(path)
    begun = [run for run in below if (run / "metrics.jsonl").is_file()]
    if begun:
        return begun
    if below:
        names = ", ".join(str(run) for run in below[:5]) + (", …" if len(below) > 5 else "")
        raise DataError(f"RUN: no run in {path} has taken a step (no metrics.jsonl): {names}.")
    above = next((parent for parent in path.absolute().parents if is_run(parent)), None)
    hint = f" It lies inside of a run: {above}." if above else ""
    reason = "the run has not taken a step yet" if is_run(path) else "it is no run's directory"
    raise DataError(
        f"RUN: {path} holds no metrics.jsonl, and there is no run below: {reason}.{hint}"
    )


def _near(path: Path) -> str:
    try:
        names = [each.name for each in path.absolute().parent.iterdir() if each.is_dir()]
    except OSError:
        return ""
    near = nearest_name(path.name, names)
    return f" Did you mean {path.parent / near}?" if near else ""


def distinct_names(runs: Sequence[Path]) -> list[str]:
    """Return a short name for each run: what its path has behind the folder that all share."""
    places = [Path(os.path.realpath(run)) for run in runs]
    if len(places) == 1:
        return [visible(places[0].name or str(places[0]))]
    shared = os.path.commonpath([place.parent for place in places])
    return [visible(place.relative_to(shared).as_posix()) for place in places]


def read_run(run: Path, name: str, *, sample_characters: int) -> RunContents:
    """Return what a run's directory holds.

    Args:
        run: Its directory.
        name: What to call it.
        sample_characters: Of its rollouts, about; of more, some steps are left out.

    Raises:
        DataError: If config.yaml, metrics.jsonl or samples.jsonl cannot be read. Damaged lines, and
            other damaged files, are left out and told of in ``problems``.
    """
    tree = read_settings(run)
    history = read_history(run, is_lenient=True)
    samples = read_samples(run, most_characters=sample_characters)
    environment, problems = _environment(run)
    evaluations = evaluation_tables(run, is_lenient=True)
    if not evaluations and (run / "evaluation.json").exists():
        problems.append("evaluation.json is damaged: evaluations are left out.")
    for file, count in (
        ("metrics.jsonl", history.num_damaged),
        ("samples.jsonl", samples.num_damaged),
    ):
        if count:
            lines = "a damaged line" if count == 1 else f"{count:,} damaged lines"
            problems.append(f"{file} has {lines}, left out.")
    if not tree:
        problems.append("There is no config.yaml: settings are not known.")
    return RunContents(
        name=name,
        summary=run_summary(run),
        history=history,
        settings=flattened(tree),
        settings_text=(run / "config.yaml").read_text(encoding="utf-8") if tree else "",
        environment=environment,
        evaluations=evaluations,
        samples=samples,
        problems=tuple(problems),
    )


def _environment(run: Path) -> tuple[dict[str, Any], list[str]]:
    path = run / "environment.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, []
    except (OSError, ValueError, RecursionError) as error:
        return {}, [f"environment.json cannot be read: {reading_failure(error)}."]
    return (record, []) if isinstance(record, dict) else ({}, ["environment.json is damaged."])
