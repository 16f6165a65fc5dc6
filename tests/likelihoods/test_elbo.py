from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dmpo.likelihoods.base import rollout_log_probs
from dmpo.likelihoods.elbo import ElboConfig, ElboLikelihood
from dmpo.records import Views
from tests.oracles import likelihood as oracle
from tests.oracles.records import rollouts_of
from tests.oracles.tabular import (
    LENGTH,
    PROMPT,
    RESPONSES,
    SUBSETS,
    TabularPolicy,
    all_rollouts,
    consistent_table,
    log_probs,
    path_log_probs,
    random_joint,
    random_table,
    subset_log_probs,
)

seeds = st.integers(0, 999)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def enumerated(policy):
    return oracle.enumerated_elbo(subset_log_probs(policy).detach(), SUBSETS)


@given(seeds)
def test_elbo_is_the_mean_over_orders_of_the_path_log_prob(seed):
    policy = TabularPolicy(random_table(seed))
    assert torch.allclose(enumerated(policy), path_log_probs(policy).mean(0))


@given(seeds)
def test_elbo_never_exceeds_the_log_prob(seed):
    policy = TabularPolicy(random_table(seed))
    assert (enumerated(policy) <= log_probs(policy) + 1e-9).all()


@given(seeds)
def test_elbo_is_the_log_prob_where_all_orders_agree(seed):
    joint = random_joint(seed)
    policy = TabularPolicy(consistent_table(joint))
    assert torch.allclose(enumerated(policy), joint.log())


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("num_views", [2, 4, 6])
def test_estimates_average_to_the_elbo(antithetic, stratified, num_views):
    policy = TabularPolicy(random_table(3))
    repeats = 800
    responses = RESPONSES[[4, 40, 77]].repeat_interleave(repeats, 0)
    rollouts = rollouts_of(PROMPT, responses.unsqueeze(0))
    config = ElboConfig(num_views=num_views, antithetic=antithetic, stratified=stratified)
    likelihood = ElboLikelihood(config)
    views = likelihood.views(rollouts, rng(5))
    scores = rollout_log_probs(policy, rollouts, views, rows_per_forward=4000)
    estimates = likelihood.combine(scores, views).reshape(3, repeats)
    error = estimates.std(-1) / repeats**0.5
    assert ((estimates.mean(-1) - enumerated(policy)[[4, 40, 77]]).abs() < 4 * error).all()


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("stratified", [False, True])
def test_estimates_from_bernoulli_masks_average_to_the_elbo(antithetic, stratified):
    policy = TabularPolicy(random_table(3))
    config = ElboConfig(masking="bernoulli", antithetic=antithetic, stratified=stratified)
    estimates = oracle.repeated_estimates(
        policy, ElboLikelihood(config), RESPONSES[[4, 40, 77]], repeats=1500, seed=5
    )
    assert oracle.agree(estimates, enumerated(policy)[[4, 40, 77]])


@given(seeds)
def test_stratified_rates_neither_bias_the_estimate_nor_raise_the_variance(seed):
    policy = TabularPolicy(random_table(seed))
    draws = drawn(policy)
    for antithetic in (False, True):
        mean, free = oracle.rate_moments(draws, SUBSETS, 4, antithetic=antithetic, stratified=False)
        same, spread = oracle.rate_moments(
            draws, SUBSETS, 4, antithetic=antithetic, stratified=True
        )
        assert torch.allclose(mean, enumerated(policy))
        assert torch.allclose(same, mean)
        assert (spread <= free + 1e-9).all()


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("stratified", [False, True])
def test_variance_with_bernoulli_masks_is_the_one_computed_by_enumeration(antithetic, stratified):
    policy = TabularPolicy(random_table(3))
    config = ElboConfig(masking="bernoulli", antithetic=antithetic, stratified=stratified)
    estimates = oracle.repeated_estimates(
        policy, ElboLikelihood(config), RESPONSES[[40]], repeats=4000, seed=6
    )
    _, expected = oracle.rate_moments(
        drawn(policy)[:, 40:41], SUBSETS, 4, antithetic=antithetic, stratified=stratified
    )
    assert estimates.var().item() == pytest.approx(expected.item(), rel=0.15)


