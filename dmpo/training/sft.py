"""STUB (signatures are final; the body follows): supervised fine-tuning of a masked diffusion model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from pydantic import Field, PositiveInt

from dmpo.evaluation.evaluator import EvaluationResult, Evaluator
from dmpo.policies.base import DiffusionPolicy
from dmpo.tasks.base import Task
from dmpo.training.optimization import OptimizationSettings

__all__ = ["SftSettings", "SftTask", "SftTrainer"]


class SftSettings(OptimizationSettings):
    """…"""

    batch_rows: PositiveInt = Field(128)
    micro_batch_rows: PositiveInt | None = Field(None)
    masking: Literal["bernoulli", "count"] = Field("count")
    log_every: PositiveInt = Field(10)


@dataclass(frozen=True, slots=True, kw_only=True)
class SftTask:
    """One ingredient of the mixture."""

    name: str
    task: Task
    weight: float = 1.0
    response_length: int | None = None
    evaluator: Evaluator | None = None


@final
class SftTrainer:
    """…"""

    def __init__(
        self,
        policy: DiffusionPolicy,
        tasks: Sequence[SftTask],
        settings: SftSettings,
        *,
        seed: int,
        output: Path,
    ) -> None:
        raise NotImplementedError

    def train(self) -> dict[str, EvaluationResult]:
        """Train, save the policy to ``output`` and its figures beside it; by task name."""
        raise NotImplementedError
