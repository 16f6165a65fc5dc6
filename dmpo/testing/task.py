"""The laws of a task, looked at on a few of its own problems and on text that means no good."""

from __future__ import annotations

import contextlib
import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args

from dmpo.errors import DataError
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Example, Split
from dmpo.tasks.base import Task
from dmpo.testing.laws import Law, law

__all__ = ["HOSTILE", "LAWS", "TaskBench"]

SPLITS: tuple[Split, ...] = get_args(Split)
NUM_EXAMPLES = 2
NUM_DEMONSTRATIONS = 48

HOSTILE = (
    "",
    " \n\t ",
    "\0",
    "\ud800",
    "٧٢ ²",
    "1e999 -0 NaN",
    "9**9**9**9",
    "<answer>" * 50,
    "\\boxed{" * 50,
    "(" * 3000,
    "0" * 3000,
    "__import__('os')._exit(1)",
    "```python\nraise SystemExit\n```",
    "]]>\"'`;--",
)
"""Texts that a careless grader would hang or stumble over."""


class TaskBench:
    """A task that can be built again.

    Args:
        make: Builds it anew.
        policy: Who is to read its prompts; None: nobody.
    """

    def __init__(self, make: Callable[[], Task], policy: DiffusionPolicy | None) -> None:
        """Build the task."""
        self.make = make
        self.task = make()
        self.policy = policy

    @property
    def some(self) -> Sequence[Example]:
        """The first problems for training."""
        return self.task.examples("train")[:NUM_EXAMPLES]


@law
def splits_are_always_the_same(bench: TaskBench) -> Iterator[str]:
    """Every split has problems, the same ones in the same order each time the task is built."""
    again = bench.make()
    for split in SPLITS:
        one, other = bench.task.examples(split), again.examples(split)
        if not one:
            yield f"expected: some {split} problems; there are none"
        if [_key(each) for each in one] != [_key(each) for each in other]:
            yield f"expected: the same {split} problems each time; they differ"


@law
def splits_are_disjoint(bench: TaskBench) -> Iterator[str]:
    """No prompt stands in two splits."""
    prompts = {split: {each.prompt for each in bench.task.examples(split)} for split in SPLITS}
    for one, other in itertools.combinations(SPLITS, 2):
        both = prompts[one] & prompts[other]
        if both:
            yield f"expected: none; {len(both)} stand in {one} and {other}, as {min(both)!r:.60}"


@law
def prompts_can_be_encoded(bench: TaskBench) -> Iterator[str]:
    """Prompts are text with something in it; a policy that is given reads them and an answer."""
    for split in SPLITS:
        for number, example in enumerate(bench.task.examples(split)):
            if not (isinstance(example.prompt, str) and example.prompt.strip()):
                yield f"expected: text; prompt {number} of {split} is {example.prompt!r:.40}"
                break
            try:
                (example.prompt + example.prefill).encode()
            except UnicodeEncodeError as error:
                yield f"expected: text in UTF-8; prompt {number} of {split}: {error}"
                break
    if bench.policy is None:
        return
    try:
        prompts = bench.policy.encode(list(bench.some))
    except DataError as error:
        yield f"expected: the policy reads the prompts; {error}"
        return
    room = bench.policy.max_length - prompts.tokens.shape[1]
    if room < bench.task.response_length:
        yield f"expected: room for response_length {bench.task.response_length}; there is {room}"


@law
def figures_are_named(bench: TaskBench) -> Iterator[str]:
    """`headline` and the names in `reward_weights` are figures that `grade` gives."""
    names = set(bench.task.grade(bench.some[0], "").keys())
    for name in (bench.task.headline, *bench.task.reward_weights):
        if name not in names:
            yield f"expected: a figure {name!r}; grade gives {', '.join(sorted(names))}"
    if not bench.task.reward_weights:
        yield "expected: at least one name in reward_weights; there is none"
    if not all(math.isfinite(weight) for weight in bench.task.reward_weights.values()):
        yield f"expected: finite factors; reward_weights is {dict(bench.task.reward_weights)!r}"


@law
def grades_are_shares(bench: TaskBench) -> Iterator[str]:
    """`grade` gives figures in [0, 1] under the same names for any text, and never raises."""
    names = set(bench.task.grade(bench.some[0], "").keys())
    for example in bench.some:
        for text in (*HOSTILE, example.prompt):
            try:
                grades = bench.task.grade(example, text)
            except Exception as error:
                yield f"expected: figures for {text!r:.40}; raised {type(error).__name__}: {error}"
                continue
            if set(grades) != names:
                given = ", ".join(grades)
                yield f"expected: {', '.join(sorted(names))}; {text!r:.40} gives {given}"
            for name, value in grades.items():
                if not (isinstance(value, int | float) and 0 <= value <= 1):
                    yield f"expected: {name} in [0, 1]; {text!r:.40} gives {value!r}"


