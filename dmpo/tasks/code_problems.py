"""Small programming problems with tests, made offline: families of functions with a parameter.

Parameters of one family fall into different splits, so what a split measures is whether a family
was learnt, not whether new kinds of functions can be written.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["CodeProblem", "generated_problems"]

NUM_TESTS = 5
WORDS = ("sun", "river", "a", "stone", "winter", "of", "mirror", "echo", "tree", "blue", "kayak")


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeProblem:
    """A function to write."""

    question: str
    """What it shall do, its name and an example."""
    tests: str
    """Assertions, one a line."""
    solution: str
    """A function that passes them."""
    reasoning: str
    """How it goes about it, in a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """Functions that differ in the parameters k and m."""

    name: str
    """Name of the function, ``{k}`` and ``{m}`` filled in."""
    task: str
    """What it returns."""
    way: str
    """How."""
    signature: str
    """Its parameter."""
    body: str
    """Its one expression."""
    argument: Callable[[random.Random], Any]
    """Draws an argument."""
    parameters: Iterable[tuple[int, int]]
    """Values of k and m."""

    def problem(self, k: int, m: int, rng: random.Random) -> CodeProblem:
        name, task = self.name.format(k=k, m=m), self.task.format(k=k, m=m)
        body = self.body.replace("{k}", str(k)).replace("{m}", str(m))
        solution = f"def {name}({self.signature}):\n    return {body}"
        function = _function(self.signature, body)
        calls = _distinct(lambda: repr(self.argument(rng)))
        tests = [f"assert {name}({each}) == {function(_value(each))!r}" for each in calls]
        example = tests[0].removeprefix("assert ").replace(" == ", " should return ", 1)
        return CodeProblem(
            question=f"Write a Python function {name}({self.signature}) that {task}.\n{example}.",
            tests="\n".join(tests),
            solution=solution,
            reasoning=f"The function {name} {self.way.format(k=k, m=m)}.",
        )


def _function(signature: str, body: str) -> Callable[[Any], Any]:
    # The text is this module's own; nothing from outside is in it.
    return eval(f"lambda {signature}: {body}")  # type: ignore[no-any-return]


def _value(text: str) -> Any:
    return eval(text)


def _distinct(draw: Callable[[], str]) -> list[str]:
    found = dict.fromkeys(itertools.islice(iter(draw, None), NUM_TESTS * 4))
    return list(found)[:NUM_TESTS]


def _numbers(rng: random.Random) -> list[int]:
    return [rng.randint(-9, 30) for _ in range(rng.randint(3, 8))]


def _natural(rng: random.Random) -> int:
    return rng.randint(0, 40)


def _large(rng: random.Random) -> int:
    return rng.randint(0, 10**6)


def _sentence(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(2, 6)))


def _words(rng: random.Random) -> list[str]:
    return rng.choices(WORDS, k=rng.randint(2, 7))


def _one(values: Iterable[int]) -> list[tuple[int, int]]:
    return [(k, 0) for k in values]


def _pairs(first: Iterable[int], second: Iterable[int]) -> list[tuple[int, int]]:
    return list(itertools.product(first, second))


