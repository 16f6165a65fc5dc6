"""A canvas as text, while it is being unmasked: pieces, their roles, and lines of a terminal."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from rich.cells import cell_len
from rich.text import Text
from torch import Tensor

__all__ = [
    "Piece",
    "Role",
    "canvas_pieces",
    "canvas_roles",
    "folded",
    "num_answered",
    "writable",
]

Role = Literal["hidden", "new", "old", "ignored"]
"""Not fixed yet; revealed by the last step; revealed before; EOS, and what stands behind it."""

STYLES: Mapping[Role, str] = {"hidden": "dim", "new": "bold green", "old": "", "ignored": "dim"}


@dataclass(frozen=True, slots=True)
class Piece:
    """Neighbouring tokens of one role, as text."""

    text: str
    """What the tokenizer, or a glyph, makes of them."""
    role: Role
    """How it is drawn."""


def canvas_roles(
    tokens: Sequence[int], hidden: Sequence[bool], was_hidden: Sequence[bool], *, eos: int
) -> list[Role]:
    """Return the role of each position.

    Args:
        tokens: The canvas, D tokens.
        hidden: True where none is fixed yet.
        was_hidden: The same before the last step.
        eos: Ends an answer.
    """
    roles: list[Role] = []
    is_over = False
    for token, is_hidden, was in zip(tokens, hidden, was_hidden, strict=True):
        is_over = is_over or (token == eos and not is_hidden)
        if is_hidden:
            roles.append("hidden")
        elif was:
            roles.append("new")
        else:
            roles.append("ignored" if is_over else "old")
    return roles


def num_answered(tokens: Sequence[int], hidden: Sequence[bool], *, eos: int) -> int:
    """Return how many tokens are revealed, up to and with the first EOS."""
    count = 0
    for token, is_hidden in zip(tokens, hidden, strict=True):
        count += not is_hidden
        if token == eos and not is_hidden:
            break
    return count


def canvas_pieces(
    tokens: Sequence[int],
    roles: Sequence[Role],
    *,
    decode: Callable[[Int[Tensor, "S D"]], Sequence[str]],
    eos_token_id: int,
    hidden: str,
    end: str,
) -> list[Piece]:
    """Return the canvas as text.

    Revealed neighbours are decoded together, because a token may be a part of a character, and
    then cut where roles change.

    Args:
        tokens: The canvas, D tokens.
        roles: Of each position.
        decode: Returns the text of each row up to its first EOS.
        eos_token_id: Ends an answer.
        hidden: Stands for a hidden token.
        end: Stands for an EOS.
    """
    kinds = [
        "hidden" if role == "hidden" else "end" if token == eos_token_id else "text"
        for token, role in zip(tokens, roles, strict=True)
    ]
    glyphs = {"hidden": hidden, "end": end}
    stretches: list[tuple[str, list[tuple[int, Role]]]] = []
    prefixes: list[list[int]] = []
    for kind, group in itertools.groupby(range(len(tokens)), key=kinds.__getitem__):
        positions = list(group)
        segments = _segments(positions, roles)
        stretches.append((kind, segments))
        if kind == "text":
            start = positions[0]
            lengths = itertools.accumulate(count for count, _ in segments)
            prefixes += [list(tokens[start : start + length]) for length in lengths]
    texts = iter(decode(_padded(prefixes, eos_token_id)) if prefixes else ())
    pieces: list[Piece] = []
    for kind, segments in stretches:
        if kind == "text":
            pieces += _cut([next(texts) for _ in segments], [role for _, role in segments])
        else:
            pieces += [Piece(glyphs[kind] * count, role) for count, role in segments]
    return pieces


def _segments(positions: Sequence[int], roles: Sequence[Role]) -> list[tuple[int, Role]]:
    """Return runs of equal roles among neighbours: how many, and which role."""
    groups = itertools.groupby(positions, key=roles.__getitem__)
    return [(len(list(group)), role) for role, group in groups]


def _padded(rows: Sequence[Sequence[int]], eos_token_id: int) -> Int[Tensor, "S D"]:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[eos_token_id] * (width - len(row))] for row in rows])


def _cut(prefixes: Sequence[str], roles: Sequence[Role]) -> Iterator[Piece]:
    """Cut the last of ever longer prefixes where the others end."""
    whole, start = prefixes[-1], 0
    for prefix, role in zip(prefixes, roles, strict=True):
        # The end of a prefix that stops inside a character is no part of the whole.
        stop = max(start, _num_shared(prefix, whole))
        yield Piece(whole[start:stop], role)
        start = stop


def _num_shared(text: str, other: str) -> int:
    """Return how many characters two texts begin with alike."""
    pairs = enumerate(zip(text, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(text), len(other)))


def folded(pieces: Sequence[Piece], width: int, height: int, encoding: str) -> list[Text]:
    """Return the canvas in lines, cut at the terminal's edge as the terminal itself would.

    Args:
        pieces: The canvas.
        width: Columns.
        height: Lines at most; of more, those around what was revealed last.
        encoding: The terminal's; what it lacks becomes a question mark.
    """
    lines, used, newest = [Text(no_wrap=True)], 0, 0
    for piece in pieces:
        text = writable(piece.text, encoding)
        for paragraph, part in enumerate(text.split("\n")):
            if paragraph:
                lines.append(Text(no_wrap=True))
                used = 0
            start = 0
            for at, character in enumerate(part):
                cells = cell_len(character)
                if used + cells > width:
                    lines[-1].append(part[start:at], STYLES[piece.role])
                    lines.append(Text(no_wrap=True))
                    start, used = at, 0
                used += cells
            lines[-1].append(part[start:], STYLES[piece.role])
        if piece.role == "new":
            newest = len(lines) - 1
    stop = min(len(lines), max(height, newest + 2))
    return lines[max(0, stop - height) : stop]


def writable(text: str, encoding: str) -> str:
    """Return text without control codes (line breaks stay) and what the encoding lacks."""
    shown = "".join(c if c.isprintable() or c == "\n" else " " for c in text)
    return shown.encode(encoding, errors="replace").decode(encoding)
