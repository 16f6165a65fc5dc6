from __future__ import annotations

import json
from pathlib import Path

import pytest

from dmpo.config.comparison import planned_runs, read_comparison
from tests.cli.command import assert_one_line, dmpo
from tests.reporting.runs import write_run

SPEC = """
base:
  recipe: digit_sum
  set: {training.num_steps: 2, training.updates_per_buffer: 2, training.warmup_steps: 0}
seeds: [0, 1]
arms: {dmpo: , grpo: {objective: diffu_grpo}}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "objectives.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture
def compared(tmp_path: Path, spec: Path) -> Path:
    """Return the directory of a comparison whose last run is half done."""
    output = tmp_path / "out"
    for number, run in enumerate(planned_runs(read_comparison(spec))):
        steps = {1: 0.1, 2: 0.2} if number < 3 else {1: 0.1}
        place = write_run(output / run.place, steps, {0: 0.0, max(steps): 0.1 * number})
        (place / "config.yaml").write_text(run.config_text())
    (output / "spec.yaml").write_text(SPEC)
    return output


def test_dry_run_lists_the_runs_and_writes_nothing(
    spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = dmpo(capsys, "compare", str(spec), "--output", str(tmp_path / "new"), "--dry-run")
    assert said.code == 0
    assert "runs        4: 0 finished, 4 to go" in said.out
    assert "grpo, seed 1: to be run" in said.out
    assert list(tmp_path.iterdir()) == [spec]


def test_dry_run_says_how_far_each_run_is(
    spec: Path, compared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = dmpo(capsys, "compare", str(spec), "--output", str(compared), "--dry-run")
    assert "runs        4: 3 finished, 1 to go" in said.out
    assert "dmpo, seed 1: 2 steps, 200 model tokens, right 0.200\n" in said.out
    assert "grpo, seed 1: 1 steps, 100 model tokens, right 0.300 (not finished)" in said.out


def test_report_only_writes_table_and_page_of_what_is_there(
    spec: Path, compared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = dmpo(capsys, "compare", str(spec), "--output", str(compared), "--report-only")
    assert said.code == 0
    assert "grpo, seed 1: not finished (1 steps)" in said.out
    arms = json.loads((compared / "comparison.json").read_text())["arms"]
    assert [arm["figures"]["headline"]["count"] for arm in arms] == [2, 1]
    assert "objective.name" in (compared / "comparison.md").read_text()
    assert "<h1>objectives</h1>" in (compared / "comparison.html").read_text()


def test_a_changed_arm_is_refused_and_nothing_is_touched(
    spec: Path, compared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in compared.rglob("*")}
    spec.write_text(SPEC.replace("dmpo: ,", "dmpo: {training.learning_rate: 0.1},"))
    said = dmpo(capsys, "compare", str(spec), "--output", str(compared))
    assert_one_line(said, 2, "arms.dmpo: runs/dmpo/seed-0 has run with other settings")
    assert "(training.learning_rate: 0.0005, now 0.1)" in said.err
    assert {path: path.stat().st_mtime_ns for path in compared.rglob("*")} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--jobs", "0"), "--jobs: must be at least 1; given 0"),
        (("--jobs", "two"), "'two' is not a whole number"),
        (("--output", "."), "--output: . exists and holds no comparison"),
        (("--report-only", "--output", "none"), "--output: none holds no comparison yet"),
    ],
)
def test_a_wrong_option_is_named(
    arguments: tuple[str, ...],
    message: str,
    spec: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(spec.parent)
    assert_one_line(dmpo(capsys, "compare", str(spec), *arguments), 2, message)


def test_a_part_that_cannot_be_built_is_found_before_anything_is_written(
    spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec.write_text(SPEC.replace("diffu_grpo}", "diffu_grpo, rewards: nowhere.py:score}"))
    said = dmpo(capsys, "compare", str(spec), "--output", str(tmp_path / "new"))
    assert_one_line(said, 2, "arms.grpo: ")
    assert list(tmp_path.iterdir()) == [spec]


def test_a_run_that_fails_is_listed_with_its_last_line(
    spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = f"policy.model: {tmp_path / 'no_model'}"
    spec.write_text(f"base: {{recipe: digit_sum}}\nseeds: [0]\narms: {{bad: {{{bad}}}}}\n")
    said = dmpo(capsys, "compare", str(spec), "--output", str(tmp_path / "new"))
    assert_one_line(said, 1, "1 of 1 runs failed")
    assert "1/1  bad, seed 0: failed: policy.model: " in said.out
    assert "bad, seed 0: failed: policy.model: " in (tmp_path / "new/comparison.md").read_text()
