from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmpo.errors import ConfigError
from dmpo.likelihoods.base import LikelihoodConfig, rollout_log_probs
from dmpo.likelihoods.elbo import ElboConfig, ElboLikelihood
from dmpo.likelihoods.mean_field import MeanFieldConfig, MeanFieldLikelihood
from dmpo.likelihoods.path import PathConfig, PathLikelihood
from tests.objectives.build import dmpo, gradient, rng
from tests.oracles.likelihood import ExhaustiveLikelihood
from tests.oracles.records import rewards_of, rollouts_of
from tests.oracles.tabular import (
    RESPONSES,
    TabularPolicy,
    all_rollouts,
    random_table,
    sample_paths,
)

ELBO = ElboLikelihood(ElboConfig())
PATH = PathLikelihood(PathConfig())
EXHAUSTIVE = ExhaustiveLikelihood(LikelihoodConfig())
baselines = ["none", "mean", "individual", "model"]


def moved_policy(seed: int = 1) -> TabularPolicy:
    """A policy that has already left its reference."""
    policy = TabularPolicy(random_table(seed))
    policy.freeze_reference()
    move(policy, seed + 1)
    return policy


def move(policy: TabularPolicy, seed: int, scale: float = 0.3) -> None:
    with torch.no_grad():
        policy.table.add_(random_table(seed, scale))


def two_groups(seed: int = 0, num_rollouts: int = 4):
    index = torch.randint(0, 81, (2, num_rollouts), generator=rng(seed))
    prompts = torch.zeros(2, 1, dtype=torch.long)
    answer = torch.ones(2, num_rollouts, 4, dtype=torch.bool)
    answer[0, 1, 2:] = False
    rollouts = rollouts_of(prompts, RESPONSES[index], answer_mask=answer)
    return rollouts, rewards_of(torch.rand(2, num_rollouts, generator=rng(seed + 1)))


@pytest.mark.parametrize("baseline", baselines)
@given(st.integers(1, 8))
def test_loss_and_gradient_do_not_depend_on_the_cut(baseline, num_rows):
    policy = moved_policy()
    objective = dmpo(ELBO, baseline=(baseline, {}))
    experience = objective.prepare(policy, *two_groups(), rng())
    move(policy, 9)
    batch = objective.draw(policy, experience, rng(3), update=1)
    whole, gradients = gradient(objective, policy, batch)
    cut, pieces = gradient(objective, policy, batch, num_rows)
    assert cut == pytest.approx(whole)
    assert torch.allclose(gradients["logits"], pieces["logits"], atol=1e-9)


@given(st.integers(1, 8), st.integers(1, 4))
def test_loss_and_gradient_do_not_depend_on_how_views_are_cut_apart(num_rows, num_views):
    policy, objective = moved_policy(), dmpo(ELBO)
    assert objective.is_sum_over_views
    experience = objective.prepare(policy, *two_groups(), rng())
    move(policy, 9)
    batch = objective.draw(policy, experience, rng(3), update=1)
    whole, gradients = gradient(objective, policy, batch)
    cut, pieces = gradient(objective, policy, batch, num_rows, num_views)
    assert cut == pytest.approx(whole)
    assert torch.allclose(gradients["logits"], pieces["logits"], atol=1e-9)


@pytest.mark.parametrize("baseline", baselines)
@given(st.integers(1, 9))
def test_experience_does_not_depend_on_the_rows_per_forward(baseline, rows):
    values = []
    for rows_per_forward in (rows, 64):
        policy = moved_policy()
        objective = dmpo(ELBO, baseline=(baseline, {}), rows_per_forward=rows_per_forward)
        experience = objective.prepare(policy, *two_groups(), rng())
        move(policy, 9)
        values.append(objective.draw(policy, experience, rng(3), update=1).weights)
    assert torch.equal(*values)


def test_real_weights_of_a_group_do_not_depend_on_other_groups():
    policy = moved_policy()
    objective = dmpo(EXHAUSTIVE, baseline=("model", {}))
    rollouts, rewards = two_groups()
    both = objective.prepare(policy, rollouts, rewards, rng())
    alone = objective.prepare(
        policy,
        rollouts_of(
            rollouts.prompts.tokens[:1],
            rollouts.completions[:1],
            answer_mask=rollouts.answer_mask[:1],
        ),
        rewards_of(rewards.total[:1]),
        rng(),
    )
    move(policy, 9)
    together = objective.draw(policy, both, rng(), update=2).weights[:4]
    assert torch.allclose(together, objective.draw(policy, alone, rng(), update=2).weights)


