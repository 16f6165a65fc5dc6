"""Where problems are read from: a file (JSON, JSONL, CSV, Parquet) or a data set on the hub."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmpo.errors import DataError, reading_failure

__all__ = ["Row", "is_file_source", "read_rows", "read_source"]

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class Row:
    """One problem of a source, and how messages call it."""

    origin: str
    """Option, file and line."""
    values: Mapping[str, Any]
    """By column."""


def is_file_source(source: str) -> bool:
    """Return whether a source is meant as a file, there or not, and not as a hub id."""
    path = Path(source).expanduser()
    return path.suffix.lower() in SUFFIXES or path.is_file()


def read_source(
    source: str,
    *,
    split: str,
    option: str,
    revision: str | None = None,
    subset: str | None = None,
) -> list[dict[str, Any]]:
    """Return all rows of a source, in order.

    Args:
        source: A file, or the id of a data set on the hub.
        split: Part of the hub's data set; a file is read whole.
        option: What messages call the setting: ``task.test_source``.
        revision: Commit, tag or branch on the hub.
        subset: Configuration of the hub's data set.

    Returns:
        Column to value; text throughout where the file is CSV.

    Raises:
        DataError: If it is missing, unreadable or empty.
    """
    if is_file_source(source):
        return [dict(row.values) for row in read_rows(Path(source).expanduser(), option)]
    return _from_hub(source, split=split, option=option, revision=revision, subset=subset)


def read_rows(path: Path, option: str) -> list[Row]:
    """Return the rows of a file with their origin; a file of another ending is read as JSONL.

    Raises:
        DataError: If it is missing, unreadable, not as its ending says, or empty.
    """
    read = {".json": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}.get(
        path.suffix.lower(), _jsonl_rows
    )
    rows = list(read(path, option))
    if not rows:
        raise DataError(f"{option}: {path} holds no problems.")
    return rows


def _text(path: Path, option: str) -> str:
    try:
        # A CSV field may hold line ends of its own, which universal newlines would change.
        with path.open(encoding="utf-8-sig", newline="") as file:
            return file.read()
    except (OSError, ValueError) as error:
        raise DataError(f"{option}: {path} cannot be read: {reading_failure(error)}.") from error


def _jsonl_rows(path: Path, option: str) -> Iterator[Row]:
    # Only "\n" ends a line of JSONL: text inside may hold the other separators of Unicode.
    for number, line in enumerate(_text(path, option).split("\n"), 1):
        if line.strip():
            origin = f"{option}: {path}, line {number}"
            yield _object(origin, _parsed(origin, line), line)


def _json_rows(path: Path, option: str) -> Iterator[Row]:
    origin = f"{option}: {path}"
    values = _parsed(origin, _text(path, option))
    if not isinstance(values, list):
        raise DataError(f"{origin}: a list of objects is needed; one object a line is JSONL.")
    for number, value in enumerate(values, 1):
        yield _object(f"{origin}, entry {number}", value, repr(value))


def _csv_rows(path: Path, option: str) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(_text(path, option)), strict=True)
    try:
        for number, values in enumerate(reader, 1):
            origin = f"{option}: {path}, row {number}"
            if None in values or None in values.values():
                columns = len(reader.fieldnames or ())
                raise DataError(f"{origin}: its fields are not the {columns} of the first line.")
            yield Row(origin=origin, values=values)
    except csv.Error as error:
        raise DataError(f"{option}: {path}, line {reader.line_num}: {error}.") from error


def _parquet_rows(path: Path, option: str) -> Iterator[Row]:
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{option}: {path} cannot be read: {reading_failure(error)}.") from error
    for number, values in enumerate(table.to_pylist(), 1):
        yield Row(origin=f"{option}: {path}, row {number}", values=values)


def _parsed(origin: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{origin}: not JSON: {reading_failure(error)}.") from error


def _object(origin: str, value: Any, shown: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"{origin}: a JSON object is needed, found {shown[:40]!r}.")
    return Row(origin=origin, values=value)


def _from_hub(
    source: str, *, split: str, option: str, revision: str | None, subset: str | None
) -> list[dict[str, Any]]:
    import datasets

    try:
        rows = datasets.load_dataset(source, subset, split=split, revision=revision)
    except Exception as error:  # the hub's client raises whatever its layers raise
        reason = str(error).strip().split("\n")[0]
        raise DataError(
            f"{option}: {source!r} is no file here ({', '.join(SUFFIXES)}), and its {split} split "
            f"cannot be had from the hub: {type(error).__name__}: {reason}"
        ) from error
    found = [dict(row) for row in rows]
    if not found:
        raise DataError(f"{option}: the {split} split of {source} holds no problems.")
    return found
