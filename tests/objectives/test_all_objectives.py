"""What every registered objective keeps to, on the testbed where all is known."""

from __future__ import annotations

import pytest
import torch

from dmpo.objectives.base import Objective
from dmpo.records import Example
from dmpo.registry import LIKELIHOODS, OBJECTIVES, SAMPLERS
from tests.objectives.buffers import move, padded
from tests.objectives.build import gradient, rng
from tests.objectives.registered import drawn_buffer, first_tokens, registered, step
from tests.oracles.convergence import Problems, problems, scored
from tests.oracles.tabular import LENGTH, TabularPolicy, log_probs, random_table

NAMES = OBJECTIVES.names()
SEEDS = (0, 1, 2, 3)
BLOCK_LENGTH = {"just_grpo": 1}
"""Blocks that its rollouts are meant to be made in."""


def moved(objective: Objective) -> tuple[TabularPolicy, TabularPolicy]:
    """Return π_v away from π_ref, and π_θ away from both."""
    behaviour, policy = (TabularPolicy(random_table(1)) for _ in range(2))
    for each in (behaviour, policy):
        each.freeze_reference()
        move(each, 2)
    move(policy, 3, 0.2)
    return behaviour, policy


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradient_do_not_depend_on_the_cut(name):
    objective = registered(name, score=first_tokens)
    behaviour, policy = moved(objective)
    _, batch = step(objective, behaviour, drawn_buffer(behaviour))
    whole, gradients = gradient(objective, policy, batch)
    for num_rows in (1, 3):
        cut, pieces = gradient(objective, policy, batch, num_rows)
        assert cut == pytest.approx(whole, abs=1e-6)
        assert torch.allclose(gradients["logits"], pieces["logits"], atol=1e-7)
    assert gradients["logits"].any()


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradient_do_not_depend_on_padding(name):
    # A prompt of another width takes other draws: where prompt tokens are hidden, none are here.
    hides_prompt = "prompt_mask" in OBJECTIVES.load(name).default_parts["likelihood"]
    whole = LIKELIHOODS.build("mean_field") if hides_prompt else None
    found = []
    for change in (lambda rollouts: rollouts, padded):
        objective = registered(name, likelihood=whole, score=first_tokens)
        behaviour, policy = moved(objective)
        rollouts, rewards = drawn_buffer(behaviour)
        _, batch = step(objective, behaviour, (change(rollouts), rewards))
        found.append(gradient(objective, policy, batch))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    assert torch.allclose(found[0][1]["logits"], found[1][1]["logits"], atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_objective_raises_the_expected_reward(name):
    given = problems(SEEDS, is_consistent=True)
    policy = TabularPolicy(given.tables)
    policy.freeze_reference()
    objective = registered(name, updates=4, score=lambda rollouts: scored(rollouts, given))
    before = expected_rewards(policy, given)
    train(name, objective, policy, given)
    gains = expected_rewards(policy, given) - before
    # diffu_grpo gains least: its views move the first step of a rollout alone.
    assert gains.mean() > 0.02
    assert (gains > 0).all()


def expected_rewards(policy: TabularPolicy, given: Problems) -> torch.Tensor:
    """Return Σ p(o)·r(o) of each problem, over all 81 responses."""
    with torch.no_grad():
        chances = [log_probs(TabularPolicy(table)).exp() for table in policy.table]
    return (torch.stack(chances) * given.rewards).sum(-1)


def train(name: str, objective: Objective, policy: TabularPolicy, given: Problems) -> None:
    """Take 48 steps of Adam, four on each buffer of 32 rollouts per problem."""
    settings = {"gen_length": LENGTH, "temperature": 1.0, "tokens_per_step": 1}
    if name in BLOCK_LENGTH:
        settings["block_length"] = BLOCK_LENGTH[name]
    sampler, source = SAMPLERS.build("roar", settings), rng(7)
    optimizer = torch.optim.Adam(policy.module.parameters(), lr=0.05)
    prompts = policy.encode([Example(prompt="", columns={"problem": n}) for n in range(len(SEEDS))])
    for update in range(48):
        if update % 4 == 0:
            rollouts = sampler.sample(policy, prompts, num_rollouts=32, generator=source)
            experience = objective.prepare(policy, rollouts, scored(rollouts, given), source)
        batch = objective.draw(policy, experience, source, update=update % 4)
        optimizer.zero_grad()
        objective.loss(policy, batch).loss.backward()
        optimizer.step()
