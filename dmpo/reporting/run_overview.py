"""Runs at a glance: a card for each with its score, what it ran with, and where its time went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dmpo.evaluation.summary import EvaluationResult
from dmpo.reporting.numbers import duration_text, short_number
from dmpo.reporting.page import html_text, section, table
from dmpo.reporting.run_contents import RunContents
from dmpo.training.phases import PHASES

__all__ = ["overview_section", "time_section"]

DASH = "–"
"""Stands where there is no value."""


def overview_section(runs: Sequence[RunContents]) -> str:
    """Return a card for each run, and a folded table of what they ran with."""
    kind = "cards" if len(runs) > 1 else "cards one"
    cards = "\n".join(_card(run, index) for index, run in enumerate(runs))
    headings = ["", *(run.name for run in runs)]
    rows = [(label, cells) for label, cells in _facts(runs) if any(cell != DASH for cell in cells)]
    facts = table("What ran", headings, rows, is_numeric=False)
    return (
        f'<section id="runs" class="overview"><div class="{kind}">\n{cards}\n</div>\n'
        f"<details><summary>Settings, versions and commands at a glance</summary>{facts}</details>"
        "</section>"
    )


def _card(run: RunContents, index: int) -> str:
    summary = run.summary
    steps = f"{summary.step:,}" + (f" of {summary.num_steps:,}" if summary.num_steps else "")
    facts = {
        "steps": steps,
        "model tokens": _amount(summary.model_tokens),
        "training time": DASH if summary.seconds is None else duration_text(summary.seconds),
        "seed": DASH if summary.seed is None else str(summary.seed),
        "device": str(run.environment.get("device", DASH)),
    }
    items = "".join(
        f"<div><dt>{html_text(label)}</dt><dd>{html_text(value)}</dd></div>"
        for label, value in facts.items()
    )
    return (
        f'<article class="card" style="--line: var(--c{index % 8})">'
        f'<header><h3>{html_text(run.name)}</h3><span class="badge {summary.state}">'
        f"{summary.state}</span></header>"
        f"<div>{_score(list(run.evaluations.values()))}</div><dl>{items}</dl></article>"
    )


def _score(evaluations: Sequence[EvaluationResult]) -> str:
    """Return the first and the last evaluation with their intervals, as text and as a picture."""
    if not evaluations:
        return '<p class="score none">no evaluation</p>'
    ends = [evaluations[0], evaluations[-1]] if len(evaluations) > 1 else [evaluations[-1]]
    figures = [each.figures[each.headline] for each in ends]
    numbers = " <i>→</i> ".join(f"<b>{figure.mean:.3f}</b>" for figure in figures)
    intervals = " → ".join(f"[{figure.low:.3f}, {figure.high:.3f}]" for figure in figures)
    low = min(0.0, *(figure.low for figure in figures))
    high = max(1.0, *(figure.high for figure in figures))

    def at(value: float) -> str:
        return f"{100 * (value - low) / (high - low):.2f}%"

    marks = "".join(
        f'<line class="{kind}" x1="{at(f.low)}" x2="{at(f.high)}" y1="9" y2="9"/>'
        f'<circle class="{kind}" cx="{at(f.mean)}" cy="9" r="5"/>'
        for f, kind in zip(figures, ("before", "after")[-len(figures) :], strict=True)
    )
    last = ends[-1]
    return (
        f'<p class="score"><span>{html_text(last.headline)}, {html_text(last.split)}</span> '
        f"{numbers}</p>"
        f'<svg class="strip" height="18" role="img" aria-label="{intervals}">'
        f'<line class="rule" x1="0" x2="100%" y1="9" y2="9"/>{marks}</svg>'
        f'<p class="interval">95% interval {intervals}</p>'
    )


def _facts(runs: Sequence[RunContents]) -> list[tuple[str, list[str]]]:
    def row(label: str, *values: Any) -> tuple[str, list[str]]:
        return label, [DASH if value in (None, "", []) else str(value) for value in values]

    def setting(label: str, *paths: str) -> tuple[str, list[str]]:
        found = [[run.settings.get(path) for path in paths] for run in runs]
        return row(label, *(" ".join(str(v) for v in values if v is not None) for values in found))

    def environment(label: str, key: str) -> tuple[str, list[str]]:
        return row(label, *(run.environment.get(key) for run in runs))

    packages = [run.environment.get("packages") for run in runs]
    commands = [run.environment.get("command") for run in runs]
    return [
        row("directory", *(run.summary.path for run in runs)),
        setting("policy", "policy.name", "policy.model"),
        row("task", *(run.summary.task for run in runs)),
        row("objective", *(run.summary.objective for run in runs)),
        setting("likelihood", "likelihood.name"),
        setting("weights", "weights.name"),
        setting("baseline", "baseline.name"),
        setting("sampler", "sampler.name"),
        row("ended at", *(run.summary.stopped_by for run in runs)),
        row("FLOPs", *(_amount(run.history.cost("flops")) for run in runs)),
        environment("processes", "num_processes"),
        environment("machine", "platform"),
        environment("Python", "python"),
        row(
            "packages",
            *(
                ", ".join(f"{name} {version}" for name, version in each.items() if version)
                if isinstance(each, dict)
                else None
                for each in packages
            ),
        ),
        environment("started", "started"),
        row(
            "command",
            *(" ".join(map(str, each)) if isinstance(each, list) else None for each in commands),
        ),
    ]


def _amount(value: float | None) -> str:
    return DASH if value is None else short_number(value)


def time_section(runs: Sequence[RunContents]) -> str:
    """Return a bar of the phases' shares for each run; nothing if no time was booked."""
    spent: list[dict[str, float]] = [
        {phase: sum(run.history.points(f"time/{phase}").values()) for phase in PHASES}
        for run in runs
    ]
    shown = [phase for phase in PHASES if any(seconds[phase] > 0 for seconds in spent)]
    if not shown:
        return ""
    colours: dict[str, str] = {phase: f"var(--c{index % 8})" for index, phase in enumerate(shown)}
    bars = "".join(
        _bar(run.name, seconds, colours) for run, seconds in zip(runs, spent, strict=True)
    )
    legend = "".join(
        f'<li><i style="background: {colour}"></i>{phase}</li>' for phase, colour in colours.items()
    )
    return section(
        "Where the time went",
        f'<div class="bars">{bars}</div><ul class="key">{legend}</ul>',
        note="Share of the seconds booked on each phase up to the last step; an evaluation behind "
        "it and checkpoints are not counted.",
        name="time",
    )


def _bar(name: str, seconds: Mapping[str, float], colours: Mapping[str, str]) -> str:
    whole = sum(seconds.values()) or 1.0
    parts = []
    for phase, colour in colours.items():
        share = seconds[phase] / whole
        text = f"{phase}: {share:.1%}, {duration_text(seconds[phase])}"
        label = f"{share:.0%}" if share >= 0.06 else ""
        if share > 0:
            style = f"flex-grow: {share:.5f}; background: {colour}"
            parts.append(f'<i style="{style}" title="{text}">{label}</i>')
    spoken = ", ".join(f"{phase} {seconds[phase] / whole:.0%}" for phase in colours)
    return (
        f'<div class="bar"><span>{html_text(name)}</span>'
        f'<div class="stack" role="img" aria-label="{spoken}">{"".join(parts)}</div>'
        f"<em>{duration_text(whole)}</em></div>"
    )
