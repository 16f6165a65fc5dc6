"""Blocks of figures side by side on a terminal, or what stays there in the end: pure functions.

What does not fit is left out from the end: lines of a block first, then whole blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import final

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.segment import Segment
from rich.text import Text

from dmpo.training.live_blocks import Block, cut, figure_blocks, history_lines, sample_block
from dmpo.training.live_state import RunState
from dmpo.training.live_text import Glyphs, clock

__all__ = ["Lines", "column_count", "end_of_run", "screen", "seconds_to_come", "summary"]

GAP = 1
"""Columns between two blocks."""
FRAME = 4
"""Columns that a frame and the space inside it take."""
NARROWEST_FRAMED = 38
MOST_LINES = 9
FEWEST_FRAMED_LINES = 5
NUM_BLOCKS = 6
WIDEST_SUMMARY = 100


@final
class Lines:
    """Lines that are as wide as they should be: written as they are, which costs little.

    Args:
        lines: Each without a line break.
    """

    def __init__(self, lines: Iterable[Text]) -> None:
        """Keep them."""
        self.lines = tuple(lines)
        self._segments: tuple[Segment, ...] | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        """Yield the lines' segments, made once."""
        if self._segments is None:
            found: list[Segment] = []
            for line in self.lines:
                line.end = ""
                found += [*line.render(console), Segment.line()]
            self._segments = tuple(found)
        yield from self._segments


def column_count(width: int) -> int:
    """Return how many blocks stand side by side."""
    return 1 if width < 72 else 2 if width < 150 else 3


def screen(
    state: RunState,
    *,
    width: int,
    height: int,
    glyphs: Glyphs,
    frame: int | None = None,
    stopping: str = "",
) -> Lines:
    """Return a running run on at most ``height`` lines of ``width`` columns.

    Args:
        state: What is known.
        width: Columns of the terminal.
        height: Lines that may be used.
        glyphs: What the terminal can write.
        frame: Denoising step of the rollout that is shown; None: its end.
        stopping: The signal that asked to stop, if one did.
    """
    head = _progress(state, width, glyphs)
    foot = _footer(state, width, glyphs, stopping)
    columns = column_count(width)
    column = (width - GAP * (columns - 1)) // columns
    figures: dict[int, list[Block]] = {}
    for is_framed, limit, kept in _candidates(column):
        inner = column - FRAME if is_framed else column
        if inner not in figures:
            figures[inner] = figure_blocks(state, width=inner, glyphs=glyphs)
        sample = sample_block(state, width=inner, limit=limit, glyphs=glyphs, frame=frame)
        found = [*figures[inner], *([sample] if sample else [])][:kept]
        rows = [found[start : start + columns] for start in range(0, len(found), columns)]
        heights = [max(len(block.shown(limit)) for block in row) for row in rows]
        over = 2 if is_framed else 1
        if len(head) + 1 + sum(heights) + over * len(rows) <= height:
            body = [
                line
                for row, lines in zip(rows, heights, strict=True)
                for line in _row(row, lines, limit, column, glyphs, is_framed=is_framed)
            ]
            return Lines((*head, *body, foot))
    return Lines((*head, foot)[: max(1, height)])


def _candidates(column: int) -> Iterator[tuple[bool, int, int]]:
    """Yield framed or not, lines of a block at most, blocks at most; the richest first."""
    if column >= NARROWEST_FRAMED:
        for limit in range(MOST_LINES, FEWEST_FRAMED_LINES - 1, -1):
            yield True, limit, NUM_BLOCKS
    for limit in range(MOST_LINES, 0, -1):
        yield False, limit, NUM_BLOCKS
    for kept in range(NUM_BLOCKS - 1, 0, -1):
        yield False, 1, kept


def _row(
    row: Sequence[Block], height: int, limit: int, column: int, glyphs: Glyphs, *, is_framed: bool
) -> Iterator[Text]:
    """Yield the lines of blocks side by side."""
    draw = _framed if is_framed else _ruled
    drawn = [draw(block.title, block.shown(limit), column, height, glyphs) for block in row]
    for cells in zip(*drawn, strict=True):
        yield Text(" " * GAP).join(cells)


def _framed(
    title: str, lines: Sequence[Text], width: int, height: int, glyphs: Glyphs
) -> list[Text]:
    """Return lines inside a frame of ``height`` + 2 lines."""
    across, down, left, right, low_left, low_right = tuple(glyphs.frame)
    inner = width - FRAME
    title = title[: inner - 1]
    rest = across * (width - 5 - cell_len(title))
    drawn = [
        Text.assemble((f"{left}{across} ", "dim"), (title, "bold"), (f" {rest}{right}", "dim"))
    ]
    for index in range(height):
        line = lines[index] if index < len(lines) else Text()
        blank = " " * (inner - line.cell_len)
        drawn.append(Text.assemble((f"{down} ", "dim"), line, blank, (f" {down}", "dim")))
    drawn.append(Text(f"{low_left}{across * (width - 2)}{low_right}", "dim"))
    return drawn


