"""The folder of a run: who may write to it, its checkpoints, and going back to one of them."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

from filelock import FileLock, Timeout

from dmpo.errors import CheckpointError, ConfigError
from dmpo.files import flush, read_lines, replace_text, writing
from dmpo.training.checkpoint import PARTIAL, REMOVED, verify_checkpoint

__all__ = ["RunDirectory", "checkpoint_path", "list_checkpoints", "newest_checkpoint"]

ASIDE = ".aside"
"""Ending of a checkpoint that lies after the step a run went back to."""


def checkpoint_path(run_directory: Path, step: int) -> Path:
    """Return where the checkpoint of a step lies."""
    return run_directory / "checkpoints" / f"step-{step:06d}"


def list_checkpoints(run_directory: Path) -> list[Path]:
    """Return the finished checkpoints of a run, oldest first; damaged ones among them."""
    found = (run_directory / "checkpoints").glob("step-*")
    return sorted((path for path in found if re.fullmatch(r"step-\d+", path.name)), key=_step)


def newest_checkpoint(run_directory: Path) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint whose manifest verifies, and why newer ones were skipped.

    Returns:
        The checkpoint, or None if the run has not written any yet; and a line for each that is
        damaged.

    Raises:
        CheckpointError: If there are checkpoints, and all of them are damaged.
    """
    skipped: list[str] = []
    for path in reversed(list_checkpoints(run_directory)):
        try:
            verify_checkpoint(path)
        except CheckpointError as error:
            skipped.append(str(error))
        else:
            return path, skipped
    if skipped:
        raise CheckpointError(f"{run_directory}: no checkpoint is whole: {' '.join(skipped)}")
    return None, []


@final
class RunDirectory:
    """A run's folder while one process writes to it.

    Args:
        path: Made when it is claimed.
    """

    def __init__(self, path: Path) -> None:
        """Touch nothing yet."""
        self.path = path
        # Held by the process, so the system takes it back however the process ends.
        self._lock = FileLock(path / ".lock", timeout=0)
        self._made: list[Path] = []
        self._was_empty = False

    def claim(self) -> None:
        """Make the folder and keep every other run out of it until :meth:`release`.

        Raises:
            ConfigError: If another run has it.
            OutputError: If it cannot be made.
        """
        if self._lock.is_locked:
            return
        with writing(self.path):
            self._made = [path for path in (self.path, *self.path.parents) if not path.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire()
            except Timeout:
                raise ConfigError(
                    f"--output: another run is writing to {self.path}; wait until it ends, or "
                    "name another directory."
                ) from None
            self._was_empty = all(path.name == ".lock" for path in self.path.iterdir())

    def release(self) -> None:
        """Let others in."""
        self._lock.release()

    def abandon(self) -> None:
        """Take back what was written, if the folder was new or empty when it was claimed.

        For a run that fails before anything is worth keeping, so that the same command can be
        given again once its cause is mended.
        """
        if not self._was_empty:
            return
        for path in self.path.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        for path in self._made:
            with contextlib.suppress(OSError):
                path.rmdir()

    def go_back(self, step: int) -> None:
        """Forget what was written after ``step``, so that going on writes it once.

        Lines of metrics.jsonl and samples.jsonl are cut off, later evaluations and unfinished
        checkpoints removed; finished checkpoints of later steps are renamed to end in ``.aside``
        and not used again (going back past the same step once more replaces them).

        Args:
            step: Gradient steps taken when the checkpoint was made; 0: a beginning.

        Raises:
            OutputError: If the folder cannot be written.
        """
        with writing(self.path):
            for path in list_checkpoints(self.path):
                if _step(path) > step:
                    aside = path.with_name(path.name + ASIDE)
                    shutil.rmtree(aside, ignore_errors=True)
                    path.rename(aside)
            for ending in (PARTIAL, REMOVED):
                for path in (self.path / "checkpoints").glob(f".*{ending}"):
                    shutil.rmtree(path, ignore_errors=True)
            for path in (self.path / "evaluations").glob("step-*.jsonl"):
                if _step(path.with_suffix("")) > step:
                    path.unlink()
        _keep_lines(self.path / "metrics.jsonl", lambda record: record["step"] <= step)
        # A sample is booked on the step before its buffer's first: a buffer of this very step
        # is filled again.
        _keep_lines(self.path / "samples.jsonl", lambda record: record["step"] < step)

    def check_unused(self) -> None:
        """Refuse a folder with checkpoints, for a run that does not go on from one.

        Raises:
            ConfigError: If there are checkpoints.
        """
        if found := list_checkpoints(self.path):
            raise ConfigError(
                f"--output: {self.path} holds checkpoints of a run ({found[-1].name}); go on with "
                f"it (--resume {self.path}), or name another directory."
            )

    def flush(self) -> None:
        """Have the system write the lines so far to disk, so that a power cut keeps them."""
        for name in ("metrics.jsonl", "samples.jsonl"):
            if (self.path / name).exists():
                flush(self.path / name)

    def prune(self, keep: int, *, written: Path | None = None) -> None:
        """Remove all checkpoints but the newest ``keep``; never the newest that is whole.

        Args:
            keep: At least 1.
            written: One that was written this moment and needs no second look.
        """
        checkpoints = list_checkpoints(self.path)
        kept, old = checkpoints[-keep:], checkpoints[:-keep]
        if not old:
            return
        if written not in kept and not any(_is_whole(path) for path in reversed(kept)):
            old = [path for path in old if path != next(filter(_is_whole, reversed(old)), None)]
        for path in old:
            # Renamed first: a kill in between leaves nothing that looks like a checkpoint.
            removed = path.with_name(f".{path.name}{REMOVED}")
            with writing(path):
                path.rename(removed)
            shutil.rmtree(removed, ignore_errors=True)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _is_whole(path: Path) -> bool:
    try:
        verify_checkpoint(path)
    except CheckpointError:
        return False
    return True


def _keep_lines(path: Path, is_kept: Callable[[dict[str, Any]], bool]) -> None:
    """Keep the first lines, up to the first that is unreadable or not to be kept."""
    if not path.exists():
        return
    kept = []
    for line in read_lines(path):
        try:
            if not is_kept(json.loads(line)):
                break
        except (ValueError, KeyError, TypeError):
            break
        kept.append(line)
    text = "".join(f"{line}\n" for line in kept)
    # Compared as bytes: a last line may be whole and lack its line break.
    if path.read_bytes() != text.encode():
        replace_text(path, text)
