from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmpo.diffusion.likelihood import power_mean_bound
from dmpo.errors import ConfigError
from dmpo.likelihoods.base import rollout_log_probs
from dmpo.likelihoods.elbo import ElboConfig, ElboLikelihood
from dmpo.likelihoods.eubo import EuboConfig, EuboLikelihood
from tests.oracles.likelihood import ExhaustiveLikelihood, LikelihoodConfig, enumerated_elbo
from tests.oracles.tabular import (
    SUBSETS,
    TabularPolicy,
    all_rollouts,
    log_probs,
    random_table,
    subset_log_probs,
)

seeds = st.integers(0, 999)
powers = st.floats(1, 3)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bound_over_all_subsets(policy, power):
    views = ExhaustiveLikelihood(LikelihoodConfig()).views(all_rollouts(), rng())
    scores = rollout_log_probs(policy, all_rollouts(), views, rows_per_forward=81)
    return power_mean_bound(scores, views.coefficient, power)[0]


@given(seeds, powers)
def test_eubo_over_all_subsets_is_at_least_the_elbo(seed, power):
    policy = TabularPolicy(random_table(seed))
    elbo = enumerated_elbo(subset_log_probs(policy).detach(), SUBSETS)
    assert (bound_over_all_subsets(policy, power) >= elbo - 1e-9).all()


@given(seeds, powers)
def test_eubo_is_the_log_prob_where_what_is_visible_does_not_matter(seed, power):
    table = torch.randn(4, 3, generator=rng(seed), dtype=torch.float64)
    policy = TabularPolicy(table.expand(256, 4, 3))
    truth = log_probs(policy).detach()
    assert torch.allclose(bound_over_all_subsets(policy, power), truth)


@pytest.mark.parametrize(
    "settings",
    [{}, {"num_views": 3, "masking": "quadrature"}, {"antithetic": False, "stratified": False}],
    ids=str,
)
def test_eubo_draws_what_the_elbo_draws(settings):
    ours = EuboLikelihood(EuboConfig(**settings)).views(all_rollouts(), rng())
    elbo = ElboLikelihood(ElboConfig(**settings)).views(all_rollouts(), rng())
    assert torch.equal(ours.hidden, elbo.hidden)
    assert torch.equal(ours.coefficient, elbo.coefficient)


def test_log_ratio_is_the_difference_of_two_bounds():
    likelihood = EuboLikelihood(EuboConfig())
    views = likelihood.views(all_rollouts(), rng())
    one, other = (
        rollout_log_probs(
            TabularPolicy(random_table(seed)), all_rollouts(), views, rows_per_forward=81
        )
        for seed in (1, 2)
    )
    expected = likelihood.combine(one, views) - likelihood.combine(other, views)
    assert torch.equal(likelihood.log_ratio(one, other, views), expected)
    assert likelihood.standard_error(one - other, views) is None


def test_a_view_has_no_bound_of_its_own():
    likelihood = EuboLikelihood(EuboConfig())
    views = likelihood.views(all_rollouts(), rng())
    with pytest.raises(ConfigError, match="no value of one view"):
        likelihood.combine_views(torch.zeros(views.hidden.shape), views)


def test_power_mean_bound_by_hand():
    # ½·log(½·0.5² + ½·0.1²) = ½·log 0.13; the second position is never hidden.
    scores = torch.tensor([[0.5, 1.0], [0.1, 1.0]]).log().requires_grad_()
    coefficient = torch.tensor([[0.5, 0.0], [0.5, 0.0]])
    bound = power_mean_bound(scores, coefficient, 2.0)
    bound.backward()
    assert bound.item() == pytest.approx(-1.0201, abs=1e-4)
    # Shares 0.125 and 0.005 of 0.13.
    assert torch.allclose(scores.grad[:, 0], torch.tensor([0.96154, 0.03846]), atol=1e-4)
    assert not scores.grad[:, 1].any()


@given(seeds, powers)
def test_gradients_are_finite_however_improbable_tokens_are(seed, power):
    scores = (-1000 * torch.rand(4, 5, generator=rng(seed))).requires_grad_()
    coefficient = (torch.rand(4, 5, generator=rng(seed + 1)) < 0.3).float()
    bound = power_mean_bound(scores, coefficient, power)
    bound.backward()
    assert bound.isfinite()
    assert scores.grad.isfinite().all()