FAMILIES = (
    _Family(
        name="sum_of_multiples_of_{k}",
        task="returns the sum of those numbers of a list that are multiples of {k}",
        way="adds up the numbers whose remainder by {k} is 0",
        signature="numbers",
        body="sum(n for n in numbers if n % {k} == 0)",
        argument=_numbers,
        parameters=_one(range(2, 22)),
    ),
    _Family(
        name="count_above_{k}",
        task="returns how many numbers of a list are greater than {k}",
        way="counts the numbers greater than {k}",
        signature="numbers",
        body="sum(1 for n in numbers if n > {k})",
        argument=_numbers,
        parameters=_one(range(24)),
    ),
    _Family(
        name="every_{k}th_from_{m}",
        task="returns every {k}th element of a list, beginning with the one at index {m}",
        way="takes a slice from {m} with step {k}",
        signature="items",
        body="items[{m}::{k}]",
        argument=_numbers,
        parameters=_pairs(range(2, 6), range(5)),
    ),
    _Family(
        name="clamp_{k}_to_{m}",
        task="returns a list of numbers in which what is below {k} is {k} and what is above {m} "
        "is {m}",
        way="takes the larger of {k} and the number, and the smaller of that and {m}",
        signature="numbers",
        body="[min({m}, max({k}, n)) for n in numbers]",
        argument=_numbers,
        parameters=_pairs(range(6), range(10, 18)),
    ),
    _Family(
        name="power_sum_{k}_plus_{m}",
        task="returns the sum of i to the power of {k} over i from 1 to n, plus {m}",
        way="adds up the powers and then {m}",
        signature="n",
        body="sum(i**{k} for i in range(1, n + 1)) + {m}",
        argument=_natural,
        parameters=_pairs(range(1, 5), range(8)),
    ),
    _Family(
        name="repeat_words_{k}_times",
        task="returns a text with each of its words {k} times, separated by spaces",
        way="splits the text into words and writes each of them {k} times",
        signature="text",
        body="' '.join(word for word in text.split() for _ in range({k}))",
        argument=_sentence,
        parameters=_one(range(2, 8)),
    ),
    _Family(
        name="rotate_left_by_{k}",
        task="returns a list rotated to the left by {k} places (an empty list stays empty)",
        way="cuts the list at {k} modulo its length and puts the parts together the other way",
        signature="items",
        body="items[{k} % len(items) :] + items[: {k} % len(items)] if items else []",
        argument=_words,
        parameters=_one(range(1, 13)),
    ),
    _Family(
        name="count_digit_{k}",
        task="returns how often the digit {k} is found in the decimal writing of a number",
        way="counts {k} in the number written as text",
        signature="n",
        body="str(n).count('{k}')",
        argument=_large,
        parameters=_one(range(10)),
    ),
    _Family(
        name="chunks_of_{k}",
        task="cuts a list into lists of {k} elements; the last one may be shorter",
        way="takes slices of {k} elements, one behind the other",
        signature="items",
        body="[items[i : i + {k}] for i in range(0, len(items), {k})]",
        argument=_numbers,
        parameters=_one(range(1, 7)),
    ),
    _Family(
        name="words_longer_than_{k}",
        task="returns those words of a list that have more than {k} letters, in alphabetical order",
        way="keeps the words with more than {k} letters and sorts them",
        signature="words",
        body="sorted(word for word in words if len(word) > {k})",
        argument=_words,
        parameters=_one(range(6)),
    ),
    _Family(
        name="linear_{k}_{m}",
        task="returns {k} times the square of x plus {m} times x",
        way="computes {k}x² + {m}x",
        signature="x",
        body="{k} * x * x + {m} * x",
        argument=_natural,
        parameters=_pairs(range(1, 10), range(1, 10)),
    ),
    _Family(
        name="digits_in_base_{k}",
        task="returns the digits of a number in base {k} as a list, the highest first, and [] "
        "for 0",
        way="divides the number by the powers of {k} that do not exceed it, from the highest",
        signature="n",
        body="[n // {k}**i % {k} for i in reversed(range(64)) if {k}**i <= n]",
        argument=_large,
        parameters=_one(range(2, 17)),
    ),
    _Family(
        name="largest_in_windows_of_{k}",
        task="returns the largest number of each window of {k} neighbouring numbers",
        way="takes the largest of every {k} neighbours",
        signature="numbers",
        body="[max(numbers[i : i + {k}]) for i in range(len(numbers) - {k} + 1)]",
        argument=_numbers,
        parameters=_one(range(1, 6)),
    ),
    _Family(
        name="shift_letters_by_{k}",
        task="shifts each small letter of a text by {k} places in the alphabet, from z on to a, "
        "and leaves everything else as it is",
        way="moves each small letter on by {k} modulo 26",
        signature="text",
        body="''.join(chr((ord(c) - 97 + {k}) % 26 + 97) if 'a' <= c <= 'z' else c for c in text)",
        argument=_sentence,
        parameters=_one(range(1, 26)),
    ),
    _Family(
        name="pairs_that_sum_to_{k}",
        task="returns the number of pairs of positions i < j in a list whose numbers add up to {k}",
        way="goes through all pairs of positions and counts those with the sum {k}",
        signature="numbers",
        body="sum(a + b == {k} for i, a in enumerate(numbers) for b in numbers[i + 1 :])",
        argument=_numbers,
        parameters=_one(range(31)),
    ),
    _Family(
        name="drop_first_{k}_and_last_{m}",
        task="returns a text without its first {k} and its last {m} characters ('' if there are "
        "not so many)",
        way="takes the slice from {k} to the length less {m}",
        signature="text",
        body="text[{k} : max({k}, len(text) - {m})]",
        argument=_sentence,
        parameters=_pairs(range(6), range(1, 6)),
    ),
)


def generated_problems(seed: int) -> list[CodeProblem]:
    """Return all problems; the seed draws the arguments of their tests."""
    rng = random.Random(seed)
    return [family.problem(k, m, rng) for family in FAMILIES for k, m in family.parameters]
