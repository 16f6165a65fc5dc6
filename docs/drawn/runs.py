"""What the pictures show: rollouts of the packaged checkpoint, and a policy a few steps on."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmpo.diffusion.enumeration import marginal_log_prob, revealed_sets
from dmpo.likelihoods.base import rollout_log_probs, view_log_probs
from dmpo.objectives.base import ObjectiveParts
from dmpo.objectives.dmpo import DmpoConfig, DmpoObjective
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Example, Experience, Rollouts, Views
from dmpo.registry import BASELINES, LIKELIHOODS, POLICIES, REWARDS, SAMPLERS, TASKS, WEIGHTS
from dmpo.tasks.base import Task

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
DIGITS = "0123456789"
QUESTION = "13!12="
"""A prompt of digit_sum with 100 right answers."""
ALPHA = 0.5
"""Temperature of the target where one group is shown: a right and a wrong rollout are 2 nats
apart."""


def rng(seed: int) -> torch.Generator:
    """Return a generator of its own for each draw."""
    return torch.Generator().manual_seed(seed)


def signed(value: float, digits: int = 2) -> str:
    """Return a number with a real minus sign, and none on a zero."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


@functools.cache
def base() -> DiffusionPolicy:
    """Return the packaged checkpoint, never trained."""
    return POLICIES.build("llada", {})


@functools.cache
def task(name: str) -> Task:
    """Return a task of the package."""
    return TASKS.build(name, {"format": "compact"} if name == "sudoku" else {})


def question() -> Example:
    """Return the prompt of digit_sum, a validation problem, that the pictures ask."""
    problems = task("digit_sum").examples("validation")
    return next(problem for problem in problems if problem.prompt == QUESTION)


def sample(
    examples: Sequence[Example], sampler: str, seed: int, num_rollouts: int = 1, **settings: Any
) -> Rollouts:
    """Return rollouts of the packaged checkpoint."""
    policy = base()
    return SAMPLERS.build(sampler, settings).sample(
        policy, policy.encode(examples), num_rollouts=num_rollouts, generator=rng(seed)
    )


@functools.cache
def response() -> tuple[Rollouts, Tensor]:
    """Return a rollout of the question, and log π of its tokens under every set of hidden ones."""
    rollouts = sample([question()], "roar", 3, gen_length=4)
    return rollouts, table_of(base(), rollouts)


def table_of(policy: DiffusionPolicy, rollouts: Rollouts) -> Tensor:
    """Return log π(o_d | revealed tokens) at [revealed set, d], 0 where d is revealed."""
    hidden = ~revealed_sets(4)[None]
    views = Views(hidden=hidden, coefficient=hidden.float())
    prompts = rollouts.prompts
    with policy.evaluating():
        table = view_log_probs(
            policy, prompts.tokens, prompts.attention_mask, rollouts.completions[0], views
        )
    return table[0]


@functools.cache
def every_answer() -> tuple[Tensor, list[str], Tensor]:
    """Return log p_ref of all 10,000 answers to the question, exactly, and which are right."""
    policy, problem = base(), question()
    prompts = policy.encode([problem])
    prompt_length = prompts.tokens.shape[1]
    digits = policy.encode_completions(list(DIGITS), 1)[:, 0]
    table = torch.zeros(10, 10, 10, 10, 16, 4)
    for number, is_revealed in enumerate(revealed_sets(4).tolist()[:-1]):
        choices = [digits.tolist() if seen else [policy.mask_token_id] for seen in is_revealed]
        rows = torch.tensor(list(product(*choices)))
        tokens = torch.cat([prompts.tokens.expand(len(rows), -1), rows], dim=1)
        at = torch.arange(prompt_length, prompt_length + 4).expand(len(rows), -1)
        with policy.evaluating():
            logits = policy.logits(tokens, torch.ones_like(tokens, dtype=torch.bool), at)
        log_probs = logits.log_softmax(-1)[..., digits]
        shape = [10 if seen else 1 for seen in is_revealed]
        for d in (d for d in range(4) if not is_revealed[d]):
            of_digit = log_probs[:, d].reshape(*shape, 10).squeeze(d).movedim(-1, d)
            table[..., number, d] = of_digit
    texts = ["".join(answer) for answer in product(DIGITS, repeat=4)]
    digit_sum: Any = task("digit_sum")
    right = set(digit_sum.right_answers(problem))
    is_right = torch.tensor([text in right for text in texts])
    return marginal_log_prob(table.flatten(0, 3)), texts, is_right


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A policy on its way, a buffer of it, and where three steps on that buffer led."""

    policy: DiffusionPolicy
    """π_θ after the steps; its reference is the packaged checkpoint."""
    experience: Experience
    """Eight groups of eight rollouts; the first is that of the question."""
    model_log_ratio: Tensor
    """log p_θ − log p_v after the steps, [B, N]."""


@functools.cache
def trained() -> Trained:
    """Take four steps on a buffer, make another one, and take three steps on that.

    Plain gradient descent: unlike Adam it does not blow up differences in the last digits between
    one processor and the next.
    """
    policy = POLICIES.build("llada", {})
    policy.freeze_reference()
    digit_sum, path = task("digit_sum"), LIKELIHOODS.build("path", {})
    objective = DmpoObjective(
        DmpoConfig(),
        ObjectiveParts(
            likelihood=LIKELIHOODS.build("elbo", {"num_views": 2}),
            ratio_likelihood=path,
            weights=WEIGHTS.build("tilted", {"alpha": ALPHA}),
            baseline=BASELINES.build("mean", {}),
            updates_per_buffer=4,
            rows_per_forward=256,
        ),
    )
    sampler, reward = SAMPLERS.build("roar", {"gen_length": 4}), REWARDS.build("task", {})
    optimizer = torch.optim.SGD(policy.module.parameters(), lr=0.03)

    def buffer(examples: Sequence[Example], seed: int, num_steps: int) -> Experience:
        rollouts = sampler.sample(
            policy, policy.encode(examples), num_rollouts=8, generator=rng(seed)
        )
        made = objective.prepare(policy, rollouts, reward.score(rollouts, digit_sum), rng(seed))
        for update in range(num_steps):
            batch = objective.draw(policy, made, rng(seed + update), update=update)
            optimizer.zero_grad()
            objective.loss(policy, batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.module.parameters(), 1.0)
            optimizer.step()
        return made

    problems = digit_sum.examples("train")
    buffer(problems[:8], 100, 4)
    experience = buffer([question(), *problems[8:15]], 21, 3)
    rollouts = experience.rollouts
    seen = path.views(rollouts, rng(0))
    current = rollout_log_probs(policy, rollouts, seen, rows_per_forward=64)
    behaviour = path.recorded_log_probs(rollouts, seen)
    assert behaviour is not None
    return Trained(
        policy=policy,
        experience=experience,
        model_log_ratio=path.log_ratio(current, behaviour, seen),
    )
