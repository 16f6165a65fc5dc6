"""Problems from a file of your own: JSONL, JSON, CSV or Parquet with a prompt and an answer."""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

from pydantic import Field, model_validator

from dmpo.errors import DataError, nearest_name
from dmpo.records import Example, Split
from dmpo.registry import PluginConfig
from dmpo.tasks.base import Task
from dmpo.tasks.sources import OnBadRow, Row, cell_text, file_rows, read_examples
from dmpo.tasks.splits import shuffled_split

__all__ = ["FileConfig", "FileTask"]

ANSWER = "answer"


class FileConfig(PluginConfig):
    """Parameters of :class:`FileTask`."""

    path: Path = Field(
        description="JSONL, JSON, CSV or Parquet file: training problems, or all of them."
    )
    validation_path: Path | None = Field(None, description="File of validation problems.")
    test_path: Path | None = Field(None, description="File of test problems.")
    prompt_column: str = Field("prompt", min_length=1, description="Key of the prompt.")
    answer_column: str = Field("answer", min_length=1, description="Key of the right answer.")
    response_length: int = Field(
        256, ge=1, description="Tokens that an answer needs, end included."
    )
    validation_fraction: float = Field(
        0.1, gt=0, lt=1, description="Share of prompts for validation, without validation_path."
    )
    test_fraction: float = Field(
        0.1, gt=0, lt=1, description="Share of prompts for test, without test_path."
    )
    on_bad_row: OnBadRow = "stop"
    seed: int = Field(0, ge=0, description="Seed of the cut by prompt.")

    @model_validator(mode="after")
    def _every_option_has_an_effect(self) -> FileConfig:
        for split in ("validation", "test"):
            given = f"{split}_fraction" in self.model_fields_set
            if given and getattr(self, f"{split}_path") is not None:
                raise ValueError(
                    f"{split}_fraction has no effect beside {split}_path; give one of the two."
                )
        if self.prompt_column == self.answer_column:
            raise ValueError("prompt_column and answer_column name the same key.")
        return self


@final
class FileTask(Task):
    """Problems read from a file, graded by exact match.

    Splits without a file of their own are cut from ``path`` by prompt with a seeded shuffle:
    all lines with one prompt stay together. A training or validation line whose prompt also
    stands in a held-out file is left out, so that the splits are disjoint in every case.

    ``right`` is 1 where completion and answer are equal after runs of white space became one
    space and the ends were stripped; case and punctuation count. Every key of a line but the
    prompt is a column for reward functions; the answer is one named ``answer``, too.
    """

    Config = FileConfig

    headline = "right"

    def __init__(self, config: FileConfig) -> None:
        """Keep the config; the files are read when first asked for."""
        self.config = config
        self.reward_weights: Mapping[str, float] = {"right": 1.0}
        self.response_length = config.response_length

    def examples(self, split: Split) -> Sequence[Example]:
        """Return the problems of a split in the order of the file.

        Raises:
            DataError: If a file is missing, unreadable, empty or not as described, or a split
                would be empty.
        """
        examples = _examples(self.config)[split]
        if not examples:
            raise DataError(f"task.path: no {split} problems are left in {self.config.path}.")
        return examples

    def read_answer(self, example: Example, completion: str) -> str | None:  # noqa: ARG002
        """Return the completion with white space normalised; None if nothing is left."""
        return _normalise(completion) or None

    def grade(self, example: Example, completion: str) -> Mapping[str, float]:
        """Return ``right``: whether the completion is the answer."""
        return {"right": float(_normalise(completion) == _normalise(example.columns[ANSWER]))}

    def demonstrate(self, example: Example, rng: random.Random) -> str:  # noqa: ARG002
        """Return the answer of the file."""
        return str(example.columns[ANSWER])


def _normalise(text: str) -> str:
    return " ".join(text.split())


@functools.lru_cache(maxsize=8)
def _examples(config: FileConfig) -> Mapping[Split, tuple[Example, ...]]:
    test = _read(config, "test_path") if config.test_path else None
    validation = _read(config, "validation_path") if config.validation_path else None
    every = _read(config, "path")
    rest = _without(every, (test or []) + (validation or []))
    if not rest:
        raise DataError(f"task.path: every prompt of {config.path} also stands in a held-out file.")
    prompts = list(dict.fromkeys(example.prompt for example in rest))
    num_test = 0 if test is not None else _share(config.test_fraction, len(prompts))
    num_validation = (
        0 if validation is not None else _share(config.validation_fraction, len(prompts))
    )
    if num_test + num_validation >= len(prompts):
        raise DataError(
            f"task.path: {config.path} has {len(prompts)} different prompts; {num_test} for test "
            f"and {num_validation} for validation leave nothing to train on; give test_path and "
            "validation_path, smaller fractions, or more prompts."
        )
    parts = shuffled_split(
        prompts, num_test=num_test, num_validation=num_validation, seed=config.seed
    )
    cut = {name: frozenset(part) for name, part in parts.items()}
    if test is None:
        test = [example for example in rest if example.prompt in cut["test"]]
    if validation is None:
        validation = [example for example in rest if example.prompt in cut["validation"]]
    return {
        "train": tuple(example for example in rest if example.prompt in cut["train"]),
        "validation": tuple(_without(validation, test)),
        "test": tuple(test),
    }


def _share(fraction: float, count: int) -> int:
    return max(1, round(fraction * count))


def _without(examples: list[Example], held_out: list[Example]) -> list[Example]:
    prompts = {example.prompt for example in held_out}
    return [example for example in examples if example.prompt not in prompts]


def _read(config: FileConfig, option: str) -> list[Example]:
    path, name = getattr(config, option), f"task.{option}"
    return read_examples(
        file_rows(path, name),
        functools.partial(_example, config),
        origin=f"{name}: {path}",
        on_bad_row=config.on_bad_row,
    )


def _example(config: FileConfig, row: Row) -> Example:
    prompt = _text(row, config.prompt_column, "prompt_column")
    answer = _text(row, config.answer_column, "answer_column")
    others = {key: value for key, value in row.values.items() if key != config.prompt_column}
    if ANSWER in others and config.answer_column != ANSWER:
        raise DataError(
            f"{row.origin}: a column {ANSWER!r} stands beside answer_column "
            f"{config.answer_column!r}; rename one."
        )
    return Example(prompt=prompt, columns={**others, ANSWER: answer})


def _text(row: Row, column: str, option: str) -> str:
    if column not in row.values:
        near = nearest_name(column, row.values)
        raise DataError(
            f"{row.origin}: no column {column!r} ({option}); it has "
            f"{', '.join(map(repr, row.values)) or 'none'}."
            + (f" Did you mean {near!r}?" if near else "")
        )
    value = row.values[column]
    text = cell_text(value)
    if text is None:
        raise DataError(
            f"{row.origin}: column {column!r} must be text with something in it, "
            f"found {value!r:.80}."
        )
    return text
