"""Pictures of docs/concepts/groups_and_weights.md."""

from __future__ import annotations

import json
import math
import statistics

import torch
from torch import Tensor

from dmpo.diffusion.tilting import (
    effective_sample_size,
    group_softmax_weights,
    largest_coefficient,
    linear_weights,
)
from drawn.runs import ALPHA, QUESTION, RESULTS, every_answer, signed, trained
from drawn.sheet import BLUE, GREY, INK, ORANGE, SKY, Axes, Sheet

__all__ = ["diversity", "ess", "group", "loop", "target"]


def loop() -> str:
    """Draw a buffer's life: made once by the behaviour policy, used for F gradient steps."""
    sheet = Sheet(704, 252)
    boxes = (
        (0, 112, "B prompts", "from the task"),
        (142, 112, "N rollouts each", "drawn from π_v"),
        (284, 112, "rewards", "of each rollout"),
        (426, 134, "log p_ref − log p_v", "only where α > 0"),
        (590, 112, "weights", "mean 1 in a group"),
    )
    sheet.text(0, 12, "once per buffer, π_v being the policy as it is now", "b")
    for place, (x, width, title, below) in enumerate(boxes):
        sheet.rect(x, 26, width, 58, "#fff", rx=6, stroke=BLUE)
        sheet.text(x + width / 2, 51, title, "c")
        sheet.text(x + width / 2, 70, below, "s m c")
        if place:
            start = boxes[place - 1][0] + boxes[place - 1][1]
            sheet.arrow((start + 4, 55), (x - 4, 55), GREY)
    sheet.line([(646, 88), (646, 110), (56, 110), (56, 144)], GREY, 1.6)
    sheet.arrow((56, 130), (56, 144), GREY)
    sheet.text(72, 136, "F times; the weights stay as they are", "b")
    for place in range(4):
        x = 142 * place
        sheet.rect(x, 148, 112, 58, "#fff", rx=6, stroke=ORANGE)
        sheet.text(x + 56, 173, f"step {place + 1}" if place < 3 else "step F", "c")
        sheet.text(x + 56, 192, "fresh views", "s m c")
        if place == 3:
            sheet.text(x - 15, 180, "…", "c m")
        elif place:
            sheet.arrow((x - 26, 177), (x - 4, 177), GREY)
    sheet.line([(542, 177), (646, 177), (646, 226)], GREY, 1.6)
    sheet.arrow((646, 212), (646, 228), GREY)
    sheet.text(704, 246, "π_v ← π_θ, and the next buffer", "e")
    return sheet.svg("A buffer is sampled and weighted once and serves F gradient steps")


def target() -> str:
    """Draw the reference and two targets over all 10,000 answers of a prompt."""
    log_p, texts, is_right = every_answer()
    known = log_p.exp() / log_p.exp().sum()
    by_chance = known.argsort(descending=True).tolist()
    right = [place for place in by_chance if is_right[place]][:7]
    wrong = [place for place in by_chance if not is_right[place]][:7]
    shown = sorted([*right, *wrong], key=by_chance.index)
    sheet = Sheet(700, 408)
    for row, alpha in enumerate((None, 1.0, 0.25)):
        tilt = 1.0 if alpha is None else math.exp(1 / alpha)
        tilted = known * torch.where(is_right, tilt, 1.0)
        tilted = tilted / tilted.sum()
        inside = tilted[is_right] / tilted[is_right].sum()
        effective = float((-inside * inside.log()).sum().exp())
        top = 30 + 126 * row
        named = "reference p_ref" if alpha is None else f"target p*, α = {alpha:g}"
        sheet.text(0, top - 14, named, "b")
        mass = float(tilted[is_right].sum())
        sheet.text(
            700, top - 14, f"right {mass:.2f} · effective right answers {effective:.0f}", "e m"
        )
        for place, answer in enumerate(shown):
            height = 4900 * float(tilted[answer])
            colour = BLUE if is_right[answer] else ORANGE
            sheet.rect(4 + 50 * place, top + 86 - height, 40, height, colour, rx=2)
            if row == 2:
                sheet.text(24 + 50 * place, top + 102, texts[answer], "t s c")
        sheet.line([(0, top + 86), (700, top + 86)], "#8a94a3", 1)
    sheet.key((0, 406, BLUE, "right answer"), (110, 406, ORANGE, "wrong answer"))
    sheet.text(700, 406, "shown: the seven most probable of each kind, of 10,000", "s m e")
    return sheet.svg("The target moves mass to right answers and keeps their proportions")


