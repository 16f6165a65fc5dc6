from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dmpo.errors import DataError
from dmpo.registry import TASKS
from dmpo.tasks.file import FileConfig, FileTask

SPLITS = ("train", "validation", "test")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def task_of(path: Path, **parameters: Any) -> FileTask:
    return FileTask(FileConfig(path=path, response_length=8, **parameters))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rows = [{"prompt": f"{n // 2}+1=", "answer": str(n // 2 + 1), "n": n} for n in range(40)]
    return write(tmp_path / "problems.jsonl", rows)


def test_file_is_registered() -> None:
    assert TASKS.load("file") is FileTask


def test_splits_share_no_prompt_and_keep_lines_of_one_prompt_together(path: Path) -> None:
    parts = [[e.prompt for e in task_of(path).examples(split)] for split in SPLITS]
    assert [len(part) for part in parts] == [32, 4, 4]
    assert [len(set(part)) for part in parts] == [16, 2, 2]
    assert len(set(parts[0] + parts[1] + parts[2])) == 20


def test_examples_are_those_of_the_seed(path: Path) -> None:
    tasks = [task_of(path, seed=0), task_of(path, seed=0), task_of(path, seed=1)]
    prompts = [[e.prompt for e in task.examples("test")] for task in tasks]
    assert prompts[0] == prompts[1] != prompts[2]


def test_other_keys_are_columns_and_the_answer_is_one(path: Path) -> None:
    example = task_of(path).examples("train")[0]
    assert set(example.columns) == {"answer", "n"}
    assert example.prompt == f"{example.columns['n'] // 2}+1="


def test_files_of_their_own_are_the_held_out_splits(path: Path, tmp_path: Path) -> None:
    held_out = write(tmp_path / "test.jsonl", [{"prompt": "3+1=", "answer": "4"}])
    task = task_of(path, test_path=held_out, validation_path=held_out.with_name("v.jsonl"))
    write(
        tmp_path / "v.jsonl",
        [{"prompt": "8+8=", "answer": "16"}, {"prompt": "3+1=", "answer": "4"}],
    )
    prompts = [{e.prompt for e in task.examples(split)} for split in SPLITS]
    assert prompts[1:] == [{"8+8="}, {"3+1="}]
    assert len(prompts[0]) == 19
    assert "3+1=" not in prompts[0]


def test_columns_can_have_other_names(tmp_path: Path) -> None:
    rows = [{"question": str(n), "label": n, "prompt": "x"} for n in range(10)]
    path = write(tmp_path / "p.jsonl", rows)
    task = task_of(path, prompt_column="question", answer_column="label")
    example = task.examples("train")[0]
    named = {"label": int(example.prompt), "answer": example.prompt}
    assert example.columns == {"prompt": "x", **named}


@pytest.mark.parametrize(
    ("completion", "right"), [("new  York\n", 1), ("new york", 0), ("new York.", 0), ("", 0)]
)
def test_grade_is_exact_up_to_white_space(tmp_path: Path, completion: str, right: int) -> None:
    rows = [{"prompt": str(n), "answer": " new York"} for n in range(3)]
    task = task_of(write(tmp_path / "p.jsonl", rows))
    example = task.examples("train")[0]
    assert task.grade(example, completion) == {"right": right}
    assert task.grade(example, task.demonstrate(example, random.Random(0))) == {"right": 1}


@given(completion=st.text())
def test_grade_never_raises(tmp_path_factory: pytest.TempPathFactory, completion: str) -> None:
    rows = [{"prompt": str(n), "answer": "1"} for n in range(3)]
    task = task_of(write(tmp_path_factory.mktemp("file") / "p.jsonl", rows))
    example = task.examples("train")[0]
    right = task.read_answer(example, completion) == "1"
    assert task.grade(example, completion) == {"right": float(right)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no problems"),
        ("\n \n", "holds no problems"),
        ('{"prompt": "a", "answer": "b"}\n{"prompt": ', "line 2: not JSON"),
        ('\n["a", "b"]\n', "line 2: a JSON object is needed"),
        ('{"prompt": "a"}', r"line 1: no column 'answer' \(answer_column\); it has 'prompt'"),
        ('{"prompt": null, "answer": "b"}', "line 1: column 'prompt' must be text"),
        ('{"prompt": " ", "answer": "b"}', "line 1: column 'prompt' must be text"),
        ('{"prompt": NaN, "answer": "b"}', "line 1: column 'prompt' must be text.* found nan"),
        ('{"prompts": "a", "answer": "b"}', "no column 'prompt' .* Did you mean 'prompts'?"),
        ("[" * 100_000, "line 1: not JSON: too many lists"),
        ('{"prompt": "a", "answer": "b"}', "p.jsonl has 1 different prompts; 1 for test"),
    ],
)
def test_files_that_cannot_be_used_are_refused_in_one_line(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        task_of(path).examples("train")
    assert "\n" not in str(caught.value)


def test_missing_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"task\.path: .*absent\.jsonl cannot be read: No such file"
    ):
        task_of(tmp_path / "absent.jsonl").examples("train")
    with pytest.raises(DataError, match="cannot be read"):
        task_of(tmp_path).examples("train")
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "é"}'.encode("latin-1"))
    with pytest.raises(DataError, match="cannot be read"):
        task_of(tmp_path / "latin.jsonl").examples("train")


def test_a_split_that_is_used_up_by_another_is_refused(path: Path, tmp_path: Path) -> None:
    row = [{"prompt": "3+1=", "answer": "4"}]
    both = write(tmp_path / "t.jsonl", row)
    with pytest.raises(DataError, match="no validation problems are left"):
        task_of(path, test_path=both, validation_path=both).examples("validation")


def test_fraction_without_effect_is_refused(path: Path) -> None:
    with pytest.raises(ValidationError, match="test_fraction has no effect beside test_path"):
        task_of(path, test_path=path, test_fraction=0.2)
