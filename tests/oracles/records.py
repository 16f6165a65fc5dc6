"""Records put together from bare tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from dmpo.records import Example, Prompts, Rewards, Rollouts


def rollouts_of(
    prompt_tokens: Tensor,
    completions: Tensor,
    *,
    prompt_mask: Tensor | None = None,
    answer_mask: Tensor | None = None,
    commit_step: Tensor | None = None,
    log_probs: Tensor | None = None,
    entropies: Tensor | None = None,
    temperature: float = 1.0,
) -> Rollouts:
    """Return rollouts [B, N, D] to prompts [B, P]; by default whole, in one step, no path."""
    num_prompts, num_rollouts, _ = completions.shape
    everything = torch.ones_like(completions, dtype=torch.bool)
    real = torch.ones_like(prompt_tokens, dtype=torch.bool)
    return Rollouts(
        prompts=Prompts(
            examples=tuple(Example(prompt=str(row)) for row in range(num_prompts)),
            tokens=prompt_tokens,
            attention_mask=real if prompt_mask is None else prompt_mask,
        ),
        completions=completions,
        answer_mask=everything if answer_mask is None else answer_mask,
        commit_step=torch.zeros_like(completions) if commit_step is None else commit_step,
        log_probs=log_probs,
        entropies=entropies,
        temperature=temperature,
        num_forwards=0,
        texts=tuple(("",) * num_rollouts for _ in range(num_prompts)),
    )


def rewards_of(total: Tensor) -> Rewards:
    """Return rewards [B, N] of one component."""
    return Rewards(total=total, components={"total": total})