def group() -> str:
    """Draw eight rollouts of a prompt: rewards, log weights, weights through both links."""
    made = trained().experience
    assert made.log_ratio is not None
    assert made.weights.log_weights is not None
    log_weights = made.weights.log_weights[0]
    weights = group_softmax_weights(log_weights)
    columns: tuple[tuple[str, Tensor, float, float, float], ...] = (
        ("reward r", made.rewards.total[0], 72, 60, 0),
        ("d, nats", made.log_ratio.value[0], 178, 26, 42),
        ("ℓ = r/α + d", log_weights, 310, 26, 42),
        ("softmax weight", weights, 462, 24, 0),
        ("linear weight", linear_weights(log_weights), 594, 24, 26),
    )
    sheet = Sheet(716, 312)
    sheet.text(0, 14, "answer", "m")
    for row, text in enumerate(made.rollouts.texts[0]):
        sheet.text(0, 49 + 32 * row, text, "t b")
    for column, (named, values, left, unit, room) in enumerate(columns):
        middle = left + room
        sheet.text(left, 14, named, "m")
        for row, value in enumerate(values.tolist()):
            y, length = 34 + 32 * row, unit * abs(value)
            if value >= 0:
                sheet.rect(middle, y, length, 20, BLUE, rx=2)
                sheet.text(middle + length + 5, y + 15, signed(value, 0 if column == 0 else 2), "s")
            else:
                sheet.rect(middle - length, y, length, 20, ORANGE, rx=2)
                sheet.text(middle + 5, y + 15, signed(value), "s")
        sheet.line([(middle, 28), (middle, 284)], "#8a94a3", 1)
    size = float(effective_sample_size(weights))
    told = f"prompt {QUESTION} · α = {ALPHA:g}, c = 1 · effective sample size of the softmax "
    sheet.text(0, 308, told + f"weights: {size:.2f}, or {8 * size:.1f} of 8 rollouts", "s m")
    return sheet.svg("Rewards and log-ratios of eight rollouts become log weights and weights")


def ess() -> str:
    """Draw the effective sample size of real groups against the coefficient c."""
    made = trained().experience
    assert made.log_ratio is not None
    full = made.rewards.total / 0.1 + made.log_ratio.value
    sheet = Sheet(560, 318)
    axes = Axes(
        left=36, top=34, width=510, height=214, x=(0.01, 1), y=(0, 1), is_x_logarithmic=True
    )
    axes.draw(
        sheet,
        title="effective sample size, share of N = 8",
        x_label="proximal coefficient c",
        x_ticks=(0.01, 0.03, 0.1, 0.3, 1),
        y_ticks=(0, 0.25, 0.5, 0.75, 1),
    )
    steps = [10 ** (-2 + step / 20) for step in range(41)]
    for row in reversed(range(len(full))):
        sizes = [float(effective_sample_size(group_softmax_weights(c * full[row]))) for c in steps]
        curve = [axes.at(c, size) for c, size in zip(steps, sizes, strict=True)]
        sheet.line(curve, SKY if row else BLUE, 1.4 if row else 2.6)
    y = axes.at(1, 0.7)[1]
    sheet.line([(36, y), (546, y)], INK, 1.2, stroke_dasharray="5 3")
    sheet.text(546, y - 6, "threshold 0.7", "s e")
    for c in largest_coefficient(full, 0.7, 0.01, 1.0).tolist():
        sheet.dot(*axes.at(c, 0.7), ORANGE)
    sheet.key(
        (36, 312, BLUE, f"prompt {QUESTION}"),
        (166, 312, SKY, "the buffer's other groups"),
        (336, 312, ORANGE, "c of tilted_adaptive"),
    )
    return sheet.svg("The effective sample size of a group falls as the coefficient c grows")


def diversity() -> str:
    """Draw accuracy against diversity, as measured on digit_sum (benchmarks/noise.py)."""
    arms = {
        "softmax, ELBO, none, α .02, c .2": ("dmpo", BLUE, 0, -12, "c"),
        "replay of 2: softmax, path, none, α .02, c .2": ("dmpo, replay of 2", BLUE, 11, 4, ""),
        "the paper's form: softmax, ELBO, model, α .04, c 1": ("dmpo_paper", BLUE, 11, 4, ""),
        "α 0, η 10, none (rejection sampling)": ("rejection_sampling (α = 0)", ORANGE, 0, 22, "c"),
        "diffu-GRPO, β 0": ("diffu_grpo", ORANGE, 11, 4, ""),
        "diffu-GRPO, β .04": ("diffu_grpo, β = .04", ORANGE, 11, 12, ""),
    }
    text = (RESULTS / "noise.json").read_text(encoding="utf-8")
    runs = [run for run in json.loads(text)["runs"] if run["job"]["task"] == "digit_sum"]
    sheet = Sheet(600, 322)
    axes = Axes(
        left=36, top=34, width=550, height=236, x=(0.2, 0.6), y=(16, 320), is_y_logarithmic=True
    )
    axes.draw(
        sheet,
        title="effective right answers",
        x_label="share of right answers, exact",
        x_ticks=(0.2, 0.3, 0.4, 0.5, 0.6),
        y_ticks=(20, 40, 80, 160, 320),
    )
    before = axes.at(*BEFORE)
    sheet.dot(*before, GREY, 6)
    sheet.text(before[0] + 11, before[1] - 4, "before", "s m")
    for arm, (named, colour, right, down, kind) in arms.items():
        found = [
            run["figures"]
            for run in runs
            if run["job"]["arm"] == arm and run["job"]["split"] == "test"
        ]
        accuracy = statistics.mean(run["exact accuracy"] for run in found)
        effective = statistics.mean(run["effective right answers"] for run in found)
        x, y = axes.at(accuracy, effective)
        sheet.dot(x, y, colour, 6)
        sheet.text(x + right, y + down, named, f"s {kind}".strip())
    sheet.text(586, 52, "right and diverse", "s m e")
    return sheet.svg("Measured on digit_sum: accuracy against effective right answers")


BEFORE = (0.234, 215.0)
"""Share of right answers and effective right answers before training: the first line of
benchmarks/results/noise.md."""
