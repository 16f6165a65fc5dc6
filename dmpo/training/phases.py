"""Where the time and the forward passes of a run go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, final, get_args

import torch

from dmpo.policies.base import DiffusionPolicy

__all__ = ["MODEL_TOKEN_FACTORS", "PHASES", "Phase", "PhaseMeter", "model_tokens"]

Phase = Literal["rollout", "reward", "prepare", "draw", "loss", "optimizer", "evaluation"]
"""What time and tokens are booked on."""
PHASES: tuple[Phase, ...] = get_args(Phase)
"""The parts of the loop, in the order of Algorithm 1."""

MODEL_TOKEN_FACTORS: dict[Phase, int] = dict.fromkeys(PHASES, 1) | {"loss": 3}
"""Work per forward token: a forward pass counts 1, its backward pass 2 more."""


def model_tokens(tokens: dict[Phase, int]) -> int:
    """Return the work of training in model tokens: Σ factor · forward tokens.

    Evaluation is left out: it reports on training and is no part of it.
    """
    return sum(
        MODEL_TOKEN_FACTORS[phase] * count
        for phase, count in tokens.items()
        if phase != "evaluation"
    )


@final
class PhaseMeter:
    """Adds up seconds and forward tokens by phase.

    Args:
        policy: Whose ``forward_tokens`` is read before and after each phase.
    """

    def __init__(self, policy: DiffusionPolicy) -> None:
        """Start at zero."""
        self._policy = policy
        self.seconds: dict[Phase, float] = dict.fromkeys(PHASES, 0.0)
        self.tokens: dict[Phase, int] = dict.fromkeys(PHASES, 0)

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Meter what happens inside as ``name``; phases do not nest."""
        tokens, started = self._policy.forward_tokens, time.perf_counter()
        try:
            yield
        finally:
            _wait_for(self._policy.device)
            self.seconds[name] += time.perf_counter() - started
            self.tokens[name] += self._policy.forward_tokens - tokens

    def take(self) -> tuple[dict[Phase, float], dict[Phase, int]]:
        """Return seconds and tokens since the last call, and start again at zero."""
        taken = self.seconds, self.tokens
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.tokens = dict.fromkeys(PHASES, 0)
        return taken


def _wait_for(device: torch.device) -> None:
    """Wait until an accelerator has done what was asked, so that seconds are honest."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
