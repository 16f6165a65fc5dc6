"""Where problems are read from: a file (JSON, JSONL, CSV, Parquet) or a data set on the hub.

A row that cannot be read is named by file and line. By the setting ``on_bad_row`` it ends the
run, or is left out and counted; what is wrong with a file as a whole is always an error.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from dmpo.errors import DataError, DataWarning, reading_failure
from dmpo.records import Example

__all__ = [
    "OnBadRow",
    "Row",
    "cell_text",
    "check_has_source",
    "file_rows",
    "is_file_source",
    "read_examples",
    "read_rows",
    "read_source",
]

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_SURROGATE = re.compile("[\ud800-\udfff]")

OnBadRow = Annotated[
    Literal["stop", "skip"],
    Field(
        description="`stop`: a row that cannot be read, or is no problem, ends the run; `skip`: "
        "it is left out, and how many were is said."
    ),
]
"""What becomes of a row that is no problem: the setting of every task that reads a source."""


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
) -> Iterator[Row | DataError]:
    """Yield the rows of a source, in order, and an error in place of each that cannot be read.

    Args:
        source: A file, or the id of a data set on the hub.
        split: Part of the hub's data set; a file is read whole.
        option: What messages call the setting: ``task.test_source``.
        revision: Commit, tag or branch on the hub.
        subset: Configuration of the hub's data set.

    Yields:
        Rows, whose values are text throughout where the file is CSV; errors name their row.

    Raises:
        DataError: If the source as a whole is missing or unreadable.
    """
    if is_file_source(source):
        yield from file_rows(Path(source).expanduser(), option)
        return
    rows = _from_hub(source, split=split, option=option, revision=revision, subset=subset)
    for number, values in enumerate(rows, 1):
        yield Row(origin=f"{option}: {source}, row {number}", values=values)


def file_rows(path: Path, option: str) -> Iterator[Row | DataError]:
    """Yield the rows of a file as :func:`read_source` does, whatever the file's ending.

    Raises:
        DataError: If it is missing, unreadable, or not as its ending says.
    """
    read = {".json": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}.get(
        path.suffix.lower(), _jsonl_rows
    )
    return read(path, option)


def read_rows(path: Path, option: str) -> list[Row]:
    """Return the rows of a file with their origin; a file of another ending is read as JSONL.

    Raises:
        DataError: If it is missing, unreadable, not as its ending says, or empty.
    """
    rows = []
    for row in file_rows(path, option):
        if isinstance(row, DataError):
            raise row
        rows.append(row)
    if not rows:
        raise DataError(f"{option}: {path} holds no problems.")
    return rows


def read_examples(
    rows: Iterable[Row | DataError],
    example_of: Callable[[Row], Example],
    *,
    origin: str,
    on_bad_row: Literal["stop", "skip"] = "stop",
) -> list[Example]:
    """Return the problems that rows are, in order.

    How many rows were skipped, and what is wrong with the first of them, is one
    :class:`~dmpo.errors.DataWarning`.

    Args:
        rows: Of :func:`read_source` or :func:`file_rows`.
        example_of: Makes a problem of a row, or raises DataError, which names it.
        origin: Option and source, for messages about all rows.
        on_bad_row: Whether a row that is no problem ends the reading.

    Raises:
        DataError: The first bad row's, unless it is to be skipped; if every row is bad; or if
            there are none.
    """
    examples: list[Example] = []
    bad: list[DataError] = []
    for row in rows:
        try:
            if isinstance(row, DataError):
                raise row
            examples.append(example_of(row))
        except DataError as error:
            if on_bad_row == "stop":
                raise
            bad.append(error)
    count = len(examples) + len(bad)
    if not count:
        raise DataError(f"{origin} holds no problems.")
    if bad:
        first = str(bad[0]).removeprefix(f"{origin}, ")
        if not examples:
            raise DataError(f"{origin}: none of its {count} rows is a problem; the first: {first}")
        message = f"{origin}: {len(bad)} of {count} rows skipped; the first: {first}"
        warnings.warn(DataWarning(message), stacklevel=2)
    return examples


def check_has_source(on_bad_row: str, *sources: str | None) -> None:
    """Refuse to skip rows where every problem is made here.

    Raises:
        ValueError: If so.
    """
    if on_bad_row == "skip" and not any(sources):
        raise ValueError("on_bad_row has no effect without train_source or test_source.")


def cell_text(value: Any) -> str | None:
    """Return the text that a row has in a column; None where it is none that can be read.

    A finite number counts as its text. White space alone is nothing, and half of a surrogate
    pair, which JSON can spell, is no text to any tokenizer.
    """
    if isinstance(value, str):
        return value if value.strip() and not _SURROGATE.search(value) else None
    if isinstance(value, float):
        return str(value) if math.isfinite(value) else None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _bytes(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except (OSError, ValueError) as error:
        raise DataError(f"{option}: {path} cannot be read: {reading_failure(error)}.") from error


def _decoded(content: bytes, origin: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{origin} cannot be read: {reading_failure(error)}.") from None


def _jsonl_rows(path: Path, option: str) -> Iterator[Row | DataError]:
    # Only "\n" ends a line of JSONL: text inside may hold the other separators of Unicode. Each
    # is decoded by itself, so that bytes that are no text spoil their own line alone.
    for number, line in enumerate(_bytes(path, option).split(b"\n"), 1):
        if line.strip():
            origin = f"{option}: {path}, line {number}"
            try:
                text = _decoded(line, f"{origin}:")
                yield _object(origin, _parsed(origin, text), text)
            except DataError as error:
                yield error


def _json_rows(path: Path, option: str) -> Iterator[Row | DataError]:
    origin = f"{option}: {path}"
    values = _parsed(origin, _decoded(_bytes(path, option), origin))
    if not isinstance(values, list):
        raise DataError(f"{origin}: a list of objects is needed; one object a line is JSONL.")
    for number, value in enumerate(values, 1):
        try:
            yield _object(f"{origin}, entry {number}", value, repr(value))
        except DataError as error:
            yield error


def _csv_rows(path: Path, option: str) -> Iterator[Row | DataError]:
    # Bytes that are no text are kept as lone surrogates, which UTF-8 itself never gives.
    text = _bytes(path, option).decode(errors="surrogateescape")
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        header = "".join(reader.fieldnames or ())
        _decoded(header.encode(errors="surrogateescape"), f"{option}: {path}, first line:")
        for number, values in enumerate(reader, 1):
            yield _csv_row(values, f"{option}: {path}, row {number}", len(reader.fieldnames or ()))
    except csv.Error as error:  # where the next row begins is then not known
        raise DataError(f"{option}: {path}, line {reader.line_num + 1}: {error}.") from error


def _csv_row(values: Mapping[Any, Any], origin: str, num_columns: int) -> Row | DataError:
    if None in values or None in values.values():
        return DataError(f"{origin}: its fields are not the {num_columns} of the first line.")
    try:
        for name, value in values.items():
            _decoded(value.encode(errors="surrogateescape"), f"{origin}, column {name!r}:")
    except DataError as error:
        return error
    return Row(origin=origin, values=values)


def _parquet_rows(path: Path, option: str) -> Iterator[Row | DataError]:
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(f"{option}: {path} cannot be read: {reading_failure(error)}.") from error
    number = 0
    for batch in table.to_batches():
        for values in _batch_rows(batch):
            number += 1
            origin = f"{option}: {path}, row {number}"
            if isinstance(values, UnicodeDecodeError):
                yield DataError(f"{origin}: cannot be read: {reading_failure(values)}.")
            else:
                yield Row(origin=origin, values=values)


def _batch_rows(batch: Any) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
    """Yield the rows of a batch, one at a time where they cannot be had at once."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError as error:  # nothing checks text when it is written
        if batch.num_rows == 1:
            yield error
            return
        for index in range(batch.num_rows):
            yield from _batch_rows(batch.slice(index, 1))


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
