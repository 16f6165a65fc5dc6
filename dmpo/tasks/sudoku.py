"""4x4 Sudoku: one right answer per puzzle, graded cell by cell.

There are 288 solution grids in all. They are cut *by grid* into train, validation and test: a
cut by puzzle would show the answers of the test set in training. A puzzle is a grid with some
cells blanked so that no other grid fits what is left.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Mapping, Sequence
from typing import final

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from dmpo.errors import DataError
from dmpo.records import Example, Split
from dmpo.registry import PluginConfig
from dmpo.tasks.base import Task
from dmpo.tasks.splits import shuffled_split

__all__ = ["SudokuConfig", "SudokuTask", "solution_grids", "sudoku_example"]

SIDE = 4
CELLS = SIDE * SIDE
DIGITS = "1234"
BLANK = "0"
MIN_GIVENS = 4  # fewer never decide a 4x4 grid
MAX_ROUNDS = 100
SPLIT_NUMBER: Mapping[Split, int] = {"train": 0, "validation": 1, "test": 2}


class SudokuConfig(PluginConfig):
    """Parameters of :class:`SudokuTask`."""

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


@final
class SudokuTask(Task):
    """Fill the blanks of a 4x4 grid.

    The prompt is the grid row by row, ``0`` for a blank, then ``=``; the answer is the whole
    grid, 16 digits without separators. White space in a completion is left out; what remains
    is compared position by position:

    - ``cells`` looks at the blanks of the puzzle alone. A position that a short completion
      does not reach is wrong; characters after the sixteenth, and givens that the completion
      changes, cost nothing here.
    - ``puzzles`` is 1 only where the completion is the solution, character by character, so a
      changed given, a missing or a surplus character makes it 0.
    """

    Config = SudokuConfig

    headline = "cells"
    response_length = CELLS

    def __init__(self, config: SudokuConfig) -> None:
        """Keep the config; the puzzles are made when first asked for."""
        self.config = config
        self.reward_weights: Mapping[str, float] = {"cells": 1.0}

    def examples(self, split: Split) -> Sequence[Example]:
        """Return the puzzles of a split, always in the same order.

        Raises:
            DataError: If there are not as many distinct puzzles as asked for.
        """
        return _examples(self.config, split)

    def read_answer(self, example: Example, completion: str) -> str | None:  # noqa: ARG002
        """Return the grid's 16 digits, or None where the text is anything else."""
        text = "".join(completion.split())
        if len(text) == CELLS and all(character in DIGITS for character in text):
            return text
        return None

    def grade(self, example: Example, completion: str) -> Mapping[str, float]:
        """Return the share of blanks that are right, and whether the whole grid is."""
        puzzle, solution = str(example.columns["puzzle"]), str(example.columns["solution"])
        text = "".join(completion.split())
        blanks = [index for index, cell in enumerate(puzzle) if cell == BLANK]
        right = sum(text[index : index + 1] == solution[index] for index in blanks)
        puzzles = float(text == solution)
        return {"cells": right / len(blanks) if blanks else puzzles, "puzzles": puzzles}

    def demonstrate(self, example: Example, rng: random.Random) -> str:
        """Return the solution, or by ``lazy_fraction`` the lazy answer."""
        if rng.random() < self.config.lazy_fraction:
            return _lazy_answer(str(example.columns["puzzle"]))
        return str(example.columns["solution"])


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


def sudoku_example(puzzle: str, solution: str) -> Example:
    """Return the problem of a puzzle and its solution, 16 characters each, ``0`` for a blank."""
    return Example(prompt=f"{puzzle}=", columns={"puzzle": puzzle, "solution": solution})


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
    return tuple(_example(grid, givens) for grid, givens in puzzles)


def _example(grid: int, givens: int) -> Example:
    solution = solution_grids()[grid]
    puzzle = "".join(
        digit if givens >> index & 1 else BLANK for index, digit in enumerate(solution)
    )
    return sudoku_example(puzzle, solution)


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