@given(seeds)
def test_stratified_draws_do_not_raise_the_variance(seed):
    draws = drawn(TabularPolicy(random_table(seed)))
    for antithetic in (False, True):
        _, free = oracle.estimator_moments(
            draws, SUBSETS, 4, antithetic=antithetic, stratified=False
        )
        _, spread = oracle.estimator_moments(
            draws, SUBSETS, 4, antithetic=antithetic, stratified=True
        )
        assert spread.mean() <= free.mean()


@given(seeds)
def test_default_draws_vary_less_than_independent_ones(seed):
    draws = drawn(TabularPolicy(random_table(seed)))
    _, free = oracle.estimator_moments(draws, SUBSETS, 4, antithetic=False, stratified=False)
    _, ours = oracle.estimator_moments(draws, SUBSETS, 4, antithetic=True, stratified=True)
    assert ours.mean() < 0.75 * free.mean()


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0])
def test_antithetic_draws_do_not_raise_the_variance_where_hiding_more_costs_more(slope):
    hidden = SUBSETS.sum(-1, keepdim=True) / LENGTH
    scores = -(SUBSETS * (1 - slope + slope * hidden)).double().unsqueeze(1)
    draws = oracle.single_draws(scores, SUBSETS, "exact")
    _, free = oracle.estimator_moments(draws, SUBSETS, 4, antithetic=False, stratified=False)
    _, pairs = oracle.estimator_moments(draws, SUBSETS, 4, antithetic=True, stratified=False)
    assert (pairs <= free).all()


def drawn(policy):
    return oracle.single_draws(subset_log_probs(policy).detach(), SUBSETS, "exact")


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("stratified", [False, True])
def test_variance_is_the_one_computed_by_enumeration(antithetic, stratified):
    policy = TabularPolicy(random_table(3))
    rollouts = rollouts_of(PROMPT, RESPONSES[40].expand(1, 4000, LENGTH))
    config = ElboConfig(num_views=4, antithetic=antithetic, stratified=stratified)
    likelihood = ElboLikelihood(config)
    views = likelihood.views(rollouts, rng(6))
    scores = rollout_log_probs(policy, rollouts, views, rows_per_forward=4000)
    _, expected = oracle.estimator_moments(
        drawn(policy)[:, 40:41], SUBSETS, 4, antithetic=antithetic, stratified=stratified
    )
    got = likelihood.combine(scores, views).var().item()
    assert got == pytest.approx(expected.item(), rel=0.15)


def test_tokens_behind_the_first_eos_are_hidden_and_not_scored():
    rollouts = rollouts_of(
        PROMPT,
        RESPONSES[None, :20],
        answer_mask=torch.tensor([True, True, True, False]).expand(1, 20, 4),
    )
    likelihood = ElboLikelihood(ElboConfig())
    views = likelihood.views(rollouts, rng())
    assert views.hidden[..., 3].all()  # visible, they would tell how long the answer is
    assert not views.coefficient[..., 3].any()
    assert likelihood.lengths(rollouts.answer_mask).unique().tolist() == [3]
    factors = {round(value, 4) for value in views.coefficient.unique().tolist()}
    # (D+1)/m over R = 4, D = 3, m = 1, 2, 3
    assert factors <= {0.0, 1.0, 0.5, 0.3333}


def test_canvas_scores_tokens_behind_the_first_eos_too():
    answer = torch.tensor([True, False, False, False]).expand(1, 20, 4)
    rollouts = rollouts_of(PROMPT, RESPONSES[None, :20], answer_mask=answer)
    likelihood = ElboLikelihood(ElboConfig(eos="canvas"))
    views = likelihood.views(rollouts, rng())
    assert views.coefficient[..., 3].any()
    assert not views.hidden[..., 3].all()
    assert likelihood.lengths(rollouts.answer_mask).unique().tolist() == [4]


def test_standard_error_is_the_spread_of_pair_means():
    likelihood = ElboLikelihood(ElboConfig(num_views=4))
    coefficient = torch.full((1, 1, 4, 1), 0.25)
    views = Views(hidden=coefficient > 0, coefficient=coefficient)
    ratios = torch.tensor([1.0, 2.0, 3.0, 6.0]).reshape(1, 1, 4, 1)
    # Pairs (1, 3) and (2, 6): means 2 and 4.
    assert likelihood.standard_error(ratios, views).item() == pytest.approx(1.0)


