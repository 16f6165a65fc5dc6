"""What is looked at before anything is written: whether every prompt and answer fits the policy.

A prompt that is too long, leaves no room for an answer or holds a character that the tokenizer
does not know would stop a run only when its turn comes, which may be hours later.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from dmpo.config.run import EvaluationSection, PluginSection, SftConfig
from dmpo.errors import DataError
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Example
from dmpo.tasks.base import Task
from dmpo.training.sft import SftTask

__all__ = [
    "NamedText",
    "canvas_length",
    "check_answers",
    "check_prompts",
    "check_sft_tasks",
    "check_task",
    "named_prompts",
]

TEMPLATE_TOKENS = 256
"""What a chat template may add to a prompt, at most, for it to be taken as short unread."""


@dataclass(frozen=True, slots=True)
class NamedText:
    """A prompt or an answer, and how a message calls it."""

    name: str
    """Where it comes from: ``--file: prompts.txt, line 3``."""
    text: str
    """What the policy reads or writes."""


def canvas_length(sampler: PluginSection) -> int:
    """Return the tokens that a sampler's section asks for; 0 if it does not say."""
    return int(sampler.parameters.get("gen_length", 0))


def check_task(
    policy: DiffusionPolicy, task: Task, evaluation: EvaluationSection, *, room: int, name: str
) -> None:
    """Check the problems that an evaluation is going to ask.

    Args:
        policy: Whose tokenizer and context count.
        task: Where the problems come from.
        evaluation: Which split, and how many of it.
        room: Tokens of the canvas behind a prompt.
        name: What messages call the task.

    Raises:
        DataError: If there are none, or as :func:`check_prompts`.
    """
    examples = task.examples(evaluation.split)[: evaluation.num_examples]
    prompts = named_prompts(examples, f"{name}, {evaluation.split} problem")
    check_prompts(policy, prompts, room=room)


def named_prompts(examples: Sequence[Example], name: str) -> list[NamedText]:
    """Return the prompts of problems, called ``name`` and their number, from 0.

    Raises:
        DataError: If there are no problems.
    """
    if not examples:
        raise DataError(f"{name}s: there are none.")
    return [
        NamedText(f"{name} {n}", example.prompt + example.prefill)
        for n, example in enumerate(examples)
    ]


def check_prompts(policy: DiffusionPolicy, prompts: Iterable[NamedText], *, room: int) -> None:
    """Check that the policy can read every prompt and has room behind it for an answer.

    Prompts that are plainly short and hold no character that others do not hold are not
    encoded: a token is a byte at least.

    Args:
        policy: Whose tokenizer and context count.
        prompts: What it is going to read.
        room: Tokens of the canvas behind a prompt.

    Raises:
        DataError: Naming the first that does not fit.
    """
    longest = policy.max_length - room - TEMPLATE_TOKENS
    for prompt in _doubtful(prompts, longest):
        try:
            encoded = policy.encode([Example(prompt=prompt.text)])
        except DataError as error:
            raise DataError(f"{prompt.name}: {_without_index(error)}") from None
        length = encoded.tokens.shape[1]  # one prompt has no padding
        if length + room > policy.max_length:
            raise DataError(
                f"{prompt.name}: its {length} tokens and an answer of {room} (gen_length) exceed "
                f"the model's context of {policy.max_length}, which leaves "
                f"{policy.max_length - length}."
            )


def check_sft_tasks(policy: DiffusionPolicy, config: SftConfig, tasks: Sequence[SftTask]) -> None:
    """Check every problem and answer of a mixture.

    Args:
        policy: Whose tokenizer and context count.
        config: What the tasks were built from.
        tasks: The mixture.

    Raises:
        DataError: Naming the first problem that does not fit.
    """
    for each in tasks:
        task, name = each.task, f"task {each.name}"
        prompts = named_prompts(task.examples("train"), f"{name}, train problem")
        check_prompts(policy, prompts, room=task.response_length)
        check_task(policy, task, config.evaluation, room=task.response_length, name=name)
        check_answers(policy, task, seed=config.seed, name=name)


def check_answers(policy: DiffusionPolicy, task: Task, *, seed: int, name: str) -> None:
    """Check that a demonstration of every training problem can be written onto its canvas.

    Args:
        policy: Whose tokenizer counts.
        task: Who demonstrates; its canvas counts.
        seed: Of the demonstrations, where a problem has several.
        name: What messages call the task.

    Raises:
        DataError: Naming the first problem whose answer does not fit, or if the task knows no
            answers.
    """
    rng, length = random.Random(seed), task.response_length
    answers = (
        NamedText(f"{name}, answer to train problem {number}", task.demonstrate(example, rng))
        for number, example in enumerate(task.examples("train"))
    )
    for answer in _doubtful(answers, length):
        try:
            policy.encode_completions([answer.text], length)
        except DataError as error:
            raise DataError(f"{answer.name}: {_without_index(error)}") from None


def _doubtful(texts: Iterable[NamedText], longest: int) -> Iterator[NamedText]:
    """Yield what is empty, longer than ``longest`` bytes, or holds a new character."""
    known: set[str] = set()
    for named in texts:
        text = named.text
        if not text or len(text.encode(errors="replace")) > longest or not known.issuperset(text):
            yield named
            known.update(text)


def _without_index(error: DataError) -> str:
    """Return a codec's message without its number for the text, which counts from the batch's."""
    return str(error).removeprefix("prompt 0: ").removeprefix("completion 0: ")
