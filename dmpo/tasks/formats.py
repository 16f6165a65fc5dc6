"""How well an answer keeps the paper's format: pure functions of text, each in [0, 1].

They look at the whole answer, the prefilled beginning included, up to the end of the turn. A
tag counts only where it stands exactly once; patterns span lines, which the official code's did
not, so that its format rewards were zero for nearly every answer.
"""

from __future__ import annotations

from dmpo.tasks.reading import has_box

__all__ = ["boxed_format", "soft_format", "strict_format", "tag_count"]

TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")
SHARE_PER_TAG = 0.125
COST_PER_CHARACTER = 0.001


def strict_format(answer: str) -> float:
    """Return 1 where the answer is the four tags on lines of their own, in order, and text between.

    Nothing may stand before the first tag, between the two blocks or behind the last tag but
    one line break.
    """
    places = _places(answer)
    if places is None:
        return 0.0
    reasoning, reasoning_end, start, end = places
    on_own_lines = (
        answer.startswith("<reasoning>\n")
        and answer[:reasoning_end].endswith("\n")
        and reasoning_end - reasoning > len("<reasoning>\n")
        and answer[reasoning_end:start] == "</reasoning>\n"
        and answer.startswith("<answer>\n", start)
        and answer[:end].endswith("\n")
        and end - start > len("<answer>\n")
        and answer[end:] in ("</answer>", "</answer>\n")
    )
    return float(on_own_lines)


def soft_format(answer: str) -> float:
    """Return 1 where the answer begins with a reasoning block that an answer block follows.

    White space around the tags is free, and text may stand behind the last one.
    """
    places = _places(answer)
    if places is None:
        return 0.0
    reasoning, reasoning_end, start, _ = places
    between = answer[reasoning_end + len("</reasoning>") : start]
    return float(not answer[:reasoning].strip() and not between.strip())


def tag_count(answer: str) -> float:
    """Return 1/8 for each of the four tags that stands exactly once, less what stands behind.

    Each character behind ``</answer>``, white space at the end apart, costs 0.001; the figure
    does not go below 0. In [0, 0.5]. (The official code takes the cost off twice and without a
    bound, so that one long answer outweighs every other reward.)
    """
    count = SHARE_PER_TAG * sum(answer.count(tag) == 1 for tag in TAGS)
    behind = answer.rpartition("</answer>")[2] if "</answer>" in answer else ""
    return max(0.0, count - COST_PER_CHARACTER * len(behind.rstrip()))


def boxed_format(answer: str) -> float:
    r"""Return 1 for a box in an answer block, 0.75 for a block without, 0.5 for a box, else 0.25.

    The constant 0.25 for no answer at all is the paper's; it cancels wherever rewards are
    compared within a group.
    """
    start = answer.rfind("<answer>")
    end = answer.find("</answer>", start)
    if 0 <= start < end:
        return 1.0 if has_box(answer[start:end]) else 0.75
    return 0.5 if has_box(answer) else 0.25


def _places(answer: str) -> tuple[int, int, int, int] | None:
    if any(answer.count(tag) != 1 for tag in TAGS):
        return None
    reasoning, reasoning_end, start, end = map(answer.index, TAGS)
    return (
        (reasoning, reasoning_end, start, end) if reasoning < reasoning_end < start < end else None
    )
