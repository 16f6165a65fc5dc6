"""What a person sees while a run goes on: a live screen, or one line per buffer.

Both are observers of the loop and context managers; neither changes the run. The console is
the caller's, so the caller decides between standard output and standard error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

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

__all__ = [
    "ASCII",
    "UNICODE",
    "Glyphs",
    "LiveView",
    "PlainView",
    "clock",
    "glyphs_for",
    "revealed",
    "sparkline",
]

FRAMES_PER_SECOND = 6
SECONDS_PER_REVEAL = 0.25
SECONDS_AT_REST = 2.0
REWARD_HISTORY = 240
KEY_METRICS: Mapping[str, str] = {
    "reward/mean": "reward",
    "weights/ess": "ESS",
    "rollout/unique_answers": "unique answers",
    "loss/total": "loss",
    "optimizer/gradient_norm": "gradient norm",
    "tokens/per_second": "tokens/s",
}
"""What both views show, and by which short name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Glyphs:
    """The characters a terminal can show."""

    levels: str
    """Sparkline, from low to high."""
    hidden: str
    """A token that is still hidden."""
    done: str
    """Progress made."""
    to_do: str
    """Progress to come."""


UNICODE = Glyphs(levels="▁▂▃▄▅▆▇█", hidden="░", done="━", to_do="╌")
"""For terminals that can write them."""
ASCII = Glyphs(levels="_.-=+*#", hidden=".", done="#", to_do="-")
"""For all others."""


def glyphs_for(encoding: str | None) -> Glyphs:
    """Return the richer glyphs if the encoding can write all of them."""
    everything = UNICODE.levels + UNICODE.hidden + UNICODE.done + UNICODE.to_do
    try:
        everything.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


