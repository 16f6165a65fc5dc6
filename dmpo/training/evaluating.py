"""An evaluation in the middle of a run, over all its processes."""

from __future__ import annotations

import functools

from dmpo.evaluation.evaluator import Evaluator
from dmpo.evaluation.shared import evaluate_shared
from dmpo.evaluation.summary import EvaluationResult
from dmpo.policies.base import DiffusionPolicy
from dmpo.training.engine import Engine
from dmpo.training.interruption import Interruption
from dmpo.training.randomness import generator_for

__all__ = ["evaluate_run", "evaluations_to_come"]


def evaluate_run(
    evaluator: Evaluator,
    policy: DiffusionPolicy,
    *,
    seed: int,
    engine: Engine,
    interruption: Interruption,
) -> EvaluationResult | None:
    """Return the figures of the policy as it is; None if a signal broke it off.

    Args:
        evaluator: What to evaluate.
        policy: What is trained.
        seed: The run's. The draws are always the same: two evaluations differ by the policy alone.
        engine: The processes, which share the problems.
        interruption: Breaks it off where the process is alone: several meet at the end of it, so
            none may leave.
    """
    work = functools.partial(
        evaluate_shared,
        evaluator,
        policy,
        generator_for(seed, 0, 0, "evaluation"),
        rank=engine.rank,
        num_processes=engine.num_ranks,
    )
    with engine.weights.gathered():
        return interruption.broken_off(work) if engine.num_ranks == 1 else work()


def evaluations_to_come(step: int, last_step: int, every: int | None) -> int:
    """Return how many evaluations follow a step: those that are due, and the one at the end.

    Args:
        step: Gradient steps taken; an evaluation that is due now is still to come.
        last_step: Gradient steps that will have been taken in the end.
        every: Steps between evaluations; None: only before and after.

    Example:
        >>> [evaluations_to_come(step, 10, 4) for step in (3, 4, 5, 9)]
        [3, 3, 2, 1]
    """
    if every is None:
        return 1
    due = last_step // every - (step - 1) // every
    return due + (last_step % every != 0)
