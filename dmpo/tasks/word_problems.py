"""Problems with a worked solution from a source: read once, held-out splits kept apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dmpo.errors import DataError
from dmpo.records import Example, Split
from dmpo.tasks.sources import read_source
from dmpo.tasks.splits import shuffled_split

__all__ = ["read_problems", "split_problems", "text_column"]


def read_problems(
    source: str,
    *,
    split: str,
    option: str,
    subset: str | None,
    example_of: Callable[[Mapping[str, Any]], Example],
) -> list[Example]:
    """Return the problems of a source, in order.

    Args:
        source: A file or a hub id.
        split: Of a hub's data set.
        option: What messages call the setting.
        subset: Configuration of a hub's data set.
        example_of: Makes a problem of a row, or raises DataError.

    Raises:
        DataError: If the source cannot be read, or a row is no problem; then it says which.
    """
    examples = []
    for number, row in enumerate(read_source(source, split=split, option=option, subset=subset), 1):
        try:
            examples.append(example_of(row))
        except DataError as error:
            raise DataError(f"{option}: {source}, row {number}: {error}") from None
    return examples


def split_problems(
    train: Sequence[Example], test: Sequence[Example], *, num_validation: int, seed: int
) -> Mapping[Split, tuple[Example, ...]]:
    """Cut validation from train, and leave out of both what test asks, too.

    Equal questions are one problem: the first of them stays.

    Raises:
        DataError: If nothing would be left to train on.
    """
    held_out = {example.prompt for example in test}
    distinct = {
        example.prompt: example for example in reversed(train) if example.prompt not in held_out
    }
    questions = list(reversed(distinct))
    parts = shuffled_split(questions, num_test=0, num_validation=num_validation, seed=seed)
    validation = frozenset(parts["validation"])
    return {
        "train": tuple(distinct[each] for each in questions if each not in validation),
        "validation": tuple(distinct[each] for each in questions if each in validation),
        "test": tuple(test),
    }


def text_column(row: Mapping[str, Any], *names: str) -> str:
    """Return the first of some columns that holds text; a number counts as its text.

    Raises:
        DataError: If none does.
    """
    for name in names:
        value = row.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, str) and value.strip():
            return value
    raise DataError(
        f"text under {' or '.join(map(repr, names))} is needed, the row has "
        f"{', '.join(map(repr, row)) or 'nothing'}."
    )
