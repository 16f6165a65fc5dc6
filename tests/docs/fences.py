"""Fenced blocks of a page, as a reader would copy them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"

_FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.M | re.S)


@dataclass(frozen=True)
class Fence:
    """One block: its language, the file it is meant for, and its text."""

    language: str
    title: str | None
    text: str


def fences(page: str) -> list[Fence]:
    """Return the blocks of a page in their order."""
    found = _FENCE.findall((DOCS / page).read_text())
    return [Fence(language, title or None, text) for language, title, text in found]


def write_titled(page: str, directory: Path) -> None:
    """Write every block that names a file into the directory."""
    for fence in fences(page):
        if fence.title:
            (directory / fence.title).write_text(fence.text)
