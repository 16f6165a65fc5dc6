"""What a launcher tells each process of a run, by its environment."""

from __future__ import annotations

import os

__all__ = ["is_main_process", "num_processes"]


def num_processes() -> int:
    """Return how many processes the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Return whether this is the process that talks and writes."""
    return int(os.environ.get("RANK", "0")) == 0
