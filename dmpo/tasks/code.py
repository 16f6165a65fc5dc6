"""Python functions that must pass unit tests, run in a sandbox."""

from __future__ import annotations

import functools
import math
import random
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal, final

from pydantic import Field, model_validator

from dmpo.errors import DataError
from dmpo.records import Example, Split
from dmpo.registry import PluginConfig
from dmpo.tasks.base import Task
from dmpo.tasks.code_problems import generated_problems
from dmpo.tasks.prompting import PREFILL, paper_answer, user_message
from dmpo.tasks.reading import answer_blocks, until_end_of_turn
from dmpo.tasks.sandbox import MAX_CODE, Limits, Program, run_programs
from dmpo.tasks.sources import OnBadRow, check_has_source, is_file_source
from dmpo.tasks.unit_tests import check_unit_tests, unit_tests
from dmpo.tasks.word_problems import read_problems, split_problems, text_column

__all__ = ["CodeConfig", "CodeTask", "code_example", "read_code"]

FORMAT = """
Respond in the following format:
<reasoning>
...
</reasoning>
<answer>
...
</answer>
"""
CODING = (
    "You are a coding expert. You will be given a coding problem to solve. Solve it step by step. "
    "\n\n"
)
GENERATED = "generated"
MBPP = "google-research-datasets/mbpp"
MBPP_SUBSET = "sanitized"
PYTHON = frozenset({"python", "python3", "py"})
FENCE = "```"


class CodeConfig(PluginConfig):
    """Parameters of :class:`CodeTask`."""

    source: Literal["given", "generated"] = Field(
        "given",
        description="`generated`: small functions made here, without any source; `given`: "
        "train_source and test_source.",
    )
    train_source: str = Field(
        "KodCode/KodCode-Light-RL-10K",
        min_length=1,
        description="Hub id, or a JSON, JSONL, CSV or Parquet file.",
    )
    test_source: str = Field(MBPP, min_length=1, description="The same for the test problems.")
    on_bad_row: OnBadRow = "stop"
    validation_size: int = Field(
        128, ge=1, description="Training problems that are kept for validation."
    )
    generated_test_size: int = Field(
        128, ge=1, description="Generated problems that are kept for test."
    )
    seed: int = Field(0, ge=0, description="Seed of the cut and of generated tests.")
    time_limit: float = Field(
        5.0, gt=0, description="Seconds for a program with all its tests, by the clock."
    )
    memory_limit: int = Field(512, ge=64, description="Address space of a program, in MiB.")
    workers: int | None = Field(
        None, ge=1, description="Programs run at a time; null: one per processor."
    )
    response_length: int = Field(
        256, ge=1, description="Tokens that an answer needs, end included."
    )

    @model_validator(mode="after")
    def _rows_are_of_a_source(self) -> CodeConfig:
        given = () if self.source == GENERATED else (self.train_source, self.test_source)
        check_has_source(self.on_bad_row, *given)
        return self


@final
class CodeTask(Task):
    """Write a Python function; prompt and rewards as d1's code task (arXiv 2504.12216) has them.

    ``tests`` is the share of the tests passed, each assertion being one; ``right`` is 1 where all
    are; ``format`` is 1 where the code stands inside answer tags. The reward is ``tests`` + 0.5 ·
    ``format``, in [0, 1.5]. Untrusted code runs under :mod:`dmpo.tasks.sandbox`, which says what
    it protects against and what not.

    A row of a source has ``question`` or ``prompt`` and ``test`` or ``tests``: Python with
    assertions, that calls the functions by name or imports them from ``solution``. MBPP's
    ``test_list`` is read, too, with its ``test_imports``; those tests are shown in the prompt, as
    in MBPP's own, because the question does not name the function. A ``solution`` or ``code``
    column is what is learnt from. Rows of a hub's data set without an assertion are skipped
    whatever ``on_bad_row`` says.
    """

    Config = CodeConfig

    headline = "right"

    def __init__(self, config: CodeConfig) -> None:
        """Keep the config; the sources are read when first asked for."""
        self.config = config
        self.reward_weights: Mapping[str, float] = {"tests": 1.0, "format": 0.5}
        self.response_length = config.response_length

    def examples(self, split: Split) -> Sequence[Example]:
        """Return the problems of a split in the order of the source.

        Raises:
            DataError: If a source is missing, unreadable, empty, or not as described.
        """
        if self.config.source == GENERATED:
            return _generated(self.config)[split]
        return _test(self.config) if split == "test" else _train(self.config)[split]

    def read_answer(self, example: Example, completion: str) -> str | None:  # noqa: ARG002
        """Return the code; None if there is none."""
        return read_code(completion)[0]

    def grade(self, example: Example, completion: str) -> Mapping[str, float]:
        """Return ``tests``, ``right`` and ``format``."""
        return self.grade_all([(example, completion)])[0]

    def grade_all(self, pairs: Sequence[tuple[Example, str]]) -> list[Mapping[str, float]]:
        """Run several programs at a time and return the figures of each."""
        read = [read_code(completion) for _, completion in pairs]
        programs = [
            None if code is None else Program(code, unit_tests(str(example.columns["tests"])))
            for (example, _), (code, _) in zip(pairs, read, strict=True)
        ]
        limits = Limits(
            wall_seconds=self.config.time_limit,
            cpu_seconds=math.ceil(self.config.time_limit),
            memory_bytes=self.config.memory_limit * 1024**2,
        )
        run = [program for program in programs if program is not None]
        verdicts = iter(run_programs(run, limits=limits, workers=self.config.workers))
        shares = [
            0.0 if program is None else math.fsum(passed := next(verdicts).passed) / len(passed)
            for program in programs
        ]
        return [
            {"tests": share, "right": float(share == 1), "format": float(in_tags)}
            for share, (_, in_tags) in zip(shares, read, strict=True)
        ]

    def demonstrate(self, example: Example, rng: random.Random) -> str:  # noqa: ARG002
        """Return the source's solution in the paper's format.

        Raises:
            DataError: If the source gives none.
        """
        solution = example.columns.get("solution")
        if not solution:
            raise DataError(f"{example.columns['question']:.60}: the source has no solution.")
        reasoning = str(example.columns.get("reasoning") or "The code below does what is asked.")
        return paper_answer(reasoning, f"{FENCE}python\n{str(solution).strip()}\n{FENCE}")


