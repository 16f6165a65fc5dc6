"""Likelihoods against the official numbers, or against the right ones where those are wrong."""

from __future__ import annotations

import pytest
import torch

from dmpo.diffusion.likelihood import exact_coefficients, reference_coefficients
from dmpo.likelihoods.base import LikelihoodConfig, rollout_log_probs
from dmpo.likelihoods.path import PathConfig, PathLikelihood
from dmpo.records import Views
from tests.oracles.likelihood import (
    ExhaustiveLikelihood,
    enumerated_elbo,
    estimator_moments,
    single_draws,
)
from tests.oracles.official import OfficialPolicies, numbers, row_rollouts
from tests.paths import needs_fixtures

pytestmark = needs_fixtures


@pytest.fixture(scope="module")
def policies(tmp_path_factory) -> OfficialPolicies:
    return OfficialPolicies(tmp_path_factory.mktemp("official"))


def test_elbo_by_enumeration_is_the_exact_one(policies):
    _, tensors = numbers("losses/exact_elbo")
    rollouts = row_rollouts(tensors["prompt_ids"], tensors["completion_ids"])
    likelihood = ExhaustiveLikelihood(LikelihoodConfig())
    views = likelihood.views(rollouts, torch.Generator())
    scores = rollout_log_probs(policies.become("theta"), rollouts, views, rows_per_forward=1)
    got = likelihood.combine(scores.double(), views).flatten()
    torch.testing.assert_close(-got, tensors["negative_elbo"], atol=1e-3, rtol=0)
    torch.testing.assert_close(
        tensors["order_log_prob"].mean(0), -tensors["negative_elbo"], atol=1e-8, rtol=0
    )
    assert (got <= tensors["log_prob"] + 1e-3).all()


def test_expectation_of_the_estimators_is_the_exact_one():
    _, tensors = numbers("losses/exact_elbo")
    scores, subsets = -tensors["neg_log_prob"], tensors["subsets"]
    for estimator, name in (("exact", "unbiased"), ("reference", "official")):
        draws = single_draws(scores, subsets, estimator)
        mean, _ = estimator_moments(draws, subsets, 4, antithetic=True, stratified=True)
        expected = tensors[f"expected_{name}_estimate_t_uniform"]
        torch.testing.assert_close(-mean, expected, atol=1e-8, rtol=0)
    torch.testing.assert_close(-enumerated_elbo(scores, subsets), tensors["negative_elbo"])


@pytest.mark.parametrize("coefficients", [exact_coefficients, reference_coefficients])
def test_coefficients_have_the_expectation_of_their_estimator(coefficients):
    _, tensors = numbers("losses/exact_elbo")
    scores, subsets = -tensors["neg_log_prob"], tensors["subsets"]
    lengths = torch.full((16,), 4)
    factors = coefficients(subsets.unsqueeze(1), lengths).double()
    draws = (factors * scores).sum(-1)
    mean, _ = estimator_moments(draws, subsets, 1, antithetic=False, stratified=False)
    name = "unbiased" if coefficients is exact_coefficients else "official"
    expected = tensors[f"expected_{name}_estimate_t_uniform"]
    torch.testing.assert_close(-mean, expected, atol=1e-5, rtol=0)


def test_path_likelihood_along_the_official_order(policies):
    _, tensors = numbers("losses/roar_path")
    rollouts = row_rollouts(
        tensors["prompt_ids"],
        tensors["completion_ids"],
        commit_step=tensors["commit_step"],
        log_probs=tensors["log_prob_old"],
    )
    likelihood = PathLikelihood(PathConfig(eos="canvas"))
    views = likelihood.views(rollouts, torch.Generator())
    for which in ("old", "ref"):
        policy = policies.become(which)
        scores = rollout_log_probs(policy, rollouts, views, rows_per_forward=1)
        tokens = (views.coefficient * scores).sum(-2).squeeze(1)
        expected = tensors[f"log_prob_{which}"]
        torch.testing.assert_close(tokens, expected, atol=5e-4, rtol=1e-4)
    recorded = likelihood.combine(likelihood.recorded_log_probs(rollouts, views), views)
    torch.testing.assert_close(recorded.flatten(), tensors["log_prob_old"].sum(-1))


def test_padding_of_the_prompt_changes_nothing(policies):
    _, tensors = numbers("losses/padded_prompts")
    hidden = tensors["masks"].movedim(0, 1).unsqueeze(1)
    views = Views(hidden=hidden, coefficient=reference_coefficients(hidden, torch.full((2, 1), 10)))
    rollouts = row_rollouts(
        tensors["prompt_ids"],
        tensors["completion_ids"],
        prompt_mask=tensors["attention_mask"].bool(),
    )
    policy = policies.become("old")
    scores = rollout_log_probs(policy, rollouts, views, rows_per_forward=2)
    entropies = -scores.squeeze(1).movedim(1, 0)
    torch.testing.assert_close(entropies, tensors["ce_right"], atol=5e-4, rtol=1e-4)
    got = (views.coefficient * scores).sum((-2, -1)).flatten()
    torch.testing.assert_close(got, tensors["log_prob_right"], atol=2e-3, rtol=1e-4)
    assert (got - tensors["log_prob_official"]).abs().max() > 1
