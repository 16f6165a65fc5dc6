"""Pictures of docs/concepts/samplers_and_caches.md."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from dmpo.registry import SAMPLERS
from dmpo.samplers.block_loop import Snapshot
from drawn.runs import base, rng, sample, task
from drawn.sheet import BLUE, GREEN, HIDDEN, ORANGE, THERE, Axes, Sheet

__all__ = ["caches", "orders", "passes"]


def orders() -> str:
    """Draw when each sampler fills which position of one canvas."""
    policy = base()
    prompts = policy.encode([task("sudoku").examples("test")[1]])
    shown = (
        ("roar", {"tokens_per_step": 2, "temperature": 1.0}),
        ("low_confidence", {"tokens_per_step": 2, "temperature": 0.0}),
        ("entropy_bound", {"temperature": 0.0}),
        ("threshold", {"temperature": 0.0}),
        ("factor", {"temperature": 0.0}),
        ("wino", {"temperature": 0.0}),
    )
    sheet = Sheet(716, 424)
    for place, (name, settings) in enumerate(shown):
        left, top = 246 * (place % 3), 24 + 204 * (place // 3)
        seen: list[Snapshot] = []
        sampler: Any = SAMPLERS.build(name, {"gen_length": 16, **settings})
        sampler.watched_sample(
            policy, prompts, num_rollouts=1, generator=rng(1), on_step=seen.append
        )
        sheet.text(left, top - 12, name, "b")
        sheet.text(left + 222, top - 12, f"{len(seen) - 1} passes", "e m")
        cells: dict[str, list[tuple[float, float, float, float]]] = {}
        marks: list[tuple[float, float, str]] = []
        for step, (before, after) in enumerate(pairwise(seen)):
            tokens = policy.decode(after.completions[0][:, None])
            for d, (was, is_hidden) in enumerate(
                zip(before.hidden[0].tolist(), after.hidden[0].tolist(), strict=True)
            ):
                x, y = left + 14.0 * d, top + 20.0 * step
                colour = HIDDEN if is_hidden else THERE
                if was != is_hidden:
                    colour = ORANGE if is_hidden else BLUE
                    marks.append((x + 6, y + 13, "×" if is_hidden else tokens[d]))
                cells.setdefault(colour, []).append((x, y, 12, 18))
        for colour, boxes in cells.items():
            sheet.cells(colour, boxes)
        for x, y, mark in marks:
            sheet.text(x, y, mark, "t c s w b")
    sheet.key(
        (0, 422, BLUE, "revealed in this pass"),
        (160, 422, THERE, "revealed before"),
        (290, 422, HIDDEN, "hidden"),
        (366, 422, ORANGE, "revealed before, hidden again (wino)"),
    )
    return sheet.svg("Which positions six samplers reveal in each forward pass")


def caches() -> str:
    """Draw which positions each forward pass runs over, without a cache and with both kinds."""
    puzzle = task("sudoku").examples("test")[3]
    prompt_length = len(puzzle.prompt)
    length = prompt_length + 16
    unit = 228 / length
    sheet = Sheet(720, 318)
    for place, kind in enumerate(("none", "prefix", "dual")):
        left = 246.0 * place
        windows = _windows(kind, length)
        run = sum(end - start for start, end in windows)
        sheet.text(left, 12, f"cache: {kind}", "b")
        sheet.text(left + 228, 12, f"{run} positions", "e m")
        for step, (start, end) in enumerate(windows):
            y = 24 + 30.0 * step + 8 * (step // 4)
            sheet.rect(left, y, 228, 22, "#d6dce4", rx=3)
            sheet.rect(left + unit * start, y, unit * (end - start), 22, BLUE, rx=3)
        edges = (0, prompt_length, prompt_length + 8, length)
        for named, (first, last) in zip(
            ("prompt", "block 1", "block 2"), pairwise(edges), strict=True
        ):
            sheet.line([(left + unit * first, 20), (left + unit * first, 272)], "#f7f8fa", 2)
            sheet.text(left + unit * (first + last) / 2, 290, named, "s m c")
    sheet.key(
        (0, 314, BLUE, "the pass runs over it"),
        (160, 314, "#d6dce4", "keys and values kept from an earlier pass of the block"),
    )
    return sheet.svg("Positions that each of eight passes computes without and with a cache")


def _windows(kind: str, length: int) -> Sequence[tuple[int, int]]:
    """Return the positions that each pass of a real run goes over, first and behind the last."""
    policy: Any = base()
    windows: list[tuple[int, int]] = []
    plain_logits, cached_logits = policy.known_logits, policy.cached_logits

    def over_everything(*arguments: Any) -> Any:
        windows.append((0, length))
        return plain_logits(*arguments)

    def over_a_window(*arguments: Any, cache: Any, window: tuple[int, int]) -> Any:
        windows.append(window if cache.is_filled else (0, length))
        return cached_logits(*arguments, cache=cache, window=window)

    policy.known_logits, policy.cached_logits = over_everything, over_a_window
    try:
        sample(
            [task("sudoku").examples("test")[3]],
            "low_confidence",
            1,
            gen_length=16,
            block_length=8,
            tokens_per_step=2,
            temperature=0.0,
            cache=kind,
        )
    finally:
        del policy.known_logits, policy.cached_logits
    return windows


def passes() -> str:
    """Draw forward passes against quality, of the packaged model, for both kinds of task."""
    sheet = Sheet(700, 318)
    digits = Axes(
        left=36, top=34, width=290, height=214, x=(0.85, 4.6), y=(0, 0.3), is_x_logarithmic=True
    )
    digits.draw(
        sheet,
        title="digit_sum, sampled: right",
        x_label="forward passes per canvas",
        x_ticks=(1, 2, 4),
        y_ticks=(0, 0.1, 0.2, 0.3),
    )
    sudoku = Axes(
        left=400, top=34, width=290, height=214, x=(0.85, 19), y=(0, 0.6), is_x_logarithmic=True
    )
    sudoku.draw(
        sheet,
        title="sudoku, greedy: cells right",
        x_label="forward passes per canvas",
        x_ticks=(1, 2, 4, 8, 16),
        y_ticks=(0, 0.2, 0.4, 0.6),
    )
    points = [
        digits.at(*_passes_and_grade("digit_sum", "roar", tokens_per_step=n)) for n in (1, 2, 4)
    ]
    sheet.curve(points, BLUE)
    for gamma, named in ((0.1, "one by one"), (3.0, "2, then 2"), (5.0, "3, then 1")):
        x, y = digits.at(*_passes_and_grade("digit_sum", "entropy_bound", gamma=gamma))
        sheet.dot(x, y, GREEN, 5)
        if gamma == 0.1:
            sheet.text(x - 10, y - 6, named, "s e")
        else:
            sheet.text(x - 10, y - 8, named, "s e")
    lines: tuple[tuple[str, str, str, tuple[float, ...]], ...] = (
        ("low_confidence", "tokens_per_step", BLUE, (1, 2, 4, 8, 16)),
        ("entropy_bound", "gamma", GREEN, (0.01, 0.1, 1.0)),
        ("threshold", "threshold", ORANGE, (0.95, 0.7)),
    )
    for sampler, setting, colour, values in lines:
        found = [_passes_and_grade("sudoku", sampler, **{setting: value}) for value in values]
        sheet.curve([sudoku.at(*each) for each in found], colour)
    sheet.key(
        (36, 312, BLUE, "fixed schedule (roar, low_confidence)"),
        (290, 312, GREEN, "entropy_bound"),
        (410, 312, ORANGE, "threshold"),
    )
    return sheet.svg("Fewer passes cost accuracy where tokens depend on each other")


def _passes_and_grade(name: str, sampler: str, **settings: Any) -> tuple[float, float]:
    """Return passes per canvas and the task's first grade, means over rollouts of 32 problems."""
    problems = task(name).examples("test")[:32]
    is_sampled = name == "digit_sum"
    common = {"gen_length": 4 if is_sampled else 16, "temperature": 1.0 if is_sampled else 0.0}
    rollouts = sample(problems, sampler, 3, 8 if is_sampled else 1, **common, **settings)
    grade = "right" if is_sampled else "cells"
    grades = [
        task(name).grade(problem, text)[grade]
        for problem, texts in zip(problems, rollouts.texts, strict=True)
        for text in texts
    ]
    used = [len(set(steps)) for steps in rollouts.commit_step.flatten(0, 1).tolist()]
    return statistics.mean(used), statistics.mean(grades)
