"""Countdown: make a target from three numbers, each used exactly once.

The prompt is ``25,3,7=68:``, the answer an expression such as ``25*3-7``.
"""

from __future__ import annotations

import functools
import itertools
import operator
import random
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence, Set
from typing import Any, Literal, final

from pydantic import Field, model_validator

from dmpo.errors import DataError
from dmpo.records import Example, Split
from dmpo.registry import PluginConfig
from dmpo.tasks.base import Task
from dmpo.tasks.expressions import (
    Expression,
    ExpressionError,
    Number,
    Operation,
    evaluate,
    format_expression,
    numbers_in,
    parse_expression,
)
from dmpo.tasks.paper_answers import read_expression
from dmpo.tasks.prompting import (
    COUNTDOWN_SYSTEM,
    PREFILL,
    countdown_question,
    paper_answer,
    user_message,
)
from dmpo.tasks.published import published_countdown, uses_numbers
from dmpo.tasks.sources import OnBadRow, check_has_source
from dmpo.tasks.word_problems import read_problems, split_problems

__all__ = ["CountdownConfig", "CountdownTask", "countdown_example"]

NUM_NUMBERS = 3
PARTIAL_SCORE = 0.1
PAPER_LENGTH = 256
LAZY_PATTERNS = (("+", "+"), ("*", "+"), ("+", "*"))
SAME_WITHOUT_PARENTHESES = ("++", "+-", "**", "*/")
OPERATORS_AND_PARENTHESES = 4

_WHOLE = re.compile(r"-?[0-9]+")
_Key = tuple[tuple[int, ...], int]


class CountdownConfig(PluginConfig):
    """Parameters of :class:`CountdownTask`."""

    format: Literal["compact", "paper"] = Field(
        "compact",
        description="`compact`: `25,3,7=68:`, answered by an expression. `paper`: the paper's "
        "prompt and answer tags. Left out: compact for a family's own small checkpoint.",
    )
    train_source: str | None = Field(
        None,
        min_length=1,
        description="File or hub id with numbers and target (such as "
        "Jiayi-Pan/Countdown-Tasks-3to4); null: generated.",
    )
    test_source: str | None = Field(None, min_length=1, description="The same for test problems.")
    on_bad_row: OnBadRow = "stop"
    grader: Literal["default", "published"] = Field(
        "default", description="`published`: the verdicts of d1's parser, mistakes included."
    )
    response_length: int | None = Field(
        None, ge=1, description="Tokens that an answer needs; null: enough, or 256 in the paper's."
    )
    seed: int = Field(0, ge=0, description="Seed of the problems and of their cut.")
    max_number: int = Field(9, ge=3, le=99, description="Numbers are drawn from 1 to this.")
    max_target: int = Field(99, ge=1, le=999, description="Targets are drawn from 1 to this.")
    train_size: int = Field(4096, ge=1, description="Distinct training prompts.")
    validation_size: int = Field(256, ge=1, description="Distinct validation problems.")
    test_size: int = Field(256, ge=1, description="Distinct test problems.")
    lazy_fraction: float = Field(
        0.65,
        ge=0,
        le=1,
        description="Share of demonstrations that join the right numbers by one fixed pattern "
        "of operators with a wrong value, instead of making the target.",
    )

    @model_validator(mode="after")
    def _rows_are_of_a_source(self) -> CountdownConfig:
        check_has_source(self.on_bad_row, self.train_source, self.test_source)
        return self

    @model_validator(mode="after")
    def _published_reads_the_papers_format(self) -> CountdownConfig:
        if self.grader == "published" and self.format == "compact":
            raise ValueError(
                "grader 'published' reads answers in the paper's format: format paper."
            )
        return self


