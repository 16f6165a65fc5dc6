"""How much of a gradient step goes through the model at once, and what to do where it is too much.

Every draw of a step is made before it is cut, and slices add up: so a step that ran out of memory
is taken again in smaller pieces, and nothing of it is lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import final

import torch

from dmpo.errors import OutOfMemoryError
from dmpo.policies.base import DiffusionPolicy
from dmpo.policies.portions import is_out_of_memory, release_memory
from dmpo.records import Batch, LossOutput
from dmpo.training.engine import Engine
from dmpo.training.settings import TrainingSettings

__all__ = ["MicroBatches"]

MEASURED_ROWS = (2, 8)
"""Rollouts whose peaks are measured: enough that what they take shows beside the gradients."""
SHARE_OF_MEMORY = 0.92
"""How much of a device a step may fill: the allocator needs room to move."""


@final
class MicroBatches:
    """The pieces of a gradient step; with ``auto_micro_batch``, as large as memory allows.

    On a CUDA device the first step measures a few rollouts and takes as many as fit, the
    least over processes. Anywhere, a piece that turns out too large is halved: first its rollouts,
    then their views. Where the weights are sharded a process that fails cannot be waited for, so
    there only the measurement is made.

    Args:
        engine: The processes.
        policy: What is trained.
        settings: How large pieces are, and whether that may change.
        can_cut_views: Whether the loss is a sum over views.
    """

    def __init__(
        self,
        engine: Engine,
        policy: DiffusionPolicy,
        settings: TrainingSettings,
        *,
        can_cut_views: bool,
    ) -> None:
        """Begin with the sizes of the settings."""
        self._engine = engine
        self._policy = policy
        self._is_auto = settings.auto_micro_batch
        self._can_cut_views = can_cut_views
        self._most = settings.prompts_per_buffer * settings.rollouts_per_prompt
        self._is_measured = settings.micro_batch_rows is not None or policy.device.type != "cuda"
        self.rows = settings.micro_batch_rows
        self.views = settings.micro_batch_views

    def restore(self, rows: int | None, views: int | None) -> None:
        """Go on with sizes that were found before."""
        if self._is_auto and rows is not None:
            self.rows, self.views, self._is_measured = rows, views, True

    def backward(
        self,
        batch: Batch,
        spare: Batch,
        loss_of: Callable[[Batch], LossOutput],
        seeded: Callable[[], AbstractContextManager[None]],
    ) -> dict[str, float]:
        """Add up the gradients of a step; see :meth:`dmpo.training.engine.Engine.backward`.

        Args:
            batch: What the step looks at.
            spare: A row of it, which need not count.
            loss_of: The loss of a slice.
            seeded: Context in which dropout begins anew, the same at each attempt.

        Raises:
            OutOfMemoryError: If it does not fit, and may not be cut or cannot be cut further.
        """
        if self._is_auto and not self._is_measured:
            self.rows, self._is_measured = self._measured(batch, spare, loss_of), True
        can_repeat = self._is_auto and self._engine.weights.can_repeat
        while True:
            try:
                with seeded():
                    return self._engine.backward(
                        self._slices(batch), loss_of, spare=spare, may_fail=can_repeat
                    )
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                # Python's own MemoryError says nothing.
                reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
                if not can_repeat:
                    raise OutOfMemoryError(self._advice(reason)) from error
            self._engine.weights.forget_gradients()
            release_memory()
            self._shrink(batch, reason)

    def _slices(self, batch: Batch) -> list[Batch]:
        if self.rows is None and self.views is None:
            return [batch] if batch.num_rows else []
        rows = self.rows or max(1, batch.num_rows)
        ordered = batch.by_length() if rows < batch.num_rows else batch
        return list(ordered.split(rows, self.views))

    def _shrink(self, batch: Batch, reason: str) -> None:
        rows = self.rows or self._engine.largest(batch.num_rows)
        views = self.views or batch.views.hidden.shape[1]
        if rows > 1:
            self.rows = (min(rows, self._engine.largest(batch.num_rows)) + 1) // 2
        elif views > 1 and self._can_cut_views:
            self.rows, self.views = 1, (views + 1) // 2
        else:
            raise OutOfMemoryError(
                f"training: memory is too small for the gradient of a single rollout ({reason}); "
                "policy.gradient_checkpointing, policy.lora or fewer views need less."
            )

    def _measured(self, batch: Batch, spare: Batch, loss_of: Callable[[Batch], LossOutput]) -> int:
        """Return how many rollouts fit, by the line through the peaks of a few and of more."""
        longest = (batch if batch.num_rows else spare).by_length()
        # As many passes on every process, whatever it has.
        counts = [min(count, longest.num_rows) for count in MEASURED_ROWS]
        peaks: list[int] = []
        try:
            for count in (counts[0], *counts):  # once before, to make room for the gradients
                rows = longest.rows(slice(-count, None))
                peaks.append(self._peak(rows, spare, loss_of))
        except Exception as error:
            if not (self._engine.weights.can_repeat and is_out_of_memory(error)):
                raise
        self._engine.weights.forget_gradients()
        if len(peaks) <= len(counts):
            release_memory()
            return self._engine.smallest(max(1, MEASURED_ROWS[0] if len(peaks) > 1 else 1))
        device = self._policy.device
        free, total = torch.cuda.mem_get_info(device)
        others = total - free - torch.cuda.memory_reserved(device)
        room = SHARE_OF_MEMORY * total - others - peaks[-1]
        each = (peaks[-1] - peaks[1]) / max(1, counts[-1] - counts[0])
        more = room / each if each > 0 else math.inf
        return self._engine.smallest(max(1, int(min(counts[-1] + more, self._most))))

    def _peak(self, rows: Batch, spare: Batch, loss_of: Callable[[Batch], LossOutput]) -> int:
        """Return the most bytes that were held while some rollouts ran at once."""
        device = self._policy.device
        torch.cuda.reset_peak_memory_stats(device)
        pieces = rows.split(rows.num_rows, self.views)
        may_fail = self._engine.weights.can_repeat
        self._engine.backward(pieces, loss_of, spare=spare, may_fail=may_fail)
        return torch.cuda.max_memory_allocated(device)

    def _advice(self, reason: str) -> str:
        rows = "all rollouts" if self.rows is None else f"{self.rows} rollouts"
        if self._is_auto:
            return (
                f"training.auto_micro_batch: {rows} at once do not fit ({reason}), and under "
                "sharded weights a step cannot be taken again; set training.micro_batch_rows to "
                "less, and go on with --resume."
            )
        return (
            f"training.micro_batch_rows: memory is too small for {rows} at once ({reason}); set it "
            "to less, or let --auto-micro-batch find out."
        )
