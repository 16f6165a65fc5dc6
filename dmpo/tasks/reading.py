"""Readers of text that a model wrote: boxes, answer tags, the end of the turn.

Text is untrusted, so every reader takes time linear in its length on any text, and none raises.
Nothing here knows a task.
"""

from __future__ import annotations

import collections
import itertools
import re
from collections.abc import Iterator

__all__ = [
    "answer_blocks",
    "answer_candidates",
    "boxed_contents",
    "has_box",
    "is_placeholder",
    "until_end_of_turn",
]

MAX_CANDIDATES = 8
MAX_BOXES = 64
MAX_WRAPPING = 100
"""How many characters of boxes around one content are taken off: ``\\boxed{\\boxed{4}}``."""

# Patterns begin with one literal character: the search for it is fast.
_END_OF_TURN = re.compile(
    r"<(?:\|(?:eot_id|endoftext|im_end|end_of_text|eom_id|end|eos|startoftext|start_header_id)\|>"
    r"|/s>|eos>)"
)
_ANSWER_TAG = re.compile(r"<[<>]?/?answer\b ?[>}\])]?")
_TAG = re.compile(r"<[<>]?/?(?:answer|reasoning)\b ?[>}\])]?")
_BOX = re.compile(r"(?:boxed|fbox)\s*+\{")
# Every quantifier is possessive: nothing is ever read twice. Doubled backslashes and a lost one
# are mistakes that models make. An odd number of backslashes escapes the brace behind it.
_BOX_OR_BRACES = re.compile(
    r"(?P<box>(?:boxed|fbox)\s*+\{)|(?P<open>\{++)|(?P<close>\}++)|(?:\\\\)++|\\[{}]"
)
_OTHER_BOXES = re.compile(r"(?:\s*+\\*+(?:boxed|fbox)\s*+\{)++")
_BRACES_ALONE = re.compile(r"(?:\}\s*+)++")
_LINE_OR_TAG = re.compile(rf"\n|{_TAG.pattern}")
_PLACEHOLDER = re.compile(r"[\s.…]*+(?:your answer(?: here)?|answer)?+[\s.…]*+", re.IGNORECASE)


def until_end_of_turn(text: str) -> str:
    """Return the text before the first end-of-turn or end-of-text token."""
    match = _END_OF_TURN.search(text)
    return text[: match.start()] if match else text


def answer_blocks(text: str) -> list[str]:
    """Return what stands in each ``<answer>`` block, in order, white space stripped.

    A block ends at ``</answer>``, at the next ``<answer>`` or at the end of the text; the tags
    themselves may be misspelt a little (``</answer}``, ``<>answer>``).
    """
    return [text[start:end].strip() for start, end in _blocks(text)]


def boxed_contents(text: str) -> list[str]:
    r"""Return the contents of ``\boxed{…}`` and ``\fbox{…}``, in order, white space stripped.

    Braces are balanced, escaped ones do not count. Of boxes inside each other the outermost is
    given, and if it holds nothing but another box, that one's content. A box ends at an answer
    or reasoning tag in any case. A box that is never closed ends with its line; it is given if
    no other box stands behind it. Of very many boxes the last 64 are given.
    """
    closed, unclosed = _boxes(text)
    contents = [_before(_TAG, text, *span) for span in closed[-MAX_BOXES:]]
    if unclosed is not None and (not closed or closed[-1][0] < unclosed):
        contents.append(_before(_LINE_OR_TAG, text, unclosed, len(text)))
    return contents


def has_box(text: str) -> bool:
    r"""Return whether a ``\boxed{`` or ``\fbox{`` stands in a text."""
    return _BOX.search(text) is not None


def is_placeholder(text: str) -> bool:
    """Return whether a text is empty or the dots of a prompt's format, and so no answer."""
    return _PLACEHOLDER.fullmatch(text) is not None


def answer_candidates(text: str) -> Iterator[str]:
    r"""Return what may be the final answer, the likeliest first, at most eight.

    From the last answer block that holds something: its boxes from the last to the first, or,
    if it has none, the boxes behind it; then its own text. After that, or without such a block,
    come the boxes of the whole text from the last to the first; without any, what stands behind
    the last tag (``</reasoning>``, or ``</answer>`` where an opening tag was meant).
    Placeholders (``\boxed{...}``) are left out.

    Args:
        text: Without special tokens (:func:`until_end_of_turn`).
    """
    return itertools.islice(filter(None, _candidates(text)), MAX_CANDIDATES)


def _candidates(text: str) -> Iterator[str]:
    for start, end in reversed(_blocks(text)):
        block = text[start:end].strip()
        if not is_placeholder(block):
            yield from _last_first(block) or _last_first(text[end:])
            yield _without_boxes(block)
            break
    boxes = _last_first(text)
    yield from boxes or [_behind_last_tag(text)]


def _last_first(text: str) -> list[str]:
    return [box for box in reversed(boxed_contents(text)) if not is_placeholder(box)]


def _without_boxes(block: str) -> str:
    r"""Return a block's own text, if it is no box: ``\boxed{}32`` is 32."""
    rest = re.sub(r"\\?(?:boxed|fbox)\s*+\{[\s.…]*+\}", "", block).strip()
    return "" if is_placeholder(rest) or boxed_contents(rest) else rest


def _behind_last_tag(text: str) -> str:
    last = collections.deque(_TAG.finditer(text), maxlen=1)
    rest = text[last[0].end() :].strip() if last else ""
    return _without_boxes(rest)


def _blocks(text: str) -> list[tuple[int, int]]:
    blocks: list[tuple[int, int]] = []
    start: int | None = None
    for tag in _ANSWER_TAG.finditer(text):
        if start is not None:
            blocks.append((start, tag.start()))
        start = None if "/" in tag[0] else tag.end()
    if start is not None:
        blocks.append((start, len(text)))
    return blocks


def _boxes(text: str) -> tuple[list[tuple[int, int]], int | None]:
    """Return where the outermost closed boxes' contents lie, and where the last open one begins."""
    closed: list[tuple[int, int]] = []
    open_boxes: list[tuple[int, int]] = []
    depth = 0
    first = _BOX.search(text)
    for match in _BOX_OR_BRACES.finditer(text, first.start() if first else len(text)):
        kind, size = match.lastgroup, match.end() - match.start()
        if kind == "box":
            open_boxes.append((match.end(), depth))
            depth += 1
        elif kind == "open":
            depth += size
        elif kind == "close":
            before, depth = depth, max(0, depth - size)
            while open_boxes and open_boxes[-1][1] >= depth:
                start, outside = open_boxes.pop()
                _close(text, closed, start, match.start() + before - outside - 1)
    return closed, open_boxes[-1][0] if open_boxes else None


def _close(text: str, closed: list[tuple[int, int]], start: int, end: int) -> None:
    """Add a box, in place of those inside it, unless it holds nothing but one of them."""
    inside = closed[-1] if closed and closed[-1][0] > start else None
    if (
        inside
        and inside[0] - start <= MAX_WRAPPING
        and _OTHER_BOXES.fullmatch(text, start, inside[0])
        and _BRACES_ALONE.fullmatch(text, inside[1], end)
    ):
        return
    while closed and closed[-1][0] > start:
        closed.pop()
    closed.append((start, end))


def _before(pattern: re.Pattern[str], text: str, start: int, end: int) -> str:
    match = pattern.search(text, start, end)
    return text[start : match.start() if match else end].strip()
