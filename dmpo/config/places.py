"""Where a command writes: a place that is free, and can be written to."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from dmpo.config.ranks import is_main_process, num_processes
from dmpo.errors import ConfigError

__all__ = ["check_writable", "decoded", "free_directory", "run_directory"]


def decoded(text: str) -> str:
    """Return an argument as UTF-8, also where the locale says otherwise."""
    return os.fsencode(text).decode("utf-8", errors="replace")


def free_directory(output: Path | None, label: str) -> Path:
    """Return the directory to write to: ``output``, or a new one under ``runs``.

    Raises:
        ConfigError: If it exists and is not an empty directory, or cannot be written.
    """
    if output is None:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        output = Path("runs") / f"{Path(label).stem}-{stamp}"
    check_writable(output, "--output")
    if output.exists() and not (output.is_dir() and all(map(_is_no_trace, output.iterdir()))):
        raise ConfigError(f"--output: {output} exists already; name one that does not.")
    return output


def check_writable(output: Path, flag: str) -> None:
    """Find out before any work whether something can be written at ``output``.

    Raises:
        ConfigError: If it lies below a file or in a directory that may not be written to, or
            its name needs another locale.
    """
    try:
        str(output).encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"{flag}: {decoded(str(output))} is no name in this locale "
            f"({sys.getfilesystemencoding()}); use another, or set PYTHONUTF8=1."
        ) from None
    try:
        existing = next(p for p in (output, *output.absolute().parents) if p.exists())
    except OSError as error:
        raise ConfigError(f"{flag}: {output} cannot be made: {error.strerror}.") from None
    if existing != output and not existing.is_dir():
        raise ConfigError(f"{flag}: {output} cannot be made: {existing} is not a directory.")
    if not os.access(existing, os.W_OK):
        raise ConfigError(f"{flag}: {output} cannot be made: {existing} may not be written to.")


def run_directory(output: Path | None, label: str, *, is_written: bool = True) -> Path:
    """Return the directory of a run, the same on every process.

    Args:
        output: As given; None: a new one under ``runs``.
        label: Of the recipe; a part of the new one's name.
        is_written: Whether anything will be written there.

    Raises:
        ConfigError: If it is taken, or several processes would each name their own.
    """
    if num_processes() > 1 and output is None and is_written:
        raise ConfigError("--output: several processes need one place; name it.")
    if output is not None and not is_main_process():
        return output
    return free_directory(output, label)


def _is_no_trace(path: Path) -> bool:
    """Return whether this is what a run leaves that was killed at its very start."""
    return path.name == ".lock" or path.name.endswith(".partial")
