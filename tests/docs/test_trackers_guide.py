"""The guide's commands run as typed, its own tracker among them; its tables are the code's."""

from __future__ import annotations

from pathlib import Path

from dmpo.training.tracker_kinds import NO_TRACKER, TRACKERS, TrackingSettings
from tests.docs.fences import DOCS, write_titled
from tests.docs.short_runs import type_commands

PAGE = "guides/trackers.md"


def test_commands_of_the_guide_run(tmp_path: Path) -> None:
    write_titled(PAGE, tmp_path)
    said = type_commands(PAGE, tmp_path)
    assert "curves      tensorboard --logdir runs/curves" in said
    assert "changed     tracking.trackers" in said
    assert said.splitlines()[-1].startswith("step 1: ")
    for run in ("curves", "best", "quiet"):
        assert list((tmp_path / "runs" / run / "tensorboard").glob("events*"))


def test_guide_names_every_tracker_and_setting() -> None:
    text = (DOCS / PAGE).read_text(encoding="utf-8")
    for name in (*TRACKERS, NO_TRACKER):
        assert f"\n| `{name}`" in text
    for name in TrackingSettings.model_fields:
        assert name == "trackers" or f"`--tracking.{name}`" in text
