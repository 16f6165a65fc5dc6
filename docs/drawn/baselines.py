"""Pictures of docs/concepts/baselines.md."""

from __future__ import annotations

import json
import statistics

import torch

from dmpo.diffusion.tilting import group_softmax_weights
from dmpo.registry import BASELINES, WEIGHTS
from drawn.runs import ALPHA, RESULTS, signed, trained
from drawn.sheet import BLUE, GREEN, INK, ORANGE, PURPLE, SKY, Axes, Sheet

__all__ = ["ablation", "real_weights", "wrong_share"]

NAMES = ("none", "mean", "individual", "model")


def wrong_share() -> str:
    """Draw how much of a group's weight its wrong rollouts hold, by how far apart r/α lies."""
    sheet = Sheet(560, 318)
    axes = Axes(left=36, top=34, width=510, height=214, x=(0, 10), y=(0, 1))
    axes.draw(
        sheet,
        title="share of the weight on wrong rollouts, N = 8",
        x_label="c·Δr/α, how far the log weights of a right and a wrong rollout lie apart, nats",
        x_ticks=range(11),
        y_ticks=(0, 0.25, 0.5, 0.75, 1),
    )
    for right, colour in ((1, ORANGE), (2, BLUE), (4, GREEN)):
        rewards = torch.tensor([1.0] * right + [0.0] * (8 - right))
        points = []
        for nats in (step / 4 for step in range(41)):
            weights = group_softmax_weights(nats * rewards)
            points.append(axes.at(nats, float(weights[right:].sum() / weights.sum())))
        sheet.line(points, colour, 2.2)
    for nats, named in ((1, "c/α = 1"), (5, "c/α = 5"), (10, "c/α = 10")):
        x = axes.at(nats, 0)[0]
        sheet.line([(x, 34), (x, 248)], INK, 1, stroke_dasharray="5 3")
        sheet.text(x + (5 if nats < 10 else -5), 46, named, "s" if nats < 10 else "s e")
    sheet.key(
        (36, 312, ORANGE, "1 of 8 right"),
        (146, 312, BLUE, "2 of 8 right"),
        (256, 312, GREEN, "4 of 8 right"),
    )
    return sheet.svg("Wrong rollouts hold most of the weight where log weights lie close together")


def real_weights() -> str:
    """Draw one group under every baseline: w, w_base, and what is left."""
    state = trained()
    made = state.experience
    estimator = WEIGHTS.build("tilted", {"alpha": ALPHA})
    weights = made.weights.values[0]
    sheet = Sheet(720, 322)
    sheet.text(0, 14, "answer", "m")
    sheet.text(60, 14, "r", "m")
    rewards = made.rewards.total[0].tolist()
    for row, (text, reward) in enumerate(zip(made.rollouts.texts[0], rewards, strict=True)):
        sheet.text(0, 49 + 32 * row, text, "t b")
        sheet.text(60, 49 + 32 * row, f"{reward:.0f}", "t")
    for column, name in enumerate(NAMES):
        baseline = BASELINES.build(name, {})
        under = baseline.weights(
            estimator, made.rewards.total, made.log_ratio, made.weights, state.model_log_ratio
        )[0]
        real = (weights - baseline.strength * under).tolist()
        left = 90 + 160 * column
        middle, unit = left + 50, 17.0
        sheet.text(left, 14, name, "b")
        for row in range(8):
            y = 34 + 32 * row
            sheet.rect(middle, y, unit * float(weights[row]), 7, SKY, rx=1)
            if name != "none":
                sheet.rect(middle, y + 8, unit * float(under[row]), 4, PURPLE, rx=1)
            length = unit * abs(real[row])
            start = middle if real[row] >= 0 else middle - length
            sheet.rect(start, y + 13, length, 9, BLUE if real[row] >= 0 else ORANGE, rx=1)
            sheet.text(left + 148, y + 21, signed(real[row]), "s e")
        sheet.line([(middle, 28), (middle, 288)], "#8a94a3", 1)
    sheet.key(
        (0, 316, SKY, "weight w"),
        (96, 316, PURPLE, "baseline w_base"),
        (228, 316, BLUE, "real weight, above 0"),
        (382, 316, ORANGE, "real weight, below 0: pushed away"),
    )
    return sheet.svg("The same eight rollouts under no baseline, mean, individual and model")


def ablation() -> str:
    """Draw every baseline on both testbeds, as measured (benchmarks/baselines.py)."""
    text = (RESULTS / "baselines.json").read_text(encoding="utf-8")
    panels = (
        ("sudoku", "puzzles", "sudoku: whole puzzles", (0, 1), (0, 0.25, 0.5, 0.75, 1)),
        ("digit_sum", "exact accuracy", "digit_sum: right", (0.1, 0.4), (0.1, 0.2, 0.3, 0.4)),
    )
    sheet = Sheet(696, 288)
    for place, (task_name, figure, title, ends, ticks) in enumerate(panels):
        left = 84 + 356 * place
        runs = [run for run in json.loads(text)["runs"] if run["job"]["task"] == task_name]
        sheet.text(left - 78, 12, title, "b")
        axes = Axes(left=left, top=30, width=246, height=206, x=ends, y=(0, 1))
        for tick in ticks:
            x = axes.at(tick, 0)[0]
            sheet.line([(x, 26), (x, 236)], "#dde1e7", 1)
            sheet.text(x, 254, f"{tick:g}", "s m c")
        start = next(run for run in runs if run["job"]["baseline"] is None)["figures"][figure]
        x = axes.at(start, 0)[0]
        sheet.line([(x, 26), (x, 236)], INK, 1.2, stroke_dasharray="5 3")
        sheet.text(x + 5, 36, "before", "s m")
        for row, name in enumerate(NAMES):
            y = 62 + 50 * row
            sheet.text(left - 12, y + 4, name, "e")
            found = [run["figures"][figure] for run in runs if run["job"]["baseline"] == name]
            for value in found:
                sheet.dot(axes.at(value, 0)[0], y, SKY, 3.5)
            sheet.dot(axes.at(statistics.mean(found), 0)[0], y, BLUE, 6)
    sheet.key((84, 282, BLUE, "mean of five seeds"), (224, 282, SKY, "one seed"))
    return sheet.svg("Measured: puzzles and right answers under each baseline, five seeds")
