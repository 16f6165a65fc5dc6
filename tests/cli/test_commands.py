"""The commands beside `train`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dmpo.config.yaml_text import yaml_value
from tests.cli.command import SCRATCH, assert_one_line, dmpo

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def is_empty() -> bool:
    return list(Path().iterdir()) == []


def test_sft_saves_a_policy_that_eval_and_generate_can_read(capsys: Capture) -> None:
    small = ("--training.batch_rows", "4", "--training.warmup_steps", "0")
    evaluation = ("--evaluation.num_examples", "2", "--set", "tasks=[sudoku]")
    scratch = ("--set", SCRATCH, "--output", "base")
    said = dmpo(capsys, "sft", "--steps", "2", *small, *evaluation, *scratch)
    assert (said.code, said.err) == (0, "")
    assert "saved in    base" in said.out
    (policy,) = {path.parent for path in Path("base").rglob("model.safetensors")}
    assert dmpo(capsys, "eval", "--model", str(policy), "--num-examples", "2").code == 0
    assert dmpo(capsys, "config", "validate", "base/config.yaml").code == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--set", "tasks=[sudko]"], "Did you mean 'sudoku'?"),
        (["--training.batch_row", "4"], "Did you mean 'batch_rows'?"),
        (["--recipe", "tiny_lada"], "Did you mean 'tiny_llada'?"),
    ],
)
def test_sft_refuses_in_one_line(capsys: Capture, arguments: list[str], text: str) -> None:
    assert_one_line(dmpo(capsys, "sft", *arguments), 2, text)
    assert is_empty()


def test_eval_prints_a_table_and_writes_nothing_unasked(capsys: Capture) -> None:
    few = ("--split", "validation", "--num-examples", "3")
    said = dmpo(capsys, "eval", "--set", SCRATCH, "--task", "digit_sum", *few)
    assert (said.code, said.err) == (0, "")
    assert "3 (validation)" in said.out
    assert is_empty()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--split", "tset"], "evaluation.split"),
        (["--task", "sudko"], "Did you mean 'sudoku'?"),
        (["--run", "gone"], "gone is neither a run directory"),
        (["--run", "gone", "--model", "x"], "--run"),
    ],
)
def test_eval_refuses_in_one_line(capsys: Capture, arguments: list[str], text: str) -> None:
    assert_one_line(dmpo(capsys, "eval", *arguments), 2, text)
    assert is_empty()


def test_config_show_prints_values_with_their_sources(capsys: Capture) -> None:
    said = dmpo(capsys, "config", "show", "--baseline", "mean", "--weights.alpha", "0.1")
    assert said.code == 0
    lines = {
        line.split("#")[0].strip(): line.split("#")[-1].strip() for line in said.out.splitlines()
    }
    assert lines["name: mean"] == "--baseline"
    assert lines["alpha: 0.1"] == "--weights.alpha"
    assert yaml_value(said.out, "out")["weights"]["eta"] is None


def test_config_show_reads_sft_recipes(capsys: Capture) -> None:
    said = dmpo(capsys, "config", "show", "--recipe", "tiny_llada")
    assert len(yaml_value(said.out, "out")["tasks"]) == 3


def test_config_schema_is_json(capsys: Capture) -> None:
    schema = json.loads(dmpo(capsys, "config", "schema").out)
    assert "likelihood" in schema["properties"]


def test_config_validate_accepts_a_good_file(capsys: Capture) -> None:
    Path("mine.yaml").write_text("extends: sudoku\nbaseline: mean\n")
    assert dmpo(capsys, "config", "validate", "mine.yaml").out == "mine.yaml: valid\n"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("extends: sudoku\nseed: -1\n", "(from file mine.yaml)"),
        ("seed: 1\nseed: 2\n", "line 2: key 'seed' is given twice"),
        ("extends: sudoku\nbaselin: mean\n", "Did you mean 'baseline'?"),
    ],
)
def test_config_validate_refuses_in_one_line(capsys: Capture, content: str, text: str) -> None:
    Path("mine.yaml").write_text(content)
    assert_one_line(dmpo(capsys, "config", "validate", "mine.yaml"), 2, text)


def test_plugins_list_names_every_group_and_package(capsys: Capture) -> None:
    out = dmpo(capsys, "plugins", "list").out
    assert "samplers\n" in out
    assert "roar" in out
    assert "dmpo-dllm" in out


def test_plugins_show_prints_parameters(capsys: Capture) -> None:
    out = dmpo(capsys, "plugins", "show", "elbo").out
    assert "num_views: int" in out


def test_plugins_show_offers_the_nearest_name(capsys: Capture) -> None:
    assert_one_line(dmpo(capsys, "plugins", "show", "elbow"), 2, "Did you mean 'elbo'?")
