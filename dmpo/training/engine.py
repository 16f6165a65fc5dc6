"""Hugging Face Accelerate behind the few operations that the loops need."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

import torch
from accelerate import Accelerator
from torch import Tensor

from dmpo.errors import ConfigError, DivergenceError
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import LossOutput
from dmpo.training.optimization import (
    OptimizationSettings,
    build_optimizer,
    build_scheduler,
    trainable_parameters,
)

__all__ = ["Engine", "Update", "divergence"]

Slice = TypeVar("Slice")


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What one step of the optimizer did."""

    gradient_norm: float
    """Norm before clipping."""
    learning_rate: float
    """Learning rate of the step."""
    is_skipped: bool
    """Whether loss or gradient was not finite, and the weights stayed as they were."""


@final
class Engine:
    """A policy's module with its optimizer and schedule, on one process or many.

    Args:
        policy: Its module is put into training mode and replaced by the wrapped one.
        settings: Optimizer, schedule, clip, precision.
        project_directory: Where Accelerate's trackers write.
        log_with: Names of Accelerate's trackers; may be empty.
    """

    def __init__(
        self,
        policy: DiffusionPolicy,
        settings: OptimizationSettings,
        project_directory: Path,
        log_with: Sequence[str] = (),
    ) -> None:
        """Wrap the module and build what moves it."""
        self.accelerator = Accelerator(
            cpu=policy.device.type == "cpu",
            mixed_precision=settings.mixed_precision,
            log_with=list(log_with) or None,
            project_dir=str(project_directory),
            step_scheduler_with_optimizer=False,
        )
        optimizer = build_optimizer(trainable_parameters(policy.module), settings)
        scheduler = build_scheduler(optimizer, settings)
        policy.module.train()
        policy.module, self.optimizer, self.scheduler = self.accelerator.prepare(
            policy.module, optimizer, scheduler
        )
        self._policy = policy
        self._max_norm = settings.max_grad_norm or math.inf

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to people."""
        return bool(self.accelerator.is_main_process)

    @property
    def rank(self) -> int:
        """Index of this process."""
        return int(self.accelerator.process_index)

    @property
    def num_ranks(self) -> int:
        """Number of processes."""
        return int(self.accelerator.num_processes)

    def share(self, count: int, name: str) -> int:
        """Return this process's part of a count.

        Raises:
            ConfigError: If the processes cannot share it evenly.
        """
        if count % self.num_ranks:
            raise ConfigError(
                f"{name}: {count} cannot be shared evenly by {self.num_ranks} processes."
            )
        return count // self.num_ranks

    def backward(
        self, slices: Sequence[Slice], loss_of: Callable[[Slice], LossOutput]
    ) -> dict[str, float]:
        """Add up the gradients of all slices; processes exchange them only once.

        Args:
            slices: Micro-batches; none at all leaves the gradient empty and the loss 0.
            loss_of: Loss of a slice, normalised so that slices add up.

        Returns:
            ``total`` and the named parts of the loss, added up over slices, mean over processes.
        """
        sums: dict[str, Tensor] = {"total": torch.zeros((), device=self._policy.device)}
        for number, piece in enumerate(slices, start=1):
            last = number == len(slices)
            module = self._policy.module
            with contextlib.nullcontext() if last else self.accelerator.no_sync(module):
                output = loss_of(piece)
                self.accelerator.backward(output.loss)
            for name, value in {"total": output.loss.detach(), **output.metrics}.items():
                sums[name] = sums[name] + value if name in sums else value
        return self.mean({name: float(value) for name, value in sums.items()})

    def update(self, loss: float) -> Update:
        """Clip, step the optimizer and the schedule, and forget the gradients.

        A step whose loss or gradient is not finite leaves weights and moments untouched.
        """
        norm = self.accelerator.clip_grad_norm_(self._policy.module.parameters(), self._max_norm)
        learning_rate = float(self.optimizer.param_groups[0]["lr"])
        gradient_norm = float(norm)
        is_skipped = not (math.isfinite(loss) and math.isfinite(gradient_norm))
        if not is_skipped:
            self.optimizer.step()
        self.optimizer.zero_grad()
        with warnings.catch_warnings():
            # PyTorch takes a skipped first step for a forgotten one.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            self.scheduler.step()
        return Update(
            gradient_norm=gradient_norm, learning_rate=learning_rate, is_skipped=is_skipped
        )

    def mean(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the mean of each figure over processes, which share their names."""
        if self.num_ranks == 1:
            return dict(metrics)
        values = torch.tensor(list(metrics.values()), dtype=torch.float32)
        reduced: Any = self.accelerator.reduce(values.to(self.accelerator.device), "mean")
        return dict(zip(metrics, reduced.tolist(), strict=True))

    def largest(self, count: int) -> int:
        """Return the largest of the processes' counts."""
        if self.num_ranks == 1:
            return count
        mine = torch.tensor([count], device=self.accelerator.device)
        return int(self.accelerator.gather(mine).max())

    def is_true_anywhere(self, flag: bool) -> bool:
        """Return whether the flag is set on any process; all of them get the same answer."""
        return self.mean({"flag": float(flag)})["flag"] > 0

    def wait(self) -> None:
        """Wait for all processes."""
        self.accelerator.wait_for_everyone()


def divergence(num_skipped: int, saved: Path) -> DivergenceError:
    """Return what a loop raises after too many skipped steps in a row.

    Args:
        num_skipped: Steps in a row whose loss or gradient was not finite.
        saved: Where the weights are, which those steps left alone.
    """
    return DivergenceError(
        f"training.max_skipped_in_a_row: {num_skipped} steps in a row had a loss or gradient that "
        f"is not finite; the weights before them are saved in {saved}. A smaller "
        "training.learning_rate may help, or other rewards or weights."
    )
