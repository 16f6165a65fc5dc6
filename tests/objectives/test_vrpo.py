from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid

from dmpo.errors import ConfigError
from dmpo.likelihoods.base import LikelihoodConfig, view_log_probs
from dmpo.likelihoods.elbo import ElboConfig, ElboLikelihood
from dmpo.objectives.vrpo import VrpoConfig, VrpoObjective, preference_pairs
from tests.objectives.buffers import move, moved_policy, padded, two_groups
from tests.objectives.build import gradient, parts, rng
from tests.oracles.likelihood import ExhaustiveLikelihood
from tests.oracles.records import rewards_of

ELBO = ElboLikelihood(ElboConfig(num_views=8))
EXHAUSTIVE = ExhaustiveLikelihood(LikelihoodConfig())


def vrpo(likelihood, *, weights=("advantage", {}), baseline=("none", {}), **settings):
    chosen = parts(likelihood, weights=weights, baseline=baseline)
    return VrpoObjective(VrpoConfig(**settings), chosen)


def test_pairs_are_the_best_and_the_worst_or_every_two_of_different_reward() -> None:
    rewards = torch.tensor([[0.5, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
    assert preference_pairs(rewards, "best_worst").tolist() == [[1, 8], [2, 6]]
    everything = set(zip(*preference_pairs(rewards, "all").tolist(), strict=True))
    assert everything == {(1, 0), (1, 2), (0, 2), (8, 6), (8, 7)}


def naive_loss(policy, objective, experience, views, sft: float):
    """DPO on pairs in plain autograd, with a cross-entropy per token of the chosen."""
    rollouts = experience.rollouts
    prompts = rollouts.prompts.tokens.repeat_interleave(4, 0)
    rows = (prompts, torch.ones_like(prompts, dtype=torch.bool), rollouts.completions.flatten(0, 1))
    policies = EXHAUSTIVE.combine(view_log_probs(policy, *rows, views), views)
    with policy.reference(), torch.no_grad():
        reference = EXHAUSTIVE.combine(view_log_probs(policy, *rows, views), views)
    total, pairs = (
        torch.zeros(()).double(),
        preference_pairs(experience.rewards.total, objective.config.pairs),
    )
    for better, worse in pairs.T.tolist():
        margin = policies[better] - reference[better] - policies[worse] + reference[worse]
        length = int(rollouts.answer_mask.flatten(0, 1)[better].sum())
        total = total - logsigmoid(0.3 * margin) - sft * policies[better] / length
    return total / pairs.shape[1]


@pytest.mark.parametrize("pairs", ["best_worst", "all"])
@pytest.mark.parametrize("sft", [0.0, 0.5])
def test_gradient_is_that_of_the_naive_loss_by_autograd(pairs, sft) -> None:
    policy, objective = moved_policy(), vrpo(EXHAUSTIVE, beta=0.3, pairs=pairs, sft=sft)
    experience = objective.prepare(policy, *two_groups(), rng())
    move(policy)
    batch = objective.draw(policy, experience, rng(), update=1)
    _, got = gradient(objective, policy, batch)
    policy.module.zero_grad(set_to_none=True)
    whole = EXHAUSTIVE.views(experience.rollouts, rng()).flatten_rows()
    loss = naive_loss(policy, objective, experience, whole, sft)
    loss.backward()
    assert torch.allclose(got["logits"], policy.table.grad)
    if sft == 0:
        assert batch.metrics["preference_loss"] == pytest.approx(loss.item())


def test_policy_that_is_its_reference_has_margin_zero_on_any_views() -> None:
    policy, objective = moved_policy(), vrpo(ELBO)
    policy.freeze_reference()
    experience = objective.prepare(policy, *two_groups(), rng())
    metrics = objective.draw(policy, experience, rng(), update=0).metrics
    assert metrics["margin"] == 0
    assert metrics["preference_loss"] == pytest.approx(math.log(2))
    assert metrics["pairs"] == 2


def test_rollouts_without_a_pair_cost_no_forward_pass() -> None:
    policy, objective = moved_policy(), vrpo(EXHAUSTIVE)
    experience = objective.prepare(policy, *two_groups(), rng())
    before = policy.forward_tokens
    batch = objective.draw(policy, experience, rng(), update=0)
    # Two of four rollouts of two groups, 15 views each, one prompt and four completion tokens.
    assert policy.forward_tokens - before == 4 * 15 * 5
    assert (batch.weights != 0).sum() == 4


def test_groups_without_spread_give_nothing() -> None:
    policy, objective = moved_policy(), vrpo(ELBO, sft=0.1)
    rollouts, rewards = two_groups()
    flat = rewards_of(torch.ones_like(rewards.total))
    experience = objective.prepare(policy, rollouts, flat, rng())
    batch = objective.draw(policy, experience, rng(), update=0)
    loss, gradients = gradient(objective, policy, batch, num_rows=3)
    assert loss == 0
    assert not gradients["logits"].any()
    assert batch.metrics["pairs"] == 0


@given(st.integers(1, 8), st.integers(1, 8))
def test_loss_and_gradient_do_not_depend_on_the_cut(num_rows: int, num_views: int) -> None:
    policy, objective = moved_policy(), vrpo(ELBO, pairs="all")
    experience = objective.prepare(policy, *two_groups(), rng())
    move(policy)
    batch = objective.draw(policy, experience, rng(), update=1)
    whole, gradients = gradient(objective, policy, batch)
    assert objective.is_sum_over_views
    cut, pieces = gradient(objective, policy, batch, num_rows, num_views)
    assert cut == pytest.approx(whole)
    assert torch.allclose(gradients["logits"], pieces["logits"], atol=1e-9)


def test_padding_left_of_the_prompt_changes_nothing() -> None:
    policy, objective, weights = moved_policy(), vrpo(EXHAUSTIVE), []
    rollouts, rewards = two_groups()
    for each in (rollouts, padded(rollouts)):
        experience = objective.prepare(policy, each, rewards, rng())
        weights.append(objective.draw(policy, experience, rng(), update=0).weights)
    assert torch.equal(*weights)


@pytest.mark.parametrize("views", ["per_update", "shared"])
def test_updates_have_views_of_their_own_or_share_them(views) -> None:
    experience = vrpo(ELBO, views=views).prepare(moved_policy(), *two_groups(), rng())
    expected = 4 if views == "per_update" else 1
    assert len(experience.views) == len(experience.reference_log_probs) == expected


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"weights": ("tilted", {"alpha": 0.1})}, "have no effect; leave both out"),
        ({"weights": ("advantage", {"scale": "std"})}, "have no effect; leave both out"),
    ],
)
def test_parts_without_effect_are_refused(choices, message) -> None:
    with pytest.raises(ConfigError, match=message):
        vrpo(ELBO, **choices)


def test_ratio_likelihood_of_its_own_is_refused() -> None:
    chosen = parts(
        ELBO, weights=("advantage", {}), baseline=("none", {}), ratio_likelihood=EXHAUSTIVE
    )
    with pytest.raises(ConfigError, match="ratio_likelihood: vrpo"):
        VrpoObjective(VrpoConfig(), chosen)
