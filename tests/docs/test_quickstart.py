"""The quickstart's commands run as typed, one after the other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dmpo.training.metrics import METRICS
from tests.docs.fences import fences, write_titled
from tests.docs.short_runs import type_commands

PAGE = "quickstart.md"


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which everything was typed."""
    directory = tmp_path_factory.mktemp("quickstart")
    write_titled(PAGE, directory)
    type_commands(PAGE, directory)
    return directory


def test_quickstart_leaves_a_complete_run_for_each_training(typed: Path) -> None:
    text = "".join(fence.text for fence in fences(PAGE) if fence.language == "bash")
    outputs = re.findall(r"--output (runs/\S+)", text)
    assert len(outputs) >= 4
    for output in outputs:
        assert (typed / output / "config.yaml").is_file()
        assert list((typed / output / "checkpoints").glob("step-*"))


def test_every_metric_of_the_quickstart_is_in_the_reference(typed: Path) -> None:
    patterns = [re.sub(r"<\w+>", r"[\\w./-]+", re.escape(name)) for name in METRICS]
    known = re.compile("|".join(f"(?:{pattern})" for pattern in patterns))
    files = list(typed.glob("runs/*/metrics.jsonl"))
    assert files
    logged = {name for file in files for line in file.open() for name in json.loads(line)}
    assert {name for name in logged - {"step"} if not known.fullmatch(name)} == set()
