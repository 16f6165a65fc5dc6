"""The page of one run or of several: what they are, their curves, rollouts and evaluations."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dmpo.evaluation.summary import EvaluationResult
from dmpo.files import replace_text
from dmpo.reporting.charts import Chart, Line, Panel
from dmpo.reporting.comparison import ArmReport, settings_differences
from dmpo.reporting.history import AXES, evaluation_step
from dmpo.reporting.page import (
    chart_section,
    data_script,
    html_text,
    notes_section,
    page,
    section,
    table,
)
from dmpo.reporting.run_contents import (
    RunContents,
    chosen_runs,
    distinct_names,
    read_run,
)
from dmpo.reporting.run_notes import run_notes
from dmpo.reporting.run_overview import overview_section, time_section
from dmpo.reporting.samples import MOST_TEXT, graded_completions, sample_records
from dmpo.reporting.visible import visible
from dmpo.settings import flattened
from dmpo.training.metrics import METRICS

__all__ = ["report_page", "report_place", "write_report"]

DRAWN_VALUES = 250_000
"""Values of all curves of a page: about two megabytes."""
FEWEST_POINTS, MOST_POINTS = 200, 1_000
"""Of a curve."""
SAMPLE_CHARACTERS = 2_400_000
"""Characters of the rollouts of a page, all runs together."""
SHOWN_COMPLETIONS = 6
"""Right ones, and wrong ones, of each run's last evaluation."""
SHOWN_TEXTS = ("prompt", "completion")
"""Parts of a completion's record that decide how wide it is shown."""
MOST_COMPONENTS = 6
"""Parts of the reward that have a picture of their own."""
NOT_COMPARED = frozenset({"started", "command", "seed", "resumes"})
"""Parts of environment.json in which any two runs differ."""
DASH = "–"
"""Stands where there is no value."""

_PANELS: Sequence[tuple[str, Mapping[str, str]]] = (
    ("ESS, share of N", {"weights/ess": "ESS"}),
    (
        "Real weights, extremes",
        {"weights/real_max": "largest", "weights/real_min": "smallest"},
    ),
    (
        "Log-ratio (nats)",
        {"log_ratio/standard_error": "noise", "log_ratio/reward_spread": "spread of r/α"},
    ),
    ("Token entropy (nats)", {"rollout/entropy": "entropy"}),
    (
        "Distinct right answers",
        {"rollout/unique_right_answers": "training", "distinct_right": "evaluation"},
    ),
    ("Gradient norm", {"optimizer/gradient_norm": "norm"}),
    ("Loss", {"loss/total": "loss"}),
    ("KL from the reference (nats)", {"drift/kl_reference": "KL"}),
    ("Model tokens per second", {"tokens/per_second": "tokens/s"}),
)


def write_report(paths: Sequence[Path], output: Path | None = None) -> Path:
    """Read runs and write their page.

    Args:
        paths: Directories of runs, or folders with runs below.
        output: The page's file; None: see :func:`report_place`.

    Returns:
        Where the page is.

    Raises:
        DataError: If a path is no run, or one cannot be read.
        OutputError: If the page cannot be written.
    """
    places = chosen_runs(paths)
    share = SAMPLE_CHARACTERS // len(places)
    pairs = zip(places, distinct_names(places), strict=True)
    text = report_page([read_run(run, name, sample_characters=share) for run, name in pairs])
    where = report_place(places, output)
    replace_text(where, text)
    return where


def report_place(runs: Sequence[Path], output: Path | None = None) -> Path:
    """Return where the page of runs is written.

    Args:
        runs: Their directories.
        output: As given; None: report.html in the directory of a single run, or in the current
            one.
    """
    return output or (runs[0] if len(runs) == 1 else Path()) / "report.html"


def report_page(runs: Sequence[RunContents]) -> str:
    """Return runs as one self-contained HTML document.

    Args:
        runs: At least one.
    """
    several = len(runs) > 1
    title = f"{len(runs)} runs" if several else runs[0].name
    notes = [f"{run.name}: {note}" if several else note for run in runs for note in run_notes(run)]
    sections = {
        "runs": ("Runs" if several else "Run", overview_section(runs)),
        "notes": ("Worth knowing", notes_section("Worth knowing", notes, name="notes")),
        "curves": ("Curves", _curves(runs)),
        "time": ("Time", time_section(runs)),
        "rollouts": ("Rollouts", _rollouts(runs)),
        "evaluations": ("Evaluations", _evaluations(runs)),
        "settings": ("Settings", _settings(runs)),
    }
    kept = {name: pair for name, pair in sections.items() if pair[1]}
    written = time.strftime("%Y-%m-%d %H:%M", time.localtime(max(r.summary.changed for r in runs)))
    return page(
        title,
        f"{_lead(runs)} · last written {written}",
        [body for _, body in kept.values()],
        links={name: heading for name, (heading, _) in kept.items()},
        parts=("report",),
    )