@final
class CountdownTask(Task):
    """Make the target from the numbers.

    Every problem has a solution whose steps are all positive whole numbers, divisions without
    remainder. The grader asks for no more than the exact value: negative or fractional steps
    count as well. The splits are disjoint by the sorted numbers together with the target: two
    orders of the same numbers may both be training prompts, never one in each split.

    ``score`` is 1 for the right value from exactly the given numbers, 0.1 for exactly the
    given numbers and another value (or none, by a division by zero), else 0. ``right`` counts
    the first case alone. In the compact format the whole completion must be the expression; in
    the paper's (Appendix C) it is what the last answer block or box holds, LaTeX included.

    A source's problems may have other numbers than three; those with other than three are left
    out of training, as in the paper.
    """

    Config = CountdownConfig

    headline = "right"

    def __init__(self, config: CountdownConfig) -> None:
        """Keep the config; the problems are made when first asked for."""
        self.config = config
        self.reward_weights: Mapping[str, float] = {"score": 1.0}
        end_of_text = 1
        digits = NUM_NUMBERS * len(str(config.max_number))
        short = digits + OPERATORS_AND_PARENTHESES + end_of_text
        usual = short if config.format == "compact" else PAPER_LENGTH
        self.response_length = config.response_length or usual

    def examples(self, split: Split) -> Sequence[Example]:
        """Return the problems of a split, always in the same order.

        Raises:
            DataError: If there are not as many distinct problems as asked for.
        """
        return _test(self.config) if split == "test" else _examples(self.config)[split]

    def from_record(self, record: Mapping[str, Any]) -> Example:
        """Return the problem of a saved completion: ours, or ``reference``: numbers and target.

        Raises:
            DataError: If it has neither.
        """
        if "question" not in record or "reference" not in record:
            return super().from_record(record)
        try:
            numbers, target = record["reference"]
            return countdown_example([int(n) for n in numbers], int(target), self.config.format)
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"`reference` must be numbers and a target, found {record['reference']!r:.60}."
            ) from error

    def read_answer(self, example: Example, completion: str) -> str | None:  # noqa: ARG002
        """Return the expression without spaces and needless parentheses, or None."""
        if self.config.grader == "published":
            return published_countdown(completion, (), 0)[0] or None
        try:
            return format_expression(parse_expression(self._answer(completion)))
        except ExpressionError:
            return None

    def grade(self, example: Example, completion: str) -> Mapping[str, float]:
        """Return ``score`` and ``right``."""
        numbers, target = tuple(example.columns["numbers"]), example.columns["target"]
        if self.config.grader == "published":
            parsed, right = published_countdown(completion, numbers, target)
            tried = right or uses_numbers(parsed, numbers)
            return {"score": 1.0 if right else PARTIAL_SCORE * tried, "right": float(right)}
        try:
            expression = parse_expression(self._answer(completion))
        except ExpressionError:
            return {"score": 0.0, "right": 0.0}
        if sorted(numbers_in(expression)) != sorted(numbers):
            return {"score": 0.0, "right": 0.0}
        right = _has_value(expression, target)
        return {"score": 1.0 if right else PARTIAL_SCORE, "right": float(right)}

    def _answer(self, completion: str) -> str:
        if self.config.format == "compact":
            return completion
        return read_expression(completion) or ""

    def demonstrate(self, example: Example, rng: random.Random) -> str:
        """Return a solution, or by ``lazy_fraction`` the lazy answer.

        Raises:
            DataError: If a problem from elsewhere has no solution in positive whole steps.
        """
        numbers, target = tuple(example.columns["numbers"]), example.columns["target"]
        if rng.random() < self.config.lazy_fraction:
            return self._written(_lazy_answer(numbers, target))
        solutions = _solutions(tuple(sorted(numbers)), target) if len(numbers) == 3 else ()
        if not solutions:
            raise DataError(f"{example.prompt!r}: no solution in positive whole steps is known.")
        return self._written(rng.choice(solutions))

    def _written(self, expression: str) -> str:
        if self.config.format == "compact":
            return expression
        return paper_answer("Each number is used exactly once.", f"\\boxed{{{expression}}}")


def countdown_example(
    numbers: Sequence[int], target: int, form: Literal["compact", "paper"] = "compact"
) -> Example:
    """Return the problem of these numbers and this target."""
    columns = {"numbers": tuple(numbers), "target": target}
    if form == "compact":
        return Example(prompt=f"{','.join(map(str, numbers))}={target}:", columns=columns)
    prompt = user_message(COUNTDOWN_SYSTEM, countdown_question(numbers, target))
    return Example(prompt=prompt, columns=columns, prefill=PREFILL)


def _has_value(expression: Expression, target: int) -> bool:
    try:
        return evaluate(expression) == target
    except ExpressionError:
        return False


def _lazy_answer(numbers: tuple[int, ...], target: int) -> str:
    first, second, third = numbers
    answer = ""
    for inner, outer in LAZY_PATTERNS:
        answer = f"{first}{inner}{second}{outer}{third}"
        if not _has_value(parse_expression(answer), target):
            break
    return answer


@functools.lru_cache(maxsize=8)
def _test(config: CountdownConfig) -> tuple[Example, ...]:
    if config.test_source is None:
        return _generated(config)["test"]
    return _from_source(config, config.test_source, "test")


@functools.lru_cache(maxsize=8)
def _examples(config: CountdownConfig) -> Mapping[Split, tuple[Example, ...]]:
    is_made_here = config.train_source is None and config.test_source is None
    test = () if is_made_here else _test(config)
    # A problem is its numbers and target: their order makes no other problem of it.
    held_out = {_key(example) for example in test}
    if config.train_source is None:
        return {
            split: tuple(example for example in part if _key(example) not in held_out)
            for split, part in _generated(config).items()
        }
    train = _from_source(config, config.train_source, "train")
    three = [example for example in train if len(example.columns["numbers"]) == NUM_NUMBERS]
    kept = [example for example in three if _key(example) not in held_out]
    return split_problems(kept, test, num_validation=config.validation_size, seed=config.seed)


