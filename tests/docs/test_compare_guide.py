"""The guide's comparison is the example, and its commands run as typed, on less of it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from dmpo.cli.main import main
from dmpo.config.comparison import BudgetSection, ComparisonConfig
from tests.docs.fences import DOCS, fences, write_titled

PAGE = "guides/compare.md"
SHORT = {
    "training.num_steps": 2,
    "training.warmup_steps": 0,
    "training.prompts_per_buffer": 2,
    "training.rollouts_per_prompt": 2,
    "training.updates_per_buffer": 2,
    "evaluation.num_examples": 2,
    "evaluation.samples_per_prompt": 2,
}


def test_commands_of_the_guide_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_titled(PAGE, tmp_path)
    spec = yaml.safe_load(Path("compare_objectives.yaml").read_text())
    spec["base"]["set"].update(SHORT)
    spec["seeds"], spec["arms"] = [0], {name: spec["arms"][name] for name in ("dmpo", "grpo")}
    Path("compare_objectives.yaml").write_text(yaml.safe_dump(spec))
    for fence in fences(PAGE):
        for line in fence.text.splitlines() if fence.language == "bash" else ():
            command, *arguments = shlex.split(line)
            assert command == "dmpo"
            assert main(arguments) == 0, line
    arms = json.loads(Path("runs/objectives/comparison.json").read_text())["arms"]
    assert [arm["name"] for arm in arms] == ["dmpo", "grpo"]
    assert [run["state"] for arm in arms for run in arm["runs"]] == ["finished"] * 2
    assert not Path("runs/grid").exists()


def test_comparison_of_the_guide_is_the_example() -> None:
    example = DOCS.parent / "examples" / "compare_objectives.yaml"
    (fence,) = (fence for fence in fences(PAGE) if fence.title == example.name)
    assert fence.text == example.read_text()


def test_guide_names_every_key_and_budget() -> None:
    text = (DOCS / PAGE).read_text(encoding="utf-8")
    keys = re.findall(r"^\| `(\w+)` \|", text.split("## Stop")[0], flags=re.MULTILINE)
    assert sorted(keys) == sorted(ComparisonConfig.model_fields)
    assert [kind for kind in BudgetSection.model_fields if f"`{kind}`" not in text] == []
