"""What the loop can be told."""

from __future__ import annotations

from pydantic import Field, PositiveInt, model_validator

from dmpo.training.optimization import OptimizationSettings

__all__ = ["TrainingSettings"]


class TrainingSettings(OptimizationSettings):
    """Algorithm 1's numbers, the optimizer's, and how often the run reports and saves."""

    max_seconds: float | None = Field(
        None,
        gt=0,
        description="Stop, at the next buffer, after this many seconds of training "
        "(evaluations and checkpoints not counted); null: num_steps alone decides.",
    )
    prompts_per_buffer: PositiveInt = Field(
        16, description="B, prompts per buffer, all ranks together."
    )
    rollouts_per_prompt: int = Field(8, ge=2, description="N, rollouts of one prompt: a group.")
    updates_per_buffer: PositiveInt = Field(8, description="F, gradient steps on one buffer.")
    micro_batch_rows: PositiveInt | None = Field(
        None,
        description="Rollouts per forward and backward pass, at most; null: the whole buffer. "
        "Changes memory and speed; the result only by rounding and by where dropout falls.",
    )
    rows_per_forward: PositiveInt = Field(
        128, description="Rollouts per forward pass where no gradient is taken, at most."
    )
    checkpoint_every: PositiveInt | None = Field(
        None, description="Steps between checkpoints; null: only at the end."
    )
    keep_checkpoints: PositiveInt = Field(
        2, description="Newest checkpoints that are kept; the newest whole one always is."
    )
    evaluate_every: PositiveInt | None = Field(
        None, description="Steps between evaluations; null: only before and after."
    )
    sample_every: PositiveInt = Field(
        50, description="Steps between rollouts written to samples.jsonl (at the next buffer)."
    )

    @model_validator(mode="after")
    def _check_loop(self) -> TrainingSettings:
        if self.rows_per_forward < self.rollouts_per_prompt:
            raise ValueError(
                f"rows_per_forward {self.rows_per_forward} is less than rollouts_per_prompt "
                f"{self.rollouts_per_prompt}: a group is sampled in one pass."
            )
        return self

    def seconds_left(self, step: int, seconds: float) -> float:
        """Return the estimated seconds of training to come, by whichever limit comes first.

        Args:
            step: Gradient steps taken.
            seconds: Seconds that they took.
        """
        by_steps = (self.num_steps - step) * seconds / max(1, step)
        if self.max_seconds is None:
            return by_steps
        return max(0.0, min(by_steps, self.max_seconds - seconds))
