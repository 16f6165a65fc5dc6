"""What the loop tells whoever watches it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor

from dmpo.evaluation.summary import EvaluationResult
from dmpo.records import Experience

__all__ = [
    "BufferFilled",
    "EvaluationDone",
    "Event",
    "Finished",
    "Observer",
    "Started",
    "StepDone",
    "StopReason",
    "UnmaskedSample",
    "Warned",
]

StopReason = Literal[
    "num_steps", "max_seconds", "max_model_tokens", "max_model_flops", "interrupted"
]
"""Why a run ended: one of its limits, or a signal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmaskedSample:
    """One rollout as a reader can watch it appear."""

    prompt: str
    """What the policy read."""
    tokens: tuple[str, ...]
    """Text of each token of the answer, special tokens as empty text."""
    commit_steps: tuple[int, ...]
    """Denoising step at which each of them was fixed."""
    reward: float
    """Its total reward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The loop is about to begin or to go on."""

    step: int
    """Gradient steps taken already."""
    num_steps: int
    """Gradient steps in all."""
    run_directory: Path
    """Where everything is written."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BufferFilled:
    """A buffer is ready: sampled, scored and weighted."""

    step: int
    """Gradient steps taken so far."""
    experience: Experience
    """The buffer."""
    metrics: Mapping[str, float]
    """What the log says about it."""
    sample: UnmaskedSample
    """One of its rollouts, to show."""
    warnings: tuple[str, ...] = ()
    """What a reader should know about it, a sentence each."""
    decode: Callable[[Int[Tensor, "S D"]], Sequence[str]] | None = None
    """Reads rows of token ids as the policy's tokenizer does, for whoever shows more rollouts than
    ``sample``; None: nobody can."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepDone:
    """A gradient step was taken (or skipped, see ``optimizer/skipped_steps``)."""

    step: int
    """Gradient steps taken so far, this one included."""
    num_steps: int
    """Gradient steps in all."""
    metrics: Mapping[str, float]
    """Every metric of the step (``dmpo.training.metrics.METRICS``)."""
    seconds: float
    """Seconds of training so far, evaluations not counted."""
    seconds_left: float
    """Estimated seconds of training to come."""
    evaluation_seconds_left: float | None = None
    """Estimated seconds of evaluations to come, each like those so far; None: there were none, and
    nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvaluationDone:
    """The policy was evaluated."""

    step: int
    """Gradient steps taken so far."""
    result: EvaluationResult
    """What was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """Something went wrong that the run goes on after."""

    step: int
    """Gradient steps taken so far."""
    text: str
    """What a reader should know, a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The loop ended."""

    step: int
    """Gradient steps taken."""
    seconds: float
    """Seconds of training, evaluations not counted."""
    reason: StopReason
    """Which limit came first, or that a signal asked to stop before them all."""
    checkpoint: Path
    """The checkpoint written last."""


Event = Started | BufferFilled | StepDone | EvaluationDone | Warned | Finished
"""Whatever an observer may be told."""


@runtime_checkable
class Observer(Protocol):
    """Whoever is told: a tracker, a view, a test."""

    def notify(self, event: Event) -> None:
        """Take note of an event; must not change the run."""
