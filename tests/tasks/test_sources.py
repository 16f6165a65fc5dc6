from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from dmpo.errors import DataError, DataWarning
from dmpo.records import Example
from dmpo.tasks.sources import (
    Row,
    cell_text,
    is_file_source,
    read_examples,
    read_rows,
    read_source,
)

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
    rows = list(read_source(str(path), split="test", option="task.path"))
    assert rows == read_rows(path, "task.path")
    assert [row.values for row in rows] == ROWS
    assert all(row.origin.startswith(f"task.path: {path}, ") for row in rows)


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
        list(read_source("no/such", split="test", option="task.test_source"))


def example_of(row: Row) -> Example:
    if "puzzle" not in row.values:
        raise DataError(f"{row.origin}: no puzzle.")
    return Example(prompt=row.values["puzzle"])


def examples(path: Path, on_bad_row: Literal["stop", "skip"] = "stop") -> list[Example]:
    rows = read_source(str(path), split="test", option="task.path")
    return read_examples(rows, example_of, origin=f"task.path: {path}", on_bad_row=on_bad_row)


def parquet_with_bad_text(path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    offsets, values = pyarrow.py_buffer(np.int32([0, 1, 2, 3])), pyarrow.py_buffer(b"1\xe93")
    text = pyarrow.StringArray.from_buffers(3, offsets, values)
    table = pyarrow.table({"puzzle": text})
    pytest.importorskip("pyarrow.parquet").write_table(table, path)


BAD = [
    ("a.jsonl", b'{"puzzle": "1"}\n\n{"puzzle":\n', r"line 3: not JSON: Expecting value at col"),
    ("a.jsonl", b'{"puzzle": "1"}\n{"puzzle": "\xe9"}\n', r"line 2: cannot be read: it is not UTF"),
    ("a.jsonl", b'{"puzzle": "1"}\n{"answer": "1"}\n', r"line 2: no puzzle"),
    ("a.json", b'[{"puzzle": "1"}, 3]', r"entry 2: a JSON object is needed, found '3'"),
    ("a.csv", b"puzzle,b\n1,2\n1\n", r"row 2: its fields are not the 2 of the first line"),
    ("a.csv", b"puzzle,b\n1,2\n1,\xe9\n", r"row 2, column 'b': cannot be read: it is not UTF-8"),
    ("a.parquet", None, r"row 2: cannot be read: it is not UTF-8 text \(byte 1 is 0xe9\)"),
]


@pytest.fixture(params=BAD, ids=lambda case: f"{case[0]}: {case[2]}")
def bad(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A file with a row that cannot be used, and what is to be said of it."""
    name, content, message = request.param
    path = tmp_path / name
    parquet_with_bad_text(path) if content is None else path.write_bytes(content)
    return path, message


def test_a_bad_row_ends_the_reading_and_is_named(bad: tuple[Path, str]) -> None:
    path, message = bad
    with pytest.raises(DataError, match=rf"^task\.path: {path}, {message}"):
        examples(path)


def test_bad_rows_are_skipped_by_option_and_said_once(bad: tuple[Path, str]) -> None:
    path, message = bad
    with pytest.warns(DataWarning) as said:
        found = examples(path, "skip")
    assert found[0].prompt == "1"
    (warning,) = said
    pattern = rf"task\.path: {path}: 1 of [23] rows skipped; the first: {message}"
    assert re.match(pattern, str(warning.message))


def test_good_rows_are_skipped_in_silence(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    assert len(examples(write(tmp_path / "a.jsonl"), "skip")) == 2
    assert not recwarn


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "{\n{}\n[]", "none of its 3 rows is a problem; the first: line 1: not JSON"),
        ("a.jsonl", "\n", "a.jsonl holds no problems"),
        ("a.json", "[{},", "not JSON"),
        ("a.csv", 'puzzle\n1\n"2\n3\n', "line 3: unexpected end of data"),
        ("a.csv", "puz\udce9zle\n1\n", "first line: cannot be read: it is not UTF-8"),
        ("a.parquet", "no parquet", "cannot be read"),
    ],
)
def test_what_no_row_is_left_of_is_an_error_with_either_option(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode(errors="surrogateescape"))
    for on_bad_row in ("stop", "skip"):
        with pytest.raises(DataError) as caught:
            examples(path, on_bad_row)
        assert "\n" not in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [("a", "a"), (3, "3"), (10**400, str(10**400)), (0.5, "0.5")]
    + [(value, None) for value in ("", " \n", "\ud800", math.nan, math.inf, True, None, ["a"])],
)
def test_text_of_a_cell_is_text_or_a_finite_number(value: object, text: str | None) -> None:
    assert cell_text(value) == text
