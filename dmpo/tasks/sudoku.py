"""4x4 Sudoku: one right answer per puzzle, graded cell by cell.

There are 288 solution grids in all. They are cut *by grid* into train, validation and test: a
cut by puzzle would show the answers of the test set in training. A puzzle is a grid with some
cells blanked so that no other grid fits what is left.
"""

from __future__ import annotations

import functools
import itertools
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, final

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from dmpo.errors import DataError
from dmpo.records import Example, Split
from dmpo.registry import PluginConfig
from dmpo.tasks.base import Task
from dmpo.tasks.paper_answers import read_sudoku
from dmpo.tasks.prompting import (
    PREFILL,
    SUDOKU_SYSTEM,
    paper_answer,
    sudoku_question,
    user_message,
)
from dmpo.tasks.published import published_sudoku
from dmpo.tasks.sources import OnBadRow, check_has_source
from dmpo.tasks.splits import shuffled_split
from dmpo.tasks.word_problems import read_problems, split_problems, text_column

__all__ = ["SudokuConfig", "SudokuTask", "solution_grids", "sudoku_example"]

SIDE = 4
CELLS = SIDE * SIDE
DIGITS = "1234"
BLANK = "0"
MIN_GIVENS = 4  # fewer never decide a 4x4 grid
MAX_ROUNDS = 100
PAPER_LENGTH = 256
_PUZZLE = re.compile(r"(?<![0-9])[0-9]{16}(?![0-9])")
SPLIT_NUMBER: Mapping[Split, int] = {"train": 0, "validation": 1, "test": 2}


class SudokuConfig(PluginConfig):
    """Parameters of :class:`SudokuTask`."""

    format: Literal["compact", "paper"] = Field(
        "compact",
        description="`compact`: 16 digits and `=`, answered by 16 digits. `paper`: the paper's "
        "prompt and answer tags. Left out: compact for a family's own small checkpoint.",
    )
    train_source: str | None = Field(
        None, min_length=1, description="File or hub id with puzzle and solution; null: generated."
    )
    test_source: str | None = Field(None, min_length=1, description="The same for test puzzles.")
    on_bad_row: OnBadRow = "stop"
    grader: Literal["default", "published"] = Field(
        "default", description="`published`: the verdicts of d1's parser, mistakes included."
    )
    response_length: int | None = Field(
        None,
        ge=1,
        description="Tokens that an answer needs; null: 16, or 256 in the paper's format.",
    )
    seed: int = Field(0, ge=0, description="Seed of the cut by grid and of the puzzles.")
    min_blanks: int = Field(6, ge=1, le=CELLS - MIN_GIVENS, description="Fewest blank cells.")
    max_blanks: int = Field(10, ge=1, le=CELLS - MIN_GIVENS, description="Most blank cells.")
    train_size: int = Field(8192, ge=1, description="Distinct training puzzles.")
    validation_size: int = Field(256, ge=1, description="Distinct validation puzzles.")
    test_size: int = Field(256, ge=1, description="Distinct test puzzles.")
    validation_grids: int = Field(40, ge=1, description="Solution grids kept for validation.")
    test_grids: int = Field(56, ge=1, description="Solution grids kept for test, of 288.")
    lazy_fraction: float = Field(
        0.65,
        ge=0,
        le=1,
        description="Share of demonstrations that fill each row's missing digits in ascending "
        "order instead of solving the puzzle.",
    )

    @model_validator(mode="after")
    def _blanks_are_a_range(self) -> SudokuConfig:
        if self.min_blanks > self.max_blanks:
            raise ValueError(f"min_blanks {self.min_blanks} is above max_blanks {self.max_blanks}.")
        return self

    @model_validator(mode="after")
    def _rows_are_of_a_source(self) -> SudokuConfig:
        check_has_source(self.on_bad_row, self.train_source, self.test_source)
        return self

    @model_validator(mode="after")
    def _published_reads_the_papers_format(self) -> SudokuConfig:
        if self.grader == "published" and self.format == "compact":
            raise ValueError(
                "grader 'published' reads answers in the paper's format: format paper."
            )
        return self


