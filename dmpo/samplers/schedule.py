"""How many tokens each denoising step reveals."""

from __future__ import annotations

from pydantic import Field, PositiveInt, model_validator

from dmpo.samplers.block_loop import BlockSamplerConfig

__all__ = ["ScheduledSamplerConfig", "tokens_per_step"]


class ScheduledSamplerConfig(BlockSamplerConfig):
    """A fixed number of steps, spread evenly over blocks and tokens (LLaDA's)."""

    steps: PositiveInt | None = Field(
        None, description="Denoising steps of all blocks together; unset: one per token."
    )
    tokens_per_step: PositiveInt | None = Field(
        None, description="Tokens of a step, whatever the length: in place of steps."
    )
    cfg_scale: float = Field(0.0, ge=0, description="Classifier-free guidance; 0: none.")

    @property
    def schedule(self) -> tuple[int, ...]:
        """Tokens revealed in each step of a block."""
        if self.tokens_per_step is not None:
            return tokens_per_step(self.block_size, -(-self.block_size // self.tokens_per_step))
        steps = self.steps or self.gen_length
        return tokens_per_step(self.block_size, steps // self.num_blocks)

    @model_validator(mode="after")
    def _steps_fill_the_blocks(self) -> ScheduledSamplerConfig:
        if self.steps is None:
            return self
        if self.steps % self.num_blocks:
            raise ValueError(
                f"steps {self.steps} cannot be spread over {self.num_blocks} blocks "
                f"(gen_length {self.gen_length} in blocks of {self.block_size})"
            )
        if self.steps > self.gen_length:
            raise ValueError(
                f"steps {self.steps} exceed gen_length {self.gen_length}: a step needs a token"
            )
        return self

    @model_validator(mode="after")
    def _one_of_steps_and_tokens(self) -> ScheduledSamplerConfig:
        if self.steps is not None and self.tokens_per_step is not None:
            raise ValueError(
                f"tokens_per_step {self.tokens_per_step} has no effect beside steps {self.steps}; "
                "give one of the two"
            )
        return self

    @model_validator(mode="after")
    def _guidance_has_no_cache(self) -> ScheduledSamplerConfig:
        if self.cache != "none" and self.cfg_scale > 0:
            raise ValueError(
                f"cache {self.cache} cannot be combined with cfg_scale {self.cfg_scale}: guidance "
                "masks the prompt, whose keys a cache keeps"
            )
        return self


def tokens_per_step(num_tokens: int, num_steps: int) -> tuple[int, ...]:
    """Return ``num_tokens`` spread over ``num_steps``, the remainder on the first steps.

    Example:
        >>> tokens_per_step(12, 5)
        (3, 3, 2, 2, 2)
    """
    share, remainder = divmod(num_tokens, num_steps)
    return tuple(share + (step < remainder) for step in range(num_steps))
