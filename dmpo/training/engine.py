"""Hugging Face Accelerate behind the few operations that the loops need."""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import re
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils import gather_object
from torch import Tensor

from dmpo.errors import DivergenceError, OutputError, ProcessError
from dmpo.policies.base import DiffusionPolicy
from dmpo.policies.portions import is_out_of_memory
from dmpo.records import LossOutput
from dmpo.training.optimization import (
    OptimizationSettings,
    build_optimizer,
    build_scheduler,
    trainable_parameters,
)
from dmpo.training.reduction import reduced
from dmpo.training.sharding import (
    allow_sharding_on_cpu,
    give_deepspeed_sizes,
    uses_deepspeed,
    weights_of,
)

__all__ = ["Engine", "Update", "divergence"]

Slice = TypeVar("Slice")
Value = TypeVar("Value")


LOST = "Connection (closed|reset|refused)|[Tt]imed out|Broken pipe|peer|monitoredBarrier"
"""What PyTorch says where a process does not answer another."""
SECONDS_TO_ANSWER = 10.0
"""How long the others are waited for once one of them has not answered."""


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
    """

    def __init__(
        self,
        policy: DiffusionPolicy,
        settings: OptimizationSettings,
    ) -> None:
        """Wrap the module and build what moves it."""
        self._timeout = datetime.timedelta(seconds=settings.process_timeout)
        self.accelerator = Accelerator(
            # DeepSpeed has a CPU of its own, which Accelerate would keep it from.
            cpu=policy.device.type == "cpu" and not uses_deepspeed(),
            mixed_precision=settings.mixed_precision,
            step_scheduler_with_optimizer=False,
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=self._timeout),
                # A model's buffers never change; exchanging them would tie forward passes together.
                # Gradients need not be held twice, as what they are and as what is exchanged.
                DistributedDataParallelKwargs(
                    broadcast_buffers=False, gradient_as_bucket_view=True
                ),
            ],
        )
        allow_sharding_on_cpu(self.accelerator)
        give_deepspeed_sizes(self.accelerator, settings.max_grad_norm)
        self._names = self.gathered(f"{socket.gethostname()}, process {os.getpid()}")
        self._watch = self._watching_group()
        optimizer = build_optimizer(trainable_parameters(policy.module), settings)
        scheduler = build_scheduler(optimizer, settings)
        policy.module.train()
        with warnings.catch_warnings():
            # PyTorch 2.13 has another name for what Accelerate passes on; 2.11 does not know it.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")
            policy.module, self.optimizer, self.scheduler = self.accelerator.prepare(
                policy.module, optimizer, scheduler
            )
        self._policy = policy
        self._max_norm = settings.max_grad_norm or math.inf
        self.weights = weights_of(self.accelerator, policy.module, self.optimizer)
        if (reference := policy.reference_module) is not None:
            self.weights.share_out(reference)

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

    def backward(
        self,
        slices: Sequence[Slice],
        loss_of: Callable[[Slice], LossOutput],
        *,
        spare: Slice | None = None,
        may_fail: bool = False,
    ) -> dict[str, float]:
        """Add up the gradients of all slices; processes exchange them only once.

        Processes may have different numbers of slices: who has fewer goes on with ``spare``, whose
        loss counts nothing, so that all meet in as many passes.

        Args:
            slices: Micro-batches; none at all leaves the gradient empty and the loss 0.
            loss_of: Loss of a slice, normalised so that slices add up.
            spare: Anything that has a loss; needed where there are several processes.
            may_fail: Exchange gradients in a pass of their own, over ``spare``, once all processes
                have come through their slices.

        Returns:
            ``total`` and the named parts of the loss, added up over slices, mean over processes.

        Raises:
            Exception: What a pass raised, on the process that raised it.
            OutOfMemoryError: With ``may_fail``, PyTorch's own, where another process raised it.
            ProcessError: With ``may_fail``, where another process has failed otherwise.
        """
        sums: dict[str, Tensor] = {"total": torch.zeros((), device=self._policy.device)}
        passes = [(piece, True) for piece in slices]
        if may_fail and self.num_ranks > 1:
            self._take_all(passes, loss_of, sums)
            passes = []
        if self.num_ranks > 1 and spare is not None:
            missing = self.largest(len(passes)) - len(passes)
            passes += [(spare, False)] * (1 if may_fail else missing)
        self._take(passes, loss_of, sums, exchanges=True)
        everyone = self.gathered({name: float(value) for name, value in sums.items()})
        names = dict.fromkeys(name for each in everyone for name in each)
        # A process without slices has no part of any name: it adds nothing.
        return {
            name: math.fsum(each.get(name, 0.0) for each in everyone) / len(everyone)
            for name in names
        }

    def _take_all(
        self,
        passes: Sequence[tuple[Slice, bool]],
        loss_of: Callable[[Slice], LossOutput],
        sums: dict[str, Tensor],
    ) -> None:
        """Take passes that exchange nothing, and agree whether all processes came through."""
        error: Exception | None = None
        try:
            self._take(passes, loss_of, sums, exchanges=False)
        except Exception as raised:
            error = raised
        found = self.gathered("" if error is None else _kind(error))
        if error is not None:
            raise error
        if "failed" in found:
            raise ProcessError(f"process {found.index('failed')} has failed; see what it says.")
        if "memory" in found:
            raise torch.OutOfMemoryError(f"process {found.index('memory')} ran out of memory")

    def _take(
        self,
        passes: Sequence[tuple[Slice, bool]],
        loss_of: Callable[[Slice], LossOutput],
        sums: dict[str, Tensor],
        *,
        exchanges: bool,
    ) -> None:
        for number, (piece, counts) in enumerate(passes, start=1):
            is_last = exchanges and number == len(passes)
            with self._together(), self.weights.accumulating(is_last=is_last):
                output = loss_of(piece)
                loss = output.loss if counts else output.loss * 0.0
                self.weights.backward(loss, is_last=is_last)
            if counts:
                for name, value in {"total": output.loss.detach(), **output.metrics}.items():
                    sums[name] = sums[name] + value if name in sums else value

    def update(self, loss: float) -> Update:
        """Clip, step the optimizer and the schedule, and forget the gradients.

        A step whose loss or gradient is not finite leaves weights and moments untouched.
        """
        gradient_norm = self.weights.clip(self._max_norm)
        learning_rate = float(self.optimizer.param_groups[0]["lr"])
        is_skipped = not (math.isfinite(loss) and math.isfinite(gradient_norm))
        if not is_skipped:
            self.weights.step()
        self.weights.forget_gradients()
        with warnings.catch_warnings():
            # PyTorch takes a skipped first step for a forgotten one.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            self.scheduler.step()
        return Update(
            gradient_norm=gradient_norm, learning_rate=learning_rate, is_skipped=is_skipped
        )

    def mean(self, metrics: Mapping[str, float], *, size: float = 1.0) -> dict[str, float]:
        """Return each figure over all processes: see :func:`dmpo.training.reduction.reduced`.

        Args:
            metrics: This process's; others may have other names.
            size: What they are a mean of.
        """
        if self.num_ranks == 1:
            return dict(metrics)
        everyone = self.gathered((dict(metrics), size))
        return reduced([figures for figures, _ in everyone], [size for _, size in everyone])

    def gathered(self, value: Value) -> list[Value]:
        """Return what each process has, in their order; all of them get it.

        Raises:
            ProcessError: If another process is gone.
        """
        if self.num_ranks == 1:
            return [value]
        with self._together():
            everyone: list[Value] = gather_object([value])
        return everyone

    def total(self, count: int) -> int:
        """Return the sum of the processes' counts."""
        return sum(self.gathered(count))

    def largest(self, count: int) -> int:
        """Return the largest of the processes' counts."""
        return max(self.gathered(count))

    def smallest(self, count: int) -> int:
        """Return the smallest of the processes' counts."""
        return min(self.gathered(count))

    def is_true_anywhere(self, flag: bool) -> bool:
        """Return whether the flag is set on any process; all of them get the same answer."""
        return any(self.gathered(flag))

    def together(self, work: Callable[[], None]) -> None:
        """Do something that may fail on one process alone; then all of them fail.

        Raises:
            Exception: What the work raised here.
            OutputError: If it failed on another process.
        """
        if self.num_ranks == 1:
            work()
            return
        error: Exception | None = None
        try:
            work()
        except Exception as raised:
            error = raised
        said = self.gathered("" if error is None else str(error) or type(error).__name__)
        if error is not None:
            raise error
        for rank, text in enumerate(said):
            if text:
                raise OutputError(f"process {rank} of {self.num_ranks}: {text}")

    def meet(self, where: str) -> None:
        """Wait for all processes, and find out which does not come.

        Args:
            where: What the run is doing, for the message.

        Raises:
            ProcessError: Naming the processes that have not come in time, or have died.
        """
        if self._watch is None:
            return
        with self._together(where):
            torch.distributed.monitored_barrier(self._watch, timeout=self._timeout)

    def _missing(self) -> str:
        """Return in words which processes do not answer: a roll call, over the launcher's store."""
        others = [rank for rank in range(self.num_ranks) if rank != self.rank]
        end = time.monotonic() + SECONDS_TO_ANSWER
        try:
            store = torch.distributed.distributed_c10d._get_default_store()
            store.set(f"dmpo/here/{self.rank}", "yes")
            while others and time.monotonic() < end:
                others = [rank for rank in others if not store.check([f"dmpo/here/{rank}"])]
                time.sleep(0.1)
        except RuntimeError:
            others = [0]  # which has the store
        if not others:
            return "another process"
        return " and ".join(
            f"process {rank} of {self.num_ranks} ({self._names[rank]})" for rank in others
        )

    def _watching_group(self) -> Any:
        """Return the group of all processes over which one that does not come can be named."""
        if self.num_ranks == 1:
            return None
        return torch.distributed.new_group(backend="gloo", timeout=self._timeout)

    @contextlib.contextmanager
    def _together(self, where: str = "the processes") -> Iterator[None]:
        """Say in one line that another process is gone, and which."""
        started = time.monotonic()
        try:
            yield
        except RuntimeError as error:
            if self.num_ranks == 1 or not re.search(LOST, str(error)):
                raise
            waited = time.monotonic() - started
            raise ProcessError(
                f"{where}: {self._missing()} did not come within {waited:.0f} s "
                f"(training.process_timeout: {self._timeout.total_seconds():g}): it hangs or has "
                "died. The last checkpoint is whole: dmpo train --resume goes on from it."
            ) from error


def _kind(error: Exception) -> str:
    return "memory" if is_out_of_memory(error) else "failed"


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