def test_loss_is_the_same_each_time_for_one_batch():
    policy = moved_policy()
    objective = dmpo(ELBO)
    batch = objective.draw(policy, objective.prepare(policy, *two_groups(), rng()), rng(), update=0)
    losses = [objective.loss(policy, batch).loss for _ in range(2)]
    assert torch.equal(*losses)


def test_views_are_fresh_at_each_update_and_stored_where_shared():
    policy = moved_policy()
    for share_views in (False, True):
        objective = dmpo(ELBO, share_views=share_views)
        experience = objective.prepare(policy, *two_groups(), rng())
        source = rng(1)
        hidden = [
            objective.draw(policy, experience, source, update=n).views.hidden for n in range(2)
        ]
        assert torch.equal(*hidden) is share_views


def test_log_ratio_is_taken_on_the_same_views():
    policy = TabularPolicy(random_table(1))
    policy.freeze_reference()
    experience = dmpo(ELBO).prepare(policy, *two_groups(), rng())
    # The policy is its own reference, so nothing of the masks' noise may be left.
    assert not experience.log_ratio.value.any()
    assert not experience.log_ratio.standard_error.any()


def test_log_ratio_of_an_exact_likelihood_is_that_of_the_two_policies():
    policy = moved_policy()
    experience = dmpo(EXHAUSTIVE).prepare(policy, all_rollouts(), uniform_rewards(81), rng())
    with policy.reference():
        reference = elbo(policy)
    assert torch.allclose(experience.log_ratio.value[0], reference - elbo(policy))


def elbo(policy):
    views = EXHAUSTIVE.views(all_rollouts(), rng())
    scores = rollout_log_probs(policy, all_rollouts(), views, rows_per_forward=81)
    return EXHAUSTIVE.combine(scores, views)[0]


def uniform_rewards(size: int):
    return rewards_of(torch.linspace(0, 1, size, dtype=torch.float64).unsqueeze(0))


def test_path_ratio_uses_what_the_sampler_recorded_and_runs_no_forward_for_it():
    policy = moved_policy()
    rollouts = sample_paths(policy, 6, rng())
    objective = dmpo(ELBO, ratio_likelihood=PATH)
    before = policy.forward_tokens
    experience = objective.prepare(policy, rollouts, uniform_rewards(6), rng())
    reference_only = policy.forward_tokens - before
    # Four steps of six rows of one prompt and four completion tokens, under the reference alone.
    assert reference_only == 4 * 6 * 5
    views = PATH.views(rollouts, rng())
    recorded = rollouts.log_probs.sum(-1)
    with policy.reference():
        scores = rollout_log_probs(policy, rollouts, views, rows_per_forward=64)
    assert torch.allclose(experience.log_ratio.value, PATH.combine(scores, views) - recorded)


def test_model_baseline_starts_at_zero_ratio_without_a_forward():
    policy = moved_policy()
    objective = dmpo(ELBO, baseline=("model", {}))
    experience = objective.prepare(policy, *two_groups(), rng())
    before = policy.forward_tokens
    batch = objective.draw(policy, experience, rng(), update=0)
    assert policy.forward_tokens == before
    expected = experience.weights.values - 1
    assert torch.allclose(batch.weights, expected.flatten())


def test_model_baseline_follows_the_current_policy_on_the_stored_views():
    policy = moved_policy()
    objective = dmpo(ELBO, ratio_likelihood=EXHAUSTIVE, baseline=("model", {}))
    rollouts, rewards = all_rollouts(), uniform_rewards(81)
    experience = objective.prepare(policy, rollouts, rewards, rng())
    behaviour = elbo(policy)
    move(policy, 9)
    batch = objective.draw(policy, experience, rng(), update=3)
    expected = experience.weights.values[0] - 81 * torch.softmax(elbo(policy) - behaviour, -1)
    assert torch.allclose(batch.weights, expected)
    assert not batch.weights.requires_grad


def test_model_baseline_stores_views_at_alpha_zero_too():
    policy = moved_policy()
    objective = dmpo(ELBO, weights=("tilted", {"alpha": 0, "eta": 1.0}), baseline=("model", {}))
    experience = objective.prepare(policy, *two_groups(), rng())
    assert not objective.needs_reference
    assert experience.log_ratio is None
    move(policy, 9)
    first = objective.draw(policy, experience, rng(), update=1).weights
    move(policy, 10)
    assert not torch.allclose(first, objective.draw(policy, experience, rng(), update=2).weights)


