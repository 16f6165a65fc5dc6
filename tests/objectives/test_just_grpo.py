from __future__ import annotations

import pytest
import torch

from dmpo.likelihoods.base import view_log_probs
from dmpo.records import Example
from dmpo.registry import LIKELIHOODS, SAMPLERS
from tests.objectives.build import rng
from tests.objectives.registered import drawn_buffer, registered, step
from tests.objectives.test_ratio import policy_of
from tests.oracles.records import rewards_of
from tests.oracles.tabular import LENGTH


def test_rollouts_from_left_to_right_have_recorded_what_the_views_say():
    """Sampler `roar` with blocks of one token draws from the very distribution that is scored."""
    policy = policy_of(2)
    settings = {"gen_length": LENGTH, "temperature": 1.0, "tokens_per_step": 1, "block_length": 1}
    prompts = policy.encode([Example(prompt="")])
    rollouts = SAMPLERS.build("roar", settings).sample(
        policy, prompts, num_rollouts=6, generator=rng(1)
    )
    rewards = rewards_of(torch.rand(1, 6, generator=rng(2)))
    _, batch = step(registered("just_grpo"), policy, (rollouts, rewards))
    scores = view_log_probs(
        policy, batch.prompt_tokens, batch.prompt_mask, batch.completions, batch.views
    )
    torch.testing.assert_close(scores.sum(1), rollouts.log_probs[0], check_dtype=False)


def test_loss_is_a_sum_over_a_constant_length():
    objective = registered("just_grpo")
    _, batch = step(objective, policy_of(2), drawn_buffer(policy_of(2)))
    lengths = batch.answer_mask.sum(-1)
    expected = -(batch.weights * lengths).sum() / (8 * LENGTH)
    assert objective.loss(policy_of(2), batch).loss.item() == pytest.approx(expected.item())


def test_sampled_positions_weigh_for_those_left_out():
    likelihood = LIKELIHOODS.build("left_to_right", {"num_views": 2})
    objective = registered("just_grpo", likelihood=likelihood)
    _, batch = step(objective, policy_of(2), drawn_buffer(policy_of(2)))
    sums = batch.views.coefficient.sum((-2, -1))
    assert torch.allclose(sums, batch.answer_mask.sum(-1).float())
    assert (batch.views.coefficient != 0).any(-1).sum(-1).tolist() == [2] * 8


def test_no_divergence_and_no_reference_by_default():
    objective = registered("just_grpo")
    _, batch = step(objective, policy_of(2), drawn_buffer(policy_of(2)))
    assert not objective.needs_reference
    assert objective.ignores_weightless_rows
    assert "kl" not in objective.loss(policy_of(2, 3), batch).metrics
