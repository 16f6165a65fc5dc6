"""Rows that are no problem, in every task with a source: the run ends, or goes on without."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dmpo.errors import ConfigError, DataError, DataWarning
from dmpo.registry import TASKS
from dmpo.tasks.base import Task

GOOD: dict[str, dict[str, Any]] = {
    "gsm8k": {"question": "q", "answer": "#### 1"},
    "math500": {"problem": "q", "answer": "1"},
    "countdown": {"numbers": [1, 2, 3], "target": 6},
    "sudoku": {"puzzle": "0234341221434321", "solution": "1234341221434321"},
    "code": {"prompt": "p", "tests": "assert f(1)"},
    "file": {"prompt": "p", "answer": "a"},
}
BAD: list[tuple[str, Any, str]] = [
    ("gsm8k", {"question": " ", "answer": "1"}, "text under 'question' is needed"),
    ("gsm8k", {"question": "q", "answer": "one"}, "the answer must be a number, found 'one'"),
    ("math500", {"problem": ["q"], "answer": "1"}, "text under 'problem' or 'question'"),
    ("countdown", {"numbers": [1.5, 2], "target": 3}, "whole numbers (or nums, input)"),
    ("countdown", {"numbers": [1, 2], "target": float("inf")}, "whole numbers (or nums, input)"),
    ("countdown", {"numbers": [], "target": 3}, "whole numbers (or nums, input)"),
    ("countdown", {"numbers": 3, "target": 3}, "whole numbers (or nums, input)"),
    ("sudoku", {"puzzle": "1", "solution": "2"}, "'2' is no solution of the puzzle '1'"),
    ("code", {"prompt": "p", "tests": "f("}, "the tests cannot be used: not Python"),
    ("file", {"prompt": "", "answer": "a"}, "column 'prompt' must be text"),
    ("file", {"prompt": "p", "answer": {}}, "column 'answer' must be text"),
    ("file", {"question": "p", "answer": "a"}, "no column 'prompt' (prompt_column)"),
    *((name, 5, "a JSON object is needed, found '5'") for name in GOOD),
]


def build(name: str, path: Path, rows: list[Any], **settings: Any) -> Task:
    """Return a task whose test problems are these rows."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    if name != "file":
        return TASKS.build(name, {"test_source": str(path), **settings})
    others = path.with_name("others.jsonl")
    others.write_text("".join(json.dumps({"prompt": str(n), "answer": "a"}) + "\n" for n in "123"))
    files = {"path": str(others), "test_path": str(path), "response_length": 4}
    return TASKS.build(name, {**files, **settings})


@pytest.mark.parametrize(("name", "row", "message"), BAD)
def test_a_row_that_is_no_problem_ends_the_run(
    tmp_path: Path, name: str, row: Any, message: str
) -> None:
    path = tmp_path / "rows.jsonl"
    task = build(name, path, [GOOD[name], row])
    with pytest.raises(DataError, match=re.escape(f"{path}, line 2: {message}")) as caught:
        task.examples("test")
    assert str(caught.value).startswith("task.test_")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "row", "message"), BAD)
def test_a_row_that_is_no_problem_is_skipped_by_option(
    tmp_path: Path, name: str, row: Any, message: str
) -> None:
    task = build(name, tmp_path / "rows.jsonl", [GOOD[name], row], on_bad_row="skip")
    with pytest.warns(DataWarning, match=f"1 of 2 rows skipped; .*{re.escape(message)}") as said:
        task.examples("test")
    assert len(task.examples("test")) == 1
    assert len(said) == 1


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("on_bad_row", ["stop", "skip"])
def test_a_source_without_a_single_problem_is_an_error(
    tmp_path: Path, name: str, on_bad_row: str
) -> None:
    task = build(name, tmp_path / "rows.jsonl", [[], 3], on_bad_row=on_bad_row)
    with pytest.raises(DataError, match="line 1: a JSON object is needed, found"):
        task.examples("test")


@pytest.mark.parametrize(
    ("name", "settings"), [("sudoku", {}), ("countdown", {}), ("code", {"source": "generated"})]
)
def test_skipping_rows_of_problems_made_here_has_no_effect_and_is_refused(
    name: str, settings: dict[str, str]
) -> None:
    with pytest.raises(ConfigError, match="on_bad_row has no effect without train_source"):
        TASKS.config(name, {**settings, "on_bad_row": "skip"})


def test_rows_of_a_hub_without_an_assertion_are_skipped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [GOOD["code"], {"prompt": "p", "tests": "f(1)"}]
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: rows)
    task = TASKS.build("code", {"test_source": "owner/problems"})
    with pytest.warns(DataWarning, match="owner/problems: 1 of 2 rows skipped; the first: row 2: "):
        task.examples("test")
