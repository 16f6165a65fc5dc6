"""Reward functions that tests name by module."""

from __future__ import annotations

from typing import Any

NUMBER = 3


def lengths(completions: list[str], **columns: Any) -> list[float]:
    """Return the length of each completion."""
    return [float(len(completion)) for completion in completions]


def given(value: list[list[float | None]], **columns: Any) -> list[float | None]:
    """Return the number that each prompt's column holds for each of its two rollouts."""
    return [row[n % 2] for n, row in enumerate(value)]
