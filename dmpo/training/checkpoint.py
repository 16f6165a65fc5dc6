"""Checkpoints: written beside and renamed into place, with a checksum of every file.

    checkpoints/step-000100/
      policy/                 what ``policy.save`` writes: the official layout, or the adapter
      optimizer.*             optimizer and schedule
      rank-00000.*            the buffers of each rank that steps to come need
      config.yaml             the run's settings
      state.json              steps, cursor, meters, and what the run was
      manifest.json           size and SHA-256 of each of these

Random generators need no file: they are seeded by (seed, rank, step, purpose).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dmpo.errors import CheckpointError
from dmpo.files import flush, writing
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Experience
from dmpo.training.state_files import read_state, write_state

__all__ = [
    "Progress",
    "begin_checkpoint",
    "commit_checkpoint",
    "load_checkpoint",
    "partial_path",
    "save_buffers",
    "save_shared",
    "verify_checkpoint",
    "whole_or_not_at_all",
]

FORMAT = 1
"""Version of the layout above."""
PARTIAL = ".partial"
"""Ending of a folder that is being put together."""
REMOVED = ".removed"
"""Ending of a folder that is being taken away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run has come: everything that is neither weights nor tensors."""

    step: int = 0
    """Gradient steps taken, from the beginning of the run."""
    cursor: int = 0
    """Prompts taken, over all ranks."""
    skipped_steps: int = 0
    """Steps whose loss or gradient was not finite."""
    skipped_in_a_row: int = 0
    """Those of them that came last, one after the other."""
    seconds: float = 0.0
    """Seconds of training, evaluations and checkpoints not counted."""
    model_tokens: int = 0
    """Model tokens, mean over ranks: forward 1, backward 2 more; no evaluation."""
    model_flops: int = 0
    """Floating-point operations of the model, mean over ranks; no evaluation."""


def partial_path(final: Path) -> Path:
    """Return the folder beside ``final`` in which it is put together."""
    return final.with_name(f".{final.name}{PARTIAL}")


@contextlib.contextmanager
def whole_or_not_at_all(final: Path) -> Iterator[Path]:
    """Give the folder to write to, and leave nothing of it unless it is committed.

    Raises:
        OutputError: If writing inside failed: no space, no permission; checkpoints before this
            one stay.
    """
    try:
        with writing(final):
            yield partial_path(final)
    except BaseException:
        shutil.rmtree(partial_path(final), ignore_errors=True)
        raise


def begin_checkpoint(final: Path) -> None:
    """Make the empty folder in which a checkpoint is put together."""
    partial = partial_path(final)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)


def save_shared(
    partial: Path,
    *,
    policy: DiffusionPolicy,
    optimizer: Any,
    scheduler: Any,
    progress: Progress,
    run: dict[str, Any],
    config_text: str = "",
) -> None:
    """Write what all ranks share; only the main process does.

    Args:
        partial: The folder of :func:`partial_path`.
        policy: The current policy.
        optimizer: With ``state_dict``.
        scheduler: With ``state_dict``.
        progress: How far the run has come.
        run: What must be the same to go on: seed, problems, number of processes, sizes.
        config_text: The resolved configuration; empty: none is written.
    """
    policy.save(partial / "policy")
    engine = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    write_state(partial / "optimizer", engine)
    if config_text:
        (partial / "config.yaml").write_text(config_text, encoding="utf-8")
    state = {"format": FORMAT, "progress": asdict(progress), "run": run}
    (partial / "state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")


def save_buffers(partial: Path, rank: int, buffers: tuple[Experience, ...]) -> None:
    """Write the buffers of one rank, the newest first, or that it has none."""
    write_state(partial / f"rank-{rank:05d}", buffers)


def commit_checkpoint(final: Path) -> None:
    """Write the manifest, wait until all is on disk, and rename the folder into place."""
    partial = partial_path(final)
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    entries = {
        path.relative_to(partial).as_posix(): {"size": path.stat().st_size, "sha256": _sha256(path)}
        for path in files
    }
    # It ends in its closing brace, so that no shorter text is a manifest.
    text = json.dumps({"format": FORMAT, "files": entries}, indent=2)
    manifest = partial / "manifest.json"
    manifest.write_text(text, encoding="utf-8")
    for path in (*files, manifest, *{file.parent for file in files}, partial):
        flush(path)
    removed = final.with_name(f".{final.name}{REMOVED}")
    if final.exists():  # a damaged one of the same step
        final.rename(removed)
    partial.rename(final)
    flush(final.parent)
    shutil.rmtree(removed, ignore_errors=True)


def verify_checkpoint(path: Path) -> None:
    """Check every file against the manifest.

    Raises:
        CheckpointError: Naming the first file that is missing or changed.
    """
    manifest = path / "manifest.json"
    if not manifest.is_file():
        raise CheckpointError(f"{path}: not a checkpoint: it has no manifest.json.")
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        found = content["format"]
        entries = {name: (e["size"], e["sha256"]) for name, e in content["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: manifest.json is unreadable ({error!r}).") from error
    if found != FORMAT:
        raise CheckpointError(
            f"{path}: of format {found}; this version of dmpo reads format {FORMAT}."
        )
    if "state.json" not in entries:
        raise CheckpointError(f"{path}: manifest.json does not list state.json.")
    for name, (size, sha256) in entries.items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{path}: {name} is missing.")
        try:
            is_whole = file.stat().st_size == size and _sha256(file) == sha256
        except OSError as error:
            raise CheckpointError(f"{path}: {name} cannot be read: {error.strerror}.") from error
        if not is_whole:
            raise CheckpointError(f"{path}: {name} differs from the manifest.")


def load_checkpoint(
    path: Path,
    *,
    policy: DiffusionPolicy,
    optimizer: Any,
    scheduler: Any,
    rank: int,
    run: dict[str, Any],
) -> tuple[Progress, tuple[Experience, ...]]:
    """Verify a checkpoint and put policy, optimizer and schedule where they were.

    Returns:
        How far the run had come, and the buffers it was using, the newest first.

    Raises:
        CheckpointError: If a file is missing or changed, or the checkpoint is of a run with
            another seed, number of processes or size; names the first difference.
    """
    verify_checkpoint(path)
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    for name, value in run.items():
        if state["run"].get(name) != value:
            raise CheckpointError(
                f"{path}: saved with {name} {state['run'].get(name)!r}; this run has {value!r}."
            )
    policy.load_weights(path / "policy")
    moved: torch.device = policy.device
    saved = read_state(path / "optimizer", moved)
    optimizer.load_state_dict(saved["optimizer"])
    scheduler.load_state_dict(saved["scheduler"])
    buffers: tuple[Experience, ...] = read_state(path / f"rank-{rank:05d}", moved)
    return Progress(**state["progress"]), buffers


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
