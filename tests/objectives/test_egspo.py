from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dmpo.errors import ConfigError
from dmpo.objectives.completions import complete_views
from dmpo.objectives.egspo import stepwise_rewards
from dmpo.registry import LIKELIHOODS
from tests.objectives.build import gradient, rng
from tests.objectives.registered import drawn_buffer, first_tokens, registered, step
from tests.objectives.test_ratio import policy_of
from tests.oracles.records import rewards_of


def test_reward_of_a_step_is_what_it_did_beyond_its_state():
    rewards, greedy = torch.full((1, 1, 2), 1.0), torch.tensor([[[1.0, 0.0]]])
    assert stepwise_rewards(rewards, greedy, 0.5).flatten().tolist() == pytest.approx(
        [1 / 1.5, 1.0]
    )
    assert torch.equal(stepwise_rewards(rewards, greedy, 0.0), rewards)


def test_advantage_compares_steps_of_a_rank():
    policy = policy_of(2)
    rollouts, rewards = drawn_buffer(policy)
    experience, _ = step(registered("egspo", score=first_tokens), policy, (rollouts, rewards))
    views = experience.views[0]
    filled = complete_views(policy, rollouts, views, rng(), temperature=0.0, rows_per_forward=9)
    greedy = filled[..., 0].float()
    of_steps = (1.5 * rewards.total.unsqueeze(-1) - 0.5 * greedy) / 1.5
    counts = (views.coefficient != 0).any(-1)
    for group in range(2):
        for rank in range(views.hidden.shape[2]):
            there = counts[group, :, rank]
            expected = of_steps[group, there, rank] - of_steps[group, there, rank].mean()
            found = experience.view_weights[group, :, rank]
            torch.testing.assert_close(found[there], expected)
            assert not found[~there].any()


def test_plain_egspo_scores_no_text_and_has_grpos_advantage():
    policy, objective = policy_of(2), registered("egspo", stepwise=0.0)
    rollouts, rewards = drawn_buffer(policy)
    rollouts = replace(rollouts, answer_mask=torch.ones_like(rollouts.answer_mask))
    spent = policy.forward_tokens
    experience, _ = step(objective, policy, (rollouts, rewards))
    # One pass over each view, of 1 + 4 positions: the reference's.
    assert policy.forward_tokens - spent == 5 * experience.views[0].hidden.flatten(0, 2).shape[0]
    expected = rewards.total - rewards.total.mean(-1, keepdim=True)
    for rank in experience.view_weights.unbind(-1):
        torch.testing.assert_close(rank, expected)


def test_stepwise_rewards_without_anything_that_scores_are_refused():
    policy = policy_of(2)
    with pytest.raises(ConfigError, match=r"^objective.stepwise: 0.5 needs"):
        step(registered("egspo"), policy, drawn_buffer(policy))


def test_every_step_weighs_alike_however_many_tokens_it_commits():
    objective = registered("egspo", stepwise=0.0, beta=0.0)
    policy = policy_of(2)
    _, batch = step(objective, policy, drawn_buffer(policy, tokens_per_step=3))
    sizes = (batch.views.coefficient != 0).sum(-1)
    assert {1, 3} <= set(sizes.flatten().tolist())
    policy.module.zero_grad()
    only = torch.zeros_like(batch.weights)
    only[0, :2] = 1.0
    _, gradients = gradient(objective, policy, replace(batch, weights=only))
    # Σ |∂/∂logits| of a token is 2·(1 − p); the mean over a step's tokens is no sum.
    state_norms = gradients["logits"].abs().sum((1, 2))
    assert (state_norms <= 2 / 8 / 2 + 1e-6).all()


def test_steps_drawn_anew_for_each_update_are_refused():
    sampled = LIKELIHOODS.build("trace", {"steps": "sampled"})
    with pytest.raises(ConfigError, match=r"^objective.views: egspo gives every step"):
        registered("egspo", likelihood=sampled)
    shared = registered("egspo", likelihood=sampled, views="shared", stepwise=0.0)
    policy = policy_of(2)
    _, batch = step(shared, policy, drawn_buffer(policy))
    assert gradient(shared, policy, batch)[1]["logits"].any()


def test_other_weights_and_their_baseline_apply_to_each_rank():
    objective = registered("egspo", stepwise=0.0, weights={"name": "advantage", "scale": "std"})
    policy = policy_of(2)
    rollouts, rewards = drawn_buffer(policy)
    rollouts = replace(rollouts, answer_mask=torch.ones_like(rollouts.answer_mask))
    experience, _ = step(objective, policy, (rollouts, rewards))
    assert torch.allclose(experience.view_weights.std(1), torch.tensor(1.0), atol=1e-3)
    flat = rewards_of(torch.ones(2, 4))
    assert not step(objective, policy, (rollouts, flat))[0].view_weights.any()