def _ruled(
    title: str, lines: Sequence[Text], width: int, height: int, glyphs: Glyphs
) -> list[Text]:
    """Return lines below a title with a rule behind it, ``height`` + 1 in all."""
    title = title[: width - 1]
    rest = glyphs.frame[0] * (width - 1 - cell_len(title))
    drawn = [Text.assemble((title, "bold"), " ", (rest, "dim"))]
    for index in range(height):
        line = lines[index] if index < len(lines) else Text()
        drawn.append(Text.assemble(line, " " * (width - line.cell_len)))
    return drawn


def seconds_to_come(state: RunState) -> tuple[float, bool]:
    """Return the estimated seconds to the end, and whether evaluations are among them."""
    if state.step is None:
        return 0.0, False
    evaluations = state.step.evaluation_seconds_left
    return state.step.seconds_left + (evaluations or 0.0), evaluations is not None


def _progress(state: RunState, width: int, glyphs: Glyphs) -> list[Text]:
    step = state.step
    if step is None:
        return [cut(Text("waiting for the first step", style="dim"), width)]
    # Whichever limit is nearer decides how far along the run is.
    whole = step.seconds + step.seconds_left
    share = step.seconds / whole if whole > 0 else step.step / step.num_steps
    room = max(1, width - 5)
    done = round(share * room)
    bar = Text.assemble(
        (glyphs.done * done, "bold green"), (glyphs.to_do * (room - done), "dim"), f" {share:4.0%}"
    )
    left, is_whole = seconds_to_come(state)
    reached, remaining = f"step {step.step}/{step.num_steps}", f"{clock(left)} left"
    whole_remaining = f"about {remaining}" + (", evaluations included" if is_whole else " to train")
    forms = [
        f" {glyphs.dot} ".join(parts)
        for parts in (
            (reached, f"{clock(step.seconds)} of training", whole_remaining),
            (reached, clock(step.seconds), remaining),
            (reached, remaining),
        )
    ]
    text = next((form for form in forms if len(form) <= width), forms[-1])
    return [cut(bar, width), cut(Text(text), width)]


def _footer(state: RunState, width: int, glyphs: Glyphs, stopping: str) -> Text:
    if stopping:
        text = f"{stopping}: finishing this step, then saving; Ctrl-C again exits at once"
        text = text if len(text) <= width else f"{stopping}: saving after this step"
        return cut(Text(text, style="bold yellow"), width)
    parts = ["Ctrl-C saves and stops"]
    if state.num_warnings:
        parts.append(f"{state.num_warnings} warning{'s' if state.num_warnings > 1 else ''}")
    ending = f" {glyphs.dot} ".join(parts)
    # Of a long path the end says more.
    room = width - len(ending) - len(glyphs.dot) - 2
    path = state.directory[-room:] if room > 0 else ""
    return cut(Text(f"{path} {glyphs.dot} {ending}" if path else ending, style="dim"), width)


def end_of_run(state: RunState) -> str:
    """Return how a run ended, or how far it had come."""
    if state.finished is not None:
        verb = "stopped" if state.finished.reason == "interrupted" else "finished"
        return f"{verb}: {state.finished.step} steps in {clock(state.finished.seconds)}"
    if state.step is None:
        return "ended before the first step"
    return f"ended after step {state.step.step}"


def summary(state: RunState, *, width: int, height: int, glyphs: Glyphs) -> Lines:
    """Return what stays on the terminal: how it ended, and from where to where it came.

    Args:
        state: What is known.
        width: Columns of the terminal.
        height: Lines that may be used.
        glyphs: What the terminal can write.
    """
    is_framed = width >= NARROWEST_FRAMED + FRAME and height >= FEWEST_FRAMED_LINES
    outer = min(width, WIDEST_SUMMARY)
    inner = outer - FRAME if is_framed else outer
    lines = [cut(Text(end_of_run(state), style="bold"), inner)]
    lines += history_lines(state, width=inner, glyphs=glyphs)
    shown = lines[: max(1, height - (2 if is_framed else 0))]
    if not is_framed:
        return Lines(shown)
    title = state.directory[-(inner - 2) :] or "run"
    return Lines(_framed(title, shown, outer, len(shown), glyphs))
