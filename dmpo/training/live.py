"""What a person sees while a run goes on: a live screen, or one line per buffer.

Both are observers of the loop and context managers; neither changes the run. The console is
the caller's, so the caller decides between standard output and standard error.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import final

from rich.console import Console
from rich.live import Live

from dmpo.evaluation.summary import EvaluationResult
from dmpo.training.events import (
    BufferFilled,
    EvaluationDone,
    Event,
    Finished,
    StepDone,
    UnmaskedSample,
    Warned,
)
from dmpo.training.live_layout import Lines, end_of_run, screen, seconds_to_come, summary
from dmpo.training.live_state import RunState, followed
from dmpo.training.live_text import clock, glyphs_for, number, writable

__all__ = ["LiveView", "PlainView"]

FRAMES_PER_SECOND = 6
SECONDS_PER_REVEAL = 0.25
SECONDS_AT_REST = 2.0
LINE_FIGURES = {
    "reward/mean": "reward",
    "weights/ess": "ESS",
    "rollout/entropy": "entropy",
    "loss/total": "loss",
    "tokens/per_second": "tokens/s",
}
"""What a line of the plain view shows, and by which short name."""


def _evaluation_line(event: EvaluationDone) -> str:
    result: EvaluationResult = event.result
    figure = result.figures[result.headline]
    return (
        f"step {event.step}  {result.split} {result.headline} {figure.mean:.3f} "
        f"[{figure.low:.3f}, {figure.high:.3f}]"
    )


@final
class PlainView:
    """One short line per buffer, without control codes: for logs and pipes.

    Args:
        console: Where lines go.
    """

    def __init__(self, console: Console) -> None:
        """Say nothing yet."""
        self._console = console
        self._state = RunState()
        self._is_due = True
        self._has_buffers = False

    def __enter__(self) -> PlainView:
        """Return itself; there is nothing to set up."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave everything as it is."""

    def notify(self, event: Event) -> None:
        """Print what the event is worth, at most a line."""
        self._state = followed(self._state, event)
        match event:
            case BufferFilled():
                self._is_due = self._has_buffers = True
                for warning in event.warnings:
                    self._line(f"warning: {warning}")
            case StepDone() if self._is_due:
                self._is_due = not self._has_buffers
                self._line(_step_line(self._state, event))
            case EvaluationDone():
                self._line(_evaluation_line(event))
            case Warned():
                self._line(f"warning: {event.text}")
            case Finished():
                self._line(end_of_run(self._state))

    def _line(self, text: str) -> None:
        encoding = self._console.encoding or "ascii"
        text = text.encode(encoding, errors="replace").decode(encoding)
        self._console.print(text, markup=False, highlight=False, soft_wrap=True, emoji=False)


def _step_line(state: RunState, event: StepDone) -> str:
    """Return a step's key figures on a line of at most about 100 characters."""
    figures = [
        f"{label} {number(event.metrics[name])}"
        for name, label in LINE_FIGURES.items()
        if name in event.metrics
    ]
    left, _ = seconds_to_come(state)
    return "  ".join([f"step {event.step}/{event.num_steps}", *figures, f"{clock(left)} left"])


@final
class LiveView:
    """Progress, time left, figures with their trends, and a rollout being unmasked.

    Use it as a context manager, so that an exception leaves the terminal tidy. The screen appears
    with the first event, and gives its place to a summary in the end.

    Args:
        console: The terminal.
        now: Clock in seconds, for the animation.
    """

    def __init__(self, console: Console, now: Callable[[], float] = time.monotonic) -> None:
        """Prepare the screen."""
        self._console = console
        self._now = now
        self._glyphs = glyphs_for(console.encoding)
        # Replaced, never changed in place: the screen is drawn by another thread.
        self._state = RunState()
        self._sample: UnmaskedSample | None = None
        self._sample_weight: float | None = None
        self._shown_since = now()
        self._stopping = ""
        # The last screen, and what it was drawn from: most of the time nothing has changed.
        self._lines = Lines(())
        self._seen: object = None
        self._is_over = False
        self._is_inside = False
        self._live = Live(
            console=console,
            get_renderable=self.render,
            refresh_per_second=FRAMES_PER_SECOND,
            vertical_overflow="crop",
            transient=False,
        )

    def __enter__(self) -> LiveView:
        """Take the terminal over, as soon as there is something to show."""
        self._is_inside = True
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave a summary on the terminal."""
        self._is_over, self._is_inside = True, False
        self._live.stop()

    def say_stopping(self, signal: str) -> None:
        """Say at the foot of the screen what a signal does; safe inside a signal handler."""
        self._stopping = signal

    def notify(self, event: Event) -> None:
        """Take over what the event says; evaluations and warnings stay above the screen."""
        self._state = followed(self._state, event)
        if isinstance(event, BufferFilled) and (self._sample is None or self._frame() is None):
            # A rollout is shown to its end, however fast buffers come.
            self._sample, self._sample_weight = event.sample, self._state.sample_weight
            self._shown_since = self._now()
        if self._is_inside and not self._live.is_started:
            self._live.start(refresh=False)
        match event:
            case BufferFilled():
                for warning in event.warnings:
                    self._above(f"warning: {warning}")
            case EvaluationDone():
                self._above(_evaluation_line(event))
            case Warned():
                self._above(f"warning: {event.text}")

    def render(self) -> Lines:
        """Return the screen as it should look now."""
        # The last line of a terminal stays free: writing to it would scroll.
        width, height = max(10, self._console.width), max(1, self._console.height - 1)
        state, sample, frame = self._state, self._sample, self._frame()
        if self._is_over:
            return summary(state, width=width, height=height, glyphs=self._glyphs)
        seen = (state, frame, width, height, self._stopping)
        if seen == self._seen:
            return self._lines
        if sample is not None:
            sample = replace(
                sample,
                prompt=writable(sample.prompt, self._console.encoding),
                tokens=tuple(writable(token, self._console.encoding) for token in sample.tokens),
            )
        self._lines = screen(
            replace(state, sample=sample, sample_weight=self._sample_weight),
            width=width,
            height=height,
            glyphs=self._glyphs,
            frame=frame,
            stopping=self._stopping,
        )
        self._seen = seen
        return self._lines

    def _frame(self) -> int | None:
        """Return the denoising step to show, or None once the sample has rested."""
        if self._sample is None:
            return None
        last = max(self._sample.commit_steps, default=0) + 1
        elapsed = self._now() - self._shown_since
        # Long paths are shown in about the time that sixteen steps take.
        pace = SECONDS_PER_REVEAL * min(1.0, 16 / last)
        if elapsed > last * pace + SECONDS_AT_REST:
            return None
        return min(last, int(elapsed / pace))

    def _above(self, text: str) -> None:
        line = writable(text.replace("\n", " "), self._console.encoding)
        self._console.print(line, markup=False, highlight=False, emoji=False)
