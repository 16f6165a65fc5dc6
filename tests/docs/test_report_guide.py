"""The guide's commands run as typed; its tables say what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

from dmpo.reporting.run_summary import RUN_STATES
from dmpo.reporting.run_table import SORTS
from tests.docs.fences import DOCS, write_titled
from tests.docs.short_runs import type_commands

PAGE = "guides/report.md"
TEXT = (DOCS / PAGE).read_text(encoding="utf-8")


def test_commands_of_the_guide_run(tmp_path: Path) -> None:
    write_titled(PAGE, tmp_path)
    said = type_commands(PAGE, tmp_path)
    assert "report      runs/first/report.html" in said
    assert "page        both.html" in said
    assert "runs        2\npage        report.html" in said
    lines = [line.split() for line in said.splitlines() if line.startswith("runs/")]
    assert ["runs/first", "finished", "sudoku", "dmpo", "1/1"] in [line[:5] for line in lines]
    sample = json.loads((tmp_path / "runs/first/samples.jsonl").read_text().splitlines()[0])
    described = re.search(r"^\| `samples\.jsonl` \|.*$", TEXT, flags=re.MULTILINE)
    assert described is not None
    assert [key for key in sample if f"`{key}`" not in described[0]] == []


def test_guide_names_every_state_and_order() -> None:
    assert re.findall(r"^\| `(\w+)` \|", TEXT.split("## A page")[0], re.MULTILINE) == [*RUN_STATES]
    assert [name for name in SORTS if not re.search(rf"\b{name}\b", TEXT)] == []


def test_pictures_of_the_guide_are_there_and_small() -> None:
    pictures = re.findall(r"\]\(\.\./(images/\S+)\)", TEXT)
    assert len(pictures) == 3
    assert all(0 < (DOCS / picture).stat().st_size < 250_000 for picture in pictures)
