"""Problems with a worked solution from a source: read once, held-out splits kept apart."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from dmpo.errors import DataError
from dmpo.records import Example, Split
from dmpo.registry import PluginConfig
from dmpo.tasks.sources import OnBadRow, Row, cell_text, read_examples, read_source
from dmpo.tasks.splits import shuffled_split

__all__ = [
    "WordProblemsConfig",
    "read_problems",
    "sourced_examples",
    "split_problems",
    "text_column",
]

ExampleOf = Callable[[Mapping[str, Any]], Example]
"""Makes a problem of a row, or raises DataError."""


class WordProblemsConfig(PluginConfig):
    """What tasks of problems with one answer, read from two sources, have in common."""

    train_source: str = Field(
        min_length=1, description="Hub id, or a JSON, JSONL, CSV or Parquet file."
    )
    test_source: str = Field(min_length=1, description="The same for the test problems.")
    grader: Literal["default", "published"] = Field(
        "default", description="`published`: the verdicts of d1's parser, mistakes included."
    )
    validation_size: int = Field(
        256, ge=1, description="Training problems that are kept for validation."
    )
    on_bad_row: OnBadRow = "stop"
    seed: int = Field(0, ge=0, description="Seed of the cut.")
    response_length: int = Field(
        256, ge=1, description="Tokens that an answer needs, end included."
    )


def sourced_examples(
    config: WordProblemsConfig, split: Split, *, example_of: ExampleOf, subset: str | None = None
) -> tuple[Example, ...]:
    """Return the problems of a split in the order of the source; each source is read once.

    Args:
        config: Names the sources.
        split: The test split needs the test source alone.
        example_of: Makes a problem of a row.
        subset: Configuration of a hub's data set.

    Raises:
        DataError: If a source cannot be read, or a row is no problem.
    """
    if split == "test":
        return _test(config, example_of, subset)
    return _parts(config, example_of, subset)[split]


@functools.lru_cache(maxsize=8)
def _test(
    config: WordProblemsConfig, example_of: ExampleOf, subset: str | None
) -> tuple[Example, ...]:
    return tuple(_problems(config, "test", example_of, subset))


@functools.lru_cache(maxsize=8)
def _parts(
    config: WordProblemsConfig, example_of: ExampleOf, subset: str | None
) -> Mapping[Split, tuple[Example, ...]]:
    return split_problems(
        _problems(config, "train", example_of, subset),
        _test(config, example_of, subset),
        num_validation=config.validation_size,
        seed=config.seed,
    )


def _problems(
    config: WordProblemsConfig, split: str, example_of: ExampleOf, subset: str | None
) -> list[Example]:
    return read_problems(
        config.test_source if split == "test" else config.train_source,
        split=split,
        option=f"task.{split}_source",
        subset=subset,
        example_of=example_of,
        on_bad_row=config.on_bad_row,
    )


def read_problems(
    source: str,
    *,
    split: str,
    option: str,
    subset: str | None,
    example_of: ExampleOf,
    on_bad_row: Literal["stop", "skip"],
) -> list[Example]:
    """Return the problems of a source, in order.

    Args:
        source: A file or a hub id.
        split: Of a hub's data set.
        option: What messages call the setting.
        subset: Configuration of a hub's data set.
        example_of: Makes a problem of a row, or raises DataError.
        on_bad_row: Whether a row that is no problem ends the reading.

    Raises:
        DataError: If the source cannot be read, or a row is no problem; then it says which.
    """

    def example(row: Row) -> Example:
        try:
            return example_of(row.values)
        except DataError as error:
            raise DataError(f"{row.origin}: {error}") from None

    return read_examples(
        read_source(source, split=split, option=option, subset=subset),
        example,
        origin=f"{option}: {source}",
        on_bad_row=on_bad_row,
    )


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
    """Return the first of some columns that holds text; a finite number counts as its text.

    Raises:
        DataError: If none does.
    """
    for name in names:
        text = cell_text(row.get(name))
        if text is not None:
            return text
    raise DataError(
        f"text under {' or '.join(map(repr, names))} is needed, the row has "
        f"{', '.join(map(repr, row)) or 'nothing'}."
    )
