"""The live view of ``dmpo generate --watch``: a completion being unmasked in place."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from dmpo.cli.unmasking import (
    Piece,
    canvas_pieces,
    canvas_roles,
    folded,
    num_answered,
    writable,
)
from dmpo.config.generation import Completed
from dmpo.policies.base import DiffusionPolicy
from dmpo.samplers.block_loop import Snapshot
from dmpo.training.live_text import UNICODE, glyphs_for

__all__ = ["CanvasView", "Frame", "summary"]

CLOCK_TICKS_PER_SECOND = 5
SECONDS_PER_STEP = 0.04
"""Each step stands for so long at least, or a small model's canvas would fill in a blink."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What is known after a step of the first completion."""

    pieces: tuple[Piece, ...]
    """The canvas."""
    block: int
    """The block the step belonged to, from 1."""
    step: int
    """Steps in this block so far; 0 before the first."""
    num_forwards: int
    """Forward passes so far."""
    num_tokens: int
    """Tokens revealed so far, none behind the first EOS among them."""
    seconds: float
    """Spent on sampling so far."""


def summary(completed: Sequence[Completed], seconds: float) -> str:
    """Return on one line what completions cost.

    Args:
        completed: At least one prompt's.
        seconds: Spent on sampling them.
    """
    tokens = sum(sum(each.num_tokens) for each in completed)
    passes = sum(each.num_forwards for each in completed)
    slots = sum(len(each.completions) * each.num_forwards for each in completed)
    count = sum(len(each.completions) for each in completed)
    several = count > 1
    per_pass = f"{tokens / max(1, slots):.2f} per {'completion and ' if several else ''}pass"
    return ", ".join(
        [
            *([f"{count} completions"] if several else []),
            f"{_counted(tokens, 'token')} in {_counted(passes, 'forward pass')} ({per_pass})",
            f"{seconds:.2f} s",
            f"{_ratio(tokens, seconds)} tokens/s",
        ]
    )


def _counted(count: int, noun: str) -> str:
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"


def _ratio(count: int, of: float) -> str:
    value = count / of if of > 0 else 0.0
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


@final
class CanvasView:
    """Draws the first completion of a ``sample`` call in place, and keeps its time.

    Use it as a context manager around the call, with :meth:`on_step` as its callback: the canvas
    is gone when the context is left, or stays where an exception left it.

    Args:
        console: Where it is drawn.
        policy: Whose tokenizer reads the tokens.
        block_size: Tokens per block.
        title: A line above the canvas; none if empty.
        is_drawn: Whether anything is shown; the time is kept anyway.
        now: Clock in seconds.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        console: Console,
        policy: DiffusionPolicy,
        *,
        block_size: int,
        title: str = "",
        is_drawn: bool = True,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepare the canvas; it appears with the first snapshot."""
        self._console = console
        self._policy = policy
        self._block_size = block_size
        self._title = writable(" ".join(title.split()), console.encoding or "ascii")
        self._is_drawn = is_drawn
        self._now = now
        self._sleep = sleep
        self._glyphs = glyphs_for(console.encoding)
        self._end = "·" if self._glyphs is UNICODE else "~"
        # Replaced, never changed in place: the clock is redrawn by another thread.
        self._frame: Frame | None = None
        self._hidden: list[bool] = []
        self._open: list[bool] = []
        self._seconds = 0.0
        self._resumed_at: float | None = None
        self._live = Live(
            console=console,
            get_renderable=self.render,
            refresh_per_second=CLOCK_TICKS_PER_SECOND,
            vertical_overflow="crop",
        )

    @property
    def seconds(self) -> float:
        """Spent on sampling between the first snapshot and the last, drawing left out."""
        return self._seconds

    def __enter__(self) -> CanvasView:
        """Take the terminal over."""
        if self._is_drawn:
            self._live.start(refresh=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Give the terminal back."""
        self._resumed_at = None
        self._live.transient = kind is None
        self._live.stop()

    def on_step(self, snapshot: Snapshot) -> None:
        """Draw the canvas as it stands."""
        arrived = self._now()
        if self._resumed_at is not None:
            self._seconds += arrived - self._resumed_at
        if self._is_drawn:
            self._resumed_at = None
            self._frame = self._next_frame(snapshot)
            self._live.refresh()
            self._sleep(max(0.0, SECONDS_PER_STEP - (self._now() - arrived)))
        self._resumed_at = self._now()

    def render(self) -> Group:
        """Return the canvas and the line below it as they should look now."""
        frame, resumed = self._frame, self._resumed_at
        if frame is None:
            return Group()
        seconds = frame.seconds + (0.0 if resumed is None else max(0.0, self._now() - resumed))
        width, height = max(2, self._console.width), self._console.height
        below = self._status(frame, seconds, width)
        above = [Text(self._title, style="dim", no_wrap=True, overflow="ellipsis")]
        above = above if self._title else []
        room = max(1, height - len(above) - len(below) - 1)
        encoding = self._console.encoding or "ascii"
        return Group(*above, *folded(frame.pieces, width, room, encoding), *below)

    def _next_frame(self, snapshot: Snapshot) -> Frame:
        tokens, hidden = snapshot.completions[0].tolist(), snapshot.hidden[0].tolist()
        was_hidden, was_open, before = self._hidden or hidden, self._open, self._frame
        # Other rows may take longer over a block than the one that is shown.
        self._hidden, self._open = hidden, snapshot.hidden.any(dim=0).tolist()
        roles = canvas_roles(tokens, hidden, was_hidden, eos=self._policy.eos_token_id)
        block, step = 1, 0
        if before is not None:
            block = was_open.index(True) // self._block_size + 1 if any(was_open) else before.block
            step = before.step + 1 if block == before.block else 1
        pieces = canvas_pieces(
            tokens,
            roles,
            decode=self._policy.decode,
            eos_token_id=self._policy.eos_token_id,
            hidden=self._glyphs.hidden,
            end=self._end,
        )
        return Frame(
            pieces=tuple(pieces),
            block=block,
            step=step,
            num_forwards=snapshot.num_forwards,
            num_tokens=num_answered(tokens, hidden, eos=self._policy.eos_token_id),
            seconds=self._seconds,
        )

    def _status(self, frame: Frame, seconds: float, width: int) -> list[Text]:
        """Return the figures on one line, or on several where the terminal is narrow."""
        num_blocks = len(self._hidden) // self._block_size
        where = f" of block {frame.block}/{num_blocks}" if num_blocks > 1 else ""
        figures = [
            f"step {frame.step}{where}",
            f"passes {frame.num_forwards}",
            f"tokens {frame.num_tokens}",
            f"per pass {frame.num_tokens / max(1, frame.num_forwards):.2f}",
            f"{seconds:.1f} s",
            f"{_ratio(frame.num_tokens, seconds)} tokens/s",
        ]
        lines = [figures[0]]
        for figure in figures[1:]:
            if len(lines[-1]) + 2 + len(figure) < width:
                lines[-1] += f"  {figure}"
            else:
                lines.append(figure)
        return [Text(line, style="cyan", no_wrap=True, overflow="ellipsis") for line in lines]