def code_example(
    question: str, tests: str, *, solution: str | None = None, reasoning: str | None = None
) -> Example:
    """Return a problem.

    Args:
        question: What the function shall do, and its name.
        tests: Python with assertions.
        solution: Code to learn from.
        reasoning: The words before it.

    Raises:
        DataError: If the tests are not Python or hold no assertion.
    """
    try:
        check_unit_tests(tests)
    except ValueError as error:
        raise DataError(f"the tests cannot be used: {error}.") from None
    columns = {"question": question, "tests": tests, "solution": solution, "reasoning": reasoning}
    return Example(
        prompt=user_message(FORMAT, CODING + question),
        columns={name: value for name, value in columns.items() if value is not None},
        prefill=PREFILL,
    )


def read_code(completion: str) -> tuple[str | None, bool]:
    """Return the code of a completion, and whether it stands inside answer tags.

    It is the last Python fence of the last answer block that has any; else that of the whole
    text; else the text of the last answer block itself. A fence that is never closed goes to
    the end.
    """
    text = until_end_of_turn(completion)
    blocks = [block for block in reversed(answer_blocks(text)) if block.strip()]
    for block in blocks:
        if code := _fenced(block):
            return code, True
    if code := _fenced(text):
        return code, False
    return (_normalised(blocks[0]) or None, True) if blocks else (None, False)


def _fenced(text: str) -> str | None:
    plain = None
    for inside in reversed(text.split(FENCE)[1::2]):
        language, _, code = inside.partition("\n")
        name = language.strip().lower()
        if name in PYTHON and code.strip():
            return _normalised(code)
        if plain is None and not name and code.strip():
            plain = code
    return None if plain is None else _normalised(plain)


def _normalised(code: str) -> str:
    if len(code) > MAX_CODE:  # which is not run
        return code
    return textwrap.dedent(code.replace("\r\n", "\n")).strip()


def _example(row: Mapping[str, Any]) -> Example:
    question = text_column(row, "question", "prompt", "text")
    if row.get("test_list"):
        tests = _lines(row, "test_list")
        question = f"{question.strip()}\n\nYour code should pass these tests:\n\n{tests}"
        if row.get("test_imports"):
            tests = f"{_lines(row, 'test_imports')}\n{tests}"
    elif isinstance(row.get("tests"), list):
        tests = _lines(row, "tests")
    else:
        tests = text_column(row, "test", "tests")
    solution = row.get("solution") or row.get("code")
    return code_example(question, tests, solution=None if solution is None else str(solution))


def _lines(row: Mapping[str, Any], name: str) -> str:
    """Return a column that holds a list of lines as one text."""
    lines = row[name]
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise DataError(f"{name!r} must be a list of texts, found {lines!r:.60}.")
    return "\n".join(lines)


def _problems(config: CodeConfig, split: str) -> list[Example]:
    source = config.test_source if split == "test" else config.train_source
    return read_problems(
        source,
        split=split,
        option=f"task.{split}_source",
        subset=MBPP_SUBSET if source == MBPP else None,
        example_of=_example,
        # Published sets have rows without a single assertion.
        on_bad_row=config.on_bad_row if is_file_source(source) else "skip",
    )


@functools.lru_cache(maxsize=8)
def _test(config: CodeConfig) -> tuple[Example, ...]:
    return tuple(_problems(config, "test"))


@functools.lru_cache(maxsize=8)
def _train(config: CodeConfig) -> Mapping[Split, tuple[Example, ...]]:
    return split_problems(
        _problems(config, "train"),
        _test(config),
        num_validation=config.validation_size,
        seed=config.seed,
    )


@functools.lru_cache(maxsize=8)
def _generated(config: CodeConfig) -> Mapping[Split, tuple[Example, ...]]:
    problems = generated_problems(config.seed)
    order = list(range(len(problems)))
    random.Random(config.seed).shuffle(order)
    if config.generated_test_size + config.validation_size >= len(order):
        raise DataError(
            f"task.generated_test_size: there are {len(order)} generated problems; "
            f"{config.generated_test_size} for test and {config.validation_size} for validation "
            "leave nothing to train on."
        )
    examples = [
        code_example(each.question, each.tests, solution=each.solution, reasoning=each.reasoning)
        for each in problems
    ]
    held_out = frozenset(order[: config.generated_test_size])
    return split_problems(
        [example for index, example in enumerate(examples) if index not in held_out],
        [example for index, example in enumerate(examples) if index in held_out],
        num_validation=config.validation_size,
        seed=config.seed,
    )
