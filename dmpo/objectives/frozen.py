"""What is frozen with a buffer: views, and what π_v and π_ref say of the rollouts on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, TypeAlias

from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from dmpo.likelihoods.base import Likelihood, rollout_log_probs
from dmpo.objectives.base import ObjectiveParts
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Experience, LogRatio, Rollouts, Views

__all__ = [
    "StoredViews",
    "behaviour_log_probs",
    "buffer_log_probs",
    "real_weights",
    "reference_log_ratio",
    "view_sets",
]

StoredViews: TypeAlias = Annotated[
    Literal["per_update", "shared"],
    Field(
        description="Views of their own for each of the F updates, stored with the buffer, or one "
        "set for all of them."
    ),
]
"""The option of objectives whose updates look at views that the buffer keeps."""


def view_sets(
    parts: ObjectiveParts, stored: StoredViews, draw: Callable[[], Views]
) -> tuple[Views, ...]:
    """Return one set of views for each update, or one for all where they would not differ.

    Args:
        parts: Whose likelihood draws them, and F.
        stored: What was chosen.
        draw: Makes one set.
    """
    is_shared = parts.likelihood.is_deterministic or stored == "shared"
    return tuple(draw() for _ in range(1 if is_shared else parts.updates_per_buffer))


def buffer_log_probs(
    parts: ObjectiveParts,
    policy: DiffusionPolicy,
    rollouts: Rollouts,
    views: Views,
    *,
    targets: Int[Tensor, "B N R D"] | None = None,
) -> Float[Tensor, "B N R D"]:
    """Return the views' token log-probabilities of a buffer, in nats, without gradient.

    Args:
        parts: Says how many rollouts fit into a forward pass.
        policy: Who is asked.
        rollouts: The buffer.
        views: Views of it.
        targets: What is scored in place of the completions, per view.
    """
    return rollout_log_probs(
        policy, rollouts, views, rows_per_forward=parts.rows_per_forward, targets=targets
    )


def behaviour_log_probs(
    parts: ObjectiveParts,
    likelihood: Likelihood,
    policy: DiffusionPolicy,
    rollouts: Rollouts,
    views: Views,
) -> Float[Tensor, "B N R D"]:
    """Return log π_v on the views: as the sampler recorded it, or else by asking the policy."""
    recorded = likelihood.recorded_log_probs(rollouts, views)
    if recorded is None:
        return buffer_log_probs(parts, policy, rollouts, views)
    return recorded.to(policy.device)


def reference_log_ratio(
    parts: ObjectiveParts,
    policy: DiffusionPolicy,
    rollouts: Rollouts,
    views: Views,
    behaviour: Float[Tensor, "B N R D"],
) -> LogRatio:
    """Return log p_ref − log p_v with its noise, both by the ratio likelihood's same views.

    Args:
        parts: The parts.
        policy: With a frozen reference.
        rollouts: The buffer.
        views: Views of the ratio likelihood.
        behaviour: log π_v on them.
    """
    likelihood = parts.ratio_likelihood
    with policy.reference():
        reference = buffer_log_probs(parts, policy, rollouts, views)
    return LogRatio(
        value=likelihood.log_ratio(reference, behaviour, views),
        standard_error=likelihood.standard_error(reference - behaviour, views),
    )


def real_weights(parts: ObjectiveParts, experience: Experience) -> Float[Tensor, "B N"]:
    """Return weight minus λ times baseline, of a baseline that was frozen with the buffer."""
    if experience.baseline_weights is None:
        return experience.weights.values
    return experience.weights.values - parts.baseline.strength * experience.baseline_weights