def _from_source(config: CountdownConfig, source: str, split: str) -> tuple[Example, ...]:
    def example(row: Mapping[str, Any]) -> Example:
        numbers = row.get("numbers", row.get("nums", row.get("input")))
        target = row.get("target", row.get("output"))
        try:
            if isinstance(numbers, str):
                numbers = _WHOLE.findall(numbers)
            whole = [_whole(number) for number in numbers]
            if not whole:
                raise ValueError("no numbers")
            return countdown_example(whole, _whole(target), config.format)
        except (TypeError, ValueError) as error:
            raise DataError(
                "whole numbers (or nums, input) and a target (or output) are needed, the row has "
                f"{', '.join(map(repr, row)) or 'nothing'}: {numbers!r:.40} and {target!r:.40}."
            ) from error

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


def _whole(value: Any) -> int:
    """Return a whole number, also one that is written as text.

    Raises:
        TypeError, ValueError: If it is none; a fraction would be cut to another problem.
    """
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError(f"{value!r} is no whole number")
    return int(value)


@functools.lru_cache(maxsize=8)
def _generated(config: CountdownConfig) -> Mapping[Split, tuple[Example, ...]]:
    rng = random.Random(config.seed)
    taken: set[_Key] = set()
    parts: dict[Split, tuple[Example, ...]] = {}
    # Held-out parts come first: one prompt per key there, so that no figure counts one twice.
    held_out: Mapping[Split, int] = {"test": config.test_size, "validation": config.validation_size}
    for split, size in held_out.items():
        drawn = _draw(config, size, taken, rng, key_of=_key)
        parts[split] = drawn
        taken |= {_key(example) for example in drawn}
    prompt_of = operator.attrgetter("prompt")
    parts["train"] = _draw(config, config.train_size, taken, rng, key_of=prompt_of)
    return parts


def _key(example: Example) -> _Key:
    return tuple(sorted(example.columns["numbers"])), example.columns["target"]


def _draw(
    config: CountdownConfig,
    count: int,
    taken: Set[_Key],
    rng: random.Random,
    *,
    key_of: Callable[[Example], Hashable],
) -> tuple[Example, ...]:
    """Draw numbers uniformly, then a target uniformly among those they make.

    What is ``taken``, or equals an earlier draw by ``key_of``, is drawn again.
    """
    found: dict[Hashable, Example] = {}
    for _ in range(50 * count + 1000):
        numbers = [rng.randint(1, config.max_number) for _ in range(NUM_NUMBERS)]
        reachable = _targets(tuple(sorted(numbers)))
        targets = [target for target in reachable if target <= config.max_target]
        if not targets:
            continue
        example = countdown_example(numbers, rng.choice(targets), config.format)
        if _key(example) not in taken:
            found.setdefault(key_of(example), example)
        if len(found) == count:
            return tuple(found.values())
    raise DataError(
        f"task: found {len(found)} problems of numbers up to {config.max_number} and targets up to "
        f"{config.max_target}, {count} were asked for; ask for fewer or raise the bounds."
    )


@functools.lru_cache(maxsize=200_000)
def _targets(numbers: tuple[int, ...]) -> tuple[int, ...]:
    """Return, in ascending order, what these numbers make in positive whole steps."""
    values: set[int] = set()
    for first, second, third in set(itertools.permutations(numbers)):
        for _, inner in _steps(first, second):
            values.update(value for _, value in _steps(inner, third))
            values.update(value for _, value in _steps(third, inner))
    return tuple(sorted(values))


@functools.lru_cache(maxsize=200_000)
def _solutions(numbers: tuple[int, ...], target: int) -> tuple[str, ...]:
    """Return every way to make the target in positive whole steps, in ascending order."""
    found: list[Expression] = []
    for first, second, third in set(itertools.permutations(numbers)):
        last = Number(third)
        for symbol, value in _steps(first, second):
            inner = Operation(symbol, Number(first), Number(second))
            found += [Operation(s, inner, last) for s, v in _steps(value, third) if v == target]
            found += [
                Operation(s, last, inner)
                for s, v in _steps(third, value)
                if v == target and s + symbol not in SAME_WITHOUT_PARENTHESES
            ]
    return tuple(sorted(map(format_expression, found)))


def _steps(left: int, right: int) -> Iterator[tuple[str, int]]:
    yield "+", left + right
    yield "*", left * right
    if left > right:
        yield "-", left - right
    if left % right == 0:
        yield "/", left // right