@law
def answers_are_read_from_any_text(bench: TaskBench) -> Iterator[str]:
    """`read_answer` gives text or None for any text, and never raises."""
    for example in bench.some:
        for text in HOSTILE:
            try:
                answer = bench.task.read_answer(example, text)
            except Exception as error:
                yield f"expected: no error on {text!r:.40}; raised {type(error).__name__}: {error}"
                continue
            if not isinstance(answer, str | None):
                yield f"expected: text or None; {text!r:.40} gives {answer!r:.40}"


@law
def grading_is_repeatable(bench: TaskBench) -> Iterator[str]:
    """The same text is graded alike each time, by `grade` and by `grade_all`."""
    pairs = [(example, text) for example in bench.some for text in ("", "1", example.prompt)]
    single = [dict(bench.task.grade(*pair)) for pair in pairs]
    together = [dict(grades) for grades in bench.task.grade_all(pairs)]
    if single != [dict(bench.task.grade(*pair)) for pair in pairs]:
        yield "expected: the same figures twice; they differ"
    if single != together:
        yield "expected: grade_all gives what grade gives; they differ"


@law
def demonstrations_can_be_learnt_from(bench: TaskBench) -> Iterator[str]:
    """`demonstrate` gives text that can be read, the same from the same `rng`; some of it is right.

    A task that knows no answers says so with a DataError instead.
    """
    task, best = bench.task, 0.0
    examples = task.examples("train")[:NUM_DEMONSTRATIONS]
    for number in range(NUM_DEMONSTRATIONS):
        example = examples[number % len(examples)]
        try:
            shown = [task.demonstrate(example, random.Random(number)) for _ in range(2)]
        except DataError:
            return
        if shown[0] != shown[1]:
            yield f"expected: the rng decides alone; prompt {example.prompt!r:.40} has two answers"
            return
        if task.read_answer(example, shown[0]) is None:
            yield f"expected: an answer that can be read; {shown[0]!r:.60} cannot"
            return
        best = max(best, float(task.grade(example, shown[0])[task.headline]))
        if best == 1:
            return
    yield f"expected: some demonstration is right; the best {task.headline} of many is {best:g}"


@law
def demonstrations_fit(bench: TaskBench) -> Iterator[str]:
    """A demonstration fits into `response_length` tokens of a policy that is given."""
    if bench.task.response_length < 1:
        yield f"expected: at least 1; response_length is {bench.task.response_length}"
    if bench.policy is None:
        return
    for number, example in enumerate(bench.some):
        try:
            shown = bench.task.demonstrate(example, random.Random(number))
            bench.policy.encode_completions([shown], bench.task.response_length)
        except DataError as error:
            if "fit" in str(error):
                yield f"expected: room for the answer; {error}"


@law
def saved_problems_can_be_graded_again(bench: TaskBench) -> Iterator[str]:
    """A saved completion's problem is graded as the problem itself was (`from_record`)."""
    example = bench.some[0]
    columns = dict(example.columns)
    record = {"prompt": example.prompt, "columns": columns, "prefill": example.prefill}
    again = bench.task.from_record(record)
    texts = ["", "1"]
    with contextlib.suppress(DataError):
        texts += [bench.task.demonstrate(example, random.Random(seed)) for seed in range(8)]
    for text in texts:
        one, other = bench.task.grade(example, text), bench.task.grade(again, text)
        if dict(one) != dict(other):
            yield f"expected: {dict(one)} for {text!r}; of the saved problem it is {dict(other)}"


@law
def questions_are_counted(bench: TaskBench) -> Iterator[str]:
    """`num_questions` is a whole number of at least 1."""
    for example in bench.some:
        number = bench.task.num_questions(example)
        if not isinstance(number, int) or number < 1:
            yield f"expected: at least 1; num_questions is {number!r}"


def _key(example: Example) -> tuple[Any, ...]:
    return example.prompt, example.prefill, repr(sorted(example.columns.items(), key=repr))


LAWS: tuple[Law, ...] = (
    splits_are_always_the_same,
    splits_are_disjoint,
    prompts_can_be_encoded,
    figures_are_named,
    grades_are_shares,
    answers_are_read_from_any_text,
    grading_is_repeatable,
    demonstrations_can_be_learnt_from,
    demonstrations_fit,
    saved_problems_can_be_graded_again,
    questions_are_counted,
)
"""The laws of a task, in the order they are looked at."""
