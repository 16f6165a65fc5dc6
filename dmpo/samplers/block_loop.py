"""The one loop that every sampler shares: *block loop = unmasking rule × forward pass*.

The canvas is cut into blocks that are filled from left to right. In each step the rule names
candidate positions of the current block, the forward pass returns logits there and nowhere
else, a token is drawn for each, and the rule says which of them to reveal. A rule is an
:class:`UnmaskingRule`, a way to run the model a :class:`ForwardPass` (``forward.py``): caches
are further forward passes, confidence thresholds further rules, and neither touches the loop.

One more axis than in :mod:`dmpo.records`: L, the positions of one block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from dmpo.errors import ConfigError, PluginError
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Prompts, Rollouts
from dmpo.samplers.base import SamplerConfig
from dmpo.samplers.canvas import Canvas
from dmpo.samplers.draw import draw_tokens, tempered_log_probs
from dmpo.samplers.forward import ForwardPass

__all__ = [
    "BlockSamplerConfig",
    "BlockState",
    "Proposal",
    "UnmaskingRule",
    "fill_canvas",
]


class BlockSamplerConfig(SamplerConfig):
    """What every sampler that works block by block can be told."""

    block_length: PositiveInt | None = Field(
        None, description="Tokens per block, filled from left to right; unset: one block."
    )

    @property
    def block_size(self) -> int:
        """Tokens per block, L."""
        return self.block_length or self.gen_length

    @property
    def num_blocks(self) -> int:
        """Blocks on the canvas."""
        return self.gen_length // self.block_size

    @model_validator(mode="after")
    def _blocks_fill_the_canvas(self) -> BlockSamplerConfig:
        if self.gen_length % self.block_size:
            raise ValueError(
                f"block_length {self.block_size} does not divide gen_length {self.gen_length}"
            )
        return self


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlockState:
    """What a rule knows of a block before the model is asked."""

    hidden: Bool[Tensor, "S L"]
    """True where no token is fixed yet."""
    order: Int[Tensor, "S L"]
    """Rank of each position in a uniformly random order, drawn once per row and block."""
    step: int
    """Step inside this block, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Proposal:
    """The candidates of one step with a token drawn for each.

    Rows may have different numbers of candidates; the surplus slots are not ``valid`` and
    hold whatever a position outside the candidates gave.
    """

    logits: Float[Tensor, "S K V"]
    """Untempered logits at the candidates."""
    tokens: Int[Tensor, "S K"]
    """Tokens drawn there."""
    current: Int[Tensor, "S K"]
    """Tokens that stand there now (mask tokens where hidden)."""
    valid: Bool[Tensor, "S K"]
    """True on candidates."""
    step: int
    """Step inside this block, from 0."""


class UnmaskingRule(ABC):
    """Which positions are asked for, and which of them are revealed. Holds no changing state.

    Every step must reveal something in each row that still hides something; a step that reveals
    nothing at all is refused, as the loop would not end.
    """

    sees_tokens: ClassVar[bool]
    """Whether ``reveal`` looks at the drawn tokens (or revises old ones): then their
    log-probabilities do not add up to the path's, and none are recorded."""

    @abstractmethod
    def candidates(self, state: BlockState) -> Bool[Tensor, "S L"]:
        """Return where logits are needed in this step.

        Mostly hidden positions. Naming a revealed one puts it up for revision: unless
        ``reveal`` names it again, it is hidden once more.
        """

    @abstractmethod
    def reveal(self, proposal: Proposal) -> Bool[Tensor, "S K"]:
        """Return which candidates stand revealed after this step.

        Hidden ones take the drawn token; those that were revealed keep theirs.
        """


