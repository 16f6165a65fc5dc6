"""Saving and loading the state of a run, over all its processes."""

from __future__ import annotations

from pathlib import Path
from typing import final

from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Experience
from dmpo.training import checkpoint
from dmpo.training.checkpoint import Progress
from dmpo.training.engine import Engine
from dmpo.training.run_directory import RunDirectory, checkpoint_path

__all__ = ["CheckpointStore"]


@final
class CheckpointStore:
    """Writes checkpoints of one run and reads them back; every process calls every method.

    Args:
        directory: Where they lie; claimed by the main process.
        engine: Optimizer and schedule, and the other processes.
        policy: The current policy.
        run: What must be the same for a run to go on: seed, problems, sizes.
        config_text: The resolved configuration, kept in each checkpoint; may be empty.
        keep: Newest checkpoints that are kept.
    """

    def __init__(
        self,
        directory: RunDirectory,
        engine: Engine,
        policy: DiffusionPolicy,
        *,
        run: dict[str, int | str],
        config_text: str,
        keep: int,
    ) -> None:
        """Keep the parts; nothing is read or written yet."""
        self._directory = directory
        self._engine = engine
        self._policy = policy
        self._run = {**run, "processes": engine.num_ranks}
        self._config_text = config_text
        self._keep = keep
        self._last: Path | None = None

    def save(self, progress: Progress, buffers: tuple[Experience, ...]) -> Path:
        """Write the present state, unless it was the last that was saved; return where it is.

        Args:
            progress: How far the run has come.
            buffers: What the next steps need, the newest first; none: the next fills a new one.

        Raises:
            OutputError: If it cannot be written; the checkpoints before it stay.
        """
        path = checkpoint_path(self._directory.path, progress.step)
        if path == self._last:
            return path
        engine = self._engine
        with checkpoint.whole_or_not_at_all(path) as partial:
            if engine.is_main:
                checkpoint.begin_checkpoint(path)
            engine.wait()
            if engine.is_main:
                checkpoint.save_shared(
                    partial,
                    policy=self._policy,
                    optimizer=engine.optimizer,
                    scheduler=engine.scheduler,
                    progress=progress,
                    run=self._run,
                    config_text=self._config_text,
                )
            checkpoint.save_buffers(partial, engine.rank, buffers)
            engine.wait()
            if engine.is_main:
                self._directory.flush()
                checkpoint.commit_checkpoint(path)
        self._last = path
        if engine.is_main:
            self._directory.prune(self._keep, written=path)
        return path

    def load(self, path: Path) -> tuple[Progress, tuple[Experience, ...]]:
        """Put policy, optimizer and schedule where they were.

        Returns:
            How far the run had come, and the buffers that it was using.

        Raises:
            CheckpointError: If a file is missing or damaged, or the run was another one.
        """
        progress, buffers = checkpoint.load_checkpoint(
            path,
            policy=self._policy,
            optimizer=self._engine.optimizer,
            scheduler=self._engine.scheduler,
            rank=self._engine.rank,
            run=self._run,
        )
        if path.resolve() == checkpoint_path(self._directory.path, progress.step).resolve():
            self._last = checkpoint_path(self._directory.path, progress.step)
        return progress, buffers
