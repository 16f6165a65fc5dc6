"""Where the time, the forward passes and the operations of a run go."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeVar, final, get_args

import torch

from dmpo.policies.base import DiffusionPolicy

__all__ = [
    "MODEL_TOKEN_FACTORS",
    "PHASES",
    "Phase",
    "PhaseMeter",
    "PhaseTotals",
    "model_tokens",
    "of_training",
]

Phase = Literal["rollout", "reward", "prepare", "draw", "loss", "optimizer", "evaluation", "drift"]
"""What time, tokens and operations are booked on."""
PHASES: tuple[Phase, ...] = get_args(Phase)
"""The parts of the loop, in the order of Algorithm 1, then what measures it."""

MODEL_TOKEN_FACTORS: dict[Phase, int] = dict.fromkeys(PHASES, 1) | {"loss": 3}
"""Work per forward token: a forward pass counts 1, its backward pass 2 more."""

REPORTS: frozenset[Phase] = frozenset({"evaluation", "drift"})
"""Phases that report on training and are no part of it."""

Count = TypeVar("Count", int, float)


def of_training(counts: Mapping[Phase, Count]) -> dict[Phase, Count]:
    """Return what was booked on training: evaluations and measurements of drift left out."""
    return {phase: count for phase, count in counts.items() if phase not in REPORTS}


def model_tokens(tokens: Mapping[Phase, int]) -> int:
    """Return the work of training in model tokens: Σ factor · forward tokens."""
    return sum(MODEL_TOKEN_FACTORS[phase] * n for phase, n in of_training(tokens).items())


def _zeros() -> dict[Phase, int]:
    return dict.fromkeys(PHASES, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseTotals:
    """What each phase took."""

    seconds: dict[Phase, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    """Wall-clock time."""
    tokens: dict[Phase, int] = field(default_factory=_zeros)
    """Positions run through the model in forward passes."""
    forward_flops: dict[Phase, int] = field(default_factory=_zeros)
    """Floating-point operations of forward passes."""
    backward_flops: dict[Phase, int] = field(default_factory=_zeros)
    """The same of backward passes, with what they compute again."""

    @property
    def flops(self) -> dict[Phase, int]:
        """Operations of either kind."""
        return {phase: self.forward_flops[phase] + self.backward_flops[phase] for phase in PHASES}


@final
class PhaseMeter:
    """Adds up seconds, forward tokens and operations by phase.

    Args:
        policy: Whose meters are read before and after each phase.
    """

    def __init__(self, policy: DiffusionPolicy) -> None:
        """Start at zero."""
        self._policy = policy
        self._totals = PhaseTotals()

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Meter what happens inside as ``name``; phases do not nest."""
        policy, totals, started = self._policy, self._totals, time.perf_counter()
        tokens, forward, backward = (
            policy.forward_tokens,
            policy.forward_flops,
            policy.backward_flops,
        )
        try:
            yield
        finally:
            _wait_for(policy.device)
            totals.seconds[name] += time.perf_counter() - started
            totals.tokens[name] += policy.forward_tokens - tokens
            totals.forward_flops[name] += policy.forward_flops - forward
            totals.backward_flops[name] += policy.backward_flops - backward

    def take(self) -> PhaseTotals:
        """Return what was booked since the last call, and start again at zero."""
        taken, self._totals = self._totals, PhaseTotals()
        return taken


def _wait_for(device: torch.device) -> None:
    """Wait until an accelerator has done what was asked, so that seconds are honest."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
