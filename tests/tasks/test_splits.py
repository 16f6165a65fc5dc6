from __future__ import annotations

import pytest

from dmpo.errors import DataError
from dmpo.tasks.splits import shuffled_split


def test_split_holds_every_item_once() -> None:
    parts = shuffled_split(range(50), num_test=7, num_validation=11, seed=3)
    assert [len(parts[name]) for name in ("test", "validation", "train")] == [7, 11, 32]
    assert sorted(parts["test"] + parts["validation"] + parts["train"]) == list(range(50))


def test_split_depends_on_the_seed() -> None:
    first, second = (
        shuffled_split(range(50), num_test=7, num_validation=0, seed=seed)["test"]
        for seed in (0, 1)
    )
    assert first != second


def test_test_part_stays_when_the_validation_part_grows() -> None:
    small = shuffled_split(range(50), num_test=7, num_validation=3, seed=0)
    large = shuffled_split(range(50), num_test=7, num_validation=13, seed=0)
    assert small["test"] == large["test"]


def test_split_is_refused_when_nothing_is_left_to_train_on() -> None:
    with pytest.raises(DataError, match="nothing to train on: there are 10 in all"):
        shuffled_split(range(10), num_test=5, num_validation=5, seed=0)
