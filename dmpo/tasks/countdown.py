"""Countdown: make a target from three numbers, each used exactly once.

The prompt is ``25,3,7=68:``, the answer an expression such as ``25*3-7``.
"""

from __future__ import annotations

import functools
import itertools
import operator
import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence, Set
from typing import final

from pydantic import Field

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

__all__ = ["CountdownConfig", "CountdownTask", "countdown_example"]

NUM_NUMBERS = 3
PARTIAL_SCORE = 0.1
LAZY_PATTERNS = (("+", "+"), ("*", "+"), ("+", "*"))
SAME_WITHOUT_PARENTHESES = ("++", "+-", "**", "*/")
OPERATORS_AND_PARENTHESES = 4

_Key = tuple[tuple[int, ...], int]


class CountdownConfig(PluginConfig):
    """Parameters of :class:`CountdownTask`."""

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


@final
class CountdownTask(Task):
    """Make the target from the numbers.

    Every problem has a solution whose steps are all positive whole numbers, divisions without
    remainder. The grader asks for no more than the exact value: negative or fractional steps
    count as well. The splits are disjoint by the sorted numbers together with the target: two
    orders of the same numbers may both be training prompts, never one in each split.

    ``score`` is 1 for the right value from exactly the given numbers, 0.1 for exactly the
    given numbers and another value (or none, by a division by zero), else 0. ``right`` counts
    the first case alone. The whole completion must be the expression.
    """

    Config = CountdownConfig

    headline = "right"

    def __init__(self, config: CountdownConfig) -> None:
        """Keep the config; the problems are made when first asked for."""
        self.config = config
        self.reward_weights: Mapping[str, float] = {"score": 1.0}
        end_of_text = 1
        digits = NUM_NUMBERS * len(str(config.max_number))
        self.response_length = digits + OPERATORS_AND_PARENTHESES + end_of_text

    def examples(self, split: Split) -> Sequence[Example]:
        """Return the problems of a split, always in the same order.

        Raises:
            DataError: If there are not as many distinct problems as asked for.
        """
        return _examples(self.config)[split]

    def read_answer(self, example: Example, completion: str) -> str | None:  # noqa: ARG002
        """Return the expression without spaces and needless parentheses, or None."""
        try:
            return format_expression(parse_expression(completion))
        except ExpressionError:
            return None

    def grade(self, example: Example, completion: str) -> Mapping[str, float]:
        """Return ``score`` and ``right``."""
        try:
            expression = parse_expression(completion)
        except ExpressionError:
            return {"score": 0.0, "right": 0.0}
        if sorted(numbers_in(expression)) != sorted(example.columns["numbers"]):
            return {"score": 0.0, "right": 0.0}
        right = _has_value(expression, example.columns["target"])
        return {"score": 1.0 if right else PARTIAL_SCORE, "right": float(right)}

    def demonstrate(self, example: Example, rng: random.Random) -> str:
        """Return a solution, or by ``lazy_fraction`` the lazy answer.

        Raises:
            DataError: If a problem from elsewhere has no solution in positive whole steps.
        """
        numbers, target = tuple(example.columns["numbers"]), example.columns["target"]
        if rng.random() < self.config.lazy_fraction:
            return _lazy_answer(numbers, target)
        solutions = _solutions(tuple(sorted(numbers)), target)
        if not solutions:
            raise DataError(f"{example.prompt!r}: no solution in positive whole steps is known.")
        return rng.choice(solutions)


def countdown_example(numbers: Sequence[int], target: int) -> Example:
    """Return the problem of these numbers and this target."""
    return Example(
        prompt=f"{','.join(map(str, numbers))}={target}:",
        columns={"numbers": tuple(numbers), "target": target},
    )


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
def _examples(config: CountdownConfig) -> Mapping[Split, tuple[Example, ...]]:
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
        example = countdown_example(numbers, rng.choice(targets))
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
