"""What a view knows of a run: events taken over one by one, each giving a new state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dmpo.evaluation.figures import Figure
from dmpo.records import Experience
from dmpo.training.events import (
    BufferFilled,
    EvaluationDone,
    Event,
    Finished,
    Started,
    StepDone,
    UnmaskedSample,
    Warned,
)
from dmpo.training.phases import PHASES, REPORTS

__all__ = [
    "LONGEST_HISTORY",
    "TRAINING_PHASES",
    "Measured",
    "RunState",
    "followed",
    "sample_weight",
]

LONGEST_HISTORY = 240
"""Values of a figure that are kept, at most."""
TRAINING_PHASES: tuple[str, ...] = tuple(phase for phase in PHASES if phase not in REPORTS)
"""The parts of the loop, in the order of Algorithm 1."""

_OF_BUFFERS = ("reward/", "rollout/", "weights/ess", "drift/kl_reference")
_OF_STEPS = ("loss/total", "optimizer/gradient_norm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The headline of an evaluation."""

    step: int
    """Gradient steps taken before."""
    name: str
    """Split and figure: ``test cells``."""
    figure: Figure
    """What was found."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunState:
    """A run as far as it has come. Never changed in place: another thread draws it."""

    directory: str = ""
    """The run directory."""
    num_steps: int = 0
    """Gradient steps in all."""
    step: StepDone | None = None
    """The last step."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Every figure as it was last told."""
    first: Mapping[str, float] = field(default_factory=dict)
    """And as it was told first."""
    history: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """The newest values of some figures, oldest first: one for each buffer or step."""
    weights: tuple[float, ...] = ()
    """Weights of the buffer, before a baseline."""
    group_size: int = 0
    """N."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """What each phase of training took since this process began."""
    sample: UnmaskedSample | None = None
    """A rollout of the buffer."""
    sample_weight: float | None = None
    """Its weight."""
    evaluations: tuple[Measured, ...] = ()
    """The first, the last but one and the last."""
    num_warnings: int = 0
    """Warnings so far."""
    finished: Finished | None = None
    """How it ended."""


def followed(state: RunState, event: Event) -> RunState:
    """Return what is known once an event has been told."""
    match event:
        case Started():
            return replace(state, directory=str(event.run_directory), num_steps=event.num_steps)
        case BufferFilled():
            return _with_figures(
                replace(
                    state,
                    weights=tuple(event.experience.weights.values.flatten().tolist()),
                    group_size=event.experience.rollouts.num_rollouts,
                    sample=event.sample,
                    sample_weight=sample_weight(event.experience, event.sample),
                    num_warnings=state.num_warnings + len(event.warnings),
                ),
                event.metrics,
                _OF_BUFFERS,
            )
        case StepDone():
            seconds: dict[str, float] = {
                phase: state.seconds.get(phase, 0.0) + event.metrics.get(f"time/{phase}", 0.0)
                for phase in TRAINING_PHASES
            }
            return _with_figures(
                replace(state, step=event, num_steps=event.num_steps, seconds=seconds),
                event.metrics,
                _OF_STEPS,
            )
        case EvaluationDone():
            result = event.result
            measured = Measured(
                step=event.step,
                name=f"{result.split} {result.headline}",
                figure=result.figures[result.headline],
            )
            found = (*state.evaluations, measured)
            return replace(state, evaluations=found if len(found) <= 3 else (found[0], *found[-2:]))
        case Warned():
            return replace(state, num_warnings=state.num_warnings + 1)
        case Finished():
            return replace(state, finished=event)


def sample_weight(experience: Experience, sample: UnmaskedSample) -> float | None:
    """Return the weight of the rollout that is shown, the best of its group; None: not found."""
    total = experience.rewards.total
    for row, example in enumerate(experience.rollouts.prompts.examples):
        if example.prompt == sample.prompt:
            best = int(total[row].argmax())
            return float(experience.weights.values[row, best])
    return None


def _with_figures(state: RunState, metrics: Mapping[str, float], kept: tuple[str, ...]) -> RunState:
    history = {
        name: (*state.history.get(name, ()), value)[-LONGEST_HISTORY:]
        for name, value in metrics.items()
        if name.startswith(kept) and value == value and abs(value) != float("inf")
    }
    return replace(
        state,
        metrics={**state.metrics, **metrics},
        first={**metrics, **state.first},
        history={**state.history, **history},
    )
