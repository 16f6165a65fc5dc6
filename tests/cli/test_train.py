from __future__ import annotations

import json
from pathlib import Path

import pytest

from dmpo.config.yaml_text import read_yaml_file
from tests.cli.command import SMALL, assert_one_line, dmpo


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_train_measures_before_and_after_and_says_where_it_is_saved(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = dmpo(capsys, "train", *SMALL, "--steps", "4", "--baseline", "mean", "--output", "out")
    assert (said.code, said.err) == (0, "")
    for text in ("sudoku", "baseline mean", "random weights", "before", "after", "saved in    out"):
        assert text in said.out
    assert len(Path("out/metrics.jsonl").read_text().splitlines()) == 4
    assert json.loads(Path("out/evaluation.json").read_text()).keys() == {"step 0", "step 4"}


def test_train_keeps_its_settings_and_goes_on_from_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    dmpo(capsys, "train", *SMALL, "--steps", "2", "--seed", "3", "--output", "out")
    assert read_yaml_file(Path("out/config.yaml"))["seed"] == 3
    said = dmpo(capsys, "train", "--resume", "out", "--steps", "3")
    assert (said.code, said.err) == (0, "")
    lines = Path("out/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    evaluated = dmpo(capsys, "eval", "--run", "out", "--num-examples", "2", "--output", "figures")
    assert evaluated.code == 0
    assert "step-000003" in evaluated.out
    assert len(Path("figures/completions.jsonl").read_text().splitlines()) == 2


def test_train_writes_into_a_folder_of_its_own_by_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert dmpo(capsys, "train", *SMALL, "--steps", "1").code == 0
    (run,) = Path("runs").iterdir()
    assert run.name.startswith("sudoku-")


def test_reward_functions_are_named_by_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text("def ones(completions):\n    return [1.0 for c in completions]\n")
    rewards = ("--reward", "mine.py:ones", "--reward", "task", "--rewards.1.weight", "0.5")
    said = dmpo(capsys, "train", *SMALL, *rewards, "--steps", "1", "--output", "out")
    assert said.code == 0
    metrics = json.loads(Path("out/metrics.jsonl").read_text().splitlines()[0])
    assert metrics["reward/component/ones"] == 1.0
    assert metrics["reward/mean"] >= 1.0


def test_dry_run_shows_settings_and_sizes_and_writes_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = dmpo(capsys, "train", *SMALL, "--dry-run", "--weights.alpha", "0.05")
    assert (said.code, said.err) == (0, "")
    for text in (
        "alpha: 0.05",
        "# --weights.alpha",
        "parameters",
        "problems",
        "memory",
        "estimate",
    ):
        assert text in said.out
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--recipe", "sudko"], "Did you mean 'sudoku'?"),
        (["--config", "gone.yaml"], "gone.yaml: cannot be read"),
        (["--likelihood.eos", "always"], "likelihood.eos"),
        (["--weights.alhpa", "1"], "Did you mean 'alpha'? (from --weights.alhpa)"),
        (["--objective", "dpmo"], "Did you mean 'dmpo'?"),
        (["--likelihood", "path", "--sampler", "low_confidence"], "needs the path"),
        (["--baseline", "mean", "--weights", "advantage"], "goes through the link"),
        (["--reward", "gone.py:f"], "gone.py"),
        (["--model", "no/such/model"], "no/such/model"),
        (["--resume", "gone"], "gone is neither a run directory"),
        (["--resume", "gone", "--recipe", "sudoku"], "--resume"),
    ],
)
def test_train_refuses_in_one_line_and_writes_nothing(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    text: str,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert_one_line(dmpo(capsys, "train", *arguments), 2, text)
    assert list(Path().iterdir()) == []


def test_train_does_not_write_over_anything(capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    assert_one_line(dmpo(capsys, "train", "--output", "out"), 2, "out exists already")
    assert [path.name for path in Path("out").iterdir()] == ["mine.txt"]


def test_several_processes_must_name_one_place(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert_one_line(dmpo(capsys, "train"), 2, "--output: several processes")
