"""Files that are whole or not there: written beside and renamed, or taken back on failure."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from dmpo.errors import OutputError

__all__ = ["append_line", "filling", "replace_text", "writing"]


def replace_text(path: Path, text: str) -> None:
    """Write a file so that a reader finds either the old text or the new one, never a part.

    Missing folders are made. The text is on disk, not only in the system's memory, before it
    takes its place.

    Args:
        path: What is written, in UTF-8.
        text: All of it.

    Raises:
        OutputError: If it cannot be written; the old file stays as it was.
    """
    beside = path.with_name(f".{path.name}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, whole or not at all.

    Args:
        path: Made if it is missing; its folder exists.
        line: Without the line break.

    Raises:
        OutputError: If it cannot be written; what was there stays.
    """
    with writing(path), path.open("ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        left = memoryview(f"{line}\n".encode())
        try:
            while left:
                left = left[file.write(left) :]
        except BaseException:
            file.truncate(before)
            raise


@contextlib.contextmanager
def filling(directory: Path) -> Iterator[Path]:
    """Give a folder whose files take their places in ``directory`` at the end, or not at all.

    Args:
        directory: Made if it is missing; its other files stay.

    Raises:
        OutputError: If writing inside failed; nothing has changed.
    """
    beside = directory / ".partial"
    with writing(directory):
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        try:
            yield beside
            for path in sorted(beside.iterdir()):
                path.replace(directory / path.name)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one line that ``path`` cannot be written, whatever the system's error inside is.

    Raises:
        OutputError: From an :class:`OSError`, or what safetensors makes of one.
    """
    try:
        yield
    except OutputError:
        raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{path}: cannot be written: {reason}.") from error
