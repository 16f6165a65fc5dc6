"""``dmpo eval`` on several tasks, on saved completions, and after a stop."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dmpo.cli.evaluate import UNFINISHED
from dmpo.errors import OutputError
from tests.cli.byte_llada import save_byte_llada
from tests.cli.command import SCRATCH, assert_one_line, dmpo
from tests.paths import DATA, needs_data

Capture = pytest.CaptureFixture[str]
FEW = ("--set", SCRATCH, "--num-examples", "3")
PUBLISHED = {
    "gsm8k": (1130, 0.7637),
    "math500": (500, 0.3240),
    "countdown": (256, 0.1953),
    "sudoku": (256, 0.0669),
}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@needs_data
@pytest.mark.parametrize("task", PUBLISHED)
def test_published_verdicts_are_those_of_the_published_parser(capsys: Capture, task: str) -> None:
    file = DATA / "llada_outputs" / f"{task}_256.jsonl"
    given = ("--task", task, "--from-completions", str(file), "--grader", "published")
    said = dmpo(capsys, "eval", *given, "--output", "result.json")
    assert (said.code, said.err) == (0, "")
    found = json.loads(Path("result.json").read_text())
    count, accuracy = PUBLISHED[task]
    assert round(found["accuracy"], 4) == accuracy
    assert (found["task"], found["grader"], found["num_examples"]) == (task, "published", count)


def test_tasks_and_lengths_make_a_grid_of_files(capsys: Capture) -> None:
    grid = ("--task", "digit_sum,sudoku", "--gen-length", "16,20", "--output", "out")
    said = dmpo(capsys, "eval", *FEW, *grid)
    assert (said.code, said.err) == (0, "")
    assert "Accuracy, with its 95% interval" in said.out
    names = {path.name for path in Path("out").iterdir()}
    cells = {f"{task}-{length}" for task in ("digit_sum", "sudoku") for length in (16, 20)}
    assert names == {f"{cell}.jsonl" for cell in cells} | {
        "evaluation.json",
        "evaluation.md",
        "table.md",
    }
    assert json.loads(Path("out/evaluation.json").read_text()).keys() == cells


def test_own_completions_are_graded_again_alike(capsys: Capture) -> None:
    sampled = ("--task", "sudoku", "--samples", "2", "--evaluation.sampler.temperature", "1.0")
    assert dmpo(capsys, "eval", *FEW, *sampled, "--output", "out").code == 0
    first = json.loads(Path("out/evaluation.json").read_text())["sudoku-16"]
    again = ("--task", "sudoku", "--from-completions", "out/completions.jsonl")
    assert dmpo(capsys, "eval", *again, "--output", "again.json").code == 0
    second = json.loads(Path("again.json").read_text())
    same = ("figures", "accuracy", "pass_at", "majority", "num_examples", "response_length")
    assert {name: first[name] for name in same} == {name: second[name] for name in same}


def test_a_stopped_evaluation_goes_on_without_sampling_again(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = (*FEW, "--task", "digit_sum", "--evaluation.rows_per_forward", "1", "--output")
    assert dmpo(capsys, "eval", *given, "whole").code == 0
    with monkeypatch.context() as stop:
        stop.setattr("dmpo.evaluation.saved.write_completions", fails)
        assert_one_line(dmpo(capsys, "eval", *given, "stopped"), 1, "disk full")
    assert [path.name for path in Path("stopped").iterdir()] == [UNFINISHED]
    other = dmpo(capsys, "eval", *given, "stopped", "--seed", "9")
    assert_one_line(other, 2, "unfinished evaluation with other settings")
    with monkeypatch.context() as patch:
        patch.setattr("dmpo.evaluation.evaluator.Evaluator.evaluate_chunk", fails)
        assert dmpo(capsys, "eval", *given, "stopped").code == 0
    whole, stopped = Path("whole/completions.jsonl"), Path("stopped/completions.jsonl")
    assert whole.read_text() == stopped.read_text()
    assert not (Path("stopped") / UNFINISHED).exists()
    assert_one_line(dmpo(capsys, "eval", *given, "stopped"), 2, "stopped exists already")


def fails(*_: object, **__: object) -> None:
    raise OutputError("stopped: disk full.")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("--from-completions x.jsonl", "--from-completions: needs one --task"),
        ("--task sudoku,digit_sum --from-completions x.jsonl", "needs one --task"),
        ("--task sudoku --from-completions x.jsonl --samples 2", "nothing is sampled; leave out"),
        ("--task sudoku --from-completions x.jsonl", "--from-completions: x.jsonl cannot be read"),
        ("--task sudoku,sudoku", "must be names with commas between, none twice"),
        ("--task sudoku, --gen-length 4", "must be names with commas between"),
        ("--task sudoku --gen-length 16,0", "0 is not at least 1"),
        ("--task sudoku --grader mine", "task.grader: must be 'default' or 'published'"),
        ("--task digit_sum --grader published", "task.grader: unknown key"),
        ("--task sudoku --grader published", "grader 'published' reads answers in the paper's"),
        ("--task gone.csv", "task.path: gone.csv cannot be read"),
        ("--task gone.py:Task", "task.target: no file gone.py"),
    ],
)
def test_contradictions_are_one_line(capsys: Capture, arguments: str, text: str) -> None:
    assert_one_line(dmpo(capsys, "eval", *arguments.split()), 2, text)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ('{"completion": "1"}', "line 1: it does not say which problem it answers"),
        ('{"prompt": "1!23=", "columns": {}}', "`completion` must be text, found None"),
        (
            '{"question": "none", "reference": "1", "completion": ""}',
            "holds no puzzle of 16 digits",
        ),
    ],
)
def test_completions_without_a_problem_are_named(capsys: Capture, line: str, text: str) -> None:
    Path("saved.jsonl").write_text(line)
    said = dmpo(capsys, "eval", "--task", "sudoku", "--from-completions", "saved.jsonl")
    assert_one_line(said, 2, text)


def test_problems_of_a_file_and_of_a_class_of_ones_own(capsys: Capture) -> None:
    rows = [f"{n}+1=,{n + 1}" for n in range(9)]
    Path("problems.csv").write_text("\n".join(["prompt,answer", *rows]))
    said = dmpo(capsys, "eval", *FEW, "--task", "problems.csv", "--gen-length", "4")
    assert (said.code, said.err) == (0, "")
    Path("mine.py").write_text("from dmpo.tasks.digit_sum import DigitSumTask")
    assert dmpo(capsys, "eval", *FEW, "--task", "mine.py:DigitSumTask").code == 0


def test_two_processes_find_what_one_finds(capsys: Capture) -> None:
    given = (*FEW, "--task", "digit_sum", "--samples", "2")
    given += ("--evaluation.sampler.temperature", "1.0", "--evaluation.rows_per_forward", "2")
    assert dmpo(capsys, "eval", *given, "--output", "one").code == 0
    # With --cpu, Accelerate's launcher starts one process whatever number it is told.
    launch = (sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu")
    command = (*launch, "--num_processes", "2", "--num_machines", "1")
    command += ("--mixed_precision", "no", "--dynamo_backend", "no")
    command += ("--main_process_port", "0", "-m", "dmpo", "eval", *given, "--output", "two")
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert said.returncode == 0, said.stderr
    assert said.stdout.count("llada tiny on digit_sum") == 1
    one, two = Path("one/completions.jsonl"), Path("two/completions.jsonl")
    assert one.read_text() == two.read_text()
    assert {path.name for path in Path("two").iterdir()} == {
        path.name for path in Path("one").iterdir()
    }


def test_any_checkpoint_is_measured_as_the_paper_does(capsys: Capture) -> None:
    model = str(save_byte_llada(Path("model")))
    given = ("--policy", "llada", "--model", model, "--num-examples", "2")
    grid = ("--task", "countdown,sudoku", "--gen-length", "32,64", "--output", "out")
    said = dmpo(capsys, "eval", *given, *grid)
    assert (said.code, said.err) == (0, "")
    first = json.loads(Path("out/sudoku-64.jsonl").read_text().split("\n")[0])
    assert first["prompt"].startswith("\nPlease solve the following 4x4 Sudoku puzzle.")
    assert first["prefill"] == "<reasoning>"
    figures = json.loads(Path("out/evaluation.json").read_text())
    passes = {cell: figure["num_forwards"] for cell, figure in figures.items()}
    assert passes["sudoku-64"] == 2 * passes["sudoku-32"] == 32


def test_words_are_read_from_a_file(capsys: Capture) -> None:
    model = str(save_byte_llada(Path("model")))
    Path("words.jsonl").write_text('{"question": "1 and 1?", "answer": "#### 2"}')
    given = ("--model", model, "--task", "gsm8k", "--task.test_source", "words.jsonl")
    said = dmpo(capsys, "eval", *given, "--gen-length", "32", "--output", "result.json")
    assert (said.code, said.err) == (0, "")
    assert json.loads(Path("result.json").read_text())["num_examples"] == 1
