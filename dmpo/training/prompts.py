"""Which prompts a buffer takes: a seeded permutation per epoch, and a cursor into it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from dmpo.records import Example
from dmpo.training.randomness import generator_for

__all__ = ["fingerprint", "prompt_indices"]


def prompt_indices(num_examples: int, *, seed: int, cursor: int, count: int) -> list[int]:
    """Return the examples that the cursor points at and the ``count − 1`` after it.

    Every epoch visits each example once, in an order of its own; a buffer that crosses the
    end of an epoch goes on in the next.

    Args:
        num_examples: Size of the training split, at least 1.
        seed: The run's seed; the same on every rank.
        cursor: Prompts taken since the beginning, from 0.
        count: How many to take.

    Returns:
        ``count`` indices in [0, num_examples).
    """
    indices: list[int] = []
    while len(indices) < count:
        epoch, offset = divmod(cursor + len(indices), num_examples)
        generator = generator_for(seed, 0, epoch, "prompts")
        order = torch.randperm(num_examples, generator=generator)
        indices += order[offset : offset + count - len(indices)].tolist()
    return indices


def fingerprint(examples: Sequence[Example]) -> str:
    """Return 16 hexadecimal digits that tell one training split from another, by its prompts.

    Args:
        examples: The split, in its order.
    """
    digest = hashlib.sha256()
    for example in examples:
        digest.update(f"{len(example.prompt)} {example.prompt}".encode())
    return digest.hexdigest()[:16]