def test_standard_error_is_unknown_from_one_pair():
    likelihood = ElboLikelihood(ElboConfig(num_views=2))
    views = likelihood.views(all_rollouts(), rng())
    assert likelihood.standard_error(torch.zeros(views.hidden.shape), views) is None


def test_reference_estimator_squeezes_rates_only_in_pairs():
    sizes = {}
    for antithetic in (False, True):
        config = ElboConfig(num_views=2, estimator="reference", antithetic=antithetic)
        rollouts = rollouts_of(PROMPT, RESPONSES[0].expand(1, 4000, LENGTH))
        views = ElboLikelihood(config).views(rollouts, rng())
        sizes[antithetic] = views.hidden.float().mean((0, 1, 3)).tolist()
    assert sizes[True] == pytest.approx([0.55, 0.45], abs=0.02)
    assert sum(sizes[False]) / 2 == pytest.approx(0.5, abs=0.02)


def test_reference_estimator_divides_the_length_by_the_size():
    likelihood = ElboLikelihood(ElboConfig(num_views=2, estimator="reference"))
    views = likelihood.views(all_rollouts(), rng())
    size = views.hidden.sum(-1, keepdim=True).clamp(min=1)
    assert torch.allclose(views.coefficient, views.hidden * 4 / size / 2)


def test_pairs_of_an_odd_number_of_views_are_refused():
    with pytest.raises(ValidationError, match="even number"):
        ElboConfig(num_views=3)
    assert ElboConfig(num_views=3, antithetic=False).num_views == 3


@pytest.mark.parametrize(
    ("num_nodes", "shape", "ratio"),
    [
        (3, 1.0, 0.985),
        (3, 2.0, 0.981),
        (3, 0.5, 0.991),
        (2, 1.0, 0.985),
        (2, 2.0, 0.965),
        (2, 0.5, 1.003),
    ],
)
def test_quadrature_is_biased_by_what_its_docstring_says(num_nodes, shape, ratio):
    rollouts = rollouts_of(PROMPT, torch.zeros(1, 1, 64, dtype=torch.long))
    config = ElboConfig(masking="quadrature", num_views=num_nodes)
    views = ElboLikelihood(config).views(rollouts, rng())
    share = views.hidden.double().mean(-1, keepdim=True)
    got = (views.coefficient * share**shape).sum()
    truth = 64 * (torch.arange(1, 65, dtype=torch.float64) / 64).pow(shape).mean()
    assert (got / truth).item() == pytest.approx(ratio, abs=6e-4)


@given(st.integers(1, 12), st.integers(1, 6), seeds)
def test_quadrature_weights_add_up_to_the_length(length, num_nodes, seed):
    rollouts = rollouts_of(PROMPT, torch.zeros(1, 3, length, dtype=torch.long))
    config = ElboConfig(masking="quadrature", num_views=num_nodes)
    views = ElboLikelihood(config).views(rollouts, rng(seed))
    assert views.hidden.any(-1).all()
    assert torch.allclose(views.coefficient.sum((-2, -1)), torch.tensor(float(length)))


def test_quadrature_pairs_nothing_and_knows_no_standard_error():
    config = ElboConfig(masking="quadrature", num_views=3)
    assert not config.antithetic
    assert not config.stratified
    views = ElboLikelihood(config).views(all_rollouts(), rng())
    ratios = torch.zeros(views.hidden.shape)
    assert ElboLikelihood(config).standard_error(ratios, views) is None


def test_reference_estimator_implies_bernoulli_masks():
    assert ElboConfig(estimator="reference").masking == "bernoulli"
    assert ElboConfig().masking == "count"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"masking": "quadrature", "antithetic": True}, "quadrature fixes the sizes"),
        ({"masking": "quadrature", "stratified": True}, "quadrature fixes the sizes"),
        ({"masking": "quadrature", "estimator": "reference"}, "rates of its own"),
        ({"masking": "count", "estimator": "reference"}, "rates of its own"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        ElboConfig(**settings)