def _lead(runs: Sequence[RunContents]) -> str:
    facts = [
        list(dict.fromkeys(getattr(run.summary, name) for run in runs))
        for name in ("task", "objective", "policy")
    ]
    return " · ".join(", ".join(filter(None, values)) for values in facts if any(values))


def _curves(runs: Sequence[RunContents]) -> str:
    metrics = _metrics(runs)
    points = DRAWN_VALUES // max(1, len(runs) * len(metrics))
    chart = Chart(
        axes={
            axis: text
            for axis, text in AXES.items()
            if axis == "steps" or any(run.history.axis(axis) for run in runs)
        },
        metrics=metrics,
        lines=[Line(name=run.name, runs={"": run.history}) for run in runs],
        panels=_panels(runs),
        descriptions={name: text for name in metrics if (text := _description(name))},
        most_points=min(MOST_POINTS, max(FEWEST_POINTS, points)),
    )
    return chart_section(
        "Curves",
        chart,
        "Point at a curve to read it, drag to zoom in on all of them, double-click to zoom out. "
        "With the keyboard: arrows read, + and − zoom, 0 shows all.",
        name="curves",
    )


def _metrics(runs: Sequence[RunContents]) -> dict[str, str]:
    """Return every metric that some run has: evaluations first, then in the order of the lines."""
    evaluated = dict.fromkeys(name for run in runs for name in run.history.evaluations)
    logged = dict.fromkeys(name for run in runs for name in run.history.metrics)
    names = {"headline": _headline(runs), "distinct_right": "distinct right answers"}
    first = [name for name in ("reward/mean",) if name in logged]
    return {
        name: visible(names.get(name, name))
        for name in dict.fromkeys([*first, *evaluated, *logged])
    }


def _headline(runs: Sequence[RunContents]) -> str:
    names = {run.history.headline for run in runs} - {""}
    return f"{next(iter(names))} (evaluation)" if len(names) == 1 else "score (evaluation)"


def _panels(runs: Sequence[RunContents]) -> list[Panel]:
    prefix = "reward/component/"
    components = [
        name
        for name in dict.fromkeys(name for run in runs for name in run.history.metrics)
        if name.startswith(prefix)
        and any(run.history.points(name) != run.history.points("reward/mean") for run in runs)
    ]
    wanted = [
        ("Reward", {"reward/mean": "mean"}),
        *(
            (f"Reward: {visible(name.removeprefix(prefix))}", {name: "mean"})
            for name in components[:MOST_COMPONENTS]
        ),
        (_headline(runs).capitalize(), {"headline": "evaluation"}),
        *_PANELS,
    ]
    panels = []
    for title, metrics in wanted:
        there = {
            name: text
            for name, text in metrics.items()
            if any(run.history.points(name) for run in runs)
        }
        if there:
            panels.append(Panel(title=title, metrics=there))
    return panels


def _description(metric: str) -> str:
    if metric in METRICS:
        return METRICS[metric]
    patterns = (name for name in METRICS if "<" in name)
    return next((METRICS[n] for n in patterns if metric.startswith(n.partition("<")[0])), "")


def _rollouts(runs: Sequence[RunContents]) -> str:
    strengths = [run.settings.get("baseline.strength") for run in runs]
    data = sample_records(
        [run.samples for run in runs],
        strengths=[s if isinstance(s, int | float) else None for s in strengths],
    )
    if not data["samples"]:
        return ""
    left_out = sum(run.samples.num_left_out for run in runs)
    note = (
        "A few rollouts of a buffer, every training.sample_every steps. Their weight is what they "
        "count for in the loss: 1 on average in a group, or, of an advantage, 0 (the tick); the "
        "real weight has the baseline subtracted, where that does not change with the policy."
    )
    if left_out:
        note += f" To keep the page small, {left_out:,} of the sampled steps are left out."
    body = (
        f'<div class="samples">{data_script({"runs": [run.name for run in runs], **data})}'
        "<noscript><p>Rollouts are shown by a script; they are in samples.jsonl.</p></noscript>"
        "</div>"
    )
    return section("Rollouts, rewards and weights", body, note=note, name="rollouts")


