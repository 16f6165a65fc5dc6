"""Which limit ends a run: without the loop, so that a listing of runs need not load it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dmpo.training.events import StopReason

__all__ = ["reached_limit"]

Amount = int | float | None


def reached_limit(
    step: int,
    *,
    num_steps: int,
    updates_per_buffer: int,
    used: Mapping[StopReason, Amount],
    limits: Mapping[StopReason, Amount],
) -> StopReason | None:
    """Return which limit ends a run here; None: it goes on. A buffer is always used up.

    Args:
        step: Gradient steps taken.
        num_steps: Gradient steps in all.
        updates_per_buffer: F, gradient steps on one buffer.
        used: What the steps cost, by the limit that it counts against; None: not known.
        limits: What they may cost; None: as much as they like.
    """
    if step >= num_steps:
        return "num_steps"
    if step % updates_per_buffer:
        return None
    for name, limit in limits.items():
        amount = used.get(name)
        if amount is not None and limit is not None and amount >= limit:
            return name
    return None
