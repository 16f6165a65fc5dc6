"""The contract of a sampler."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt

from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Prompts, Rollouts
from dmpo.registry import PluginConfig

__all__ = ["Sampler", "SamplerConfig"]


MAX_GEN_LENGTH = 1_000_000
"""Longer than any model's context: refused before a canvas of it is allocated."""


class SamplerConfig(PluginConfig):
    """What every sampler can be told."""

    gen_length: PositiveInt = Field(
        le=MAX_GEN_LENGTH, description="Completion length D, in tokens."
    )
    temperature: float = Field(1.0, ge=0, description="Softmax temperature; 0 means argmax.")


class Sampler(ABC):
    """Fills a canvas of D mask tokens behind each prompt."""

    Config: ClassVar[type[SamplerConfig]]

    records_path: bool
    """Whether, with its settings, rollouts carry the exact log-probabilities of their path."""
    is_deterministic: bool = False
    """Whether, with its settings, all completions of a prompt are alike."""
    num_rollouts: int | None = None
    """N where there is no choice; None: as many completions of a prompt as are asked for."""

    @abstractmethod
    def sample(
        self,
        policy: DiffusionPolicy,
        prompts: Prompts,
        *,
        num_rollouts: int,
        generator: torch.Generator,
    ) -> Rollouts:
        """Draw ``num_rollouts`` completions for each prompt, in evaluation mode.

        Args:
            policy: The model that denoises.
            prompts: B prompts.
            num_rollouts: N, at least 1.
            generator: The only source of randomness.

        Returns:
            Rollouts with ``log_probs`` only where they are exact (see the record).
        """
