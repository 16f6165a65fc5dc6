"""From a frozen buffer to the rows one gradient step looks at."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from dmpo.records import Batch, Experience, Views, expand_rows

__all__ = ["batch_rows"]


def batch_rows(
    experience: Experience,
    views: Views,
    weights: Float[Tensor, "B N"] | Float[Tensor, "B N R"],
    *,
    num_tokens: float,
    behaviour_log_probs: Float[Tensor, "B N R D"] | None = None,
    reference_log_probs: Float[Tensor, "B N R D"] | None = None,
    row_weights: Float[Tensor, "B N"] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> Batch:
    """Return the whole buffer as S = B·N rows, group by group.

    Args:
        experience: The buffer.
        views: Views [B, N, R, …] of this step.
        weights: Real weights, or advantages; of rollouts, or of each of their views.
        num_tokens: Completion tokens that count, over the whole buffer.
        behaviour_log_probs: Stored log π_v on these views, where the loss needs it.
        reference_log_probs: Stored log π_ref on these views, where the loss needs it.
        row_weights: What all views of a rollout weigh together, where the loss divides by it.
        metrics: What was learnt while drawing.
    """
    rollouts = experience.rollouts
    behaviour, reference = behaviour_log_probs, reference_log_probs
    return Batch(
        prompt_tokens=expand_rows(rollouts.prompts.tokens, rollouts.num_rollouts),
        prompt_mask=expand_rows(rollouts.prompts.attention_mask, rollouts.num_rollouts),
        completions=rollouts.completions.flatten(0, 1),
        answer_mask=rollouts.answer_mask.flatten(0, 1),
        views=views.flatten_rows(),
        weights=weights.flatten(0, 1),
        behaviour_log_probs=None if behaviour is None else behaviour.flatten(0, 1),
        reference_log_probs=None if reference is None else reference.flatten(0, 1),
        row_weights=None if row_weights is None else row_weights.flatten(),
        num_rows_in_buffer=rollouts.num_rows,
        num_tokens_in_buffer=num_tokens,
        metrics=metrics or {},
    )
