from __future__ import annotations

import torch

from dmpo.likelihoods.coupled import CoupledConfig, CoupledLikelihood
from dmpo.likelihoods.mean_field import MeanFieldConfig, MeanFieldLikelihood
from dmpo.objectives.units import unit_log_probs
from tests.objectives.build import gradient
from tests.objectives.registered import drawn_buffer, registered, step
from tests.objectives.test_ratio import policy_of


def token_scales(weighting: str) -> torch.Tensor:
    """Return the sum of a token's factors, over all tokens that count."""
    likelihood = CoupledLikelihood(CoupledConfig(weighting=weighting))
    objective, policy = registered("coupled_grpo", likelihood=likelihood), policy_of(2)
    _, batch = step(objective, policy, drawn_buffer(policy))
    return batch.views.coefficient.sum(-2)[batch.answer_mask]


def test_published_score_of_a_token_is_more_than_a_log_probability():
    # ½·(1 + 1/t), t in [0.2, 0.8]: 1.125 to 3.
    scales = token_scales("rate")
    assert (scales >= 1.124).all()
    assert (scales <= 3.001).all()
    assert torch.allclose(token_scales("average"), torch.tensor(1.0))


def test_score_of_a_token_is_the_mean_over_the_full_and_one_partial_view():
    likelihood = CoupledLikelihood(CoupledConfig(weighting="average"))
    objective, policy = registered("coupled_grpo", likelihood=likelihood), policy_of(2)
    experience, batch = step(objective, policy, drawn_buffer(policy))
    log_probs = experience.behaviour_log_probs[0].flatten(0, 1)
    found = unit_log_probs("token", likelihood, log_probs, batch.views)
    partial = log_probs[:, 1:].sum(-2)  # exactly one of the two views reads it
    expected = (log_probs[:, 0] + partial) / 2
    torch.testing.assert_close(found[batch.answer_mask], expected[batch.answer_mask])


def test_advantage_leaves_its_own_reward_out_and_the_reference_counts():
    objective, policy = registered("coupled_grpo"), policy_of(2)
    rollouts, rewards = drawn_buffer(policy)
    _, batch = step(objective, policy, (rollouts, rewards))
    first = rewards.total[0, 0] - rewards.total[0, 1:].mean()
    torch.testing.assert_close(batch.weights[0], first)
    assert objective.needs_reference
    assert objective.config.epsilon == 0.5


def test_fully_hidden_view_alone_is_diffu_grpo():
    whole = MeanFieldLikelihood(MeanFieldConfig())
    found = []
    for name in ("coupled_grpo", "diffu_grpo"):
        objective = registered(
            name, likelihood=whole, weights={"name": "advantage"}, epsilon=0.3, beta=0.1
        )
        _, batch = step(objective, policy_of(2), drawn_buffer(policy_of(2)))
        found.append(gradient(objective, policy_of(2, 3), batch)[1]["logits"])
    assert torch.equal(*found)
