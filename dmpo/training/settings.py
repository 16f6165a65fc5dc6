"""What the loop can be told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

from pydantic import Field, PositiveInt, model_validator

from dmpo.errors import ConfigError
from dmpo.training.events import StopReason
from dmpo.training.limits import reached_limit
from dmpo.training.optimization import OptimizationSettings

__all__ = ["TrainingSettings"]

Buffer = TypeVar("Buffer")


class TrainingSettings(OptimizationSettings):
    """Algorithm 1's numbers, the optimizer's, and how often the run reports and saves."""

    max_seconds: float | None = Field(
        None,
        gt=0,
        description="Stop, at the next buffer, after this many seconds of training "
        "(evaluations and checkpoints not counted); null: num_steps alone decides.",
    )
    max_model_tokens: float | None = Field(
        None,
        gt=0,
        description="Stop, at the next buffer, once the run has cost this many model tokens "
        "(tokens/model_total: forward 1, backward 2); null: num_steps alone decides.",
    )
    max_model_flops: float | None = Field(
        None,
        gt=0,
        description="Stop, at the next buffer, once the model has done this many floating-point "
        "operations (flops/total); null: num_steps alone decides.",
    )
    prompts_per_buffer: PositiveInt = Field(
        16, description="B, prompts per buffer, all ranks together."
    )
    rollouts_per_prompt: int = Field(8, ge=2, description="N, rollouts of one prompt: a group.")
    updates_per_buffer: PositiveInt = Field(8, description="F, gradient steps on one buffer.")
    replay_buffers: PositiveInt = Field(
        1,
        description="K, newest buffers that gradient steps take turns on, each with the weights "
        "and the behaviour policy of its own; every buffer is used F times. 1: no replay.",
    )
    skip_below: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Rollouts whose real weight is smaller in size take no part in a gradient "
        "step and cost nothing; the loss is still divided by all of the buffer.",
    )
    flat_groups: Literal["keep", "skip", "replace"] = Field(
        "keep",
        description="Prompts whose rewards are all equal: kept, left out of gradient steps, or "
        "replaced by fresh prompts before the buffer is full (dynamic sampling).",
    )
    replacement_rounds: PositiveInt = Field(
        3,
        description="Times that a buffer asks for fresh prompts, at most (flat_groups: replace); "
        "what is flat then stays.",
    )
    micro_batch_rows: PositiveInt | None = Field(
        None,
        description="Rollouts per forward and backward pass, at most; null: the whole buffer. "
        "Changes memory and speed; the result only by rounding and by where dropout falls.",
    )
    micro_batch_views: PositiveInt | None = Field(
        None,
        description="Views of a rollout per forward and backward pass, at most, where the loss is "
        "a sum over views: then memory does not grow with their number; null: all of them.",
    )
    auto_micro_batch: bool = Field(
        False,
        description="Find out how many rollouts fit into memory at once, and take a gradient step "
        "that runs out of it again in smaller pieces.",
    )
    rows_per_forward: PositiveInt = Field(
        128, description="Rollouts sampled at once, at most; fewer where memory is too small."
    )
    likelihood_rows: PositiveInt | None = Field(
        None,
        description="Rollouts per forward pass where likelihoods are evaluated without gradient, "
        "each with all its views, at most; null: rows_per_forward.",
    )
    overlap_rewards: bool = Field(
        False,
        description="Score the rollouts of a forward pass while the next are sampled: a reward is "
        "then called once for each rows_per_forward, not once a buffer.",
    )
    offload_buffers: bool = Field(
        False,
        description="Keep buffers in page-locked host memory between their uses, and bring the "
        "rows of a micro-batch to the device one by one.",
    )
    checkpoint_every: PositiveInt | None = Field(
        None, description="Steps between checkpoints; null: only at the end."
    )
    on_save_error: Literal["stop", "continue"] = Field(
        "stop",
        description="What a checkpoint that cannot be written (a full disk) does to the run: end "
        "it, or be said and left out; the checkpoints before it stay either way.",
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
    measure_drift_every: PositiveInt | None = Field(
        None,
        description="Steps between measurements of the KL from the reference by the ELBO, and, of "
        "short canvases, of the ELBO's gap (at the next buffer; not counted to training); null: "
        "none. Keeps a reference whatever the objective.",
    )
    drift_rows: PositiveInt = Field(
        64, description="Rollouts that a measurement of drift looks at, at most."
    )

    @model_validator(mode="after")
    def _check_loop(self) -> TrainingSettings:
        if self.rows_per_forward < self.rollouts_per_prompt:
            raise ValueError(
                f"rows_per_forward {self.rows_per_forward} is less than rollouts_per_prompt "
                f"{self.rollouts_per_prompt}: a group is sampled in one pass."
            )
        if self.updates_per_buffer % self.replay_buffers:
            raise ValueError(
                f"updates_per_buffer {self.updates_per_buffer} is no multiple of replay_buffers "
                f"{self.replay_buffers}: the steps between two buffers are shared evenly."
            )
        return self

    def check_shared_by(self, num_processes: int) -> None:
        """Refuse more processes than there are groups in a buffer.

        Raises:
            ConfigError: If so.
        """
        if self.prompts_per_buffer < num_processes:
            raise ConfigError(
                f"training.prompts_per_buffer: {self.prompts_per_buffer} prompts are fewer than "
                f"{num_processes} processes; each needs a group of its own."
            )

    def limit_reached(
        self,
        step: int,
        *,
        model_tokens: int | float | None,
        model_flops: int | float | None,
        seconds: float | None,
    ) -> StopReason | None:
        """Return which limit ends a run here; None: it goes on. A buffer is always used up.

        Args:
            step: Gradient steps taken.
            model_tokens: Model tokens that they cost; None: not known.
            model_flops: Floating-point operations that they cost; None: not known.
            seconds: Seconds that they took; None: not known.
        """
        return reached_limit(
            step,
            num_steps=self.num_steps,
            updates_per_buffer=self.updates_per_buffer,
            used={
                "max_model_tokens": model_tokens,
                "max_model_flops": model_flops,
                "max_seconds": seconds,
            },
            limits={
                "max_model_tokens": self.max_model_tokens,
                "max_model_flops": self.max_model_flops,
                "max_seconds": self.max_seconds,
            },
        )

    def turn(self, buffers: Sequence[Buffer], update: int) -> tuple[Buffer, int]:
        """Return which buffer a gradient step looks at, and which of its F steps that is.

        Args:
            buffers: The stored ones, the newest first; at most ``replay_buffers``.
            update: Gradient steps since the newest was filled, from 0.
        """
        age = update % len(buffers)
        before = age * (self.updates_per_buffer // self.replay_buffers)
        return buffers[age], before + update // len(buffers)

    def seconds_left(
        self, step: int, seconds: float, *, model_tokens: int = 0, model_flops: int = 0
    ) -> float:
        """Return the estimated seconds of training to come, by whichever limit comes first.

        Args:
            step: Gradient steps taken.
            seconds: Seconds that they took.
            model_tokens: Model tokens that they cost.
            model_flops: Floating-point operations that they cost.
        """
        estimates = [(self.num_steps - step) * seconds / max(1, step)]
        if self.max_seconds is not None:
            estimates.append(self.max_seconds - seconds)
        budgets = [(self.max_model_tokens, model_tokens), (self.max_model_flops, model_flops)]
        for limit, used in budgets:
            if limit is not None and used > 0:
                estimates.append((limit / used - 1) * seconds)
        return max(0.0, min(estimates))