@final
class SudokuTask(Task):
    """Fill the blanks of a 4x4 grid.

    In the compact format the prompt is the grid row by row, ``0`` for a blank, then ``=``, and
    the whole completion is the answer; in the paper's (Appendix C) it is the last answer block.
    White space and separators in an answer are left out; what remains is compared position by
    position:

    - ``cells`` looks at the blanks of the puzzle alone, and is the paper's reward. A position
      that a short answer does not reach is wrong; characters after the sixteenth, and givens
      that the answer changes, cost nothing here. Accuracy counts each blank once.
    - ``puzzles`` is 1 only where the answer is a solution, character by character, so a
      changed given, a missing or a surplus character makes it 0.

    Generated splits share no solution grid. Puzzles of a test source are left out of training,
    but not their grids: there are only 288.

    What a solution is, the constraints say: of a puzzle with several, each is right.
    """

    Config = SudokuConfig

    headline = "cells"

    def __init__(self, config: SudokuConfig) -> None:
        """Keep the config; the puzzles are made when first asked for."""
        self.config = config
        self.reward_weights: Mapping[str, float] = {"cells": 1.0}
        usual = CELLS if config.format == "compact" else PAPER_LENGTH
        self.response_length = config.response_length or usual

    def examples(self, split: Split) -> Sequence[Example]:
        """Return the puzzles of a split, always in the same order.

        Raises:
            DataError: If there are not as many distinct puzzles as asked for, or a source cannot
                be read.
        """
        return _examples(self.config, split)

    def num_questions(self, example: Example) -> int:
        """Return the blanks of a puzzle; 1 in the compact format, where puzzles count alike."""
        if self.config.format == "compact":
            return 1
        return max(1, str(example.columns["puzzle"]).count(BLANK))

    def from_record(self, record: Mapping[str, Any]) -> Example:
        """Return the puzzle of a saved completion: ours, or ``question`` and ``reference``.

        Raises:
            DataError: If it has neither.
        """
        if "question" not in record or "reference" not in record:
            return super().from_record(record)
        found = _PUZZLE.search(str(record["question"]))
        if found is None:
            raise DataError("its question holds no puzzle of 16 digits.")
        return self._example(found[0], str(record["reference"]))

    def read_answer(self, example: Example, completion: str) -> str | None:
        """Return the grid's 16 digits, or None where the answer is anything else."""
        text = self._answer(example, completion)
        if len(text) == CELLS and all(character in DIGITS for character in text):
            return text
        return None

    def grade(self, example: Example, completion: str) -> Mapping[str, float]:
        """Return the share of blanks that are right, and whether the whole grid is."""
        puzzle, solution = str(example.columns["puzzle"]), str(example.columns["solution"])
        text = self._answer(example, completion)
        is_default = self.config.grader == "default"
        if is_default and text in _solutions() and _fits(puzzle, text):
            return {"cells": 1.0, "puzzles": 1.0}  # a puzzle from elsewhere may have several
        blanks = [index for index, cell in enumerate(puzzle) if cell == BLANK]
        right = sum(text[index : index + 1] == solution[index] for index in blanks)
        puzzles = float(text == solution)
        return {"cells": right / len(blanks) if blanks else puzzles, "puzzles": puzzles}

    def _answer(self, example: Example, completion: str) -> str:
        if self.config.format == "compact":
            return "".join(completion.split())
        if self.config.grader == "published":
            puzzle, solution = str(example.columns["puzzle"]), str(example.columns["solution"])
            return published_sudoku(completion, puzzle, solution)[0]
        return read_sudoku(completion) or ""

    def demonstrate(self, example: Example, rng: random.Random) -> str:
        """Return the solution, or by ``lazy_fraction`` the lazy answer."""
        answer = str(example.columns["solution"])
        if rng.random() < self.config.lazy_fraction:
            answer = _lazy_answer(str(example.columns["puzzle"]))
        if self.config.format == "compact":
            return answer
        return paper_answer("Every row, column and box needs each digit once.", answer)

    def _example(self, puzzle: str, solution: str) -> Example:
        return sudoku_example(puzzle, solution, self.config.format)


@functools.cache
def solution_grids() -> tuple[str, ...]:
    """Return all 288 solution grids as 16 digits, row by row, in ascending order."""
    rows = ["".join(row) for row in itertools.permutations(DIGITS)]
    bands = [pair for pair in itertools.product(rows, repeat=2) if _is_band(*pair)]
    grids = ("".join(top + bottom) for top, bottom in itertools.product(bands, repeat=2))
    return tuple(
        grid
        for grid in grids
        if all(len(set(grid[column::SIDE])) == SIDE for column in range(SIDE))
    )


def sudoku_example(
    puzzle: str, solution: str, form: Literal["compact", "paper"] = "compact"
) -> Example:
    """Return the problem of a puzzle and its solution, 16 characters each, ``0`` for a blank.

    Raises:
        DataError: If the solution does not fill the puzzle's blanks, or is no solution.
    """
    if len(puzzle) != CELLS or solution not in _solutions() or not _fits(puzzle, solution):
        raise DataError(f"{solution!r:.40} is no solution of the puzzle {puzzle!r:.40}.")
    columns = {"puzzle": puzzle, "solution": solution}
    if form == "compact":
        return Example(prompt=f"{puzzle}=", columns=columns)
    prompt = user_message(SUDOKU_SYSTEM, sudoku_question(puzzle))
    return Example(prompt=prompt, columns=columns, prefill=PREFILL)


