from __future__ import annotations

import json
from pathlib import Path

import pytest

from dmpo.errors import DataError
from dmpo.tasks.sources import is_file_source, read_rows, read_source

ROWS = [{"puzzle": "0012", "answer": "a,b"}, {"puzzle": "0345", "answer": "two\nlines"}]


def write(path: Path) -> Path:
    """Write ``ROWS`` in the form that the ending says."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif path.suffix == ".json":
        path.write_text(json.dumps(ROWS))
    elif path.suffix == ".csv":
        path.write_bytes(b'\xef\xbb\xbfpuzzle,answer\n0012,"a,b"\n0345,"two\nlines"\n')
    else:
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
def test_every_form_of_a_file_gives_the_same_rows(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"problems.{ending}")
    assert read_source(str(path), split="test", option="task.path") == ROWS
    assert [f"task.path: {path}" in row.origin for row in read_rows(path, "task.path")] == [
        True
    ] * 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{}", "a list of objects is needed"),
        ("a.json", "[1]", "entry 1: a JSON object is needed, found '1'"),
        ("a.jsonl", "{}\n[", "line 2: not JSON"),
        ("a.csv", "a,b\n1\n", "row 1: its fields are not the 2 of the first line"),
        ("a.csv", 'a,b\n"1', "unexpected end of data"),
        ("a.csv", "a,b\n", "holds no problems"),
        ("a.parquet", "no parquet", "cannot be read"),
    ],
)
def test_what_is_no_table_of_problems_is_named(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_rows(path, "task.path")


def test_an_ending_or_a_file_that_is_there_makes_a_source_a_file(tmp_path: Path) -> None:
    (tmp_path / "problems").write_text("")
    assert is_file_source("gone.jsonl")
    assert is_file_source(str(tmp_path / "problems"))
    assert not is_file_source("openai/gsm8k")


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"task.test_source: 'no/such' is no file here .* test spl"):
        read_source("no/such", split="test", option="task.test_source")
