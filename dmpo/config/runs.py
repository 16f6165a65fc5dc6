"""Run directories read back: which checkpoint to go on from or to evaluate."""

from __future__ import annotations

from pathlib import Path

from dmpo.errors import CheckpointError
from dmpo.training.checkpoint import list_checkpoints, verify_checkpoint

__all__ = ["newest_checkpoint"]


def newest_checkpoint(run_directory: Path) -> tuple[Path, list[str]]:
    """Return the newest checkpoint whose manifest verifies, and why newer ones were skipped.

    Raises:
        CheckpointError: If there is none.
    """
    skipped: list[str] = []
    for path in reversed(list_checkpoints(run_directory)):
        try:
            verify_checkpoint(path)
        except CheckpointError as error:
            skipped.append(str(error))
        else:
            return path, skipped
    reasons = f" ({'; '.join(skipped)})" if skipped else ""
    raise CheckpointError(f"{run_directory}: holds no usable checkpoint{reasons}.")
