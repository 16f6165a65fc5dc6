"""The optimizer and the learning-rate schedule that training and fine-tuning share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from dmpo.settings import Settings

__all__ = [
    "OptimizationSettings",
    "Schedule",
    "build_optimizer",
    "build_scheduler",
    "schedule_factor",
    "trainable_parameters",
]

Schedule = Literal["constant", "linear", "cosine"]
"""How the learning rate goes on after the warm-up."""


class OptimizationSettings(Settings):
    """AdamW, its schedule and the clip."""

    num_steps: PositiveInt = Field(400, description="Gradient steps in all.")
    learning_rate: float = Field(2e-4, gt=0, description="Peak learning rate.")
    betas: tuple[float, float] = Field((0.9, 0.99), description="AdamW's two decay rates.")
    adam_epsilon: float = Field(1e-8, gt=0, description="AdamW's epsilon.")
    weight_decay: float = Field(
        0.0, ge=0, description="AdamW's decoupled weight decay, on every trainable parameter."
    )
    schedule: Schedule = Field(
        "constant", description="What follows warm-up: constant, or a decay to 0 at num_steps."
    )
    warmup_steps: NonNegativeInt = Field(
        0, description="Steps over which the learning rate rises linearly."
    )
    max_grad_norm: float | None = Field(
        1.0, gt=0, description="Gradients are clipped to this norm; null: not clipped."
    )
    max_skipped_in_a_row: PositiveInt = Field(
        10,
        description="Stop, with the state saved, after so many steps in a row whose loss or "
        "gradient is not finite.",
    )
    mixed_precision: Literal["no", "bf16"] = Field(
        "no", description="Precision of the forward pass; log-probabilities stay in float32."
    )

    process_timeout: float = Field(
        1800.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds that processes wait for one another before the run ends and names the "
        "one that did not come.",
    )

    @model_validator(mode="after")
    def _check_optimizer(self) -> OptimizationSettings:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1); given {list(self.betas)}.")
        if self.warmup_steps > self.num_steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} exceeds num_steps {self.num_steps}: the "
                "learning rate would never be reached."
            )
        return self


def trainable_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that take gradients, in the module's order."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def build_optimizer(
    parameters: Iterable[nn.Parameter], settings: OptimizationSettings
) -> torch.optim.AdamW:
    """Return AdamW over ``parameters`` in one group (decay on all of them, as DMPO's code)."""
    return torch.optim.AdamW(
        list(parameters),
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.adam_epsilon,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def schedule_factor(step: int, settings: OptimizationSettings) -> float:
    """Return the share of the peak learning rate at a step.

    Warm-up counts from 1/w at step 0, so that no step is wasted at a rate of 0; after it,
    `linear` and `cosine` fall from 1 and reach 0 at ``num_steps``.

    Args:
        step: Steps taken so far, from 0.
        settings: Schedule, warm-up and number of steps.

    Returns:
        A factor in [0, 1].

    Example:
        >>> settings = OptimizationSettings(num_steps=10, warmup_steps=4, schedule="linear")
        >>> schedule_factor(1, settings), schedule_factor(7, settings)
        (0.5, 0.5)
    """
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    decaying = max(1, settings.num_steps - settings.warmup_steps)
    progress = min(1.0, (step - settings.warmup_steps) / decaying)
    if settings.schedule == "linear":
        return 1.0 - progress
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def build_scheduler(optimizer: torch.optim.Optimizer, settings: OptimizationSettings) -> LambdaLR:
    """Return the scheduler that follows :func:`schedule_factor`; step it once a gradient step."""
    return LambdaLR(optimizer, lambda step: schedule_factor(step, settings))
