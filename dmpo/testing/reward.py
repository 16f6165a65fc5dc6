"""The laws of a reward model, looked at on rollouts of the packaged tiny LLaDA."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import final

import torch

from dmpo.records import Rewards, Rollouts
from dmpo.rewards.base import RewardModel, missing_rows
from dmpo.tasks.base import Task
from dmpo.testing.bench import copied, recorded_rollouts, same_tensors, tiny_policy
from dmpo.testing.laws import Law, law

__all__ = ["LAWS", "RewardBench"]


@final
class RewardBench:
    """Rollouts that answer a task's problems.

    Args:
        reward: What is tried.
        task: Whose problems they are.
    """

    def __init__(self, reward: RewardModel, task: Task) -> None:
        """Draw rollouts, and call the prompts the task's own."""
        self.reward = reward
        self.task = task
        rollouts = recorded_rollouts(tiny_policy())
        examples = tuple(task.examples("train")[: rollouts.num_prompts])
        self.rollouts = replace(rollouts, prompts=replace(rollouts.prompts, examples=examples))

    def scored(self, rollouts: Rollouts | None = None) -> Rewards:
        """Score rollouts."""
        return self.reward.score(rollouts or self.rollouts, self.task)


@law
def total_is_finite(bench: RewardBench) -> Iterator[str]:
    """The total is a finite float32 for each rollout, [B, N], on the CPU."""
    yield from _shape(bench.scored().total, "total", bench.rollouts)
    if not bool(bench.scored().total.isfinite().all()):
        yield "expected: finite totals; some are infinite or not numbers"


@law
def components_are_named(bench: RewardBench) -> Iterator[str]:
    """There is at least one named component, each [B, N] in floating point like the total."""
    components = bench.scored().components
    if not components:
        yield "expected: at least one component, for the log; there is none"
    for name, values in components.items():
        if not (isinstance(name, str) and name.strip()):
            yield f"expected: a name; a component is called {name!r}"
        yield from _shape(values, f"component {name}", bench.rollouts)


@law
def no_opinion_is_zero(bench: RewardBench) -> Iterator[str]:
    """Where a reward has no opinion its components are NaN and its total is 0."""
    rewards = bench.scored()
    missing = missing_rows(rewards)
    if bool(rewards.total[missing].any()):
        yield "expected: total 0 where every component is NaN; it is another"
    for name, values in rewards.components.items():
        if bool(values.isinf().any()):
            yield f"expected: numbers, or NaN for no opinion; component {name} is infinite"


@law
def scoring_is_repeatable(bench: RewardBench) -> Iterator[str]:
    """The same rollouts are scored alike each time."""
    if not same_tensors(bench.scored(), bench.scored()):
        yield "expected: the same rewards twice; they differ"


@law
def prompts_are_scored_by_themselves(bench: RewardBench) -> Iterator[str]:
    """A prompt's rewards do not depend on the prompts beside it."""
    alone = bench.scored(bench.rollouts.groups([1])).total
    if not torch.allclose(alone, bench.scored().total[1:], atol=1e-5):
        yield "expected: a prompt's own rewards; alone they are others"


@law
def any_number_of_rollouts_is_scored(bench: RewardBench) -> Iterator[str]:
    """A group of one rollout is scored, and so is an empty text."""
    first = bench.rollouts.groups([0])
    one = replace(
        first,
        completions=first.completions[:, :1],
        answer_mask=first.answer_mask[:, :1],
        commit_step=first.commit_step[:, :1],
        log_probs=None,
        entropies=None,
        texts=(("",),),
    )
    total = bench.scored(one).total
    if tuple(total.shape) != (1, 1) or not bool(total.isfinite().all()):
        yield f"expected: one finite number; it is {total.tolist()}"


@law
def rollouts_stay_as_they_are(bench: RewardBench) -> Iterator[str]:
    """Scoring writes nothing into the rollouts."""
    before, columns = copied(bench.rollouts), [repr(e) for e in bench.rollouts.prompts.examples]
    bench.reward.begin_step(3)
    bench.scored()
    after = [repr(e) for e in bench.rollouts.prompts.examples]
    if not same_tensors(before, copied(bench.rollouts)) or columns != after:
        yield "expected: rollouts as they were; score wrote into them"


def _shape(values: torch.Tensor, name: str, rollouts: Rollouts) -> Iterator[str]:
    shape = (rollouts.num_prompts, rollouts.num_rollouts)
    if tuple(values.shape) != shape or values.dtype != torch.float32:
        yield (f"expected: float32 {list(shape)}; {name} is {values.dtype} {list(values.shape)}")
    if values.device.type != "cpu":
        yield f"expected: on the CPU; {name} lies on {values.device}"


LAWS: tuple[Law, ...] = (
    total_is_finite,
    components_are_named,
    no_opinion_is_zero,
    scoring_is_repeatable,
    prompts_are_scored_by_themselves,
    any_number_of_rollouts_is_scored,
    rollouts_stay_as_they_are,
)
"""The laws of a reward model, in the order they are looked at."""
