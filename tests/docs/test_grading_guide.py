"""The guide to grading lists every row on which the two graders differ."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from dmpo.registry import TASKS
from dmpo.tasks.base import Task
from tests.docs.fences import DOCS
from tests.paths import DATA, needs_data

TITLES = {
    "gsm8k": "GSM8K",
    "math500": "MATH-500",
    "countdown": "Countdown",
    "sudoku": "Sudoku",
}
PAPER = {"countdown": {"format": "paper"}, "sudoku": {"format": "paper"}}


def task(name: str, grader: str) -> Task:
    kind: Any = TASKS.load(name)
    return kind(kind.Config(grader=grader, **PAPER.get(name, {})))


def listed_rows(name: str) -> dict[int, list[str]]:
    page = (DOCS / "guides/grading.md").read_text()
    section = re.split(r"\n##+ ", page.partition("## Every row")[2])
    table = next(part for part in section if part.startswith(TITLES[name] + "\n"))
    cells = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return {int(row[0]): row[1:] for row in cells if row[0].isdecimal()}


@needs_data
@pytest.mark.parametrize("name", TITLES)
def test_guide_lists_the_rows_on_which_the_graders_differ(name: str) -> None:
    lines = (DATA / "llada_outputs" / f"{name}_256.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    default, published = task(name, "default"), task(name, "published")
    pairs = [(default.from_record(row), row["completion"]) for row in rows]
    figures = zip(default.grade_all(pairs), published.grade_all(pairs), strict=True)
    headline = default.headline if name != "sudoku" else "cells"
    differ = [i for i, (ours, theirs) in enumerate(figures) if ours[headline] != theirs[headline]]
    assert list(listed_rows(name)) == differ


@pytest.mark.parametrize("name", TITLES)
def test_every_listed_row_has_a_reason(name: str) -> None:
    assert all(len(cells) == 4 and len(cells[-1]) > 5 for cells in listed_rows(name).values())
