from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dmpo.registry import LIKELIHOODS
from tests.objectives.build import gradient
from tests.objectives.registered import drawn_buffer, registered, step
from tests.objectives.test_ratio import policy_of
from tests.oracles.records import rewards_of


def test_views_are_those_of_the_path_and_cost_the_behaviour_policy_nothing():
    found = []
    for likelihood in (None, LIKELIHOODS.build("path")):
        behaviour = policy_of(2)
        buffer = drawn_buffer(behaviour, tokens_per_step=2)
        objective = registered("trace_rl", likelihood=likelihood)
        spent = behaviour.forward_tokens
        _, batch = step(objective, behaviour, buffer)
        assert behaviour.forward_tokens == spent
        found.append(gradient(objective, policy_of(2, 3), batch))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    assert torch.allclose(found[0][1]["logits"], found[1][1]["logits"], atol=1e-7)


def test_merged_steps_read_a_token_under_an_earlier_state():
    likelihood = LIKELIHOODS.build("trace", {"steps": "merged", "merge": 2})
    objective = registered("trace_rl", likelihood=likelihood)
    rollouts, rewards = drawn_buffer(policy_of(2))
    _, batch = step(objective, policy_of(2), (rollouts, rewards))
    views = batch.views.coefficient != 0
    assert views.sum(-1)[:, :2].tolist()[0] == [2, 2]
    assert torch.equal(views.sum(1) > 0, batch.answer_mask)


def test_long_answers_weigh_as_much_as_short_ones():
    objective = registered("trace_rl", beta=0.0)
    _, batch = step(objective, policy_of(2), drawn_buffer(policy_of(2)))
    assert batch.answer_mask.sum(-1).unique().tolist() == [2, 4]
    loss = objective.loss(policy_of(2), replace(batch, weights=torch.arange(8.0))).loss
    assert loss.item() == pytest.approx(-3.5)


def test_advantage_is_a_z_score_of_the_population_and_zero_without_spread():
    objective = registered("trace_rl")
    rollouts, _ = drawn_buffer(policy_of(2))
    total = torch.tensor([[0.0, 0.0, 0.0, 4.0], [0.1, 0.1, 0.1, 0.1]])
    _, batch = step(objective, policy_of(2), (rollouts, rewards_of(total)))
    # Mean 1, variance (3·1 + 9)/4 = 3.
    expected = [x / 3**0.5 for x in (-1, -1, -1, 3)]
    assert batch.weights.tolist() == pytest.approx([*expected, 0, 0, 0, 0])
