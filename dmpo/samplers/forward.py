"""How a sampler runs the model in one denoising step: plainly, guided, or with a cache.

A forward pass object lives for one ``sample`` call and sees every step, so it may keep what it
computed in earlier ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dmpo.policies.base import DiffusionPolicy, Known

__all__ = [
    "CachedForward",
    "ForwardPass",
    "GuidedForward",
    "PlainForward",
    "StepInput",
    "make_forward",
]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepInput:
    """The sequences of one denoising step, and where logits are wanted."""

    rows: Int[Tensor, " S"]
    """Which rows of the canvas these are, ascending."""
    tokens: Int[Tensor, "S T"]
    """Prompts and noised completions."""
    attention_mask: Bool[Tensor, "S T"]
    """True on real tokens."""
    at: Int[Tensor, "S K"]
    """Positions in T."""
    valid: Bool[Tensor, "S K"]
    """True where ``at`` is really wanted; surplus slots fill up the shorter rows."""
    hidden_at: Bool[Tensor, "S K"]
    """True where no token is fixed yet at ``at``."""
    prompt_length: int
    """P."""
    block: tuple[int, int]
    """First position in T of the current block, and the one behind its last."""
    step: int
    """Step inside the current block, from 0."""
    known: Known
    """What is known of the rows without asking the device."""


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
        return self._policy.known_logits(step.tokens, step.attention_mask, step.at, step.known)


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
        both = self._policy.known_logits(
            torch.cat([step.tokens, masked]),
            torch.cat([step.attention_mask, step.attention_mask]),
            torch.cat([step.at, step.at]),
            step.known,
        )
        conditional, unconditional = both.chunk(2)
        return unconditional + (self._scale + 1) * (conditional - unconditional)


@final
class CachedForward(ForwardPass):
    """Keys and values are kept for the length of a block (Fast-dLLM, arXiv 2505.22618, §3.2).

    The first step of a block runs over everything and fills the cache; the others run over the
    block and what follows (`prefix`), or over the block alone (`dual`).

    Args:
        policy: The model.
        kind: Which of the two.
    """

    is_exact = False

    def __init__(self, policy: DiffusionPolicy, kind: Literal["prefix", "dual"]) -> None:
        """Remember policy and kind."""
        self._policy = policy
        self._kind = kind
        self._cache: Any = None
        self._rows = torch.empty(0, dtype=torch.long)

    def logits(self, step: StepInput) -> Float[Tensor, "S K V"]:
        """See :meth:`ForwardPass.logits`."""
        if step.step == 0:
            self._cache = self._policy.new_cache()
        elif len(step.rows) < len(self._rows):
            self._cache.select(torch.searchsorted(self._rows, step.rows))
        self._rows = step.rows
        start, end = step.block
        return self._policy.cached_logits(
            step.tokens,
            step.attention_mask,
            step.at,
            cache=self._cache,
            window=(start, end if self._kind == "dual" else step.tokens.shape[1]),
        )


def make_forward(
    policy: DiffusionPolicy,
    cache: Literal["none", "prefix", "dual"] = "none",
    cfg_scale: float = 0.0,
) -> ForwardPass:
    """Return the pass with the cache, the guided one where ``cfg_scale`` > 0, or the plain one."""
    if cache != "none":
        return CachedForward(policy, cache)
    return GuidedForward(policy, cfg_scale) if cfg_scale > 0 else PlainForward(policy)
