"""The guides to metrics and settings: commands run as typed, names and figures are real."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dmpo.cli.main import main
from dmpo.training.metrics import METRICS
from tests.docs.fences import DOCS, fences, write_titled

METRICS_PAGE = "guides/metrics.md"
CHOOSE_PAGE = "guides/choose.md"
CURVES = DOCS / "drawn" / "curves.json"
SHORT = {
    "training.num_steps": 1,
    "training.warmup_steps": 0,
    "training.prompts_per_buffer": 2,
    "training.rollouts_per_prompt": 2,
    "training.updates_per_buffer": 1,
    "evaluation.num_examples": 2,
}


def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


@pytest.fixture
def capture(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    return lambda: capsys.readouterr().out


def type_briefly(page: str, capture: Callable[[], str]) -> str:
    """Type a page's commands here; runs are cut short, comparisons but the first only checked."""
    printed = ""
    blocks = [fence.text for fence in fences(page) if fence.language == "bash"]
    lines = [block.replace("\\\n", " ").splitlines() for block in blocks]
    for line in (line for block in lines for line in block):
        typed, _, kept = line.partition(" > ")
        program, *arguments = shlex.split(typed)
        capture()
        if program == "python":
            printed += subprocess.check_output([sys.executable, *arguments], text=True)
            continue
        assert program == "dmpo"
        if arguments[0] == "train":
            arguments += [f"--{name}={value}" for name, value in SHORT.items()]
        if arguments[:2] == ["compare", "targets.yaml"] or "buffers.yaml" in arguments:
            arguments += ["--dry-run"]
        assert main(arguments) == 0, line
        if kept:
            Path(kept).write_text(capture())
    return printed


def test_commands_of_the_metrics_guide_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capture: Callable[[], str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_titled(METRICS_PAGE, tmp_path)
    printed = type_briefly(METRICS_PAGE, capture)
    assert re.search(r"^1 reward/mean \S+ weights/ess \S+ rollout/entropy \S+$", printed, re.M)
    assert re.search(r"^1 log_ratio/standard_error \S+ log_ratio/reward_spread", printed, re.M)


def test_metrics_that_the_guides_name_exist() -> None:
    known = "|".join({name.partition("/")[0] for name in METRICS})
    for page in (METRICS_PAGE, CHOOSE_PAGE, "concepts/baselines.md"):
        named = set(re.findall(rf"`((?:{known})/[\w/]+)`", text_of(page)))
        assert named
        assert sorted(named - set(METRICS)) == []


def test_curves_of_the_metrics_guide_are_the_figures_it_tells() -> None:
    runs: dict[str, dict[str, Any]] = json.loads(CURVES.read_text())["runs"]
    text = " ".join(text_of(METRICS_PAGE).split())

    def told(values: list[float]) -> str:
        return ", ".join(f"{value:.2f}".lstrip("0") for value in values)

    assert told(runs["demo"]["reward/mean"][:5]) in text
    assert told(runs["hot"]["reward/mean"][:5]) in text
    assert told(runs["noisy"]["reward/mean"][:7]) in text
    (demo, hot) = (runs[name]["rollout/entropy"] for name in ("demo", "hot"))
    assert f"{demo[0]:.3f} to {demo[-1]:.3f}".replace("0.", ".") in text
    assert f"{hot[0]:.3f} to {hot[1]:.2f}".replace("0.", ".") in text


def test_commands_of_the_guide_to_choosing_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capture: Callable[[], str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_titled(CHOOSE_PAGE, tmp_path)
    _shorten(tmp_path / "rates.yaml")
    type_briefly(CHOOSE_PAGE, capture)
    (arm,) = json.loads(Path("runs/rates/comparison.json").read_text())["arms"]
    assert [run["state"] for run in arm["runs"]] == ["finished"]
    assert Path("runs/look/metrics.jsonl").exists()


def _shorten(file: Path) -> None:
    """Leave one short run of a comparison."""
    spec = yaml.safe_load(file.read_text())
    spec["base"]["set"].update(SHORT)
    spec["grid"] = {name: values[:1] for name, values in spec["grid"].items()}
    spec["budget"] = {"model_tokens": 1.0}
    file.write_text(yaml.safe_dump(spec))
