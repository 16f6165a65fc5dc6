from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dmpo.reporting.comparison import (
    ArmReport,
    ComparisonReport,
    RunReport,
    comparison_json,
    comparison_markdown,
    settings_differences,
)
from dmpo.reporting.history import read_history
from tests.reporting.runs import write_run


def run(directory: Path, seed: int, score: float, **given: Any) -> RunReport:
    place = write_run(directory / f"{seed}", {1: 0.1, 2: score}, {0: 0.0, 2: score})
    fields = {"state": "finished", "stopped_by": "num_steps", **given}
    return RunReport(seed=seed, place=f"runs/a/seed-{seed}", history=read_history(place), **fields)


@pytest.fixture
def report(tmp_path: Path) -> ComparisonReport:
    good = [run(tmp_path / "a", seed, score) for seed, score in enumerate((0.2, 0.3, 0.4))]
    failed = run(tmp_path / "b", 1, 0.9, state="failed", stopped_by=None, error="disk | full")
    arms = (
        ArmReport(name="a", settings={"x": 1, "y": None}, runs=tuple(good)),
        ArmReport(name="b", settings={"x": 2, "z": True}, runs=(run(tmp_path, 0, 0.5), failed)),
    )
    metrics = ("headline", "distinct_right", "reward/mean", "drift/kl_reference")
    return ComparisonReport(
        title="t", description="", metrics=metrics, arms=arms, budget="max_model_tokens"
    )


def test_table_has_means_and_intervals_over_finished_seeds(report: ComparisonReport) -> None:
    assert report.headings()[:2] == ["right", "distinct right answers"]
    # s = 0.1, n = 3: 4.3027 · 0.1 / √3 = 0.2484
    assert report.rows() == [
        (
            "a",
            ["0.300 ± 0.248", "0.900 ± 0.745", "0.300 ± 0.248", "–", "2", "200", "0.2", "3 of 3"],
        ),
        ("b", ["0.500", "1.500", "0.500", "–", "2", "200", "0.2", "1 of 2"]),
    ]


def test_costs_that_no_run_has_logged_are_left_out(report: ComparisonReport) -> None:
    assert list(report.axes) == ["steps", "model_tokens", "seconds"]


def test_notes_tell_of_failures_and_of_budgets_that_were_not_reached(
    report: ComparisonReport,
) -> None:
    *others, last = report.notes()
    assert last == "b, seed 1: failed: disk | full"
    assert others[0].startswith("a, seed 0: ended at training.num_steps, before the budget")


def test_settings_that_differ_are_shown_for_every_arm(report: ComparisonReport) -> None:
    assert settings_differences(report.arms) == [
        ("x", ["1", "2"]),
        ("y", ["null", "–"]),
        ("z", ["–", "true"]),
    ]


def test_json_has_every_number_per_run_and_over_seeds(report: ComparisonReport) -> None:
    a, b = json.loads(comparison_json(report))["arms"]
    headline = a["figures"]["headline"]
    assert headline["mean"] - headline["low"] == pytest.approx(headline["half_width"])
    assert [each["figures"]["headline"] for each in a["runs"]] == pytest.approx([0.2, 0.3, 0.4])
    assert b["runs"][1]["state"] == "failed"
    assert a["cost"]["model_tokens"]["mean"] == 200


def test_markdown_cannot_be_broken_by_a_cell(report: ComparisonReport) -> None:
    tables = [line for line in comparison_markdown(report).splitlines() if line[:1] == "|"]
    assert len({line.count("|") for line in tables[:4]}) == 1
    assert "| a | 0.300 ± 0.248 |" in comparison_markdown(report)
