"""The contract of an objective: three moments, so that cutting rows changes nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from dmpo.likelihoods.base import Likelihood
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Batch, Experience, LossOutput, Rewards, Rollouts
from dmpo.registry import PluginConfig
from dmpo.weights.base import Baseline, WeightEstimator

__all__ = ["Objective", "ObjectiveParts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveParts:
    """The exchangeable parts an objective is put together from."""

    likelihood: Likelihood
    """Whose views the loss is taken on."""
    ratio_likelihood: Likelihood
    """Whose views log p_ref, log p_v and log p_θ are compared on."""
    weights: WeightEstimator
    """How rewards become weights."""
    baseline: Baseline
    """What is subtracted from them."""
    updates_per_buffer: int
    """F, the gradient steps that use one buffer."""
    rows_per_forward: int
    """Rollouts per forward pass where no gradient is taken."""
    replays: bool = False
    """Whether a buffer is used again after the next one was filled."""
    score: Callable[[Rollouts], Rewards] | None = None
    """Rewards of texts that the objective itself makes; None: it cannot ask for any."""

    @property
    def is_on_policy(self) -> bool:
        """Whether every gradient step sees the very policy that made its buffer."""
        return self.updates_per_buffer == 1 and not self.replays

    @property
    def share_likelihood(self) -> bool:
        """Whether the loss and the ratios look through one and the same estimator."""
        one, other = self.likelihood, self.ratio_likelihood
        return one is other or (type(one) is type(other) and one.config == other.config)


class Objective(ABC):
    """Likelihood × weight × loss shape, built as ``cls(config, parts)``.

    ``prepare`` runs once per buffer and freezes what must be frozen; ``draw`` runs once per
    gradient step over whole groups and makes every random draw; ``loss`` is deterministic,
    differentiable, and additive over slices of rows.
    """

    Config: ClassVar[type[PluginConfig]]

    default_parts: ClassVar[Mapping[str, Mapping[str, Any]]]
    """Names and parameters of ``likelihood``, ``weights`` and ``baseline`` if not chosen."""

    @property
    def ignores_weightless_rows(self) -> bool:
        """Whether a row whose real weight is 0 adds nothing to the loss, so it may be skipped."""
        return True

    @property
    @abstractmethod
    def needs_reference(self) -> bool:
        """Whether the policy must offer π_ref."""

    @property
    def draw_asks_policy(self) -> bool:
        """Whether ``draw`` runs the policy; if not, sharded weights stay where they are for it."""
        return True

    @property
    def is_sum_over_views(self) -> bool:
        """Whether the loss is a sum over views, so that a row's views may be cut apart."""
        return False

    @abstractmethod
    def prepare(
        self,
        policy: DiffusionPolicy,
        rollouts: Rollouts,
        rewards: Rewards,
        generator: torch.Generator,
    ) -> Experience:
        """Freeze everything about one buffer; no gradient; evaluation mode."""

    @abstractmethod
    def draw(
        self,
        policy: DiffusionPolicy,
        experience: Experience,
        generator: torch.Generator,
        *,
        update: int,
    ) -> Batch:
        """Make every draw of one gradient step and what needs whole groups; no gradient.

        Args:
            policy: The current policy.
            experience: The buffer.
            generator: The source of fresh views.
            update: Which of the F steps on this buffer, from 0.
        """

    @abstractmethod
    def loss(self, policy: DiffusionPolicy, batch: Batch) -> LossOutput:
        """Return the loss of a slice of rows, normalised by the whole buffer's counts."""
