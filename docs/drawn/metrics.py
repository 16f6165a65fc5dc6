"""The picture of docs/guides/metrics.md: four runs, healthy and not, as their logs have them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drawn.sheet import BLUE, GREEN, INK, ORANGE, PURPLE, Axes, Sheet

__all__ = ["curves"]

COLOURS = {"demo": BLUE, "paper": GREEN, "hot": ORANGE, "noisy": PURPLE}
RATIO = "noise over spread"


def curves() -> str:
    """Draw reward, entropy, effective sample size and noise of four runs, buffer by buffer."""
    text = Path(__file__).with_name("curves.json").read_text(encoding="utf-8")
    runs: Mapping[str, Mapping[str, Any]] = json.loads(text)["runs"]
    panels: tuple[tuple[str, str, tuple[float, ...], Sequence[str]], ...] = (
        ("reward/mean", "reward/mean", (0.5, 0.6, 0.7, 0.8, 0.9, 1), ("demo", "hot", "noisy")),
        ("rollout/entropy", "rollout/entropy, nats", (0, 0.1, 0.2, 0.3, 0.4), ("demo", "hot")),
        ("weights/ess", "weights/ess", (0, 0.25, 0.5, 0.75, 1), ("demo", "hot", "noisy")),
        (RATIO, "log_ratio: standard_error / reward_spread", (0, 1, 2, 3), ("paper", "noisy")),
    )
    sheet = Sheet(704, 502)
    for place, (name, title, ticks, shown) in enumerate(panels):
        axes = Axes(
            left=32 + 364 * (place % 2),
            top=30 + 232 * (place // 2),
            width=300,
            height=150,
            x=(1, 96),
            y=(ticks[0], ticks[-1]),
        )
        axes.draw(sheet, title=title, x_label="step", x_ticks=(1, 25, 49, 73, 96), y_ticks=ticks)
        if name == RATIO:
            y = axes.at(1, 1)[1]
            sheet.line(
                [axes.at(1, 1), (axes.left + axes.width, y)], INK, 1.2, stroke_dasharray="5 3"
            )
        for run in shown:
            sheet.curve(
                [
                    axes.at(*point)
                    for point in zip(runs[run]["step"], _of(runs[run], name), strict=True)
                ],
                COLOURS[run],
            )
    sheet.key(
        (32, 478, BLUE, "healthy: dmpo train"),
        (32, 498, GREEN, "on the edge: dmpo train --recipe sudoku_paper"),
        (396, 478, ORANGE, "too hot: --training.learning_rate 2e-3"),
        (396, 498, PURPLE, "noisy: sudoku_paper with --weights.alpha 0.5"),
    )
    return sheet.svg("Reward, entropy, effective sample size and noise of four real runs")


def _of(run: Mapping[str, Any], name: str) -> Sequence[float]:
    if name != RATIO:
        return list(run[name])
    pairs = zip(run["log_ratio/standard_error"], run["log_ratio/reward_spread"], strict=True)
    return [noise / spread for noise, spread in pairs]
