"""What the comparison says of dmpo is true of the code; every row says where it comes from."""

from __future__ import annotations

import json
import re

from dmpo.objectives.presets import PRESETS
from dmpo.registry import REGISTRIES
from tests.docs.fences import DOCS

PAGE = "comparison.md"
TEXT = (DOCS / PAGE).read_text(encoding="utf-8")
LINKS = dict(re.findall(r"^\[([\w -]+)\]: (\S+)$", TEXT, flags=re.MULTILINE))
WORDS = {8: "eight", 9: "nine", 10: "ten"}


def table(title: str) -> list[list[str]]:
    """Return the cells below the heading of the one table of a section."""
    text = TEXT.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [line.strip("| ").split(" | ") for line in lines[1:] if set(line) - set("| -")]


def ours(title: str) -> list[str]:
    (row,) = (cells for cells in table(title) if cells[0] == "[dmpo][ours]")
    return row


def names(cell: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", cell))


def test_every_row_of_a_table_leads_to_its_source() -> None:
    titles = re.findall(r"^## (.+)$", TEXT, flags=re.MULTILINE)
    tables = [title for title in titles if title not in ("When to use what",)]
    assert len(tables) >= 8
    for title in tables:
        for cells in table(title):
            keys = re.findall(r"\[([^\]]+)\]\[(\w*)\]", cells[0])
            assert keys, cells
            assert all((key or name) in LINKS for name, key in keys)


def test_every_library_is_recommended_for_something_or_says_what_it_does_better() -> None:
    better = " ".join(cells[0] for cells in table("What each does better than dmpo today"))
    read = [cells[0] for cells in table("How this page was made")]
    assert [name for name in read if name not in better] == []


def test_objectives_of_dmpo_are_the_registered_ones() -> None:
    cell, baselines = ours("Objectives")[1:3]
    objectives = set(REGISTRIES["objectives"].names())
    assert cell.startswith(f"{len(objectives)} objectives and {len(PRESETS)} presets:")
    listed = names(cell)
    assert objectives <= listed
    assert listed - objectives <= set(PRESETS)
    assert names(baselines) == set(REGISTRIES["baselines"].names())


def test_samplers_and_kinds_of_parts_of_dmpo_are_the_registered_ones() -> None:
    rules = names(ours("Samplers and caches in training")[1])
    assert set(REGISTRIES["samplers"].names()) - {"dream", "given"} == rules
    kinds = WORDS[len(REGISTRIES)]
    assert f"entry points for {kinds} kinds" in ours("Plugins, tests, documentation, packaging")[1]


def test_speed_of_dmpo_is_that_of_the_result_files() -> None:
    results = DOCS.parent / "benchmarks" / "results"
    cell = ours("Speed and results that are claimed")[2]
    rows = [
        row
        for row in json.loads((results / "rollouts_8b.json").read_text())["rows"]
        if row["temperature"] == 0.2 and row["sampler"] in ("naive", "low_confidence")
    ]
    speeds = {
        sampler: sorted(row["tokens_per_second"] for row in rows if row["sampler"] == sampler)
        for sampler in ("naive", "low_confidence")
    }
    own, published = speeds["low_confidence"], speeds["naive"]
    assert f"{own[0]:.0f} to {own[-1]:.0f} tokens/s" in cell
    assert f"{published[0]:.0f} to {published[-1]:.0f}" in cell
    sides = json.loads((results / "step_gpu.json").read_text())["cases"][0]["sides"]
    assert round(sides["official"]["step_bytes"] / sides["ours"]["step_bytes"]) == 9


def test_page_says_what_dmpo_has_never_done() -> None:
    first = TEXT.split("\n## ")[0]
    assert "never been run on several GPUs, nor on real 8B weights" in first
    assert "not neutral" in first
    assert "November 2026" in first
    assert ours("Speed and results that are claimed")[1] == "**none**"
