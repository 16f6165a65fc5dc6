"""Files that are whole or not there: written beside and renamed, or taken back on failure."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from dmpo.errors import OutputError

__all__ = ["append_line", "filling", "flush", "read_lines", "replace_text", "writing"]


def replace_text(path: Path, text: str) -> None:
    """Write a file so that a reader finds either the old text or the new one, never a part.

    Missing folders are made, and taken back if the text cannot be written. The text is on disk,
    not only in the system's memory, before it takes its place.

    Args:
        path: What is written, in UTF-8.
        text: All of it.

    Raises:
        OutputError: If it cannot be written; the old file stays as it was.
    """
    beside = path.with_name(f".{path.name}.partial")
    with writing(path), _made(path.parent):
        try:
            # A path in a locale other than UTF-8 holds the bytes that could not be decoded.
            with beside.open("w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
            flush(path.parent)
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
        left = memoryview(f"{line}\n".encode(errors="surrogateescape"))
        try:
            while left:
                left = left[file.write(left) :]
        except BaseException:
            file.truncate(before)
            raise


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 file, cut at line feeds alone.

    ``str.splitlines`` cuts at seven more characters, which JSON texts may hold as they are.

    Raises:
        OSError: If it cannot be read.
        UnicodeDecodeError: If it is not UTF-8.
    """
    lines = path.read_bytes().decode("utf-8").split("\n")
    return lines if lines[-1] else lines[:-1]


def flush(path: Path) -> None:
    """Have the system write a file or folder to disk, so that a power cut does not undo it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def filling(directory: Path) -> Iterator[Path]:
    """Give a folder whose files take their places in ``directory`` at the end, or not at all.

    Args:
        directory: Made if it is missing; its other files stay.

    Raises:
        OutputError: If writing inside failed: nothing has changed; or if a file could not take its
            place: those before it have.
    """
    beside = directory / ".partial"
    with writing(directory), _made(directory):
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        try:
            with _named_after(beside, directory):
                yield beside
            for path in sorted(beside.iterdir()):
                path.replace(directory / path.name)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


@contextlib.contextmanager
def _named_after(beside: Path, directory: Path) -> Iterator[None]:
    """Say what cannot be written by the name it was going to have."""
    try:
        yield
    except OutputError as error:
        raise OutputError(
            str(error).replace(f"{beside}{os.sep}", f"{directory}{os.sep}")
        ) from error


@contextlib.contextmanager
def _made(directory: Path) -> Iterator[None]:
    """Make a folder with those above it; on failure remove those it made that are empty."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


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
