"""How a finite set of problems is cut into train, validation and test."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TypeVar

from dmpo.errors import DataError
from dmpo.records import Split

__all__ = ["shuffled_split"]

T = TypeVar("T")


def shuffled_split(
    items: Sequence[T], *, num_test: int, num_validation: int, seed: int
) -> Mapping[Split, tuple[T, ...]]:
    """Cut distinct items into three disjoint parts by a seeded shuffle.

    The test part depends on ``num_test`` and the seed alone, so that changing the size of the
    validation part never moves a problem into or out of the test part.

    Args:
        items: Distinct items in a fixed order.
        num_test: How many go to test.
        num_validation: How many go to validation; the rest is train.
        seed: Seed of the shuffle.

    Returns:
        The items of each split.

    Raises:
        DataError: If nothing would be left for training.
    """
    if num_test + num_validation >= len(items):
        raise DataError(
            f"task: {num_test} test and {num_validation} validation problems leave nothing to "
            f"train on: there are {len(items)} in all."
        )
    order = list(items)
    random.Random(seed).shuffle(order)
    end = num_test + num_validation
    return {
        "test": tuple(order[:num_test]),
        "validation": tuple(order[num_test:end]),
        "train": tuple(order[end:]),
    }
