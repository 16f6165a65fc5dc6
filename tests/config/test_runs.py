from __future__ import annotations

from pathlib import Path

import pytest

from dmpo.config.runs import newest_checkpoint
from dmpo.errors import CheckpointError


def checkpoint(run: Path, step: int, manifest: str) -> Path:
    path = run / "checkpoints" / f"step-{step:06d}"
    path.mkdir(parents=True)
    (path / "manifest.json").write_text(manifest)
    return path


def test_newest_checkpoint_that_verifies_is_found(tmp_path: Path) -> None:
    checkpoint(tmp_path, 5, '{"files": {}}')
    newest = checkpoint(tmp_path, 10, '{"files": {}}')
    assert newest_checkpoint(tmp_path) == (newest, [])


def test_damaged_checkpoint_is_skipped_with_its_reason(tmp_path: Path) -> None:
    older = checkpoint(tmp_path, 5, '{"files": {}}')
    checkpoint(tmp_path, 10, "not json")
    path, skipped = newest_checkpoint(tmp_path)
    assert path == older
    assert "step-000010" in skipped[0]


def test_run_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no usable checkpoint"):
        newest_checkpoint(tmp_path)
