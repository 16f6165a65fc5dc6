"""Tables and pictures of runs at equal compute."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from benchmarks.baselines import interval

# Okabe and Ito's palette and two greys: told apart by colour-blind readers, too.
COLOURS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#56b4e9",
    "#000000",
    "#999999",
)
COLUMNS: Mapping[str, Mapping[str, str]] = {
    "digit_sum": {
        "right": "right, sampled",
        "distinct right": "distinct right of 16",
        "exact accuracy": "right, exact",
        "effective right answers": "effective right answers",
        "divergence": "KL(p* ‖ p_θ)",
    },
    "sudoku": {"puzzles": "puzzles", "cells": "cells"},
}
WHILE_TRAINING = {
    "weights/ess": "ESS",
    "weights/kept": "rows kept",
    "log_ratio/standard_error": "noise",
    "log_ratio/reward_spread": "spread of r/α",
    "rollout/entropy": "entropy",
}
WIDTH, HEIGHT, LEFT, TOP, GAP = 300, 210, 60, 34, 66
LEGEND_LINE = 18


def by_arm(records: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the records of each arm, in the order of their first."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        found.setdefault(record["job"]["arm"], []).append(record)
    return found


def mean_figure(records: Sequence[Mapping[str, Any]], name: str) -> float:
    """Return the mean of a figure over runs."""
    return statistics.mean(record["figures"][name] for record in records)


def table(
    task: str,
    arms: Mapping[str, Sequence[Mapping[str, Any]]],
    before: Mapping[str, Any] | None,
    *,
    headline: str,
) -> list[str]:
    """Return one row for each arm, the best headline first, means with 95% t-intervals."""
    columns = {
        name: head
        for name, head in COLUMNS[task].items()
        if all(name in run["figures"] for records in arms.values() for run in records)
    }
    training = [name for name in WHILE_TRAINING if any(_logged(r, name) for r in arms.values())]
    head = [*columns.values(), *(WHILE_TRAINING[name] for name in training)]
    lines = [
        f"| arm | lr | steps | {' | '.join(head)} |",
        "| --- | --- | --- |" + " --- |" * len(head),
    ]
    if before is not None:
        cells = [f"{before['figures'][name]:.3g}" for name in columns]
        lines.append(f"| (before) | | | {' | '.join(cells)} |" + " |" * len(training))
    for arm, records in sorted(arms.items(), key=lambda one: -mean_figure(one[1], headline)):
        rate = records[0]["job"]["settings"]["training.learning_rate"]
        cells = [interval([r["figures"][name] for r in records]) for name in columns]
        cells += [_mean_logged(records, name) for name in training]
        steps = statistics.mean(record["curve"][-1]["step"] for record in records)
        lines.append(f"| {arm} | {rate:g} | {steps:.0f} | {' | '.join(cells)} |")
    return [*lines, ""]


def _logged(records: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [row[name] for record in records for row in record["training"][1:] if name in row]


def _mean_logged(records: Sequence[Mapping[str, Any]], name: str) -> str:
    values = _logged(records, name)
    return f"{statistics.mean(values):.2f}" if values else ""


def mean_curve(
    records: Sequence[Mapping[str, Any]], metric: str
) -> list[tuple[float, float, float, float]]:
    """Return millions of model tokens, mean, lowest and highest over seeds, mark by mark."""
    marks = zip(*(record["curve"] for record in records), strict=False)
    return [
        (
            statistics.mean(point["tokens"] for point in mark) / 1e6,
            statistics.mean(point[metric] for point in mark),
            min(point[metric] for point in mark),
            max(point[metric] for point in mark),
        )
        for mark in marks
    ]


def steps_and_figure(
    records: Sequence[Mapping[str, Any]], metric: str
) -> list[tuple[float, float]]:
    """Return gradient steps and the mean over seeds, mark by mark."""
    marks = zip(*(record["curve"] for record in records), strict=False)
    return [
        (
            statistics.mean(point["step"] for point in mark),
            statistics.mean(point[metric] for point in mark),
        )
        for mark in marks
    ]


def compute_to_reach(
    records: Sequence[Mapping[str, Any]], metric: str, level: float, start: float
) -> float | None:
    """Return the millions of model tokens at which the mean curve first reaches a level.

    Straight lines between marks, from ``start`` at 0; None if it never does.
    """
    before = (0.0, start)
    for x, y, _, _ in mean_curve(records, metric):
        if y >= level:
            share = (level - before[1]) / (y - before[1]) if y > before[1] else 0.0
            return before[0] + max(0.0, share) * (x - before[0])
        before = (x, y)
    return None


def figure(
    panels: Sequence[
        tuple[str, str, str, Mapping[str, Sequence[tuple[float, float, float, float]]]]
    ],
) -> str:
    """Return an SVG of panels side by side: title, x label, y label, and lines with bands."""
    labels = list(dict.fromkeys(label for *_, lines in panels for label in lines))
    top = TOP + LEGEND_LINE * ((len(labels) + 1) // 2)
    width = LEFT + len(panels) * (WIDTH + GAP)
    height = top + HEIGHT + 56
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for n, label in enumerate(labels):
        x, y = LEFT + (n % 2) * (width - LEFT) / 2, 16 + LEGEND_LINE * (n // 2)
        colour, dash = _style(n)
        parts.append(
            f'<line x1="{x}" y1="{y - 4}" x2="{x + 22}" y2="{y - 4}" stroke="{colour}" '
            f'stroke-width="2"{dash}/>'
        )
        parts.append(f'<text x="{x + 28}" y="{y}">{escape(label)}</text>')
    for n, panel in enumerate(panels):
        parts += _panel(panel, LEFT + n * (WIDTH + GAP), top, labels)
    return "\n".join([*parts, "</svg>", ""])


def _style(n: int) -> tuple[str, str]:
    dash = "" if n < len(COLOURS) else ' stroke-dasharray="5 3"'
    return COLOURS[n % len(COLOURS)], dash


def _panel(panel: tuple[str, str, str, Mapping], left: float, top: float, labels: list[str]):
    title, x_label, y_label, lines = panel
    xs = [x for points in lines.values() for x, *_ in points]
    ys = [y for points in lines.values() for _, *three in points for y in three]
    x_ticks, y_ticks = ticks(min(0.0, *xs), max(xs)), ticks(min(ys), max(ys))

    def place(x: float, y: float) -> str:
        across = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return f"{left + WIDTH * across:.1f},{top + HEIGHT * (1 - up):.1f}"

    yield f'<text x="{left}" y="{top - 8}" font-weight="bold">{escape(title)}</text>'
    for tick in y_ticks:
        x, y = place(x_ticks[0], tick).split(",")
        yield f'<line x1="{x}" y1="{y}" x2="{left + WIDTH}" y2="{y}" stroke="#dddddd"/>'
        yield f'<text x="{left - 6}" y="{float(y) + 4}" text-anchor="end">{tick:g}</text>'
    for tick in x_ticks:
        x = place(tick, y_ticks[0]).split(",")[0]
        yield f'<text x="{x}" y="{top + HEIGHT + 16}" text-anchor="middle">{tick:g}</text>'
    centre = f'x="{left + WIDTH / 2}" y="{top + HEIGHT + 34}" text-anchor="middle"'
    yield f"<text {centre}>{escape(x_label)}</text>"
    turned = f"{left - 42} {top + HEIGHT / 2}"
    yield (
        f'<text x="{left - 42}" y="{top + HEIGHT / 2}" text-anchor="middle" '
        f'transform="rotate(-90 {turned})">{escape(y_label)}</text>'
    )
    for label, points in lines.items():
        colour, dash = _style(labels.index(label))
        band = [place(x, high) for x, _, _, high in points]
        band += [place(x, low) for x, _, low, _ in reversed(points)]
        yield f'<polygon points="{" ".join(band)}" fill="{colour}" opacity="0.12"/>'
        line = " ".join(place(x, y) for x, y, _, _ in points)
        yield f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8"{dash}/>'


def ticks(low: float, high: float) -> list[float]:
    """Return a few round numbers, evenly spaced, whose ends hold ``low`` and ``high``."""
    raw = max(high - low, 1e-9) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    found = [math.floor(low / step) * step]
    while found[-1] < high - 1e-9 or len(found) < 2:
        found.append(round(found[-1] + step, 10))
    return found
