"""Reward functions that tests name by module."""

from __future__ import annotations

from typing import Any

NUMBER = 3


def lengths(completions: list[str], **columns: Any) -> list[float]:
    """Return the length of each completion."""
    return [float(len(completion)) for completion in completions]
