"""Text of models and of other people, made fit to be shown: nothing in it works unseen."""

from __future__ import annotations

import re

__all__ = ["visible"]

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control codes but tab and line feed
    "\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # formats
    "\ud800-\udfff\U000e0000-\U000e007f]"  # lone surrogates, tags
)


def visible(text: str, most: int | None = None) -> str:
    r"""Return text in which control codes, bidirectional controls and halves of characters show.

    Letters of all scripts stay, and so do joiners, which emoji are made with.

    Args:
        text: Any text.
        most: Characters at most; of more, the first are kept and a note says how many there were.

    Example:
        >>> visible("a\x00b\u202ec")
        'a␀b⟨U+202E⟩c'
    """
    note = ""
    if most is not None and len(text) > most:
        text, note = text[:most], f" … (cut: {len(text):,} characters in all)"
    return _UNSEEN.sub(_seen, text) + note


def _seen(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"