def fill_canvas(
    policy: DiffusionPolicy,
    prompts: Prompts,
    rule: UnmaskingRule,
    forward: ForwardPass,
    config: BlockSamplerConfig,
    *,
    num_rollouts: int,
    generator: torch.Generator,
) -> Rollouts:
    """Fill the canvas behind each prompt, block after block (LLaDA §2.4, Algorithm 5).

    Which positions are hidden is kept in a boolean tensor, so a model that draws the mask
    token itself does no harm.

    Args:
        policy: The model; evaluation mode and no gradient for the time.
        prompts: B prompts.
        rule: Chooses positions.
        forward: Runs the model; one per call, as it may hold a cache.
        config: Lengths and temperature.
        num_rollouts: N, at least 1.
        generator: The only source of randomness, on the CPU or the policy's device.

    Returns:
        Rollouts; ``log_probs`` where the rule is blind to tokens, the temperature is greater
        than 0 and the forward pass returns the policy's own logits.

    Raises:
        ConfigError: If N < 1, or prompt and canvas exceed the model's context.
        PluginError: If the rule reveals nothing in a step.
    """
    _check_fits(policy, prompts, config, num_rollouts)
    canvas = Canvas(policy, prompts, config.gen_length, num_rollouts)
    is_exact = forward.is_exact and not rule.sees_tokens and config.temperature > 0
    num_forwards = 0
    with policy.evaluating():
        for start in range(0, config.gen_length, config.block_size):
            order = _random_order(canvas.num_rows, config.block_size, generator).to(policy.device)
            hidden = canvas.hidden[:, start : start + config.block_size]
            step = 0
            while bool(hidden.any()):
                state = BlockState(hidden=hidden, order=order, step=step)
                at, valid = _positions(rule.candidates(state))
                at += start
                logits = forward.logits(canvas.step_input(at, valid, block_start=start, step=step))
                tokens = draw_tokens(logits, config.temperature, generator)
                current = canvas.completions.gather(1, at)
                revealed = rule.reveal(
                    Proposal(logits=logits, tokens=tokens, current=current, valid=valid, step=step)
                )
                is_new = canvas.write(
                    at, tokens, valid=valid, revealed=revealed, forward=num_forwards
                )
                _check_progress(is_new, rule, step)
                if is_exact:
                    log_probs = tempered_log_probs(logits, tokens, config.temperature)
                    canvas.record(at, log_probs, is_new)
                step += 1
                num_forwards += 1
        return canvas.rollouts(config.temperature, num_forwards, is_exact=is_exact)


def _random_order(num_rows: int, length: int, generator: torch.Generator) -> Int[Tensor, "S L"]:
    keys = torch.rand(
        num_rows, length, dtype=torch.float64, device=generator.device, generator=generator
    )
    return keys.argsort(dim=1).argsort(dim=1)


def _positions(
    candidates: Bool[Tensor, "S L"],
) -> tuple[Int[Tensor, "S K"], Bool[Tensor, "S K"]]:
    """Return the candidates' positions, ascending in each row, padded to the longest row."""
    counts = candidates.sum(dim=1)
    num_slots = int(counts.max())
    at = candidates.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :num_slots]
    slots = torch.arange(num_slots, device=candidates.device)
    return at, slots < counts[:, None]


def _check_progress(is_new: Bool[Tensor, "S K"], rule: UnmaskingRule, step: int) -> None:
    if not bool(is_new.any()):
        raise PluginError(
            f"sampler: {type(rule).__name__} revealed no token in step {step} of a block; every "
            "step must reveal at least one, or the loop does not end."
        )


def _check_fits(
    policy: DiffusionPolicy, prompts: Prompts, config: BlockSamplerConfig, num_rollouts: int
) -> None:
    if num_rollouts < 1:
        raise ConfigError(f"num_rollouts: {num_rollouts} given; at least 1 is accepted.")
    prompt_length = int(prompts.attention_mask.sum(dim=1).max())
    if prompt_length + config.gen_length > policy.max_length:
        raise ConfigError(
            f"gen_length: {config.gen_length} behind a prompt of {prompt_length} tokens given; "
            f"the model's context of {policy.max_length} leaves "
            f"{max(0, policy.max_length - prompt_length)}."
        )
