"""The page of laws has all of them, in the words of the suite."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dmpo import testing
from dmpo.objectives.dmpo import DmpoObjective
from tests.docs.fences import DOCS, fences, write_titled
from tests.testing.faults import copy_of

PAGE = "guides/conformance.md"
SECTIONS = {
    "plugin": "Every plugin",
    "policy": "Policies",
    "sampler": "Samplers",
    "task": "Tasks",
    "reward": "Rewards",
    "likelihood": "Likelihoods",
    "weights": "Weights",
    "baseline": "Baselines",
    "objective": "Objectives",
}


@pytest.mark.parametrize("kind", SECTIONS)
def test_section_lists_every_law_by_name_with_its_promise(kind: str) -> None:
    text = (DOCS / PAGE).read_text().split(f"## {SECTIONS[kind]}\n")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", text, re.M))
    assert rows == dict(testing.laws_of(kind))


def test_test_of_the_page_passes(tmp_path: Path) -> None:
    write_titled(PAGE, tmp_path)
    (block,) = [fence.text for fence in fences(PAGE) if fence.language == "bash"]
    run = subprocess.run(
        [sys.executable, "-m", *block.split(), "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout


def test_report_of_the_page_is_the_suites() -> None:
    def loss(self, policy, batch):
        output = DmpoObjective.loss(self, policy, batch)
        return replace(output, loss=output.loss * batch.num_rows_in_buffer / batch.num_rows)

    faulty = copy_of(DmpoObjective, loss=loss)
    faulty.__name__ = "MeanOfSlice"
    with pytest.raises(testing.ConformanceError) as caught:
        testing.check_objective(faulty)
    (shown,) = [fence.text for fence in fences(PAGE) if fence.language == "text"]
    assert without_numbers(shown) == without_numbers(f"{caught.value}\n")


def without_numbers(text: str) -> str:
    return re.sub(r"\d+\.\d+", "x", text)