def _evaluations(runs: Sequence[RunContents]) -> str:
    parts = []
    for run in runs:
        if not run.evaluations:
            continue
        heading = f"<h3>{html_text(run.name)}</h3>" if len(runs) > 1 else ""
        rows = [_evaluation_row(title, table) for title, table in run.evaluations.items()]
        names = list(dict.fromkeys(name for _, cells in rows for name in cells))
        lines = [(title, [cells.get(name, DASH) for name in names]) for title, cells in rows]
        shown = table(f"Evaluations of {run.name}", ["", *names], lines)
        parts.append(f"{heading}{shown}{_completions(run)}")
    if not parts:
        return ""
    return section("Evaluations", "\n".join(parts), name="evaluations")


def _evaluation_row(title: str, result: EvaluationResult) -> tuple[str, dict[str, str]]:
    cells = {
        name: f"{figure.mean:.3f} [{figure.low:.3f}, {figure.high:.3f}]"
        for name, figure in result.figures.items()
    }
    cells |= {f"pass@{k}": f"{figure.mean:.3f}" for k, figure in result.pass_at.items() if k > 1}
    if result.majority is not None:
        cells["majority vote"] = f"{result.majority.mean:.3f}"
    if result.distinct_right is not None:
        cells["distinct right"] = f"{result.distinct_right:.2f} of {result.samples_per_prompt}"
    if result.entropy is not None:
        cells["entropy (nats)"] = f"{result.entropy:.3f}"
    if result.response_length is not None:
        cells["answer tokens"] = f"{result.response_length:.1f}"
    cells["problems"] = f"{result.num_examples:,} ({result.split})"
    return title, cells


def _completions(run: RunContents) -> str:
    """Return some right and some wrong completions of the last evaluation, folded."""
    title, result = list(run.evaluations.items())[-1]
    step = evaluation_step(title)
    if step is None:
        return ""
    right, wrong = graded_completions(run.summary.path, step, result.headline, SHOWN_COMPLETIONS)
    folds = [
        f'<details class="completions"><summary>Some {kind} completions of {html_text(title)} '
        f"({len(found)} shown)</summary>"
        + f'<div class="{_columns(found)}">'
        + "".join(_completion(record, kind) for record in found)
        + "</div></details>"
        for kind, found in (("right", right), ("wrong", wrong))
        if found
    ]
    return "".join(folds)


def _columns(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the class of a list: short texts stand beside each other."""
    longest = max(len(str(record.get(key, ""))) for record in records for key in SHOWN_TEXTS)
    return "list short" if longest <= 60 else "list"


def _completion(record: Mapping[str, Any], kind: str) -> str:
    columns, grades = record.get("columns"), record.get("grades")
    known = columns if isinstance(columns, dict) else {}
    expected = next((known[key] for key in ("solution", "answer", "target") if key in known), None)
    texts = {
        "prompt": record.get("prompt"),
        "completion": f"{record.get('prefill') or ''}{record.get('completion', '')}",
        "answer read": record.get("answer"),
        "expected": expected,
    }
    items = "".join(
        f'<dt>{label}</dt><dd dir="auto">{html_text(visible(str(text), MOST_TEXT))}</dd>'
        for label, text in texts.items()
        if text is not None
    )
    marks = ", ".join(
        f"{name} {value:g}"
        for name, value in (grades if isinstance(grades, dict) else {}).items()
        if isinstance(value, int | float)
    )
    return f'<dl class="texts {kind}">{items}<dt>grades</dt><dd>{html_text(marks)}</dd></dl>'


def _settings(runs: Sequence[RunContents]) -> str:
    parts = []
    if len(runs) > 1:
        for heading, label, sources in (
            ("Settings that differ", "setting", [run.settings for run in runs]),
            ("Packages and machine that differ", "part", [_machine(run) for run in runs]),
        ):
            arms = [
                ArmReport(name=run.name, settings=source, runs=())
                for run, source in zip(runs, sources, strict=True)
            ]
            rows = settings_differences(arms)
            headings = [label, *(run.name for run in runs)]
            body = (
                table(heading, headings, rows, is_numeric=False)
                if rows
                else '<p class="note">None.</p>'
            )
            parts.append(f"<h3>{heading}</h3>{body}")
    for run in runs:
        if run.settings_text:
            text = visible(run.settings_text, 50 * MOST_TEXT)
            parts.append(
                f"<details><summary>Complete settings of {html_text(run.name)}</summary>"
                f'<pre tabindex="0">{html_text(text)}</pre></details>'
            )
    return section("Settings", "\n".join(parts), name="settings") if parts else ""


def _machine(run: RunContents) -> dict[str, Any]:
    return flattened(
        {key: value for key, value in run.environment.items() if key not in NOT_COMPARED}
    )