def clock(seconds: float) -> str:
    """Return seconds as ``m:ss`` or ``h:mm:ss``.

    Example:
        >>> clock(75), clock(3661)
        ('1:15', '1:01:01')
    """
    minutes, rest = divmod(int(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def sparkline(values: Sequence[float], width: int, levels: str) -> str:
    """Return the last ``width`` values as a line of bars between their extremes."""
    shown = values[-max(1, width) :]
    low, high = min(shown), max(shown)
    scale = (len(levels) - 1) / (high - low) if high > low else 0.0
    return "".join(levels[round((value - low) * scale)] for value in shown)


def revealed(sample: UnmaskedSample, step: int, hidden: str) -> str:
    """Return the answer as it stood before a denoising step: later tokens are hidden."""
    return "".join(
        token if commit < step else hidden
        for token, commit in zip(sample.tokens, sample.commit_steps, strict=True)
    )


def _evaluation_line(result: EvaluationResult) -> str:
    figure = result.figures[result.headline]
    return (
        f"{result.split} {result.headline} {figure.mean:.3f} [{figure.low:.3f}, {figure.high:.3f}]"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


@final
class PlainView:
    """One short line per buffer, without control codes: for logs and pipes.

    Args:
        console: Where lines go.
    """

    def __init__(self, console: Console) -> None:
        """Say nothing yet."""
        self._console = console
        self._is_due = True
        self._has_buffers = False

    def __enter__(self) -> PlainView:
        """Return itself; there is nothing to set up."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave everything as it is."""

    def notify(self, event: Event) -> None:
        """Print what the event is worth, at most a line."""
        match event:
            case BufferFilled():
                self._is_due = self._has_buffers = True
                for warning in event.warnings:
                    self._line(f"warning: {warning}")
            case StepDone() if self._is_due:
                self._is_due = not self._has_buffers
                self._line(step_line(event))
            case EvaluationDone():
                self._line(f"step {event.step}  {_evaluation_line(event.result)}")
            case Warned():
                self._line(f"warning: {event.text}")
            case Finished():
                self._line(end_line(event))

    def _line(self, text: str) -> None:
        encoding = self._console.encoding or "ascii"
        text = text.encode(encoding, errors="replace").decode(encoding)
        self._console.print(text, markup=False, highlight=False, soft_wrap=True, emoji=False)


def step_line(event: StepDone) -> str:
    """Return a step's key figures on a line of at most about 100 characters."""
    shown = ("reward/mean", "weights/ess", "loss/total", "tokens/per_second")
    figures = [
        f"{KEY_METRICS[name]} {_number(event.metrics[name])}"
        for name in shown
        if name in event.metrics
    ]
    step = f"step {event.step}/{event.num_steps}"
    return "  ".join([step, *figures, f"{clock(event.seconds_left)} left"])


def end_line(event: Finished) -> str:
    """Return how a run ended."""
    verb = "stopped" if event.reason == "interrupted" else "finished"
    return f"{verb}: {event.step} steps in {clock(event.seconds)}"


@final
class LiveView:
    """Progress, time left, rewards, key figures, and a rollout being unmasked.

    Use it as a context manager, so that an exception leaves the terminal tidy.

    Args:
        console: The terminal.
        now: Clock in seconds, for the animation.
    """

    def __init__(self, console: Console, now: Callable[[], float] = time.monotonic) -> None:
        """Prepare the screen; it appears when the context is entered."""
        self._console = console
        self._now = now
        self._glyphs = glyphs_for(console.encoding)
        # Replaced, never changed in place: the screen is drawn by another thread.
        self._rewards: tuple[float, ...] = ()
        self._step: StepDone | None = None
        self._sample: UnmaskedSample | None = None
        self._shown_since = now()
        self._live = Live(
            console=console,
            get_renderable=self.render,
            refresh_per_second=FRAMES_PER_SECOND,
            transient=False,
        )

    def __enter__(self) -> LiveView:
        """Show the screen."""
        self._live.start(refresh=False)
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave the last state on the terminal."""
        self._sample = None
        self._live.stop()

    def notify(self, event: Event) -> None:
        """Take over what the event says; evaluations and warnings stay above the screen."""
        match event:
            case BufferFilled():
                self._rewards = (*self._rewards, event.metrics["reward/mean"])[-REWARD_HISTORY:]
                if self._sample is None or self._frame() is None:
                    self._sample, self._shown_since = event.sample, self._now()
                for warning in event.warnings:
                    self._above(f"warning: {warning}")
            case StepDone():
                self._step = event
            case EvaluationDone():
                self._above(f"step {event.step}  {_evaluation_line(event.result)}")
            case Warned():
                self._above(f"warning: {event.text}")
            case Finished():
                self._sample = None
                self._above(end_line(event))

    def render(self) -> Group:
        """Return the screen as it should look now."""
        width = max(10, self._console.width)
        lines = [*self._progress_lines(width), *self._metric_lines(width)]
        if self._sample is not None:
            lines += self._sample_lines(self._sample)
        return Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in lines))

    def _progress_lines(self, width: int) -> list[str]:
        if self._step is None:
            return ["waiting for the first step"]
        step, glyphs = self._step, self._glyphs
        # Whichever limit is nearer decides how far along the run is.
        whole = step.seconds + step.seconds_left
        share = step.seconds / whole if whole > 0 else step.step / step.num_steps
        room = min(width, 60)
        done = round(share * room)
        lines = [
            glyphs.done * done + glyphs.to_do * (room - done),
            f"step {step.step}/{step.num_steps}  {clock(step.seconds_left)} left",
        ]
        if self._rewards:
            lines.append(sparkline(self._rewards, room, glyphs.levels))
        return lines

    def _metric_lines(self, width: int) -> list[str]:
        if self._step is None:
            return []
        cells = [
            f"{label} {_number(self._step.metrics[name])}"
            for name, label in KEY_METRICS.items()
            if name in self._step.metrics
        ]
        cell_width = 24
        columns = max(1, min(3, width // cell_width))
        rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
        return ["".join(cell.ljust(cell_width) for cell in row).rstrip() for row in rows]

    def _sample_lines(self, sample: UnmaskedSample) -> list[str]:
        frame = self._frame()
        last = max(sample.commit_steps, default=0) + 1
        answer = revealed(sample, last if frame is None else frame, self._glyphs.hidden)
        prompt = self._writable(sample.prompt.strip().splitlines()[-1:] or [""])
        lines = self._writable(answer.splitlines()[-4:] or [""])
        return ["", f"prompt {prompt[0]}", *lines, f"reward {_number(sample.reward)}"]

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
        (line,) = self._writable([text])
        self._console.print(line, markup=False, highlight=False, emoji=False)

    def _writable(self, lines: list[str]) -> list[str]:
        encoding = self._console.encoding or "ascii"
        return [
            "".join(c if c.isprintable() else " " for c in line)
            .encode(encoding, errors="replace")
            .decode(encoding)
            for line in lines
        ]
