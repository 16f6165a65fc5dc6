"""Pictures of docs/concepts/masked_diffusion.md."""

from __future__ import annotations

import torch
from torch import Tensor

from dmpo.diffusion.enumeration import expected_log_prob, marginal_log_prob
from dmpo.likelihoods.elbo import ElboConfig, draw_subsets
from dmpo.records import Views
from drawn.runs import QUESTION, response, rng, sample, signed, table_of, task, trained
from drawn.sheet import BLUE, GREY, HIDDEN, INK, ORANGE, THERE, Axes, Sheet

__all__ = ["elbo_noise", "left_to_right", "unmasking", "views"]

SEED = 5
"""Of the rollout of a Sudoku."""


def unmasking() -> str:
    """Draw a Sudoku canvas, pass by pass, with the tokens drawn and their probabilities."""
    puzzle = task("sudoku").examples("test")[3]
    rollouts = sample([puzzle], "roar", SEED, gen_length=16, tokens_per_step=2)
    steps, text = rollouts.commit_step[0, 0].tolist(), rollouts.texts[0][0]
    assert rollouts.log_probs is not None
    chance = rollouts.log_probs[0, 0].exp().tolist()
    sheet = Sheet(724, 418)
    place = [96 + 38 * d + 6 * (d // 4) for d in range(16)]
    sheet.text(86, 23, "prompt", "m e")
    for d, digit in enumerate(str(puzzle.columns["puzzle"])):
        sheet.text(place[d] + 17, 23, digit, "t c b")
    sheet.text(722, 23, "=", "t c b")
    for step in range(rollouts.num_forwards + 1):
        top = 38 + 43 * step
        sheet.text(86, top + 23, f"pass {step}" if step else "at first", "m e")
        for d in range(16):
            if steps[d] >= step:
                sheet.rect(place[d], top, 34, 36, HIDDEN, rx=4)
            elif steps[d] == step - 1:
                sheet.rect(place[d], top, 34, 36, BLUE, rx=4)
                sheet.text(place[d] + 17, top + 17, text[d], "t c b w")
                sheet.text(place[d] + 17, top + 31, f"{chance[d]:.2f}", "s c w")
            else:
                sheet.rect(place[d], top, 34, 36, "#fff", rx=4, stroke="#c8ced8")
                sheet.text(place[d] + 17, top + 23, text[d], "t c")
    return sheet.svg("A canvas of 16 mask tokens is filled in eight passes, two tokens in each")


def left_to_right() -> str:
    """Draw one puzzle answered from left to right, and in any order: what each pass sees."""
    puzzle = task("sudoku").examples("test")[3]
    orders = (
        ("from left to right: 16 passes", 18.0, {"block_length": 1}),
        ("in any order, two at a time: 8 passes", 36.0, {"tokens_per_step": 2}),
    )
    sheet = Sheet(698, 346)
    for panel, (title, height, settings) in enumerate(orders):
        rollouts = sample([puzzle], "roar", SEED, gen_length=16, **settings)
        steps, text = rollouts.commit_step[0, 0].tolist(), rollouts.texts[0][0]
        left = 362.0 * panel
        sheet.text(left, 12, title, "b")
        cells = {
            (d, step): (left + 21 * d, 24 + height * step, 19.0, height - 2)
            for d in range(16)
            for step in range(rollouts.num_forwards)
        }
        sheet.cells(HIDDEN, [cell for (d, step), cell in cells.items() if steps[d] > step])
        sheet.cells(THERE, [cell for (d, step), cell in cells.items() if steps[d] < step])
        sheet.cells(BLUE, [cell for (d, step), cell in cells.items() if steps[d] == step])
        for d, step in enumerate(steps):
            x, y, width, _ = cells[d, step]
            sheet.text(x + width / 2, y + height / 2 + 3, text[d], "t c s w b")
    sheet.key(
        (0, 340, BLUE, "drawn in this pass"),
        (150, 340, THERE, "drawn before: this pass and every later one sees it"),
        (462, 340, HIDDEN, "mask token"),
    )
    return sheet.svg("Left to right needs a pass per token; a masked model needs no order")


def views() -> str:
    """Draw four views of a rollout in two antithetic pairs, and the mean they make."""
    rollouts, table = response()
    drawn = draw_subsets(torch.ones(1, 4, dtype=torch.bool), ElboConfig(num_views=4), rng(8))
    hidden, factors = drawn.hidden[0], drawn.coefficient[0].amax(-1) * 4
    log_probs, text = in_views(table, hidden), rollouts.texts[0][0]
    sums = log_probs.sum(-1)
    sheet = Sheet(640, 332)
    sheet.text(64, 12, f"prompt {QUESTION}  answer {text}", "b")
    for x, named in ((376, "hidden m"), (448, "(D+1)/m"), (532, "Σ log π"), (626, "product")):
        sheet.text(x, 40, named, "m e")
    for row, view in enumerate((0, 2, 1, 3)):  # draw r is paired with r + 2
        top = 52 + 52 * row + 8 * (row // 2)
        sheet.text(52, top + 26, f"view {row + 1}", "m e")
        for d in range(4):
            x = 64 + 62 * d
            if hidden[view, d]:
                sheet.rect(x, top, 56, 42, HIDDEN, rx=4)
                sheet.text(x + 28, top + 18, text[d], "t c m")
                sheet.text(x + 28, top + 35, signed(float(log_probs[view, d])), "s c b")
            else:
                sheet.rect(x, top, 56, 42, "#fff", rx=4, stroke="#c8ced8")
                sheet.text(x + 28, top + 26, text[d], "t c")
        factor, total = float(factors[view]), float(sums[view])
        sheet.text(376, top + 26, str(int(hidden[view].sum())), "e")
        sheet.text(448, top + 26, f"{factor:.2f}", "e")
        sheet.text(532, top + 26, signed(total), "e")
        sheet.text(626, top + 26, signed(factor * total), "e b")
    for pair in (0, 1):
        top = 52 + 112 * pair
        sheet.line([(322, top + 4), (330, top + 4), (330, top + 90), (322, top + 90)], GREY, 1.2)
    for line, (named, value) in enumerate(
        (
            ("mean of the four: the estimate", (factors * sums).mean()),
            ("ELBO, by all sets", expected_log_prob(table)),
            ("log p, by all orders", marginal_log_prob(table)),
        )
    ):
        sheet.text(532, 292 + 18 * line, named, "e m" if line else "e b")
        sheet.text(626, 292 + 18 * line, signed(float(value)), "e" if line else "e b")
    return sheet.svg("Four views of an answer, what each scores, and their mean")


def elbo_noise() -> str:
    """Draw how far estimates of one answer spread, beside the exact values by enumeration."""
    rollouts, table = response()
    other = table_of(trained().policy, rollouts)
    sheet = Sheet(706, 346)
    counts = (2, 4, 8, 16, 32)
    left = Axes(
        left=32, top=34, width=276, height=218, x=(1.5, 44), y=(-14, 0), is_x_logarithmic=True
    )
    left.draw(
        sheet,
        title="estimates of log p of one answer, nats",
        x_label="views R",
        x_ticks=counts,
        y_ticks=(-14, -12, -10, -8, -6, -4, -2, 0),
    )
    right = Axes(
        left=400, top=34, width=290, height=218, x=(1.7, 38), y=(0, 3), is_x_logarithmic=True
    )
    right.draw(
        sheet,
        title="standard deviation, nats",
        x_label="views R",
        x_ticks=counts,
        y_ticks=(0, 0.5, 1, 1.5, 2, 2.5, 3),
    )
    apart, one, shared = [], [], []
    for count in counts:
        for side, (paired, colour) in enumerate(((False, ORANGE), (True, BLUE))):
            drawn = _draws(count, 1, paired=paired)
            found = _estimates(table, drawn)
            if paired:
                again = _draws(count, 2, paired=True)
                one.append(right.at(count, float(found.std())))
                apart.append(right.at(count, float((found - _estimates(other, again)).std())))
                shared.append(right.at(count, float((found - _estimates(other, drawn)).std())))
            x = left.at(count, 0)[0] + (8 if side else -8)
            shares = torch.tensor([0.05, 0.25, 0.75, 0.95], dtype=torch.float64)
            ends = [left.at(count, value)[1] for value in torch.quantile(found, shares).tolist()]
            sheet.line([(x, ends[0]), (x, ends[3])], colour, 1.6)
            sheet.rect(x - 6, ends[2], 12, max(1.0, ends[1] - ends[2]), colour, rx=2)
    exact, bound = float(marginal_log_prob(table)), float(expected_log_prob(table))
    for value, named, dash, below in ((exact, "log p", "1 0", -1), (bound, "ELBO", "5 3", 10)):
        y = left.at(2, value)[1]
        sheet.line([(32, y), (308, y)], INK, 1.3, stroke_dasharray=dash)
        sheet.text(314, y + below, named, "s")
    for curve, colour in ((apart, ORANGE), (one, GREY), (shared, BLUE)):
        sheet.line(curve, colour)
        for point in curve:
            sheet.dot(*point, colour)
    sheet.key(
        (32, 318, ORANGE, "free draws"),
        (122, 318, BLUE, "pairs and strata"),
        (400, 318, ORANGE, "log-ratio, each policy its own masks"),
        (400, 340, GREY, "one policy's log p"),
        (540, 340, BLUE, "log-ratio, same masks"),
    )
    sheet.text(32, 340, "bar: half of 1,000 estimates; line: 90% of them", "s m")
    return sheet.svg("More views narrow the estimates; the same masks narrow a log-ratio")


def in_views(table: Tensor, hidden: Tensor) -> Tensor:
    """Return what the table says of views [.., R, D]."""
    revealed = (~hidden).long() @ torch.tensor([1, 2, 4, 8])
    return table[revealed] * hidden


def _draws(num_views: int, seed: int, *, paired: bool) -> Views:
    settings = ElboConfig(num_views=num_views, antithetic=paired, stratified=paired)
    return draw_subsets(torch.ones(1000, 4, dtype=torch.bool), settings, rng(seed))


def _estimates(table: Tensor, drawn: Views) -> Tensor:
    scored = in_views(table.double(), drawn.hidden)
    return (drawn.coefficient.double() * scored).sum(dim=(-2, -1))
