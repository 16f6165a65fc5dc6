"""The home page's commands run as typed."""

from __future__ import annotations

import re
from pathlib import Path

from dmpo.objectives.presets import PRESETS
from dmpo.registry import OBJECTIVES
from tests.docs.fences import DOCS, write_titled
from tests.docs.short_runs import type_commands

PAGE = "index.md"


def test_commands_of_the_home_page_run(tmp_path: Path) -> None:
    write_titled(PAGE, tmp_path)
    type_commands(PAGE, tmp_path)
    metrics = (tmp_path / "runs/mine/metrics.jsonl").read_text()
    assert '"reward/component/score"' in metrics
    assert (tmp_path / "runs/mine/report.html").is_file()


def test_a_reward_takes_five_lines() -> None:
    text = (DOCS / PAGE).read_text(encoding="utf-8")
    (code,) = re.findall(r'title="my_reward.py"\n(.+?)```', text, re.S)
    assert len(code.strip().splitlines()) <= 5


def test_cards_lead_to_pages() -> None:
    text = (DOCS / PAGE).read_text(encoding="utf-8")
    pages = re.findall(r"\]\(([\w/]+\.md)\)", text)
    assert [page for page in pages if not (DOCS / page).is_file()] == []
    assert len(pages) > 6
    assert {"dmpo", "diffu_grpo", "espo", "spg", "vrpo", "trace_rl"} <= set(OBJECTIVES.names())
    assert "wd1" in PRESETS
