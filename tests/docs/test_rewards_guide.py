"""The guide's first reward is five lines, and its commands run as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from dmpo.config.run import RewardSection
from tests.docs.fences import DOCS, fences, write_titled
from tests.docs.short_runs import type_commands

PAGE = "guides/rewards.md"


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which everything was typed."""
    directory = tmp_path_factory.mktemp("rewards")
    write_titled(PAGE, directory)
    type_commands(PAGE, directory)
    return directory


def samples(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "samples.jsonl").open(encoding="utf-8")]


def test_first_reward_is_five_lines_on_the_first_screen() -> None:
    first, second = fences(PAGE)[:2]
    assert (first.language, first.title, second.language) == ("python", "my_reward.py", "bash")
    assert len(first.text.splitlines()) == 5
    above = (DOCS / PAGE).read_text(encoding="utf-8").partition(second.text)[0]
    assert len(above.splitlines()) < 20


def test_reward_of_the_guide_is_what_is_maximised(typed: Path) -> None:
    rows = samples(typed / "runs/cells")
    assert rows
    for row in rows:
        assert row["components"] == {"cells": row["reward"]}


def test_second_reward_is_added_with_its_weight(typed: Path) -> None:
    rows = samples(typed / "runs/both")
    assert rows
    for row in rows:
        value = row["components"]
        assert isinstance(value, dict)
        assert row["reward"] == pytest.approx(value["task"] + 0.5 * value["cells"], abs=1e-6)


def test_sections_of_the_guide_are_valid_and_name_the_guide_s_function() -> None:
    (block,) = (fence.text for fence in fences(PAGE) if fence.language == "yaml")
    found = [RewardSection.model_validate(each) for each in yaml.safe_load(block)["rewards"]]
    assert [section.name for section in found] == ["task", "my_reward.py:cells", "classifier"]
    assert [section.weight for section in found] == [1.0, 0.5, 0.1]