@functools.cache
def _solutions() -> frozenset[str]:
    return frozenset(solution_grids())


def _fits(puzzle: str, solution: str) -> bool:
    return all(cell in (BLANK, digit) for cell, digit in zip(puzzle, solution, strict=True))


def _is_band(upper: str, lower: str) -> bool:
    half = SIDE // 2
    return len(set(upper[:half] + lower[:half])) == SIDE == len(set(upper[half:] + lower[half:]))


def _lazy_answer(puzzle: str) -> str:
    cells = []
    for start in range(0, CELLS, SIDE):
        row = puzzle[start : start + SIDE]
        missing = iter(digit for digit in DIGITS if digit not in row)
        cells += [next(missing, DIGITS[0]) if cell == BLANK else cell for cell in row]
    return "".join(cells)


@functools.lru_cache(maxsize=16)
def _examples(config: SudokuConfig, split: Split) -> tuple[Example, ...]:
    if split == "test" and config.test_source is not None:
        return _from_source(config, config.test_source, "test")
    if split != "test" and config.train_source is not None:
        return _cut(config)[split]
    grids = shuffled_split(
        range(len(solution_grids())),
        num_test=config.test_grids,
        num_validation=config.validation_grids,
        seed=config.seed,
    )[split]
    count = {
        "train": config.train_size,
        "validation": config.validation_size,
        "test": config.test_size,
    }[split]
    rng = np.random.default_rng([config.seed, SPLIT_NUMBER[split]])
    puzzles = _distinct_puzzles(np.array(grids), config.min_blanks, config.max_blanks, count, rng)
    examples = tuple(_example(config, grid, givens) for grid, givens in puzzles)
    if split == "test" or config.test_source is None:
        return examples
    held_out = {example.prompt for example in _examples(config, "test")}
    return tuple(example for example in examples if example.prompt not in held_out)


def _cut(config: SudokuConfig) -> Mapping[Split, tuple[Example, ...]]:
    """Cut a source's puzzles into train and validation, without those of the test split."""
    test = _examples(config, "test")
    train = _from_source(config, str(config.train_source), "train")
    return split_problems(train, test, num_validation=config.validation_size, seed=config.seed)


def _from_source(config: SudokuConfig, source: str, split: str) -> tuple[Example, ...]:
    def example(row: Mapping[str, Any]) -> Example:
        puzzle = text_column(row, "puzzle", "Puzzle")
        return sudoku_example(puzzle, text_column(row, "solution", "Solution"), config.format)

    option = f"task.{split}_source"
    found = read_problems(
        source,
        split=split,
        option=option,
        subset=None,
        example_of=example,
        on_bad_row=config.on_bad_row,
    )
    return tuple(found)


def _example(config: SudokuConfig, grid: int, givens: int) -> Example:
    solution = solution_grids()[grid]
    puzzle = "".join(
        digit if givens >> index & 1 else BLANK for index, digit in enumerate(solution)
    )
    return sudoku_example(puzzle, solution, config.format)


def _distinct_puzzles(
    grids: npt.NDArray[np.int64],
    min_blanks: int,
    max_blanks: int,
    count: int,
    rng: np.random.Generator,
) -> list[tuple[int, int]]:
    """Draw pairs of a grid and a bit mask of its givens that fit that grid alone.

    Grid and number of blanks are drawn uniformly, then the blanks; what another grid also
    fits, or was drawn before, is drawn again as a whole.
    """
    differences = _differences()
    found: dict[tuple[int, int], None] = {}
    for _ in range(MAX_ROUNDS):
        draws = max(count, 64)
        chosen = rng.choice(grids, draws)
        blanks = rng.integers(min_blanks, max_blanks, draws, endpoint=True)
        rank = rng.random((draws, CELLS)).argsort(axis=1).argsort(axis=1)
        givens = ((rank >= blanks[:, None]) << np.arange(CELLS)).sum(axis=1)
        # The grid itself differs nowhere: exactly one zero means that no other grid fits.
        unique = ((differences[chosen] & givens[:, None]) == 0).sum(axis=1) == 1
        pairs = zip(chosen[unique].tolist(), givens[unique].tolist(), strict=True)
        found.update(dict.fromkeys(pairs))
        if len(found) >= count:
            return list(found)[:count]
    raise DataError(
        f"task: found {len(found)} distinct puzzles of {min_blanks} to {max_blanks} blanks, "
        f"{count} were asked for; ask for fewer or widen the range."
    )


@functools.cache
def _differences() -> npt.NDArray[np.int64]:
    """[288, 288] bit masks of the cells in which two grids differ."""
    cells = np.array([list(map(int, grid)) for grid in solution_grids()])
    masks: npt.NDArray[np.int64] = ((cells[:, None] != cells[None]) << np.arange(CELLS)).sum(axis=2)
    return masks
