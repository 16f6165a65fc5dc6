"""The canvas: prompts, completions as far as they are filled, and how each token got there."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Prompts, Rollouts, expand_rows
from dmpo.samplers.forward import StepInput

__all__ = ["Canvas", "through_first_eos"]


@final
class Canvas:
    """The S = B·N rows that one ``sample`` call fills; written in place.

    Positions ``at`` count from the first completion position.

    Args:
        policy: The model whose tokens these are.
        prompts: B prompts.
        gen_length: D.
        num_rollouts: N.
    """

    def __init__(
        self, policy: DiffusionPolicy, prompts: Prompts, gen_length: int, num_rollouts: int
    ) -> None:
        """Put D mask tokens behind each prompt, N times."""
        device = policy.device
        self._policy = policy
        self._prompts = prompts
        self._num_rollouts = num_rollouts
        self._prompt_length = prompts.tokens.shape[1]
        prompt_tokens = expand_rows(prompts.tokens.to(device), num_rollouts)
        prompt_mask = expand_rows(prompts.attention_mask.to(device), num_rollouts)
        shape = (prompt_tokens.shape[0], gen_length)
        noise = torch.full(shape, policy.mask_token_id, dtype=torch.long, device=device)
        self.hidden = torch.ones(shape, dtype=torch.bool, device=device)
        self._tokens = torch.cat([prompt_tokens, noise], dim=1)
        self._attention_mask = torch.cat([prompt_mask, self.hidden], dim=1)
        self.completions = self._tokens[:, self._prompt_length :]  # a view of the same memory
        self._commit_step = torch.full(shape, -1, dtype=torch.long, device=device)
        self._log_probs = torch.zeros(shape, dtype=torch.float32, device=device)

    @property
    def num_rows(self) -> int:
        """S."""
        return self.hidden.shape[0]

    def step_input(
        self, at: Int[Tensor, "S K"], valid: Bool[Tensor, "S K"], *, block_start: int, step: int
    ) -> StepInput:
        """Return what a forward pass looks at."""
        return StepInput(
            tokens=self._tokens,
            attention_mask=self._attention_mask,
            at=at + self._prompt_length,
            valid=valid,
            prompt_length=self._prompt_length,
            block_start=self._prompt_length + block_start,
            step=step,
        )

    def write(
        self,
        at: Int[Tensor, "S K"],
        tokens: Int[Tensor, "S K"],
        *,
        valid: Bool[Tensor, "S K"],
        revealed: Bool[Tensor, "S K"],
        forward: int,
    ) -> Bool[Tensor, "S K"]:
        """Reveal and hide positions as a step decided.

        Args:
            at: Positions, each at most once per row.
            tokens: What a position takes if it was hidden and is now revealed.
            valid: False on slots whose position stays as it is.
            revealed: True where the position is revealed after this step; hidden elsewhere.
            forward: Index of the forward pass that gave the tokens.

        Returns:
            True where a hidden position was revealed.
        """
        was_hidden = self.hidden.gather(1, at)
        is_hidden = torch.where(valid, ~revealed, was_hidden)
        is_new = was_hidden & ~is_hidden
        written = torch.where(is_new, tokens, self.completions.gather(1, at))
        written = written.masked_fill(is_hidden, self._policy.mask_token_id)
        self.completions.scatter_(1, at, written)
        self.hidden.scatter_(1, at, is_hidden)
        steps = self._commit_step.gather(1, at).masked_fill(is_new, forward)
        self._commit_step.scatter_(1, at, steps)
        return is_new

    def record(
        self,
        at: Int[Tensor, "S K"],
        log_probs: Float[Tensor, "S K"],
        is_new: Bool[Tensor, "S K"],
    ) -> None:
        """Keep the log-probabilities of the tokens that ``write`` called new."""
        kept = self._log_probs.gather(1, at)
        self._log_probs.scatter_(1, at, torch.where(is_new, log_probs, kept))

    def rollouts(self, temperature: float, num_forwards: int, *, is_exact: bool) -> Rollouts:
        """Return the filled canvas; log-probabilities only if they are exact."""
        completions = self.completions.contiguous()
        answer_mask = through_first_eos(completions, self._policy.eos_token_id)
        texts = self._policy.decode(completions)
        starts = range(0, self.num_rows, self._num_rollouts)
        return Rollouts(
            prompts=self._prompts,
            completions=self._by_prompt(completions),
            answer_mask=self._by_prompt(answer_mask),
            commit_step=self._by_prompt(self._commit_step),
            log_probs=self._by_prompt(self._log_probs) if is_exact else None,
            temperature=temperature,
            num_forwards=num_forwards,
            texts=tuple(tuple(texts[start : start + self._num_rollouts]) for start in starts),
        )

    def _by_prompt(self, value: Tensor) -> Tensor:
        return value.reshape(-1, self._num_rollouts, value.shape[-1])


def through_first_eos(
    completions: Int[Tensor, "*rows D"], eos_token_id: int
) -> Bool[Tensor, "*rows D"]:
    """Return True up to and including the first EOS; all True where there is none."""
    is_eos = completions == eos_token_id
    return is_eos.cumsum(-1) - is_eos.long() == 0
