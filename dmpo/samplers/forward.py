"""How a sampler runs the model in one denoising step: plainly, or guided.

Caches belong here: a forward pass object lives for one ``sample`` call and sees every step,
so it may keep what it computed in earlier ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dmpo.policies.base import DiffusionPolicy

__all__ = ["ForwardPass", "GuidedForward", "PlainForward", "StepInput", "make_forward"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepInput:
    """The sequences of one denoising step, and where logits are wanted."""

    tokens: Int[Tensor, "S T"]
    """Prompts and noised completions."""
    attention_mask: Bool[Tensor, "S T"]
    """True on real tokens."""
    at: Int[Tensor, "S K"]
    """Positions in T."""
    valid: Bool[Tensor, "S K"]
    """True where ``at`` is really wanted; surplus slots fill up the shorter rows."""
    prompt_length: int
    """P."""
    block_start: int
    """First position in T of the current block."""
    step: int
    """Step inside the current block, from 0."""


class ForwardPass(ABC):
    """Turns a step's sequences into logits."""

    is_exact: bool
    """Whether the logits are those of ``policy.logits`` on the whole sequence."""

    @abstractmethod
    def logits(self, step: StepInput) -> Float[Tensor, "S K V"]:
        """Return float32 logits of the tokens at ``step.at``; anything where not ``valid``."""


@final
class PlainForward(ForwardPass):
    """One pass over the whole sequence, nothing kept."""

    is_exact = True

    def __init__(self, policy: DiffusionPolicy) -> None:
        """Remember the policy."""
        self._policy = policy

    def logits(self, step: StepInput) -> Float[Tensor, "S K V"]:
        """See :meth:`ForwardPass.logits`."""
        return self._policy.logits(step.tokens, step.attention_mask, step.at)


@final
class GuidedForward(ForwardPass):
    """Classifier-free guidance: u + (scale + 1)·(c − u), one pass over a doubled batch.

    c are the logits, u those with the prompt masked (unsupervised guidance, Nie et al. 2024,
    2410.18514, as LLaDA uses it).

    Args:
        policy: The model.
        scale: Strength of the guidance, greater than 0.
    """

    is_exact = False

    def __init__(self, policy: DiffusionPolicy, scale: float) -> None:
        """Remember policy and scale."""
        self._policy = policy
        self._scale = scale

    def logits(self, step: StepInput) -> Float[Tensor, "S K V"]:
        """See :meth:`ForwardPass.logits`."""
        masked = step.tokens.clone()
        masked[:, : step.prompt_length] = self._policy.mask_token_id
        both = self._policy.logits(
            torch.cat([step.tokens, masked]),
            torch.cat([step.attention_mask, step.attention_mask]),
            torch.cat([step.at, step.at]),
        )
        conditional, unconditional = both.chunk(2)
        return unconditional + (self._scale + 1) * (conditional - unconditional)


def make_forward(policy: DiffusionPolicy, cfg_scale: float) -> ForwardPass:
    """Return the guided pass where ``cfg_scale`` > 0, else the plain one."""
    return GuidedForward(policy, cfg_scale) if cfg_scale > 0 else PlainForward(policy)
