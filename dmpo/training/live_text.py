"""What a terminal can show of numbers and tokens: glyphs, lines of bars, times, folded text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from dmpo.training.events import UnmaskedSample

__all__ = [
    "ASCII",
    "UNICODE",
    "Glyphs",
    "clock",
    "folded_pieces",
    "glyphs_for",
    "histogram",
    "number",
    "revealed",
    "sample_pieces",
    "sparkline",
    "writable",
]


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
    full: str
    """A bar that stands for a share."""
    shades: str
    """Six bars that neighbour each other, told apart without colours."""
    dot: str
    """Between two figures."""
    arrow: str
    """From one figure to a later one."""
    frame: str
    """Across, down, and the corners: upper left and right, lower left and right."""


UNICODE = Glyphs(
    levels="▁▂▃▄▅▆▇█",
    hidden="░",
    done="━",
    to_do="╌",
    full="█",
    shades="█▒▓░█▒",
    dot="·",
    arrow="→",
    frame="─│╭╮╰╯",
)
"""For terminals that can write them."""
ASCII = Glyphs(
    levels="_.-=+*#",
    hidden=".",
    done="#",
    to_do="-",
    full="#",
    shades="#=+-#=",
    dot="|",
    arrow="->",
    frame="-|++++",
)
"""For all others."""


def glyphs_for(encoding: str | None) -> Glyphs:
    """Return the richer glyphs if the encoding can write all of them."""
    glyphs = (getattr(UNICODE, name) for name in Glyphs.__slots__)
    try:
        "".join(glyphs).encode(encoding or "ascii")
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


def number(value: float) -> str:
    """Return a figure in about five characters."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def sparkline(values: Sequence[float], width: int, levels: str) -> str:
    """Return the last ``width`` values as a line of bars between their extremes."""
    shown = values[-max(1, width) :]
    low, high = min(shown), max(shown)
    scale = (len(levels) - 1) / (high - low) if high > low else 0.0
    return "".join(levels[round((value - low) * scale)] for value in shown)


def histogram(values: Sequence[float], width: int, levels: str) -> str:
    """Return how many values fall into each of ``width`` equal parts of their range, as bars.

    A part with none is a blank; any other is at least the lowest bar.
    """
    low, high = min(values), max(values)
    counts = [0] * (width if high > low else 1)
    for value in values:
        place = (value - low) / (high - low) if high > low else 0.0
        counts[min(len(counts) - 1, int(place * len(counts)))] += 1
    scale = (len(levels) - 1) / max(counts)
    return "".join(levels[round(count * scale)] if count else " " for count in counts)


def revealed(sample: UnmaskedSample, step: int, hidden: str) -> str:
    """Return the answer as it stood before a denoising step: later tokens are hidden."""
    return "".join(text for text, _ in sample_pieces(sample, step, hidden))


def sample_pieces(sample: UnmaskedSample, step: int, hidden: str) -> list[tuple[str, str]]:
    """Return the answer as it stood before a denoising step, each token with its style.

    Args:
        sample: A rollout.
        step: Tokens that were fixed at an earlier one are there; those of the last before it are
            marked as new.
        hidden: Stands for a token that is not.
    """
    return [
        (hidden, "dim") if commit >= step else (token, "bold green" if commit == step - 1 else "")
        for token, commit in zip(sample.tokens, sample.commit_steps, strict=True)
    ]


def folded_pieces(pieces: Iterable[tuple[str, str]], width: int, height: int) -> list[Text]:
    """Return styled text in lines, cut at the edge; of too many, those around the newest token.

    Args:
        pieces: Text and style.
        width: Columns.
        height: Lines at most, at least 1.
    """
    lines: list[list[tuple[str, str]]] = [[]]
    used, newest = 0, 0
    for text, style in pieces:
        start = 0
        for at, character in enumerate(text):
            cells = cell_len(character)
            if character == "\n" or used + cells > width:
                lines[-1].append((text[start:at], style))
                lines.append([])
                start, used = at + (character == "\n"), 0
            used += cells if character != "\n" else 0
        lines[-1].append((text[start:], style))
        if "bold" in style:
            newest = len(lines) - 1
    stop = min(len(lines), max(height, newest + 1))
    return [Text.assemble(*line) for line in lines[max(0, stop - height) : stop]]


def writable(text: str, encoding: str | None) -> str:
    """Return text without control codes (line breaks stay) and what the encoding lacks."""
    shown = "".join(c if c.isprintable() or c == "\n" else " " for c in text)
    name = encoding or "ascii"
    return shown.encode(name, errors="replace").decode(name)
