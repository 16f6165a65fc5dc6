"""The guide's commands run as typed, and what it lists is what there is."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import get_args

from dmpo.cli.doctor import AREAS, MARKS
from dmpo.doctor.base import Advice, Check, Report, State
from dmpo.doctor.examination import trial_names
from dmpo.doctor.kernels import KERNELS
from tests.docs.fences import DOCS, fences
from tests.docs.short_runs import type_commands

PAGE = "guides/doctor.md"
TEXT = (DOCS / PAGE).read_text(encoding="utf-8")


def test_commands_of_the_guide_run(tmp_path: Path) -> None:
    assert type_commands(PAGE, tmp_path) == ""
    report = json.loads((tmp_path / "doctor.json").read_text())
    assert report["can_train"]
    shown, _ = [fence.text for fence in fences(PAGE) if fence.language == "text"]
    # What the guide shows is what is looked at.
    names = {check["name"] for check in report["checks"]}
    lines = [line for line in shown.splitlines() if re.match(r"  (ok|-|!|FAILED)  ", line)]
    assert {re.split(r" {2,}", line.strip())[1] for line in lines} <= names | {
        "plugins of dmpo-dream",
        "GPU",
    }


def test_guide_names_every_mark_state_and_key() -> None:
    marks = re.findall(r"^\| `(\S+)` \|", TEXT, flags=re.MULTILINE)
    assert [mark for mark in marks if mark in MARKS.values()] == [*MARKS.values()]
    keys = {each.name for record in (Check, Advice, Report) for each in fields(record)}
    for name in keys | {*get_args(State)}:
        assert f"`{name}`" in TEXT, name


def test_areas_of_the_example_are_those_that_are_printed() -> None:
    shown, _ = [fence.text for fence in fences(PAGE) if fence.language == "text"]
    titles = [line for line in shown.splitlines() if line in AREAS.values()]
    assert titles == [*AREAS.values()]


def test_everything_that_is_tried_has_a_name() -> None:
    names = trial_names(asks_network=True, is_thorough=True, has_gpu=True)
    assert {*names} == {*KERNELS, "hub", "sandbox", "torch", "plugins"}
