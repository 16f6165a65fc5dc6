"""Saving and loading the state of a run, over all its processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from torch import Tensor

from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Experience
from dmpo.training import checkpoint
from dmpo.training.checkpoint import Progress
from dmpo.training.engine import Engine
from dmpo.training.regroup import chosen_groups, joined_buffers, part_of
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
        self._run = run
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
        engine, is_main = self._engine, self._engine.is_main
        # Sharded weights and moments come together first: there all processes take part.
        weights, optimizer = engine.weights.whole_state(), engine.weights.optimizer_state()
        with checkpoint.whole_or_not_at_all(path, is_main=is_main) as partial:
            engine.together(lambda: checkpoint.begin_checkpoint(path) if is_main else None)
            engine.together(
                lambda: self._write(
                    partial, progress, buffers, weights=weights, optimizer=optimizer
                )
            )
            engine.together(lambda: self._commit(path) if is_main else None)
        self._last = path
        if is_main:
            self._directory.prune(self._keep, written=path)
        return path

    def _write(
        self,
        partial: Path,
        progress: Progress,
        buffers: tuple[Experience, ...],
        *,
        weights: Mapping[str, Tensor] | None,
        optimizer: Mapping[str, Any],
    ) -> None:
        engine = self._engine
        if engine.is_main:
            checkpoint.save_shared(
                partial,
                policy=self._policy,
                weights=weights,
                optimizer=optimizer,
                scheduler=engine.scheduler.state_dict(),
                progress=progress,
                run=self._run,
                num_ranks=engine.num_ranks,
                config_text=self._config_text,
            )
        checkpoint.save_buffers(partial, engine.rank, buffers)

    def _commit(self, path: Path) -> None:
        self._directory.flush()
        checkpoint.commit_checkpoint(path)

    def load(self, path: Path) -> tuple[Progress, tuple[Experience, ...]]:
        """Put policy, optimizer and schedule where they were.

        Returns:
            How far the run had come, and the buffers that it was using.

        Raises:
            CheckpointError: If a file is missing or damaged, or the run was another one.
        """
        engine = self._engine
        with engine.weights.writable():
            loaded = checkpoint.load_checkpoint(
                path,
                policy=self._policy,
                rank=engine.rank,
                num_ranks=engine.num_ranks,
                run=self._run,
            )
        engine.weights.load_optimizer_state(loaded.optimizer)
        engine.scheduler.load_state_dict(loaded.scheduler)
        progress = loaded.progress
        if path.resolve() == checkpoint_path(self._directory.path, progress.step).resolve():
            self._last = checkpoint_path(self._directory.path, progress.step)
        if len(loaded.buffers) == 1:
            return progress, loaded.buffers[0]
        return progress, tuple(map(self._own_part, zip(*loaded.buffers, strict=True)))

    def _own_part(self, parts: Sequence[Experience]) -> Experience:
        """Deal the groups of a buffer out anew: other processes had written it."""
        buffer = joined_buffers(parts)
        mine = part_of(buffer.rollouts.num_prompts, self._engine.rank, self._engine.num_ranks)
        return chosen_groups(buffer, mine)
