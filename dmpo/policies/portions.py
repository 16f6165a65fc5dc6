"""Work cut into portions that fit into memory, also where they turn out not to."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

__all__ = ["in_portions", "is_out_of_memory", "release_memory"]

Result = TypeVar("Result")

SIGNS = (
    "out of memory",
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC",
)
"""What errors say that are no :class:`torch.OutOfMemoryError` and mean the same."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory was too small."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def release_memory() -> None:
    """Give back what a failed attempt held."""
    gc.collect()  # the error's frames hold tensors in cycles
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def in_portions(count: int, size: int, run: Callable[[slice], Result]) -> list[Result]:
    """Run over ``count`` things in portions of at most ``size``, and return what each gave.

    A portion for which memory is too small is halved and tried again, as are those after it; that
    is for work that leaves no trace where it fails, such as a forward pass without gradient.

    Args:
        count: Things in all.
        size: In a portion, at least 1.
        run: Of a slice of them.

    Raises:
        Exception: What ``run`` raises, an error of memory where a single thing is too large.
    """
    results: list[Result] = []
    start = 0
    while start < count:
        piece = slice(start, min(start + size, count))
        try:
            results.append(run(piece))
        except Exception as error:
            if size == 1 or not is_out_of_memory(error):
                raise
            size = max(1, min(size, piece.stop - piece.start) // 2)
        else:
            start = piece.stop
            continue
        release_memory()  # behind the handler: until then the error holds what it failed with
    return results
