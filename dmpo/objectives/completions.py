"""Texts that an objective makes itself: what a policy would answer from a denoising state.

One pass over a view and a token for everything it hides, all at once: no path, so no likelihood
either. EGSPO-SA (2603.12554) and wd1++ (2507.08838) ask for the rewards of such texts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dmpo.diffusion.draws import uniform
from dmpo.likelihoods.base import noised_views, scored_views
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Rewards, Rollouts, Views, expand_rows
from dmpo.samplers.canvas import through_first_eos
from dmpo.samplers.draw import draw_tokens

__all__ = ["complete_views", "score_completions"]

MAX_LOGITS = 2**28
"""Logits that exist at a time: 1 GiB in float32."""


@torch.no_grad()
def complete_views(
    policy: DiffusionPolicy,
    rollouts: Rollouts,
    views: Views,
    generator: torch.Generator,
    *,
    temperature: float,
    rows_per_forward: int,
) -> Int[Tensor, "B N R D"]:
    """Return each view with every hidden token filled in one pass; what is visible stays.

    A view that scores nothing costs no pass and keeps the rollout's tokens.

    Args:
        policy: The model; it is put into evaluation mode for the time.
        rollouts: The buffer.
        views: Views [B, N, R, …] of it.
        generator: Where tokens are drawn from; not touched at temperature 0.
        temperature: At least 0; 0 takes the most probable token.
        rows_per_forward: Rollouts per forward pass (each with its R views), at least 1; fewer
            where their logits would not fit into 1 GiB. The tokens do not depend on it.
    """
    num_views, length = views.hidden.shape[-2:]
    flat = views.flatten_rows()
    hidden = flat.hidden.flatten(0, 1).to(policy.device)
    prompts, count = rollouts.prompts, rollouts.num_rollouts
    prompt_tokens = expand_rows(prompts.tokens, count)
    prompt_mask = expand_rows(prompts.attention_mask, count)
    completions = rollouts.completions.flatten(0, 1)
    used = scored_views(flat, policy.device).any(dim=1).nonzero().squeeze(1)
    prompt_length = prompt_tokens.shape[1]
    at = torch.arange(prompt_length, prompt_length + length, device=policy.device)
    most = max(1, MAX_LOGITS // (length * policy.vocab_size))
    filled = completions.to(policy.device).repeat_interleave(num_views, dim=0)
    numbers = uniform(views.hidden.shape, generator).flatten(0, 2) if temperature > 0 else None
    with policy.evaluating():
        for chosen in torch.split(used, min(rows_per_forward * num_views, most)):
            if len(chosen) == 0:  # nothing to do is one empty piece
                continue
            _, noisy, attention = noised_views(
                policy, prompt_tokens, prompt_mask, completions, flat, chosen
            )
            logits = policy.logits(noisy, attention, at.expand(len(chosen), -1))
            own = None if numbers is None else numbers[chosen.to(numbers.device)]
            drawn = draw_tokens(logits, temperature, own)
            filled[chosen] = torch.where(hidden[chosen], drawn, filled[chosen])
    return filled.reshape(views.hidden.shape)


def score_completions(
    policy: DiffusionPolicy,
    score: Callable[[Rollouts], Rewards],
    rollouts: Rollouts,
    completions: Int[Tensor, "B N R D"],
) -> Float[Tensor, "B N R"]:
    """Return the reward of each text, graded as an answer to its own prompt.

    Args:
        policy: Whose tokens these are.
        score: What a text is worth (``ObjectiveParts.score``).
        rollouts: The buffer they were made from.
        completions: From :func:`complete_views`.
    """
    num_prompts, num_rollouts, num_views, length = completions.shape
    each = completions.reshape(num_prompts, num_rollouts * num_views, length)
    texts = policy.decode(each.flatten(0, 1))
    starts = range(0, len(texts), each.shape[1])
    made = replace(
        rollouts,
        completions=each,
        answer_mask=through_first_eos(each, policy.eos_token_id),
        commit_step=torch.zeros_like(each),
        log_probs=None,
        entropies=None,
        num_forwards=1,
        texts=tuple(tuple(texts[start : start + each.shape[1]]) for start in starts),
    )
    return score(made).total.reshape(num_prompts, num_rollouts, num_views)