def test_step_size_alone_runs_no_likelihood_to_prepare():
    policy = TabularPolicy(random_table(1))
    objective = dmpo(ELBO, weights=("tilted", {"alpha": 0, "eta": 1.0}))
    objective.prepare(policy, *two_groups(), rng())
    assert policy.forward_tokens == 0


@pytest.mark.parametrize("strength", [0.0, 0.5, 0.95, 1.0])
def test_real_weight_is_the_weight_less_the_share_of_the_baseline(strength):
    policy = moved_policy()
    objective = dmpo(ELBO, baseline=("individual", {"strength": strength}))
    experience = objective.prepare(policy, *two_groups(), rng())
    batch = objective.draw(policy, experience, rng(), update=0)
    expected = experience.weights.values - strength * experience.baseline_weights
    assert torch.equal(batch.weights, expected.flatten())


def test_loss_weighs_the_negative_likelihood_per_token_of_each_row():
    policy = moved_policy()
    objective = dmpo(ELBO)
    rollouts, rewards = two_groups()
    experience = objective.prepare(policy, rollouts, rewards, rng())
    batch = objective.draw(policy, experience, rng(2), update=0)
    views = ELBO.views(rollouts, rng(2))
    scores = rollout_log_probs(policy, rollouts, views, rows_per_forward=64)
    lengths = rollouts.answer_mask.sum(-1)
    assert lengths[0, 1] == 2
    expected = -(batch.weights.reshape(2, 4) * ELBO.combine(scores, views) / lengths).mean()
    assert objective.loss(policy, batch).loss.item() == pytest.approx(expected.item())


def test_metrics_of_a_buffer_set_noise_beside_reward():
    policy = moved_policy()
    rollouts, rewards = two_groups()
    metrics = (
        dmpo(ELBO, weights=("tilted", {"alpha": 0.25}))
        .prepare(policy, rollouts, rewards, rng())
        .metrics
    )
    spread = rewards.total.std(-1).mean().item() / 0.25
    assert metrics["reward_spread_over_alpha"] == pytest.approx(spread, rel=1e-5)
    noise = metrics["log_ratio_standard_error"]
    assert noise > 0
    assert metrics["noise_exceeds_reward"] == float(noise > spread)


@pytest.mark.parametrize(("alpha", "flag"), [(1e-3, 0.0), (1e3, 1.0)])
def test_noise_flag_says_which_of_the_two_leads(alpha, flag):
    metrics = (
        dmpo(ELBO, weights=("tilted", {"alpha": alpha}))
        .prepare(moved_policy(), *two_groups(), rng())
        .metrics
    )
    assert metrics["noise_exceeds_reward"] == flag


def test_metrics_are_plain_numbers():
    policy = moved_policy()
    objective = dmpo(ELBO, baseline=("model", {}))
    experience = objective.prepare(policy, *two_groups(), rng())
    batch = objective.draw(policy, experience, rng(), update=1)
    for metrics in (experience.metrics, batch.metrics):
        assert all(type(value) is float for value in metrics.values())
    assert 0 < batch.metrics["baseline_ess"] <= 1
    assert batch.metrics["real_weight_min"] <= batch.metrics["real_weight_max"]


def test_loss_metrics_add_up_over_slices():
    policy = moved_policy()
    objective = dmpo(ELBO)
    batch = objective.draw(policy, objective.prepare(policy, *two_groups(), rng()), rng(), update=0)
    whole = objective.loss(policy, batch).metrics["cross_entropy"]
    pieces = [objective.loss(policy, piece).metrics["cross_entropy"] for piece in batch.split(3)]
    assert torch.stack(pieces).sum().item() == pytest.approx(whole.item())


def test_baseline_without_a_link_is_refused():
    with pytest.raises(ConfigError, match="centred already"):
        dmpo(ELBO, weights=("advantage", {}), baseline=("mean", {}))
    dmpo(ELBO, weights=("advantage", {}), baseline=("none", {}))


def test_shared_views_of_two_likelihoods_are_refused():
    other = MeanFieldLikelihood(MeanFieldConfig())
    with pytest.raises(ConfigError, match="share_views"):
        dmpo(ELBO, ratio_likelihood=other, share_views=True)
    dmpo(ELBO, ratio_likelihood=ElboLikelihood(ElboConfig()), share_views=True)
