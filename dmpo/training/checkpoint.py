"""Checkpoints: written beside and renamed into place, with a checksum of every file.

    checkpoints/step-000100/
      policy/                 what ``policy.save`` writes: the official layout, or the adapter
      optimizer.*             optimizer and schedule
      rank-00000.*            the buffers of each rank that steps to come need
      config.yaml             the run's settings
      state.json              steps, cursor, meters, what the run was, and how many ranks
      manifest.json           size and SHA-256 of each of these

Random generators need no file: they are seeded by (seed, rank, step, purpose).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmpo.errors import CheckpointError
from dmpo.files import flush, writing
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Experience
from dmpo.training.state_files import read_state, write_state

__all__ = [
    "Loaded",
    "Progress",
    "begin_checkpoint",
    "commit_checkpoint",
    "load_checkpoint",
    "partial_path",
    "save_buffers",
    "save_policy",
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
    """Model tokens of all ranks: forward 1, backward 2 more; no evaluation."""
    model_flops: int = 0
    """Floating-point operations of the model, all ranks; no evaluation."""
    micro_batch_rows: int | None = None
    """Rollouts per forward and backward pass that were found to fit; None: as the settings say."""
    micro_batch_views: int | None = None
    """Their views that go together; None: all."""


def partial_path(final: Path) -> Path:
    """Return the folder beside ``final`` in which it is put together."""
    return final.with_name(f".{final.name}{PARTIAL}")


@contextlib.contextmanager
def whole_or_not_at_all(final: Path, *, is_main: bool = True) -> Iterator[Path]:
    """Give the folder to write to, and leave nothing of it unless it is committed.

    Args:
        final: Where it is going to be.
        is_main: Whether this process is the one that takes it away again.

    Raises:
        OutputError: If writing inside failed: no space, no permission; checkpoints before this
            one stay.
    """
    try:
        with writing(final):
            yield partial_path(final)
    except BaseException:
        if is_main:
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
    weights: Mapping[str, Tensor] | None = None,
    optimizer: Mapping[str, Any],
    scheduler: Mapping[str, Any],
    progress: Progress,
    run: dict[str, Any],
    num_ranks: int = 1,
    config_text: str = "",
) -> None:
    """Write what all ranks share; only the main process does.

    Args:
        partial: The folder of :func:`partial_path`.
        policy: The current policy.
        weights: Its weights, where it does not have them whole.
        optimizer: Its state.
        scheduler: Its state.
        progress: How far the run has come.
        run: What must be the same to go on: seed, problems, sizes.
        num_ranks: Processes, each of which writes its buffers.
        config_text: The resolved configuration; empty: none is written.
    """
    save_policy(policy, partial / "policy", weights)
    write_state(partial / "optimizer", {"optimizer": optimizer, "scheduler": scheduler})
    if config_text:
        (partial / "config.yaml").write_text(config_text, encoding="utf-8")
    state = {"format": FORMAT, "progress": asdict(progress), "run": run, "processes": num_ranks}
    (partial / "state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")


def save_policy(
    policy: DiffusionPolicy, directory: Path, weights: Mapping[str, Tensor] | None
) -> None:
    """Have a policy write itself, with weights from elsewhere where it has only a part of them.

    Args:
        policy: What is saved; one without sharded weights need not know of the other argument.
        directory: Where to.
        weights: Whole ones by their names in its module; None: it has them itself.
    """
    if weights is None:
        policy.save(directory)
    else:
        policy.save(directory, weights)


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
        # An absolute path begins with an empty part.
        if {"", ".", ".."}.intersection(name.split("/")):
            raise CheckpointError(
                f"{path}: manifest.json names {name!r}, which is no file of the checkpoint."
            )
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{path}: {name} is missing.")
        if not file.resolve().is_relative_to(path.resolve()):
            raise CheckpointError(f"{path}: {name} is a link that leads out of the checkpoint.")
        try:
            is_whole = file.stat().st_size == size and _sha256(file) == sha256
        except OSError as error:
            raise CheckpointError(f"{path}: {name} cannot be read: {error.strerror}.") from error
        if not is_whole:
            raise CheckpointError(f"{path}: {name} differs from the manifest.")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Loaded:
    """What a checkpoint holds beside the policy's weights."""

    progress: Progress
    """How far the run had come."""
    buffers: tuple[tuple[Experience, ...], ...]
    """The buffers it was using, the newest first; one entry for each process that wrote its own."""
    optimizer: Mapping[str, Any]
    """The optimizer's state."""
    scheduler: Mapping[str, Any]
    """The schedule's."""


def load_checkpoint(
    path: Path, *, policy: DiffusionPolicy, rank: int, num_ranks: int, run: dict[str, Any]
) -> Loaded:
    """Verify a checkpoint, put the policy where it was, and return the rest.

    Args:
        path: The checkpoint.
        policy: Gets its weights.
        rank: This process.
        num_ranks: Processes of this run: as many as wrote the checkpoint, and each reads its own
            buffers; another number, and each reads all.
        run: What must be the same.

    Raises:
        CheckpointError: If a file is missing or changed, or the checkpoint is of a run with
            another seed or size; names the first difference.
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
    writers = state.get("processes", state["run"].get("processes", 1))
    ranks = [rank] if writers == num_ranks else range(writers)
    return Loaded(
        progress=Progress(**state["progress"]),
        buffers=tuple(read_state(path / f"rank-{each:05d}", moved) for each in ranks),
        optimizer=saved["optimizer"],
        scheduler=saved["scheduler"],
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
